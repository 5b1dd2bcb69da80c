"""The listening connection: rung, it says whose turn it is to append, and when to look.

Direct, in autocommit, never in a transaction for longer than an append. Each wait for the server
has a limit here, and the server has one for us: a process that is frozen, or cut off, must not keep
the lock of the sequencer, nor hold up the notification queue. Behind a pooler in transaction mode
it hears nothing; then it polls, and leaves no trace in sessions that are others' as well.
"""

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.conf import Settings
from agent_events.database import BUS_APPLICATION, CONNECT, refuse_unusable, severed_after
from agent_events.log import LEDGER_SQL, LedgerRow, Log
from agent_events.sequencer import BATCH_CHANNEL, Batch, Sequencer
from agent_events.sources import Doorbell
from agent_events.tasks import end

DOORBELL_CHANNEL = "agent_events"
LEDGER_ROWS = 1_000  # how many a look takes; where they are all there, it looks again at once
BUSY_ROWS = 8
"""A batch of more events means load: the next one is closed `append_interval_s` later."""
ECHO_S = 2.0
"""A notification of our own that has not come back after so long does not come."""
DEAF_S = 60.0
"""A connection that hears nothing is replaced after so long: the pooler may have gone."""
MISSED_POLLS = 3
"""The server ends a listening connection that misses so many polls (2 s at least)."""

# Several statements in one message run in one session, also behind a pooler: this is its id.
_LISTEN = f"""
    SELECT pg_is_in_recovery(), pg_backend_pid();
    LISTEN {DOORBELL_CHANNEL};
    LISTEN {BATCH_CHANNEL}
"""
MOST_SESSIONS = 10
"""A pooler hands out its sessions as it likes: how many are looked at for the one that listens."""

# For this session alone; `row_security`: hidden rows then raise, in place of being lost.
_SESSION = """
    SELECT set_config('row_security', 'off', false),
           set_config('idle_session_timeout', %s, false),
           set_config('tcp_user_timeout', '10s', false),
           set_config('lock_timeout', '2s', false)
"""


class Wake(NamedTuple):
    """Why the connection wakes."""

    rung: bool  # a producer committed
    announced: bool  # another process closed a batch
    polled: bool  # it is time to look without being told


# Every LISTEN is followed by a look: what was announced meanwhile was announced to nobody.
FIRST_LOOK = Wake(rung=True, announced=True, polled=True)


class ListeningConnection:
    """One life of the listening connection: whose turn it is to append, and when to look."""

    def __init__(
        self, bus: AsyncConnection[TupleRow], dsn: str, settings: Settings, doorbell: Doorbell
    ) -> None:
        self.doorbell = doorbell
        self._bus = bus
        self._settings = settings
        self._sequencer = Sequencer(bus, dsn, settings.batch_limit)
        self._poll_at = time.monotonic() + settings.poll_interval_s
        self._opened_at = time.monotonic()
        self._more = False  # the last look found something: there may be a backlog
        self._busy_until = 0.0
        self._rung_at: float | None = None  # rung, and no batch seen since
        self._announcing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, dsn: str, log: Log, settings: Settings) -> "ListeningConnection":
        """Connects, listens, and tries whether a notification arrives.

        The session may be a pooler's, and somebody else's in a moment: no setting and no lock goes
        into it before that is known. Raises psycopg.Error, psycopg_pool.PoolTimeout, WrongDatabase.
        """
        bus = await AsyncConnection.connect(dsn, **CONNECT, application_name=BUS_APPLICATION)
        try:
            with severed_after(bus, settings.query_timeout_s):
                row = await (await bus.execute(_LISTEN)).fetchone()
                assert row is not None
                in_recovery, pid = row
                refuse_unusable(bus.info.server_version, in_recovery)
            doorbell = await _try_doorbell(bus, log)
            if doorbell is Doorbell.UNKNOWN and pid != bus.info.backend_pid:
                doorbell = Doorbell.DEAF  # a pooler, in which mode nobody knows
            if doorbell is Doorbell.DEAF:
                await _unlisten(dsn, pid)
            else:
                idle_ms = max(2_000, int(MISSED_POLLS * settings.poll_interval_s * 1_000))
                with severed_after(bus, settings.query_timeout_s):
                    await bus.execute(_SESSION, (str(idle_ms),))
        except BaseException:
            await bus.close()
            raise
        return cls(bus, dsn, settings, doorbell)

    @property
    def leads(self) -> bool:
        """Does this process close the batches?"""
        return self._sequencer.leads

    @property
    def worn_out(self) -> bool:
        """It hears nothing and has lived for a while: another one may hear."""
        return self._deaf and time.monotonic() - self._opened_at > DEAF_S

    @property
    def _deaf(self) -> bool:
        return self.doorbell is Doorbell.DEAF

    async def turn(self, at: LedgerRow, wake: Wake) -> list[LedgerRow] | None:
        """The batches closed since `at`, closing the next one where that is ours to do.

        None where the ledger does not hold `at`. Raises psycopg.Error.
        """
        with severed_after(self._bus, self._settings.query_timeout_s):
            await self._announced()
            if wake.polled and not self._deaf:
                await self._check_listening()
                await self._sequencer.try_lead()
            if wake.rung and not self._sequencer.leads and self._rung_at is None:
                self._rung_at = time.monotonic()
            more, self._more = self._more, False
            look = wake.polled or wake.announced or more
            if self._must_append(wake, more):
                # Nothing to append may mean that somebody else did, whom we did not hear yet.
                look = True
                self._rung_at = None
                batch = await self._append()
                self._more = batch is not None
                if batch is not None:
                    self._announce(batch.n)
                    if (batch.n - 1, batch.before_ms) == (at.n, at.closed_at_ms):
                        return [LedgerRow(batch.n, at.total + batch.rows, batch.closed_at_ms)]
            if not look:
                return []
            rows = await self._ledger_from(at.n)
        if not rows or rows[0] != at:
            return None
        if len(rows) > 1:
            self._rung_at = None
        self._more = self._more or len(rows) == LEDGER_ROWS
        return rows[1:]

    def _announce(self, n: int) -> None:
        """Tells the others while this process reads the batch for itself."""
        self._announcing = asyncio.create_task(self._sequencer.announce(n))

    async def _announced(self) -> None:
        if self._announcing is not None:
            await self._announcing

    async def close(self) -> None:
        """Ends it, and leaves no task behind."""
        if self._announcing is not None:
            await end([self._announcing])
        await self._bus.close()

    def _must_append(self, wake: Wake, more: bool) -> bool:
        if self._sequencer.leads or self._deaf:
            return wake.rung or wake.polled or more
        return self._overdue()

    def _overdue(self) -> bool:
        """We were rung, and the sequencer has closed nothing since: the event is not left lying."""
        patience_s = self._settings.follow_patience_s
        return self._rung_at is not None and time.monotonic() - self._rung_at >= patience_s

    async def _append(self) -> Batch | None:
        batch = await self._sequencer.append()
        if batch is not None and batch.rows > BUSY_ROWS:
            self._busy_until = time.monotonic() + self._settings.append_interval_s
        return batch

    async def _check_listening(self) -> None:
        rows = await (await self._bus.execute("SELECT pg_listening_channels()")).fetchall()
        if {row[0] for row in rows} != {DOORBELL_CHANNEL, BATCH_CHANNEL}:
            raise psycopg.OperationalError("it listens no more")

    async def _ledger_from(self, n: int) -> list[LedgerRow]:
        cursor = await self._bus.execute(LEDGER_SQL, (n, LEDGER_ROWS))
        return [LedgerRow(*row) for row in await cursor.fetchall()]

    async def wait(self) -> Wake:
        """Waits until rung, told of a batch, or it is time to look. Raises psycopg.Error."""
        with severed_after(self._bus, self._settings.query_timeout_s):
            await self._announced()
        now = time.monotonic()
        if now < self._busy_until:
            await asyncio.sleep(self._busy_until - now)
        until = self._poll_at
        if self._more:
            until = now
        elif self._rung_at is not None and not self._sequencer.leads:
            until = min(until, self._rung_at + self._settings.follow_patience_s)
        mine = self._bus.info.backend_pid
        rung = announced = False
        timeout_s = max(0.0, until - time.monotonic())
        async for note in self._bus.notifies(timeout=timeout_s, stop_after=1):
            if note.channel == DOORBELL_CHANNEL:
                rung = True
            elif note.pid != mine:
                announced = True
        polled = time.monotonic() >= self._poll_at
        if polled:
            self._poll_at = time.monotonic() + self._settings.poll_interval_s
        return Wake(rung, announced, polled)


async def _unlisten(dsn: str, pid: int) -> None:
    """Has the pooler's session `pid` listen no more: its notifications are nobody's.

    Each transaction keeps the session that it was given, so the next one is given another. Gives up
    where the pooler has none left: a session that listens costs little, this process more.
    """
    with suppress(psycopg.Error):
        async with AsyncExitStack() as sessions:
            for _ in range(MOST_SESSIONS):
                other = await AsyncConnection.connect(dsn, **{**CONNECT, "autocommit": False})
                await sessions.enter_async_context(other)
                with severed_after(other, ECHO_S):
                    row = await (await other.execute("SELECT pg_backend_pid()")).fetchone()
                    if row is not None and row[0] == pid:
                        await other.execute("UNLISTEN *")
                        return


async def _try_doorbell(bus: AsyncConnection[TupleRow], log: Log) -> Doorbell:
    """Rings over another connection, as a producer would, and listens for it."""
    echo = f"echo {secrets.token_hex(8)}"
    if not await log.ring(DOORBELL_CHANNEL, echo):
        return Doorbell.UNKNOWN
    until = time.monotonic() + ECHO_S
    heard = False
    while not heard and (left_s := until - time.monotonic()) > 0:
        # (No break: the generator holds the connection until it has ended.)
        async for note in bus.notifies(timeout=left_s, stop_after=1):
            heard = heard or note.payload == echo
    return Doorbell.HEARD if heard else Doorbell.DEAF
