"""Bounded looks at the log, as the admin shows them: a page, and where it ends.

The same pages as everybody reads (`history`), in the ledger's order. With a filter by anything but
the tenant, which no index finds, a look ends after some thousands of events and says how far it
came.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connections

from agent_events import history
from agent_events.conf import get_settings
from agent_events.filters import Filter
from agent_events.models import Batch
from agent_events.position import LATEST, Cursor, Position
from agent_events.wire import Event

PAGE_EVENTS = 100
"""Events a page."""
MOST_WAITING = 20
"""Events in no batch that are shown, of the newest WAITING_LOOKS."""
WAITING_LOOKS = 200
WAITING_BYTES = 65_536
"""A larger payload of an event in no batch is left out, and not looked into."""

# By the primary key, or a tenant's by its index.
_WAITING = f"""
    SELECT e.id, agent_events_json(e.id, e.tenant_id, e.agent_id, e.event_type,
               CASE WHEN pg_column_size(e.payload) <= {WAITING_BYTES} THEN e.payload
                    ELSE 'null' END, e.created_at)
      FROM (SELECT id, created_at, tenant_id, agent_id, event_type, payload, tx
              FROM agent_events {{}} LIMIT %s) AS e
     CROSS JOIN (SELECT seen FROM agent_event_batches ORDER BY n DESC LIMIT 1) AS head
     WHERE NOT pg_visible_in_snapshot(e.tx, head.seen) ORDER BY e.id DESC
"""
_OF_ALL = "ORDER BY id DESC"
# (A range of one, so that no plan goes by another index, past all other tenants' events.)
_OF_TENANT = """WHERE tenant_id >= %s AND tenant_id <= %s
                 ORDER BY tenant_id DESC, tx DESC, id DESC"""
_IS_WAITING = """
    SELECT NOT pg_visible_in_snapshot(%s::xid8, seen)
      FROM agent_event_batches ORDER BY n DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where: the points between two batches; None for the log's own ends."""

    first: Cursor | None = None
    last: Cursor | None = None

    def holds(self, event: Event) -> bool:
        """Is the event within?"""
        return (self.first is None or event.position > self.first.position) and (
            self.last is None or event.position <= self.last.position
        )

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None, batch: int | None) -> "Span":
        """The batches closed from one time on and before another; the one batch.

        What is None sets no limit. Raises WrongDatabase, django.db.Error.
        """
        firsts = [] if since is None else [history.since(_ms(since))]
        lasts = [] if until is None else [history.since(_ms(until))]
        if batch is not None:
            firsts.append(history.start_of(batch))
            lasts.append(history.start_of(batch + 1))
        return cls(
            max(firsts, key=lambda point: point.position, default=None),
            min(lasts, key=lambda point: point.position, default=None),
        )


@dataclass(slots=True)
class Look:
    """A page of events, newest first, and the points on either side of it.

    `older` and `newer` are None where nothing is there. `passed`: how many events of the log were
    passed, at least, by a look that ended early at `ended`; else `ended` is None. `waiting`: events
    that were committed and are in no batch yet, of batch 0 here: nobody has been shown them.
    """

    events: list[Event]
    older: Cursor | None
    newer: Cursor | None
    ended: Cursor | None = None
    passed: int = 0
    notice: str = ""
    waiting: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class _Walk:
    """One way from a point: what was found, and the points at which that begins and ends."""

    events: list[Event]
    start: Cursor
    end: Cursor
    more: bool
    other_way: bool
    notice: str


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for."""

    tenant: str | None = None
    filter: Filter = field(default_factory=Filter)
    span: Span = field(default_factory=Span)

    def older_than(self, cursor: str) -> Look:
        """The newest events before a point; '' for the newest of all. Raises as `history.read`."""
        first_page = not cursor
        waiting = self._waiting() if first_page and not (self.span.first or self.span.last) else []
        walk = self._walk(cursor or str(self.span.last or LATEST), True, PAGE_EVENTS)
        look = Look(
            walk.events,
            walk.end if walk.more else None,
            walk.start if walk.other_way and not first_page else None,
            notice=walk.notice,
            # What got its batch meanwhile is in the log already.
            waiting=[one for one in waiting if all(one.id != e.id for e in walk.events)],
        )
        return self._told(look, walk, PAGE_EVENTS)

    def newer_than(self, cursor: str) -> Look:
        """The oldest events after a point. Raises as `history.read`."""
        walk = self._walk(cursor, False, PAGE_EVENTS)
        look = Look(
            walk.events[::-1],
            walk.start if walk.other_way else None,
            walk.end if walk.more else None,
            notice=walk.notice,
        )
        return self._told(look, walk, PAGE_EVENTS)

    def around(self, cursor: str) -> Look:
        """Those right before and right after a point. Raises as `history.read`."""
        back = self._walk(cursor, True, PAGE_EVENTS // 2)
        on = self._walk(str(back.start), False, PAGE_EVENTS // 2)
        return Look(
            on.events[::-1] + back.events,
            back.end if back.more else None,
            on.end if on.more else None,
            notice=back.notice,
        )

    def before(self, event: Event, limit: int, looks: int) -> Look:
        """The nearest before an event, newest first, by so many looks. Raises as `history.read`."""
        # Backwards from the point behind it, it comes first, if it is one of those looked for.
        walk = self._walk(event.cursor, True, limit + 1, looks)
        walk.events = [one for one in walk.events if one.id != event.id][:limit]
        older = walk.end if walk.more else None
        return self._told(Look(walk.events, older, None, notice=walk.notice), walk, limit)

    def after(self, event: Event, limit: int, looks: int) -> Look:
        """The nearest after an event, newest first, by so many looks. Raises as `history.read`."""
        walk = self._walk(event.cursor, False, limit, looks)
        newer = walk.end if walk.more else None
        return self._told(Look(walk.events[::-1], None, newer, notice=walk.notice), walk, limit)

    def _walk(self, cursor: str, newest_first: bool, limit: int, looks: int = 0) -> _Walk:
        far, bound = self.span.last, self.span.first
        if not newest_first:
            far, bound = bound, far
        page = history.read_on(
            None if self.tenant is None else (self.tenant,),
            self.filter,
            cursor,
            newest_first=newest_first,
            limit=limit,
            until=str(bound or ""),
            looks=looks if self.filter else 1,
        )
        start, end = (page.after, page.before) if newest_first else (page.before, page.after)
        inside = [event for event in page.events if self.span.holds(event)]
        begins_there = far is not None and start.position == far.position
        other_way = page.other_way and not begins_there
        return _Walk(inside, start, end, page.more, other_way, page.notice)

    def _told(self, look: Look, walk: _Walk, limit: int) -> Look:
        """With how far it came, where it ended for having looked for long enough."""
        if self.filter and walk.more and len(walk.events) < limit:
            look.ended = walk.end
            look.passed = _events_between(walk.start.position, walk.end.position)
        return look

    def _waiting(self) -> list[Event]:
        order, args = (_OF_ALL, []) if self.tenant is None else (_OF_TENANT, [self.tenant] * 2)
        rows = _rows(_WAITING.format(order), [*args, WAITING_LOOKS])
        found = [Event(0, 0, id_, text) for id_, text in rows]
        return [one for one in found if self.filter.matches(one)][:MOST_WAITING]


def is_waiting(tx: str) -> bool:
    """Has what this transaction wrote no batch yet? Raises django.db.Error."""
    return bool(_rows(_IS_WAITING, [tx])[0][0])


def closed_at(at: Cursor | Event) -> datetime:
    """When the batch of an event, or the last one before a point, was closed."""
    return datetime.fromtimestamp(at.closed_at_ms / 1000, UTC)


def _events_between(one: Position, other: Position) -> int:
    """Events of the log in the whole batches between two points."""
    low, high = sorted((one, other))
    first = low.batch if low.after_id else low.batch - 1
    totals = dict(
        Batch.objects.using(get_settings().database)
        .filter(n__in=(first, high.batch - 1))
        .values_list("n", "total")
    )
    return max(0, totals.get(high.batch - 1, 0) - totals.get(first, 0))


def _rows(query: str, args: Sequence[Any]) -> list[Any]:
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(query, args)
        return list(cursor.fetchall())


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
