"""Reading the log from a view: pages either way, one event, the newest. On Django's connection.

A cursor is a point between two events. Read from it either way: every event comes once, and what
one way gives first the other way never gives.
"""

import re
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import django.db
import psycopg
from django.db import connections, transaction

from agent_events.conf import get_settings
from agent_events.filters import Filter
from agent_events.log import (
    ENTRY_SQL,
    PAGE_BACK_SQL,
    PAGE_ON_SQL,
    LedgerRow,
    Log,
    Params,
    Resolved,
    page_args,
    page_of,
)
from agent_events.position import EARLIEST, LATEST, MOST_ID, Cursor, Position
from agent_events.window import Tenants
from agent_events.wire import Event

MOST_LOOKS = 8
"""How often a view looks further back for a filter that matches little; each is some 5,000 rows."""
MOST_TRIES = 3
"""How often a page is read again because its place was pruned meanwhile."""

_OLDEST = "SELECT oldest FROM agent_event_bus"
# By the primary key, then its transaction's batch by bisection. What no batch has yet, or what was
# pruned though its row is still there, is not in the log. The tenants belong in here: to fetch
# another's payload before it is refused would tell by the time that it takes.
_ONE = f"""
    SELECT {ENTRY_SQL} FROM (
        SELECT e.*, place.n AS batch,
               (SELECT closed_at FROM agent_event_batches WHERE n = place.n) AS closed_at
          FROM agent_events AS e
         CROSS JOIN (SELECT n, seen FROM agent_event_batches ORDER BY n DESC LIMIT 1) AS head
         CROSS JOIN (SELECT oldest, (SELECT seen FROM agent_event_batches WHERE n = oldest - 1)
                       FROM agent_event_bus) AS pruned
         CROSS JOIN LATERAL agent_events_batch_of(e.tx, pruned.oldest, head.n) AS place(n)
         WHERE e.id = %s AND (%s::uuid[] IS NULL OR e.tenant_id = ANY (%s::uuid[]))
           AND pg_visible_in_snapshot(e.tx, head.seen)
           AND NOT pg_visible_in_snapshot(e.tx, pruned.seen)
    ) AS one
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest events, newest first, and the cursor whose stream begins right after them."""

    cursor: str
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Pages:
    """A page of history, and what is on either side of it.

    `before` and `after` are the cursors right before and right after these events in the log's
    order, whichever way they were read. `more`: further on, that way, something may come, though
    this page may be empty; where it is to end somewhere, it has not come there. `other_way`: the
    same for the other way. `notice` is that of `Resolved`, for where it begins and where it ends.
    `until`: where it is to end, exactly, so that `latest` stays where it was; None: nowhere.
    """

    events: list[Event]
    before: Cursor
    after: Cursor
    more: bool
    other_way: bool
    notice: str
    until: Cursor | None = None


class _DjangoLog(Log):
    """The log on Django's connection: its coroutines never wait, so that a view can run them."""

    def __init__(self) -> None:  # deliberately without the pool
        self._settings = get_settings()

    async def _rows(self, query: str, params: Params = ()) -> list[Any]:
        with connections[self._settings.database].cursor() as cursor:
            cursor.execute(query, params)
            rows: list[Any] = cursor.fetchall()
            return rows

    async def pages(
        self,
        tenants: Tenants,
        filter: Filter,
        text: str,
        newest_first: bool,
        limit: int,
        until: str,
    ) -> Pages:
        start, notice = await self.resolve(text)
        head = await self.head()  # before the page, which reaches at least as far
        last: Cursor | None = None
        if until:
            last, notice_of_end = await self._end(until, head)
            notice = notice or notice_of_end
        ((oldest,),) = await self._rows(_OLDEST)
        at = _before_id(start.position) if newest_first else start.position
        args = page_args(tenants, at, limit, filter, self._settings)
        events, end = page_of(
            await self._rows(PAGE_BACK_SQL if newest_first else PAGE_ON_SQL, args)
        )
        if newest_first:
            end = await self._point_before(end)
        reached = False
        if last is not None:
            here, there = end.position, last.position
            reached = here <= there if newest_first else here >= there
        if last is not None and reached:
            # (Where it begins beyond that place, it ends where it begins.)
            bound = min(last, start, key=_place) if newest_first else max(last, start, key=_place)
            events = [event for event in events if (event.position > there) == newest_first]
            end = bound
        older, newer = (end, start) if newest_first else (start, end)
        has_older = older.position > Position(oldest)
        has_newer = newer.position.batch <= head.n
        goes_on, other_way = (has_older, has_newer) if newest_first else (has_newer, has_older)
        more = goes_on if last is None else not reached
        return Pages(events, older, newer, more, other_way, notice, last)

    async def _end(self, text: str, head: LedgerRow) -> Resolved:
        """As `resolve`, but a place that the log has not come to stays: a copy may lag behind."""
        if text not in (EARLIEST, LATEST):
            cursor = Cursor.parse(text)
            if cursor.position.last_batch > head.n and cursor.closed_at_ms > head.closed_at_ms:
                return Resolved(cursor, "")
        return await self.resolve(text)

    async def _point_before(self, last: Cursor) -> Cursor:
        """Backwards a page ends at the last event that it looked at: the point before that."""
        batch, event_id = last.position
        if event_id > 1:
            return Cursor(Position(batch, event_id - 1), last.closed_at_ms)
        return await self._start_of(batch) if event_id else last


def read(
    tenants: Tenants,
    filter: Filter,
    cursor: str,
    *,
    newest_first: bool,
    limit: int,
    until: str = "",
) -> Pages:
    """A page of the tenants' events (None: of all) from a cursor on, either way.

    `cursor` is what a client sent, or `earliest` or `latest`; `limit` is in events. `until`:
    another such place, at which it ends exactly; '': nowhere. Never slow: it looks at some
    thousands of rows at most. `page_bytes` of JSON at most, but for one event of more. Raises
    InvalidCursor, WrongDatabase, django.db.Error.
    """
    log = _DjangoLog()
    for tries_left in reversed(range(MOST_TRIES)):
        try:
            # A savepoint in a transaction of the caller's: the error would end that.
            with transaction.atomic(get_settings().database):
                return _at_once(log.pages(tenants, filter, cursor, newest_first, limit, until))
        except django.db.Error as error:
            # Pruned since its cursor was looked at: ask again what the cursor means.
            if not tries_left or not isinstance(error.__cause__, psycopg.errors.NoDataFound):
                raise
    raise AssertionError("unreachable")


def read_on(
    tenants: Tenants,
    filter: Filter,
    cursor: str,
    *,
    newest_first: bool,
    limit: int,
    until: str = "",
    looks: int = 0,
) -> Pages:
    """As `read`, and further on where that gave less than `limit`: `looks` pages at most.

    0: MOST_LOOKS. Raises what `read` raises.
    """
    first = page = read(
        tenants, filter, cursor, newest_first=newest_first, limit=limit, until=until
    )
    events = list(page.events)
    for _look in range((looks or MOST_LOOKS) - 1):
        if len(events) >= limit or not page.more:
            break
        page = read(
            tenants,
            filter,
            str(page.before if newest_first else page.after),
            newest_first=newest_first,
            limit=limit - len(events),
            until=until,
        )
        events += page.events
    before, after = (page.before, first.after) if newest_first else (first.before, page.after)
    return replace(first, events=events, before=before, after=after, more=page.more)


def resolve(cursor: str) -> Resolved:
    """The place that is meant by what a client sent: a cursor, `earliest` or `latest`.

    Raises InvalidCursor, WrongDatabase, django.db.Error.
    """
    return _at_once(_DjangoLog().resolve(cursor))


def one(event_id: int, tenants: Tenants) -> Event | None:
    """The event of this id, once it has its place in the log.

    None where there is none, and where it is none of the tenants' (None: of all): it takes the
    same time. Raises WrongDatabase, django.db.Error.
    """
    log = _DjangoLog()
    wanted = None if tenants is None else list(tenants)
    rows = _at_once(log._rows(_ONE, (event_id, wanted, wanted)))
    if not rows:
        _at_once(log.head())  # an emptied ledger raises: no event has its place then
        return None
    return Event._make(rows[0])


def named(text: str, tenants: Tenants, only: Filter) -> Event | None:
    """The event whose id a client wrote, as `one`.

    None also for what is no id, and for an event that `only` does not let be seen. Raises as `one`.
    """
    event_id = int(text) if re.fullmatch("[0-9]{1,19}", text, re.ASCII) else 0
    found = one(event_id, tenants) if 0 < event_id <= MOST_ID else None
    return found if found and only.matches(found) else None


def since(time_ms: int) -> Cursor:
    """The point before the first batch closed at that time (in ms since 1970) or later.

    Before the oldest batch kept, or at the end, where the time is outside of the log. Some 20 to
    30 looks by the primary key. Raises WrongDatabase, django.db.Error.
    """
    log = _DjangoLog()
    ((oldest,),) = _at_once(log._rows(_OLDEST))
    return _at_once(log._since(oldest, time_ms))


def start_of(batch: int) -> Cursor:
    """The point before a batch; before a later one, or at the end, where the ledger has no such.

    Raises WrongDatabase, django.db.Error.
    """
    return _at_once(_DjangoLog()._start_of(batch))


def latest(
    tenants: Iterable[object] | None,
    *,
    filter: Filter | None = None,
    agents: Iterable[str] = (),
    types: Iterable[str] = (),
    limit: int = 100,
) -> Snapshot:
    """The newest events of the tenants (None: of all), for a view's first render.

    `limit` of them at most, and `page_bytes` of JSON (but for one event of more). The cursor is
    "now": a stream opened with it misses nothing that came after the events here, and repeats none
    of them. Raises InvalidFilter, WrongDatabase, django.db.Error.
    """
    wanted = None if tenants is None else tuple(str(tenant) for tenant in tenants)
    filter = Filter.of(agents, types) if filter is None else filter
    log, settings = _DjangoLog(), get_settings()
    head = _at_once(log.head())
    here = Cursor(Position(head.n + 1), head.closed_at_ms)
    events: list[Event] = []
    at = here.position
    # With a filter a page may be empty though more lies behind: some looks, not for ever.
    for _look in range(MOST_LOOKS):
        args = page_args(wanted, at, limit - len(events), filter, settings)
        found, reached = page_of(_at_once(log._rows(PAGE_BACK_SQL, args)))
        events += found
        at = reached.position
        if len(events) == limit or not filter:
            break
    return Snapshot(str(here), events)


def _place(cursor: Cursor) -> Position:
    return cursor.position


def _before_id(position: Position) -> Position:
    """Where `agent_events_page_back` begins, so that the event at the position comes first."""
    batch, after_id = position
    return Position(batch, after_id and min(after_id + 1, MOST_ID))


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("A read on Django's connection waited for an event loop.")
