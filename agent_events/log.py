"""Reading the log: from a position, history, the head, and what a client's cursor means here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import connections
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from agent_events.conf import Settings, get_settings
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST, Cursor, Position
from agent_events.window import Tenants
from agent_events.wire import Event

RESET_GRACE_MS = 5 * 60 * 1000
"""A cursor of another history goes on this long before its own time: clocks differ a little."""

MOST_LOOKS = 8
"""How often a view looks further back for a filter that matches little; each is some 5,000 rows."""

_MS = "floor(extract(epoch FROM {}) * 1000)::bigint"

# One row form for all: what `Event` takes, in its order.
_ENTRY = f"""
    batch, {_MS.format("closed_at")}, id,
    tenant_id::text, agent_id::text, event_type, payload::text,
    CASE WHEN isfinite(created_at)
         THEN to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') ELSE '' END
"""
# A page, cut where its payloads become too many bytes (but for its first event); then its position
# row, which counts how many events there were. `place` is the order in which the function returns.
_PAGE = """
    WITH p AS MATERIALIZED (SELECT *, row_number() OVER () AS place FROM {}(
             %s::uuid[], %s, %s, %s, %s::text[], %s::text[])),
         sized AS (SELECT *, sum(octet_length(payload::text)) OVER (ORDER BY place) AS bytes FROM p)
    SELECT place, {} FROM sized
     WHERE place = 1 OR bytes <= %s OR tenant_id IS NULL ORDER BY place
"""
_PAGE_ON = _PAGE.format("agent_events_page", _ENTRY)
_PAGE_BACK = _PAGE.format("agent_events_page_back", _ENTRY)
# A window whose payloads are too many bytes comes without events: one row, of NULLs.
_WINDOW = f"""
    WITH w AS MATERIALIZED (SELECT * FROM agent_events_window(%s::uuid[], %s, %s)),
         size AS (SELECT coalesce(sum(octet_length(payload::text)), 0) <= %s AS fits FROM w)
    SELECT fits, {_ENTRY} FROM size LEFT JOIN w ON fits ORDER BY batch, id
"""
_HEAD = f"SELECT batch, {_MS.format('closed_at')}, total FROM agent_events_head()"
LEDGER_SQL = f"""
    SELECT n, total, {_MS.format("closed_at")} FROM agent_event_batches
     WHERE n >= %s ORDER BY n LIMIT %s
"""


class LedgerRow(NamedTuple):
    """One batch as the ledger has it; `total` counts the events up to and with it."""

    n: int
    total: int
    closed_at_ms: int


class Page(NamedTuple):
    """Events in log order, and the cursor to go on from. The end is where `at_head` is true."""

    events: list[Event]
    cursor: Cursor
    at_head: bool


class Resolved(NamedTuple):
    """Where a client's cursor leads: `notice` is '', 'truncated' or 'reset'."""

    cursor: Cursor
    notice: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest events, newest first, and the cursor whose stream begins right after them."""

    cursor: str
    events: list[Event]


class Log:
    """The log as a process reads it, over a small pool of connections of its own.

    The pool belongs to the event loop in which it was opened.
    """

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._settings = settings
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=settings.read_pool_size,
            kwargs={"autocommit": True},
            configure=_configure,
            name="agent-events-log",
            open=False,
        )

    async def open(self) -> None:
        """Opens the pool; connections are made when needed."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool and its connections."""
        await self._pool.close()

    async def _rows(self, query: str, params: Sequence[Any] = ()) -> list[TupleRow]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query, params)).fetchall()

    async def head(self) -> LedgerRow:
        """The last closed batch. Raises psycopg.Error."""
        ((n, closed_at_ms, total),) = await self._rows(_HEAD)
        return LedgerRow(n, total, closed_at_ms)

    async def ledger(self, first: int, limit: int = 1_000) -> list[LedgerRow]:
        """Up to `limit` ledger rows from batch `first` on."""
        return [LedgerRow(*row) for row in await self._rows(LEDGER_SQL, (first, limit))]

    async def window(
        self, first: int, last: int, tenants: frozenset[str] | None
    ) -> tuple[Event, ...] | None:
        """All events of the tenants (None: of all) in whole batches `first` to `last`, in order.

        None where their payloads exceed `page_bytes`. Raises psycopg.Error.
        """
        wanted = None if tenants is None else sorted(tenants)
        rows = await self._rows(_WINDOW, (wanted, first, last, self._settings.page_bytes))
        if not rows[0][0]:
            return None
        return tuple(Event(*row[1:]) for row in rows if row[1] is not None)

    async def page(self, tenants: Tenants, position: Position, filter: Filter) -> Page:
        """The next events from `position` on: `page_rows` at most, maybe none though more come.

        Raises psycopg.errors.NoDataFound where the ledger does not hold the position any more.
        """
        # The head first: whatever the page says, it is at least as far as this.
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_HEAD)
            head = (await cursor.fetchall())[0][0]
            args = _page_args(tenants, position, self._settings.page_rows, filter, self._settings)
            rows = await (await connection.execute(_PAGE_ON, args)).fetchall()
        events, reached = _page(rows)
        return Page(events, reached, reached.position.batch > head)

    async def resolve(self, text: str) -> Resolved:
        """Where to begin for a client's cursor: never silence, never the whole log.

        A cursor of this history is taken as it is. 'truncated': what it asks for was pruned, go
        on from the oldest. 'reset': it comes from another history (a restore, a failover that
        lost its tail), go on from some minutes before its time, or the head.
        Raises InvalidCursor for garbage, psycopg.Error.
        """
        if text == LATEST:
            head = await self.head()
            return Resolved(Cursor(Position(head.n + 1), head.closed_at_ms), "")
        ((oldest,),) = await self._rows("SELECT oldest FROM agent_event_bus")
        if text == EARLIEST:
            return Resolved(await self._start_of(oldest), "")
        cursor = Cursor.parse(text)
        batch = cursor.position.last_batch
        if cursor.position.batch < oldest:
            return Resolved(await self._start_of(oldest), "truncated")
        rows = await self.ledger(batch, 1)
        if rows and rows[0].n == batch and rows[0].closed_at_ms == cursor.closed_at_ms:
            return Resolved(cursor, "")
        return Resolved(await self._since(oldest, cursor.closed_at_ms - RESET_GRACE_MS), "reset")

    async def _start_of(self, batch: int) -> Cursor:
        before = (await self.ledger(batch - 1, 1))[0]
        return Cursor(Position(batch), before.closed_at_ms)

    async def _since(self, oldest: int, time_ms: int) -> Cursor:
        """The first batch closed at `time_ms` or later, or the head: `closed_at` rises with n."""
        head = await self.head()
        lo, hi = oldest, head.n + 1
        while lo < hi:
            middle = (lo + hi) // 2
            if (await self.ledger(middle, 1))[0].closed_at_ms >= time_ms:
                hi = middle
            else:
                lo = middle + 1
        return await self._start_of(lo)


async def _configure(connection: AsyncConnection[TupleRow]) -> None:
    # Rows hidden by a policy would be skipped for ever: with this off the server raises.
    await connection.execute("SET row_security = off")


def _page_args(
    tenants: Tenants, position: Position, rows: int, filter: Filter, settings: Settings
) -> list[Any]:
    return [
        None if tenants is None else list(tenants),
        position.batch,
        position.after_id,
        rows,
        list(filter.agents) or None,
        list(filter.types) or None,
        settings.page_bytes,
    ]


def _page(rows: Sequence[Sequence[Any]]) -> tuple[list[Event], Cursor]:
    """The events of a page, and the cursor to go on from."""
    *found, (place, batch, closed_at_ms, after_id, *_) = rows
    events = [Event(*row[1:]) for row in found]
    if len(events) < place - 1:  # cut
        return events, Cursor(events[-1].position, events[-1].closed_at_ms)
    return events, Cursor(Position(batch, after_id), closed_at_ms)


def latest(
    tenants: Iterable[object] | None,
    *,
    agents: Iterable[str] = (),
    types: Iterable[str] = (),
    limit: int = 100,
) -> Snapshot:
    """The newest events of the tenants (None: of all), for a view's first render.

    `limit` of them at most, and `page_bytes` of payload (but for one event of more). Runs on
    Django's connection. The cursor is "now": a stream opened with it misses nothing that came
    after the events here, and repeats none of them. Raises InvalidFilter.
    """
    wanted = None if tenants is None else tuple(str(tenant) for tenant in tenants)
    filter = Filter.of(agents, types)
    settings = get_settings()
    with connections[settings.database].cursor() as cursor:
        cursor.execute(_HEAD)
        head, closed_at_ms, _ = cursor.fetchone()
        here = Position(head + 1)
        events: list[Event] = []
        at = here
        # With a filter a page may be empty though more lies behind: some looks, not for ever.
        for _look in range(MOST_LOOKS):
            args = _page_args(wanted, at, limit - len(events), filter, settings)
            cursor.execute(_PAGE_BACK, args)
            found, reached = _page(cursor.fetchall())
            events += found
            at = reached.position
            if len(events) == limit or not filter:
                break
    return Snapshot(str(Cursor(here, closed_at_ms)), events)
