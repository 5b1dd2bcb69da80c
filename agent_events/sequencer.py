"""Who closes batches, and how. Anyone may append at any time; who should is only economy."""

import asyncio
import logging
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.database import CONNECT, SEQUENCER_KEY
from agent_events.tasks import end

logger = logging.getLogger("agent_events")

BATCH_CHANNEL = "agent_events_batch"

_TRY_LEAD = f"SELECT pg_try_advisory_lock({SEQUENCER_KEY})"
_APPEND = """
    SELECT a.n, a.rows, floor(extract(epoch FROM a.closed_at) * 1000)::bigint,
           (SELECT floor(extract(epoch FROM b.closed_at) * 1000)::bigint
              FROM agent_event_batches AS b WHERE b.n = a.n - 1)
      FROM agent_events_append(%s) AS a
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

    `before_ms` is the time of the batch before: a caller that remembers another one is in another
    history. None where that batch was closed a moment ago.
    """

    n: int
    rows: int
    closed_at_ms: int
    before_ms: int | None


class Sequencer:
    """Closes batches over the process's listening connection.

    One process at a time leads (an advisory lock of that connection, gone with it); the others
    append only when the leader leaves an event lying. Owns nothing but the lock.
    """

    def __init__(self, bus: AsyncConnection[TupleRow], dsn: str, batch_limit: int) -> None:
        """`dsn`: where a second connection goes, to end whoever is in the way of this one."""
        self._bus = bus
        self._dsn = dsn
        self._batch_limit = batch_limit
        self._blocked = False  # the last append gave up waiting for another one
        self._said_cannot = False
        self.leads = False

    async def try_lead(self) -> None:
        """Takes the lock if nobody has it."""
        if not self.leads:
            row = await (await self._bus.execute(_TRY_LEAD)).fetchone()
            self.leads = bool(row and row[0])

    async def append(self) -> Batch | None:
        """Closes the next batch: committed when this returns. None: nothing new, or a race lost.

        Waits a second at most for another appender. One that is still in the way at the next call
        (it went on in its transaction, which nobody is asked to do) is ended by the server.
        Raises psycopg.Error: the function's own refusals.
        """
        clearing = asyncio.create_task(self._clear_the_way()) if self._blocked else None
        try:
            cursor = await self._bus.execute(_APPEND, (self._batch_limit,))
            row = await cursor.fetchone()
        except psycopg.errors.LockNotAvailable:
            self._blocked = True
            return None
        finally:
            if clearing is not None:
                await end([clearing])
        self._blocked = False
        return Batch(*row) if row else None

    async def _clear_the_way(self) -> None:
        """Ends the sessions that the append in progress waits for, if it waits."""
        await asyncio.sleep(BLOCKED_S)
        try:
            async with await AsyncConnection.connect(self._dsn, **CONNECT) as other:
                cursor = await other.execute(_END_BLOCKERS, {"me": self._bus.info.backend_pid})
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
        await self._bus.execute(
            "SELECT pg_notify(%s, %s) WHERE pg_notification_queue_usage() < 0.5",
            (BATCH_CHANNEL, str(n)),
        )
