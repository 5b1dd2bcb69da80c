"""PostgreSQL as a source: batches as one listening connection after the other tells of them.

Owns: the place that was reached. Promises: every batch from where it began, in order, whatever
happens to the connection; nothing is handed over before the append that closed it has committed; a
fault is said once, and its end. Leaves to others: whose turn it is to append (`listening`), reading
events (the log's pool; the listening connection never runs a page), and noticing what the way from
here loses (the one rule).
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import psycopg
from psycopg_pool import PoolTimeout

from agent_events import metrics
from agent_events.backoff import Backoff
from agent_events.conf import Settings
from agent_events.deliveries import Deliveries
from agent_events.errors import WrongDatabase, in_a_line
from agent_events.log import LedgerRow, Log
from agent_events.outage import Outage
from agent_events.sources import Doorbell, SourceState
from agent_events.sources.listening import FIRST_LOOK, ListeningConnection
from agent_events.window import Window
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

HAND_OVER_S = 0.5
"""A backlog is handed over for so long at a time; the listening connection speaks in between."""
MANY_TENANTS = 200
"""A process in which more than these are watched reads every tenant's events, unless they are too
many bytes: to name so many for each batch costs more."""
RESTARTED_S = 5.0
"""For so long each tick says that the ledger is another one: a way may drop one of them."""


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
        self._deliveries = Deliveries()
        self._restarted_until = 0.0
        self._connection: ListeningConnection | None = None  # while it is well
        self._trouble = ""
        self._outage = Outage(
            "The listening connection failed (%s); trying until it is back. Events are safe in the "
            "log and follow.",
            "The listening connection is back after %.1f s; what was missed follows.",
        )
        self._said_deaf = False

    @property
    def state(self) -> SourceState:
        """How it does now."""
        return SourceState(
            connected=self._connection is not None,
            doorbell=self._connection.doorbell if self._connection else Doorbell.UNKNOWN,
            leads=self._connection is not None and self._connection.leads,
            coalescing=self._connection is not None and self._connection.coalescing,
            batch=self._at.n if self._at else None,
            trouble=self._trouble,
        )

    async def windows(self) -> AsyncGenerator[Window, None]:
        """Yields windows until cancelled; reconnects with backoff, and goes on where it was."""
        backoff = Backoff()
        while True:
            try:
                connection = await ListeningConnection.open(self._dsn, self._log, self._settings)
                try:
                    async with aclosing(self._follow(connection)) as windows:
                        async for window in windows:
                            backoff.reset()
                            yield window
                finally:
                    self._connection = None
                    await connection.close()
                # It hears nothing, and has polled for a while: try another one.
            except (psycopg.Error, PoolTimeout, OSError, WrongDatabase) as error:
                wait_s = backoff.next_s()
                self._trouble = in_a_line(error)
                metrics.SOURCE_FAILURES.inc()
                self._outage.failed(error)
                if not _told_by_server(error):
                    await self._log.renew()
                await asyncio.sleep(wait_s)

    def _say_well(self, connection: ListeningConnection) -> None:
        """It answered, and all that was missed is handed over next."""
        if self._connection is connection:
            return
        self._connection = connection
        metrics.SOURCE_CONNECTIONS.inc()
        self._trouble = ""
        self._outage.over()
        deaf = connection.doorbell is Doorbell.DEAF
        if deaf and not self._said_deaf:
            logger.warning(
                "A notification that this process sent to itself did not come back: a pooler in "
                'transaction mode is in between. Set AGENT_EVENTS["LISTENER_DSN"] to a direct '
                "connection, or one through a pooler in session mode. Until then events are found "
                "by polling, each %g s.",
                self._settings.poll_interval_s,
            )
        self._said_deaf = deaf

    async def _follow(self, connection: ListeningConnection) -> AsyncGenerator[Window, None]:
        if self._at is None:
            self._at = await self._log.head()
        wake = FIRST_LOOK
        while not connection.worn_out:
            covers = self._watched()
            if covers is not None and len(covers) > MANY_TENANTS:
                covers = None
            closed = await connection.turn(self._at, wake, covers)
            if closed is None:
                # The ledger does not hold our last batch: another history. Begin at its head.
                self._at = await self._log.head()
                logger.warning("The ledger is not the one of before; going on from its head.")
                self._restarted_until = time.monotonic() + RESTARTED_S
            self._say_well(connection)
            if closed is not None and closed.events is not None:
                window = self._window(closed.batches[-1], covers, closed.events)
                yield window
                self._deliveries.record(window, _now_ms())
            elif closed is not None and closed.batches:
                async for window in self._windows(closed.batches):
                    yield window
                    self._deliveries.record(window, _now_ms())
                if closed.batches:
                    connection.look_again()
            elif closed is None or wake.polled:
                tick = self._tick()
                yield tick
                self._deliveries.record(tick, _now_ms())
            wake = await connection.wait()
            for question in wake.questions:
                await self._answer(connection, question)

    async def _answer(self, connection: ListeningConnection, question: str) -> None:
        watched = self._watched()
        text = self._deliveries.answer(
            question,
            now_ms=_now_ms(),
            backend=connection.backend,
            process=os.getpid(),
            host=socket.gethostname(),
            leads=connection.leads,
            coalescing=connection.coalescing,
            watches=None if watched is None else len(watched),
        )
        if text is not None:
            await connection.answer(text)

    def _tick(self) -> Window:
        """Says how far the log has come, so that a dropped last window is noticed too."""
        at = self._at
        assert at is not None
        restarted = time.monotonic() < self._restarted_until
        return Window(
            at.n + 1, at.n, at.closed_at_ms, at.closed_at_ms, frozenset(), restarted=restarted
        )

    async def _windows(self, closed: list[LedgerRow]) -> AsyncGenerator[Window, None]:
        """Windows of whole batches, up to `slice_rows` events each or one batch.

        Takes from `closed` what it handed over, for HAND_OVER_S: the server must hear of us.
        """
        assert self._at is not None
        until = time.monotonic() + HAND_OVER_S
        while closed and time.monotonic() < until:
            before = self._at
            most = before.total + self._settings.slice_rows
            fitting = sum(1 for row in closed if row.total <= most)
            last = closed[max(fitting, 1) - 1]
            del closed[: max(fitting, 1)]
            covers, events = self._watched(), None
            if fitting:
                covers, events = await self._read(before.n + 1, last.n, covers)
            yield self._window(last, covers, events)

    async def _read(
        self, first: int, last: int, watched: frozenset[str] | None
    ) -> tuple[frozenset[str] | None, tuple[Event, ...] | None]:
        """The batches' events, and whose they are. None: too many bytes."""
        if watched is not None and not watched:
            return watched, ()
        most = self._settings.page_bytes
        if watched is not None and len(watched) > MANY_TENANTS:
            events = await self._log.window(first, last, None, most)
            if events is not None:
                return None, events
        return watched, await self._log.window(first, last, watched, most)

    def _window(
        self, last: LedgerRow, covers: frozenset[str] | None, events: tuple[Event, ...] | None
    ) -> Window:
        """Of the batches up to `last`, where we then are. Without events it covers nobody."""
        before, self._at = self._at, last
        assert before is not None
        if events is None:
            covers, events = frozenset(), ()
        first = before.n + 1
        return Window(first, last.n, before.closed_at_ms, last.closed_at_ms, covers, events)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _told_by_server(error: Exception) -> bool:
    """Does the error come from a server that answers? The path to it is well then."""
    return isinstance(error, WrongDatabase) or getattr(error, "sqlstate", None) is not None
