"""Who closes batches, and how. Anyone may append at any time; who should is only economy."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.conf import Settings
from agent_events.database import (
    BATCH_CHANNEL,
    BUS_APPLICATION,
    COALESCING_KEY,
    COMMIT_LOCK_SQL,
    CONNECT,
    NOTIFY_SQL,
    SEQUENCER_KEY,
    WRITE_SETTINGS_SQL,
)
from agent_events.log import EVENT_COLUMNS, FRESH_BYTES, FRESH_ROWS, MS_SQL, live_of
from agent_events.tasks import end
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

TOLD_ROWS = 20_000
"""A larger batch is one huge transaction: it is told of after its append, not within."""
HELD_IDLE_MS = 1_500
"""The server ends a session that holds K and says nothing for so long: producers ring again."""

_LOOK = f"""
    ARRAY(SELECT pg_listening_channels()) @> %(channels)s::text[],
    (SELECT h.n FROM agent_event_batches AS h ORDER BY h.n DESC LIMIT 1),
    (SELECT {MS_SQL.format("b.closed_at")} FROM agent_event_batches AS b WHERE b.n = %(at)s)
"""
_POLL = f"""
    SELECT {_LOOK}, %(leads)s OR pg_try_advisory_lock({SEQUENCER_KEY}),
           CASE WHEN pg_try_advisory_lock_shared({COALESCING_KEY})
                THEN NOT pg_advisory_unlock_shared({COALESCING_KEY}) ELSE true END
"""
# A small batch comes along: one round trip less for what is live. (Psycopg hands it over when the
# server says that the statement, and with it the transaction, has ended.)
_APPEND = f"""
    SELECT {_LOOK}, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, s.*
      FROM (SELECT 1) AS one LEFT JOIN agent_events_sequence(
           %(limit)s::integer, %(tell_rows)s::integer, %(tenants)s::uuid[],
           {FRESH_ROWS}, {FRESH_BYTES}) AS s ON true
"""
# The try form alone: an exclusive request that waits silences producers already.
_HUSH = f"SELECT pg_try_advisory_lock({COALESCING_KEY})"
_RING_AGAIN = f"SELECT pg_advisory_unlock({COALESCING_KEY})"
_SETTINGS = "SELECT bodies FROM agent_event_bus"
_IDLE_TIMEOUT = "SELECT set_config('idle_session_timeout', %s, false)"
# After the release: whoever looked before has a lower id.
_OWN_ID = "SELECT pg_current_xact_id()::text::bigint"
_COMMITS_WAITING = f"SELECT count(*) FROM pg_locks WHERE {COMMIT_LOCK_SQL} AND NOT granted"
_OTHERS = """
    SELECT EXISTS (SELECT FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = %(name)s
                      AND pid <> pg_backend_pid())
"""
# Whoever holds an uncommitted batch, and nobody else: a lock on the table may be a DBA's.
_END_BLOCKERS = """
    SELECT pid, application_name, pg_terminate_backend(pid)
      FROM pg_stat_activity
     WHERE pid = ANY (pg_blocking_pids(%(me)s))
       -- (Not one that is committing: it waits for a disk, or for a synchronous standby.)
       AND wait_event IS DISTINCT FROM 'SyncRep' AND wait_event_type IS DISTINCT FROM 'IO'
       AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = %(me)s AND NOT l.granted
                                               AND l.locktype IN ('transactionid', 'spectoken'))
"""
BLOCKED_S = 0.3
"""An append that waits for another one for so long, again, has the other one ended."""


class Batch(NamedTuple):
    """A batch that was just closed: its number, its events, its time in ms since 1970.

    `more`: it was full before all that is there was in it, and nothing rings again for the rest.
    `before_ms` is the time of the batch before: a caller that remembers another one is in another
    history. None where that batch was closed a moment ago.
    """

    n: int
    rows: int
    closed_at_ms: int
    before_ms: int | None
    more: bool


class Look(NamedTuple):
    """What one statement tells besides what it does.

    `head`: the last batch as it began, None of an empty ledger; `at_ms`: when the batch asked about
    was closed, None where the ledger lacks it.
    """

    listening: bool  # to all channels asked about
    head: int | None
    at_ms: int | None


UNKNOWN = Look(listening=True, head=None, at_ms=None)
"""What is seen by a statement that gave up."""


class Appended(NamedTuple):
    """An append: the batch (None: nothing new, or a race lost), and whether it was told of.

    `oldest`: no transaction below this id was running as it began. `events`: those of the watched
    tenants, None where they are to be read.
    """

    look: Look
    batch: Batch | None
    told: bool
    oldest: int
    events: tuple[Event, ...] | None


class Sequencer:
    """Closes batches over the process's listening connection.

    One process at a time leads (an advisory lock of that connection, gone with it); the others
    append only when the leader leaves an event lying. The leader may hold a second lock, K, which
    spares producers the ringing. Owns nothing but these locks.
    """

    def __init__(
        self,
        bus: AsyncConnection[TupleRow],
        dsn: str,
        settings: Settings,
        *,
        backend: int,
        idle_ms: int,
        channels: Sequence[str],
    ) -> None:
        """`dsn`: where a second connection goes, to end whoever is in the way of this one.

        `backend`: the server's process of `bus`. `idle_ms`: its `idle_session_timeout` while K is
        not held. `channels`: those that it should be listening to.
        """
        self.backend = backend
        self._channels = list(channels)
        self._bus = bus
        self._dsn = dsn
        self._settings = settings
        self._idle_ms = idle_ms
        self._blocked = False  # the last append gave up waiting for another one
        self._said_cannot = False
        self.leads = False
        self.k_held = False  # by anybody, at the last poll

    async def poll(self, at: int) -> Look:
        """Looks at batch `at` and the head, and takes the lead if nobody has it."""
        led = self.leads
        (row,) = await self._rows(_POLL, {"at": at, "leads": led, "channels": self._channels})
        *look, self.leads, self.k_held = row
        if self.leads and not led:
            await self._write_settings()
        return Look(*look)

    async def _write_settings(self) -> None:
        bodies = self._settings.tenant_bodies
        if (await self._rows(_SETTINGS))[0][0] == bodies:
            return  # whether or not this role may write it
        try:
            await self._bus.execute(WRITE_SETTINGS_SQL, {"bodies": bodies})
        except psycopg.errors.InsufficientPrivilege:
            logger.warning(
                'AGENT_EVENTS["TENANT_BODIES"] has no effect: this role may not write it down. '
                "GRANT UPDATE (bodies) ON agent_event_bus TO <this role>;"
            )

    async def append(self, at: int, tenants: frozenset[str] | None, *, tell: bool) -> Appended:
        """Closes the next batch: committed when this returns. Looks at batch `at`, too.

        `tenants`: whose events are watched (None: everybody's). `tell`: its events may have rung
        nothing, so that the batch is told of in the same transaction. Waits a second at most for
        another appender. One that is still in the way at the next call (it went on in its
        transaction, which nobody is asked to do) is ended by the server. Raises psycopg.Error: the
        function's own refusals.
        """
        clearing = asyncio.create_task(self._clear_the_way()) if self._blocked else None
        args = {
            "at": at,
            "channels": self._channels,
            "limit": self._settings.batch_limit,
            # (What gave up may have waited for the commit lock, with what it would have told.)
            "tell_rows": TOLD_ROWS if tell and not self._blocked else 0,
            "tenants": None if tenants is None else list(tenants),
        }
        try:
            try:
                rows = await self._rows(_APPEND, args)
            except psycopg.errors.ProgramLimitExceeded:
                # The notification queue is full, all at once: nobody is told, and everybody polls.
                rows = await self._rows(_APPEND, {**args, "tell_rows": 0})
        except psycopg.errors.LockNotAvailable:
            self._blocked = True
            return Appended(UNKNOWN, None, False, 0, None)
        finally:
            if clearing is not None:
                await end([clearing])
        self._blocked = False
        listening, head, at_ms, oldest, n, *closed, told = rows[0][:-EVENT_COLUMNS]
        look = Look(listening, head, at_ms)
        if n is None:
            return Appended(look, None, False, oldest, None)
        found = [row[-EVENT_COLUMNS:] for row in rows]
        events = () if found[0][0] is None else live_of(found)
        return Appended(look, Batch(n, *closed), bool(told), oldest, events)

    async def _clear_the_way(self) -> None:
        """Ends the sessions that the append in progress waits for, if it waits."""
        await asyncio.sleep(BLOCKED_S)
        try:
            async with await AsyncConnection.connect(self._dsn, **CONNECT) as other:
                cursor = await other.execute(_END_BLOCKERS, {"me": self.backend})
                for pid, name, _ in await cursor.fetchall():
                    logger.warning(
                        "Ended the session of process %d (%s): it kept a batch open, and every "
                        "process waited for it.",
                        pid,
                        name or "unnamed",
                    )
        except psycopg.Error as error:
            if not self._said_cannot:
                self._said_cannot = True
                logger.error("Somebody keeps a batch open and cannot be ended: %s", error)

    async def announce(self, n: int) -> None:
        """Tells the other processes that batch `n` is there, in a transaction after its own.

        Not while the notification queue is half full, on its way to failing everybody's commits:
        the others poll.
        """
        with suppress(psycopg.errors.ProgramLimitExceeded):  # full all at once: likewise
            await self._bus.execute(NOTIFY_SQL, (BATCH_CHANNEL, str(n)))

    async def tell(self, n: int) -> None:
        """Tells the tenants' channels of a batch that was not told of with its append.

        Over a connection of its own: it looks at each row. Raises nothing: whoever listens polls.
        """
        with suppress(psycopg.Error):
            async with await AsyncConnection.connect(self._dsn, **CONNECT) as other:
                await other.execute("SELECT set_config('row_security', 'off', false)")
                await other.execute("SELECT agent_events_tell(%s)", (n,))

    async def others_listen(self) -> bool:
        """Are there other processes to be told of batches?"""
        return bool((await self._rows(_OTHERS, {"name": BUS_APPLICATION}))[0][0])

    async def commits_waiting(self) -> int:
        """How many notifying commits, of the whole cluster, wait for another one now."""
        return int((await self._rows(_COMMITS_WAITING))[0][0])

    async def hush(self) -> bool:
        """Takes K: producers ring no more. False where a producer looked just now: try again."""
        if not (await self._rows(_HUSH))[0][0]:
            return False
        apart_ms = int(3_000 * self._settings.append_interval_s)
        idle_ms = min(self._idle_ms, max(HELD_IDLE_MS, apart_ms))
        await self._bus.execute(_IDLE_TIMEOUT, (str(idle_ms),))
        return True

    async def ring_again(self) -> int:
        """Gives K back; returns an id above that of every transaction which was spared."""
        await self._bus.execute(_RING_AGAIN)
        await self._bus.execute(_IDLE_TIMEOUT, (str(self._idle_ms),))
        return await self.own_id()

    async def own_id(self) -> int:
        """A new transaction's id: whoever is running already has a lower one."""
        return int((await self._rows(_OWN_ID))[0][0])

    async def _rows(self, query: str, params: Mapping[str, object] | None = None) -> list[TupleRow]:
        return await (await self._bus.execute(query, params)).fetchall()
