"""Reading the log: from a position, the head, and what a client's cursor means here."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from agent_events import metrics
from agent_events.conf import Settings
from agent_events.database import CONNECT, NOTIFY_SQL, abandon, severed_after
from agent_events.errors import WrongDatabase
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST, Cursor, Position
from agent_events.stretch import Stretch
from agent_events.window import Tenants
from agent_events.wire import Event

RESET_GRACE_MS = 5 * 60 * 1000
"""A cursor of another history goes on this long before its own time: clocks differ a little."""

MS_SQL = "floor(extract(epoch FROM {}) * 1000)::bigint"

# RFC 3339; '' where Python has no such time.
CREATED_SQL = "coalesce(agent_events_time(created_at), '')"
# One row form for all: what `Event` takes, in its order. The JSON is a piece of text to Python,
# and NULL in a page's last row, which is a position and no event.
ENTRY_SQL = f"""
    batch, {MS_SQL.format("closed_at")} AS closed_at_ms, id,
    agent_events_json(id, tenant_id, agent_id, event_type, payload, created_at) AS json
"""
EVENT_COLUMNS = 4
# A page, cut where its events become too many bytes (but for its first one); then its position,
# which says how many events there were. `place` is the order in which the function returns.
_PAGE = """
    WITH p AS MATERIALIZED (SELECT {1}, row_number() OVER () AS place FROM {0}(
             %s::uuid[], %s, %s, %s, %s::text[], %s::text[], not_agents => %s::text[],
             not_types => %s::text[], texts => %s::text[], conditions => %s::jsonpath)),
         sized AS (SELECT *, sum(octet_length(json)) OVER (ORDER BY place) AS bytes FROM p)
    SELECT batch, closed_at_ms, id, json, CASE WHEN json IS NULL THEN place - 1 END AS count
      FROM sized WHERE place = 1 OR bytes <= %s OR json IS NULL ORDER BY place
"""
PAGE_ON_SQL = _PAGE.format("agent_events_page", ENTRY_SQL)
PAGE_BACK_SQL = _PAGE.format("agent_events_page_back", ENTRY_SQL)
# With the time of the batch before it, of the same moment: is this the history of the cursor?
_PAGE_OF = f"""
    SELECT page.*, CASE WHEN json IS NULL THEN (
               SELECT {MS_SQL.format("closed_at")} FROM agent_event_batches WHERE n = %s) END
      FROM ({PAGE_ON_SQL}) AS page
"""
# A window whose events are too many bytes comes without events: one row, of NULLs.
_WINDOW = f"""
    WITH w AS MATERIALIZED (SELECT {ENTRY_SQL} FROM agent_events_window(%s::uuid[], %s, %s)),
         size AS (SELECT coalesce(sum(octet_length(json)), 0) <= %s AS fits FROM w)
    SELECT w.*, fits FROM size LEFT JOIN w ON fits ORDER BY batch, id
"""
# The same of one batch, which is what is live: a batch of -1 then.
_LIVE = "SELECT batch, closed_at_ms, id, event FROM agent_events_live(%s::uuid[], %s, %s)"
HEAD_SQL = f"""
    SELECT batch, {MS_SQL.format("closed_at")}, total,
           row_security_active('agent_events') OR row_security_active('agent_event_batches')
      FROM agent_events_head()
"""
LEDGER_SQL = f"""
    SELECT n, total, {MS_SQL.format("closed_at")} FROM agent_event_batches
     WHERE n >= %(n)s ORDER BY n LIMIT %(limit)s
"""
FRESH_ROWS = 64
FRESH_BYTES = 32_768
"""So many events, of so many bytes in all, come with the news of their batch: less than the
socket's buffers take, so that a process that stops reading holds nobody up."""
# The ledger from a batch on. Where it has one more, a small one, its events come along: one round
# trip, and one statement, less for what is live.
AHEAD_SQL = f"""
    WITH ahead AS MATERIALIZED ({LEDGER_SQL}),
         fresh AS MATERIALIZED (
             SELECT max(n) AS n FROM ahead
             HAVING count(*) = 2 AND max(total) - min(total) <= {FRESH_ROWS}
                    AND cardinality(%(tenants)s::uuid[]) IS DISTINCT FROM 0)
    SELECT a.*, e.* FROM ahead AS a LEFT JOIN (
           SELECT f.n AS fresh, l.* FROM fresh AS f
             LEFT JOIN LATERAL agent_events_live(%(tenants)s::uuid[], f.n, {FRESH_BYTES}) AS l
                    ON true) AS e ON e.fresh = a.n
     ORDER BY a.n, e.id
"""

# A copy of a database has another oid, or is another server's. A standby has both of its primary.
OID_SQL = "(SELECT oid FROM pg_database WHERE datname = current_database())"
IDENTITY_SQL = f"SELECT system_identifier || '/' || {OID_SQL} FROM pg_control_system()"

MOST_APPENDS = 20
"""Batches that a process closes at a time where nobody else does."""


Params = Sequence[Any] | Mapping[str, Any]
"""A statement's, in order or by name."""


class LedgerRow(NamedTuple):
    """One batch as the ledger has it; `total` counts the events up to and with it."""

    n: int
    total: int
    closed_at_ms: int


class Page(NamedTuple):
    """Events in log order, and the cursor to go on from. The end is where `at_head` is true."""

    stretch: Stretch | None
    cursor: Cursor
    at_head: bool

    @property
    def events(self) -> Sequence[Event]:
        """Its events; none where a filter let nothing through, and at the head."""
        return self.stretch.events if self.stretch else ()


class Resolved(NamedTuple):
    """Where a client's cursor leads: `notice` is '', 'truncated' or 'reset'."""

    cursor: Cursor
    notice: str


_POOL = "agent-events-log"
_made: WeakSet[AsyncConnection[TupleRow]] = WeakSet()


class _SaidElsewhere(logging.Filter):
    """The source says once that the database is away; the pool would say so at each try."""

    def filter(self, record: logging.LogRecord) -> bool:
        about = record.args if isinstance(record.args, tuple) else ()
        ours = any(isinstance(one, AsyncConnection) and one in _made for one in about)
        return not (ours or _POOL in about)


logging.getLogger("psycopg.pool").addFilter(_SaidElsewhere())


def pool_size(settings: Settings) -> int:
    """Connections for reading: one is the source's, the others are the subscribers'."""
    return max(2, settings.read_pool_size)


class Log:
    """The log as a process reads it, over a small pool of connections of its own.

    The pool belongs to the event loop in which it was opened.
    """

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._settings = settings
        self._made: WeakSet[AsyncConnection[TupleRow]] = WeakSet()
        self._in_use: set[AsyncConnection[TupleRow]] = set()
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=pool_size(settings),
            kwargs={**CONNECT, "application_name": "agent_events log"},
            configure=self._remember,
            reconnect_timeout=settings.query_timeout_s,
            timeout=2 * settings.query_timeout_s,
            name=_POOL,
            open=False,
        )

    async def open(self) -> None:
        """Opens the pool; connections are made when needed."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool and its connections."""
        try:
            await self._pool.close()
        finally:
            # Where the end of the event loop has cancelled the pool's own tasks, it closes nothing.
            for connection in list(self._made):
                await connection.close()

    async def _remember(self, connection: AsyncConnection[TupleRow]) -> None:
        self._made.add(connection)
        _made.add(connection)

    async def renew(self) -> None:
        """Replaces the connections, those in use too: what cut another one off may have cut these.

        Whoever reads is told by psycopg.OperationalError, and reads again.
        """
        await self._pool.drain()
        for connection in self._in_use:
            abandon(connection)

    async def ring(self, channel: str, body: str) -> bool:
        """Notifies on `channel`, as a producer would; False where the notification queue is full.

        Raises psycopg.Error, psycopg_pool.PoolTimeout.
        """
        rows = await self._rows(NOTIFY_SQL, (channel, body))
        return bool(rows)

    async def _rows(self, query: str, params: Params = ()) -> list[TupleRow]:
        async with self._connection() as connection:
            return await (await connection.execute(query, params)).fetchall()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        async with self._pool.connection() as connection:
            self._in_use.add(connection)
            try:
                with severed_after(connection, self._settings.query_timeout_s, abandon):
                    yield connection
            finally:
                self._in_use.discard(connection)

    async def append(self) -> None:
        """Closes what there is to close, or MOST_APPENDS batches: nobody else seems to.

        Raises psycopg.Error, psycopg_pool.PoolTimeout.
        """
        for _ in range(MOST_APPENDS):
            if not await self._rows("SELECT FROM agent_events_append()"):
                break

    async def head(self) -> LedgerRow:
        """The last closed batch. Raises psycopg.Error, and WrongDatabase for hidden rows."""
        return head_of(await self._rows(HEAD_SQL))

    async def identity(self) -> str:
        """Which log this is, of all that continue its ledger: the server's and the database's ids.

        Empty where the server does not let this role know. Raises psycopg.Error.
        """
        try:
            ((identity,),) = await self._rows(IDENTITY_SQL)
        except (psycopg.ProgrammingError, psycopg.NotSupportedError):
            return ""
        return str(identity)

    async def ledger(self, first: int, limit: int = 1_000) -> list[LedgerRow]:
        """Up to `limit` ledger rows from batch `first` on."""
        rows = await self._rows(LEDGER_SQL, {"n": first, "limit": limit})
        return [LedgerRow(*row) for row in rows]

    async def window(
        self, first: int, last: int, tenants: frozenset[str] | None, most: int | None = None
    ) -> tuple[Event, ...] | None:
        """All events of the tenants (None: of all) in whole batches `first` to `last`, in order.

        None where they exceed `most` bytes (left out: `page_bytes`), or some were pruned. Raises
        psycopg.Error.
        """
        wanted = None if tenants is None else sorted(tenants)
        most = most or self._settings.page_bytes
        try:
            if first == last:
                return live_of(await self._rows(_LIVE, (wanted, first, most)))
            rows = await self._rows(_WINDOW, (wanted, first, last, most))
        except psycopg.errors.NoDataFound:
            return None
        if not rows[0][-1]:
            return None
        return tuple([Event._make(row[:EVENT_COLUMNS]) for row in rows if row[0] is not None])

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        """The next events from `cursor` on: `page_rows` at most, maybe none though more come.

        Raises psycopg.errors.NoDataFound where this ledger does not hold the cursor any more, or
        never did: `resolve` then says why. psycopg.Error otherwise.
        """
        # The head first: whatever the page says, it is at least as far as this.
        async with self._connection() as connection:
            head = head_of(await (await connection.execute(HEAD_SQL)).fetchall())
            metrics.LOG_READS.inc()
            at = cursor.position
            args = page_args(tenants, at, self._settings.page_rows, filter, self._settings)
            rows = await (await connection.execute(_PAGE_OF, [at.last_batch, *args])).fetchall()
        if rows[-1][-1] != cursor.closed_at_ms:
            raise psycopg.errors.NoDataFound(f"{cursor} is no cursor of this ledger")
        events, reached = page_of(rows)
        stretch = Stretch(events, str(reached)) if events else None
        return Page(stretch, reached, reached.position.batch > head.n)

    async def resolve(self, text: str) -> Resolved:
        """Where to begin for a client's cursor: never silence, never the whole log.

        A cursor of this history is taken as it is. 'truncated': what it asks for was pruned, go
        on from the oldest. 'reset': it comes from another history (a restore, a failover that
        lost its tail), go on from some minutes before its time, or the head.
        Raises InvalidCursor for garbage, psycopg.Error (an emptied ledger is one).
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
        """Before `batch`; before a later one, or at the end, where the ledger has no such row."""
        rows = await self.ledger(batch - 1, 1)
        before = rows[0] if rows else await self.head()
        return Cursor(Position(before.n + 1), before.closed_at_ms)

    async def _since(self, oldest: int, time_ms: int) -> Cursor:
        """The first batch closed at `time_ms` or later, or the head: `closed_at` rises with n."""
        head = await self.head()
        lo, hi = oldest, head.n + 1
        while lo < hi:
            middle = (lo + hi) // 2
            rows = await self.ledger(middle, 1)
            if not rows or rows[0].closed_at_ms >= time_ms:
                hi = middle
            else:
                lo = middle + 1
        return await self._start_of(lo)


def head_of(rows: Sequence[Sequence[Any]]) -> LedgerRow:
    """The head, from what HEAD_SQL returned. Raises WrongDatabase for hidden rows."""
    # Rows hidden by a policy would be skipped for ever. (Not by SET row_security: behind a pooler
    # the next statement may be in another session.)
    ((n, closed_at_ms, total, hidden),) = rows
    if hidden:
        raise WrongDatabase(
            "Row-level security hides rows of agent_events or agent_event_batches from this role. "
            "Let the role own both tables, or give it BYPASSRLS."
        )
    return LedgerRow(n, total, closed_at_ms)


def live_of(rows: Sequence[Sequence[Any]]) -> tuple[Event, ...] | None:
    """What agent_events_live returned, in each row's first columns; None for too many bytes."""
    if rows and rows[0][0] == -1:
        return None
    return tuple([Event._make(row[:EVENT_COLUMNS]) for row in rows])


def ahead_of(rows: Sequence[Sequence[Any]]) -> tuple[list[LedgerRow], tuple[Event, ...] | None]:
    """What AHEAD_SQL returned: the ledger's rows, and the events that came along, if they did."""
    width = len(LedgerRow._fields)
    ledger = list(dict.fromkeys([LedgerRow(*row[:width]) for row in rows]))
    if not rows or rows[-1][width] is None:
        return ledger, None
    found = [row[width + 1 :] for row in rows if row[width + 1] is not None]
    return ledger, live_of(found)


def page_args(
    tenants: Tenants, position: Position, rows: int, filter: Filter, settings: Settings
) -> list[Any]:
    """What PAGE_ON_SQL and PAGE_BACK_SQL take."""
    return [
        None if tenants is None else list(tenants),
        position.batch,
        position.after_id,
        rows,
        list(filter.agents) or None,
        list(filter.types) or None,
        list(filter.not_agents) or None,
        list(filter.not_types) or None,
        list(filter.texts) or None,
        filter.jsonpath,
        settings.page_bytes,
    ]


def page_of(rows: Sequence[Sequence[Any]]) -> tuple[list[Event], Cursor]:
    """The events of what PAGE_ON_SQL or PAGE_BACK_SQL returned, and the cursor to go on from."""
    *found, (batch, closed_at_ms, after_id, _, count, *_) = rows
    events = [Event._make(row[:EVENT_COLUMNS]) for row in found]
    if len(events) < count:  # cut
        return events, Cursor(events[-1].position, events[-1].closed_at_ms)
    return events, Cursor(Position(batch, after_id), closed_at_ms)
