"""What a source hands over: a window of whole batches with the watched tenants' slices. Pure."""

import json
from dataclasses import dataclass, fields
from operator import attrgetter

from agent_events.wire import Event

Tenants = tuple[str, ...] | None
"""The tenants of a stream: sorted ids, or None for all."""


@dataclass(frozen=True, slots=True)
class Window:
    """Batches `first` to `last`; `first == last + 1` says only that the log has come to `last`.

    `covers` names the tenants whose events, all of them, are in `events` (None: every tenant's).
    A window too large to carry covers nobody: its readers go to the log. `before_ms` and
    `closed_at_ms` are the `closed_at` of batch `first - 1` and of `last`: positions in memory are
    checked against them. `restarted`: the ledger is not the one of the windows before.
    """

    first: int
    last: int
    before_ms: int
    closed_at_ms: int
    covers: frozenset[str] | None
    events: tuple[Event, ...] = ()
    restarted: bool = False

    def has_all_of(self, tenants: Tenants) -> bool:
        """Does this window hold everything that a stream of `tenants` needs of it?"""
        if self.first > self.last or self.covers is None:
            return True
        return tenants is not None and self.covers.issuperset(tenants)

    def to_text(self) -> str:
        """For a channel layer: text, which a layer copies for nothing."""
        return json.dumps(
            [
                self.first,
                self.last,
                self.before_ms,
                self.closed_at_ms,
                None if self.covers is None else sorted(self.covers),
                [_values(e) for e in self.events],
                self.restarted,
            ],
            separators=(",", ":"),
        )

    @classmethod
    def from_text(cls, text: str) -> "Window":
        """The window that `to_text` wrote. Raises ValueError or TypeError for anything else."""
        first, last, before_ms, closed_at_ms, covers, events, restarted = json.loads(text)
        return cls(
            first,
            last,
            before_ms,
            closed_at_ms,
            None if covers is None else frozenset(covers),
            tuple(Event(*event) for event in events),
            restarted,
        )


_values = attrgetter(*(field.name for field in fields(Event)))
