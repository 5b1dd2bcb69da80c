"""What a source hands over: a window of whole batches with the watched tenants' slices. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agent_events.position import Cursor, Position
from agent_events.wire import Event

Tenants = tuple[str, ...] | None
"""The tenants of a stream: sorted ids, or None for all."""


@dataclass(frozen=True)
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

    @cached_property
    def end(self) -> Cursor:
        """The cursor behind it."""
        return Cursor(Position(self.last + 1), self.closed_at_ms)

    def events_of(self, tenants: Tenants) -> Sequence[Event]:
        """Its events of these tenants, in order. Looks at each event once, however many ask."""
        if tenants is None or (self.covers is not None and self.covers.issubset(tenants)):
            return self.events
        here = {tenant for tenant in tenants if tenant in self.by_tenant}
        if len(here) > 1:
            return [event for event in self.events if event.tenant_id in here]
        return self.by_tenant[here.pop()] if here else ()

    @cached_property
    def by_tenant(self) -> dict[str, list[Event]]:
        """Its events, each tenant's in order."""
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.tenant_id, []).append(event)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Window":
        """Itself: it never changes, and the in-memory layer copies what it passes on."""
        return self

    def to_text(self) -> str:
        """For a channel layer that other processes share."""
        return json.dumps(
            [
                self.first,
                self.last,
                self.before_ms,
                self.closed_at_ms,
                None if self.covers is None else sorted(self.covers),
                self.events,
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
            tuple([Event(*event) for event in events]),
            restarted,
        )
