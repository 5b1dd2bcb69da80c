"""A stretch of a stream: wanted events, and what they are on the wire. Pure.

Made once, for all who want the same of the same tenants: frames and Server-Sent Events are text
that many subscribers share, and nothing is done for each event and subscriber.
"""

from collections.abc import Sequence
from typing import NamedTuple

from agent_events import wire
from agent_events.wire import Event, Inline


class Frame(NamedTuple):
    """A WebSocket frame as the messages that carry it, its cursor, and its size in bytes."""

    messages: tuple[str, ...]
    cursor: str
    size: int


class Stretch:
    """Consecutive wanted events, one at least; `cursor` resumes after them.

    Never changed. `size` is that of the events' JSON, in characters.
    """

    __slots__ = ("_blocks", "_frames", "_joined", "cursor", "events", "size")

    def __init__(self, events: Sequence[Event], cursor: str) -> None:
        self.events = events
        self.cursor = cursor
        self.size = sum([len(event.json) for event in events])
        self._frames: tuple[Frame, ...] | None = None
        self._blocks: tuple[tuple[bytes, Sequence[Event]], ...] | None = None
        self._joined: tuple[Sequence[Stretch], Stretch] | None = None

    def frames(self, inline: Inline) -> tuple[Frame, ...]:
        """As `wire.events_frames` cuts it, for a WebSocket. `inline` is the same for all."""
        if self._frames is None:
            shown = inline.of(self.events, self.size)
            self._frames = tuple(
                Frame(tuple(wire.messages(text)), cursor, _bytes(text))
                for text, cursor in wire.events_frames(shown, self.cursor)
            )
        return self._frames

    def blocks(self, inline: Inline) -> tuple[tuple[bytes, Sequence[Event]], ...]:
        """As `wire.sse_blocks` cuts it, for Server-Sent Events. `inline` is the same for all."""
        if self._blocks is None:
            self._blocks = tuple(wire.sse_blocks(inline.of(self.events, self.size)))
        return self._blocks

    def since(self, batch: int) -> "Stretch | None":
        """What of it is of this batch or later ones."""
        events = [event for event in self.events if event.batch >= batch]
        return Stretch(events, self.cursor) if events else None

    @staticmethod
    def join(parts: Sequence["Stretch"]) -> "Stretch":
        """One stretch of several that follow each other.

        Who was as slow as another asks for the same: the last answer is kept with the first part.
        """
        first, *rest = parts
        if not rest:
            return first
        if first._joined is None or first._joined[0] != rest:
            events = [event for part in parts for event in part.events]
            first._joined = rest, Stretch(events, rest[-1].cursor)
        return first._joined[1]


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
