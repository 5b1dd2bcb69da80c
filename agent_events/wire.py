"""An event as the world sees it: JSON, a WebSocket frame, a Server-Sent Events block. Pure.

The payload is PostgreSQL's own JSON text from end to end, never through a Python float: live,
history, page and SQL agree byte for byte.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agent_events.position import Cursor, Position

FRAME_CHARS = 65_536
"""A frame of several events holds about so much payload: a client that renders in between stays
responsive."""
PART_CHARS = 131_072
"""Escaped as JSON, a part stays below 1 MiB whatever its characters are (6 bytes each at most)."""


@dataclass(frozen=True)
class Event:
    """One event of the log at its place in the order.

    `closed_at_ms` is that of its batch (ms since 1970); `created_at` is RFC 3339 in UTC with
    microseconds, or '' where the producer stored an infinite time.
    """

    batch: int
    closed_at_ms: int
    id: int
    tenant_id: str
    agent_id: str
    type: str
    payload_text: str
    created_at: str

    @cached_property
    def json(self) -> str:
        """The event on the wire, everywhere."""
        return (
            f'{{"id":{self.id},"tenantId":"{self.tenant_id}","agentId":"{self.agent_id}",'
            f'"type":{json.dumps(self.type, ensure_ascii=False)},"payload":{self.payload_text},'
            f'"createdAt":{json.dumps(self.created_at or None)}}}'
        )

    @property
    def payload(self) -> Any:
        """The payload as Python values."""
        return json.loads(self.payload_text)

    @property
    def position(self) -> Position:
        """The position right after this event."""
        return Position(self.batch, self.id)

    @property
    def cursor(self) -> str:
        """The cursor right after this event."""
        return str(Cursor(self.position, self.closed_at_ms))


def frame(kind: str, **fields: Any) -> str:
    """A WebSocket frame other than `events`."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def events_frames(events: Sequence[Event], cursor: str) -> Iterator[tuple[str, str]]:
    """WebSocket frames of events in log order: pairs of a frame's text and its cursor.

    Each holds about FRAME_CHARS of payload, or one event; its cursor resumes after all of it, the
    last one's is `cursor`.
    """
    start = size = 0
    for place, event in enumerate(events):
        size += len(event.payload_text)
        last = place == len(events) - 1
        if last or size + len(events[place + 1].payload_text) > FRAME_CHARS:
            upto = cursor if last else event.cursor
            bodies = ",".join(e.json for e in events[start : place + 1])
            yield f'{{"type":"events","events":[{bodies}],"cursor":"{upto}"}}', upto
            start, size = place + 1, 0


def messages(text: str) -> Iterator[str]:
    """A frame as the messages that carry it: itself, or `part` frames where it is long.

    Servers refuse to send messages beyond a limit of theirs (Daphne: 1 MiB), and an event may be
    of any size. A client joins the `text` of parts up to the one whose `more` is false, and has
    the frame.
    """
    if len(text) <= PART_CHARS:
        yield text
        return
    for start in range(0, len(text), PART_CHARS):
        end = start + PART_CHARS
        yield frame("part", text=text[start:end], more=end < len(text))


def sse_event(event: Event) -> str:
    """An event as an unnamed message: `es.onmessage = m => JSON.parse(m.data)` is a whole client.

    It bears its own cursor: a connection cut in the middle of a batch must not repeat events.
    (PostgreSQL's JSON text has no raw line break, so one `data:` line holds it; WHATWG HTML,
    section 9.2.6.)
    """
    return f"id: {event.cursor}\ndata: {event.json}\n\n"


def sse_named(kind: str, cursor: str | None = None, **fields: Any) -> str:
    """All that is no event is a named one, which `onmessage` does not see."""
    head = f"id: {cursor}\n" if cursor else ""
    if cursor:
        fields = {"cursor": cursor, **fields}
    return f"{head}event: {kind}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n"
