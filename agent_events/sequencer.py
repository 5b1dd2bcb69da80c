"""Who closes batches, and how. Anyone may append at any time; who should is only economy."""

from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

BATCH_CHANNEL = "agent_events_batch"

# The lock of the sequencing process: per database, and of this table's oid.
_TRY_LEAD = """
    SELECT pg_try_advisory_lock(
        hashtextextended('agent_events sequencer', 'agent_events'::regclass::oid::bigint))
"""
_APPEND = """
    SELECT n, rows, floor(extract(epoch FROM closed_at) * 1000)::bigint
      FROM agent_events_append(%s)
"""


class Batch(NamedTuple):
    """A batch that was just closed: its number, its events, its time in ms since 1970."""

    n: int
    rows: int
    closed_at_ms: int


class Sequencer:
    """Closes batches over the process's listening connection.

    One process at a time leads (an advisory lock of that connection, gone with it); the others
    append only when the leader leaves an event lying. Owns nothing but the lock.
    """

    def __init__(self, bus: AsyncConnection[TupleRow], batch_limit: int) -> None:
        self._bus = bus
        self._batch_limit = batch_limit
        self.leads = False

    async def try_lead(self) -> None:
        """Takes the lock if nobody has it."""
        if not self.leads:
            row = await (await self._bus.execute(_TRY_LEAD)).fetchone()
            self.leads = bool(row and row[0])

    async def append(self) -> Batch | None:
        """Closes the next batch: committed when this returns. None: nothing new, or a race lost.

        Raises psycopg.Error: the function's own refusals, and LockNotAvailable where another
        appender is stuck.
        """
        row = await (await self._bus.execute(_APPEND, (self._batch_limit,))).fetchone()
        return Batch(*row) if row else None

    async def announce(self, n: int) -> None:
        """Tells the other processes that batch `n` is there, in a transaction after its own.

        Not while the notification queue is half full, on its way to failing everybody's commits:
        the others poll.
        """
        await self._bus.execute(
            "SELECT pg_notify(%s, %s) WHERE pg_notification_queue_usage() < 0.5",
            (BATCH_CHANNEL, str(n)),
        )
