"""PostgreSQL as a source: one listening connection, which rings, sequences and polls.

Owns: the listening connection (direct, autocommit, never in a transaction for longer than an
append). Promises: every batch from where it began, in order, whatever happens to the connection;
nothing is handed over before the append that closed it has committed. Leaves to others: reading
events (the log's pool; this connection never runs a page), and noticing what the way from here
loses (the one rule).
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.backoff import Backoff
from agent_events.conf import Settings
from agent_events.database import refuse_unusable
from agent_events.errors import WrongDatabase
from agent_events.log import LEDGER_SQL, LedgerRow, Log
from agent_events.sequencer import BATCH_CHANNEL, Batch, Sequencer
from agent_events.window import Window
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

DOORBELL_CHANNEL = "agent_events"
LEDGER_ROWS = 1_000  # how many a look takes; where they are all there, it looks again at once
RESTARTED_S = 5.0
"""For so long each tick says that the ledger is another one: a way may drop one of them."""
BUSY_ROWS = 8
"""A batch of more events means load: the next one is closed `append_interval_s` later."""


class _Wake(NamedTuple):
    rung: bool  # a producer committed
    announced: bool  # another process closed a batch
    polled: bool  # it is time to look without being told


class PostgresSource:
    """Yields windows of the log as they become visible, beginning at the head.

    `watched` is asked before each read and returns the tenants whose events are wanted, or None
    for all. `dsn` is where to listen.
    """

    def __init__(
        self,
        dsn: str,
        log: Log,
        settings: Settings,
        watched: Callable[[], frozenset[str] | None],
    ) -> None:
        self._dsn = dsn
        self._log = log
        self._settings = settings
        self._watched = watched
        self._at: LedgerRow | None = None  # the last batch handed over
        self._restarted_until = 0.0

    async def windows(self) -> AsyncGenerator[Window, None]:
        """Yields windows until cancelled; reconnects with backoff, and goes on where it was."""
        backoff = Backoff()
        while True:
            try:
                async with await self._connect() as bus:
                    self._say_if_mended()
                    connection = _Connection(bus, self._settings)
                    try:
                        async with aclosing(self._follow(connection)) as windows:
                            async for window in windows:
                                backoff.reset()
                                yield window
                    finally:
                        await connection.close()
            except (psycopg.Error, OSError, TimeoutError, WrongDatabase) as error:
                wait_s = backoff.next_s()
                logger.warning(
                    "The listening connection failed (%s); reconnecting in %.1f s. Events are "
                    "safe in the log and follow.",
                    str(error).strip() or type(error).__name__,
                    wait_s,
                )
                await asyncio.sleep(wait_s)

    def _say_if_mended(self) -> None:
        if self._at is not None:
            logger.info("The listening connection is back; going on after batch %d.", self._at.n)

    async def _connect(self) -> AsyncConnection[TupleRow]:
        bus = await AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=10,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            application_name="agent_events bus",
        )
        try:
            row = await (await bus.execute("SELECT pg_is_in_recovery()")).fetchone()
            refuse_unusable(bus.info.server_version, bool(row and row[0]))
            await bus.execute("SET row_security = off")
            await bus.execute(f"LISTEN {DOORBELL_CHANNEL}")
            await bus.execute(f"LISTEN {BATCH_CHANNEL}")
        except BaseException:
            await bus.close()
            raise
        return bus

    async def _follow(self, connection: "_Connection") -> AsyncGenerator[Window, None]:
        if self._at is None:
            self._at = await self._log.head()
        # Every LISTEN is followed by a look: what was announced meanwhile was announced to nobody.
        wake = _Wake(rung=True, announced=True, polled=True)
        while True:
            closed = await connection.turn(self._at, wake)
            if closed is None:
                # The ledger does not hold our last batch: another history. Begin at its head.
                logger.warning("The ledger is not the one of before; going on from its head.")
                self._at = await self._log.head()
                self._restarted_until = time.monotonic() + RESTARTED_S
                yield self._tick()
            elif closed:
                async for window in self._windows(closed):
                    yield window
            elif wake.polled:
                yield self._tick()
            wake = await connection.wait()

    def _tick(self) -> Window:
        """Says how far the log has come, so that a dropped last window is noticed too."""
        at = self._at
        assert at is not None
        restarted = time.monotonic() < self._restarted_until
        return Window(
            at.n + 1, at.n, at.closed_at_ms, at.closed_at_ms, frozenset(), restarted=restarted
        )

    async def _windows(self, closed: list[LedgerRow]) -> AsyncGenerator[Window, None]:
        """Windows of whole batches, up to `slice_rows` events each or one batch."""
        assert self._at is not None
        while closed:
            before = self._at
            most = before.total + self._settings.slice_rows
            fitting = sum(1 for row in closed if row.total <= most)
            last = closed[max(fitting, 1) - 1]
            del closed[: max(fitting, 1)]
            covers = self._watched()
            events: tuple[Event, ...] | None = ()
            if fitting == 0:
                events = None
            elif covers is None or covers:
                events = await self._log.window(before.n + 1, last.n, covers)
            self._at = last
            yield Window(
                before.n + 1,
                last.n,
                before.closed_at_ms,
                last.closed_at_ms,
                frozenset() if events is None else covers,
                events or (),
            )


class _Connection:
    """One life of the listening connection: whose turn it is to append, and when to look."""

    def __init__(self, bus: AsyncConnection[TupleRow], settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self._sequencer = Sequencer(bus, settings.batch_limit)
        self._poll_at = time.monotonic() + settings.poll_interval_s
        self._more = False  # the last look found something: there may be a backlog
        self._busy_until = 0.0
        self._rung_at: float | None = None  # rung, and no batch seen since
        self._announced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._announced.set_result(None)

    async def turn(self, at: LedgerRow, wake: _Wake) -> list[LedgerRow] | None:
        """The batches closed since `at`, closing the next one where that is ours to do.

        None where the ledger does not hold `at`. Raises psycopg.Error, TimeoutError.
        """
        async with asyncio.timeout(self._settings.query_timeout_s):
            await self._announced
            if wake.polled:
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
                    if batch.n == at.n + 1:
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
        self._announced = asyncio.ensure_future(self._sequencer.announce(n))

    async def close(self) -> None:
        """Leaves no task behind."""
        self._announced.cancel()
        await asyncio.gather(self._announced, return_exceptions=True)

    def _must_append(self, wake: _Wake, more: bool) -> bool:
        if self._sequencer.leads:
            return wake.rung or wake.polled or more
        return self._overdue()

    def _overdue(self) -> bool:
        """We were rung, and the sequencer has closed nothing since: the event is not left lying."""
        patience_s = self._settings.follow_patience_s
        return self._rung_at is not None and time.monotonic() - self._rung_at >= patience_s

    async def _append(self) -> Batch | None:
        try:
            batch = await self._sequencer.append()
        except psycopg.errors.LockNotAvailable:
            logger.warning("Another process is stuck closing a batch; trying again.")
            return None
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

    async def wait(self) -> _Wake:
        """Waits until rung, told of a batch, or it is time to look. Raises psycopg.Error."""
        await self._announced
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
        return _Wake(rung, announced, polled)
