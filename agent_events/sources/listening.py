"""The listening connection: rung, it says whose turn it is to append, and when to look.

Direct, in autocommit, never in a transaction for longer than an append. Each wait for the server
has a limit here, and the server has one for us: a process that is frozen, or cut off, must not keep
the locks of the sequencer, nor hold up the notification queue. Behind a pooler in transaction mode
it hears nothing; then it polls, and leaves no trace in sessions that are others' as well.
"""

import asyncio
import time
from contextlib import suppress
from math import inf
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events import metrics
from agent_events.conf import Settings
from agent_events.database import DOORBELL_CHANNEL, NOTIFY_SQL, severed_after
from agent_events.deliveries import ANSWER_CHANNEL, ASK_CHANNEL
from agent_events.log import AHEAD_SQL, LEDGER_SQL, LedgerRow, Log, ahead_of
from agent_events.mode import Mode, Pace
from agent_events.sequencer import Appended, Look, Sequencer
from agent_events.sources import Doorbell
from agent_events.sources.opening import CHANNELS, open_bus
from agent_events.tasks import end
from agent_events.wire import Event

LEDGER_ROWS = 1_000  # how many a look takes; where they are all there, it looks again at once
BUSY_ROWS = 8
"""A batch of more events means load: the next one is closed `append_interval_s` later."""
CROWDED_ROWS = 64
"""By the clock, a batch of more events is followed by the next after twice the interval: each costs
as much as many events do, whose producers need the processors more."""
LEAST_INTERVAL_S = 0.001
"""By the clock, batches are this far apart at least."""
WATCH_WAITS_S = 0.1
"""How often the commit lock is looked at, while that is of interest."""
DEAF_S = 60.0
"""A connection that hears nothing is replaced after so long: the pooler may have gone."""
SILENT_S = 0.1
"""While K is held, a follower appends no more often than this, however small its patience."""
MOST_QUESTIONS = 10
"""So many are answered at a time: any role can ask."""


class Wake(NamedTuple):
    """Why the connection wakes."""

    rung: bool  # a producer committed
    announced: bool  # another process closed a batch
    polled: bool  # it is time to look without being told
    questions: tuple[str, ...] = ()  # somebody asks where this process is


# Every LISTEN is followed by a look: what was announced meanwhile was announced to nobody.
FIRST_LOOK = Wake(rung=True, announced=True, polled=True)


class Closed(NamedTuple):
    """Batches that were closed, in order. `events`: all wanted ones of them, None: to be read."""

    batches: list[LedgerRow]
    events: tuple[Event, ...] | None = None


class ListeningConnection:
    """One life of the listening connection: whose turn it is to append, and when to look."""

    def __init__(
        self,
        bus: AsyncConnection[TupleRow],
        sequencer: Sequencer,
        settings: Settings,
        doorbell: Doorbell,
    ) -> None:
        self.doorbell = doorbell
        self._bus = bus
        self._settings = settings
        self._sequencer = sequencer
        self._pace = Pace(settings)
        self._poll_at = time.monotonic() + settings.poll_interval_s
        self._opened_at = time.monotonic()
        self._more = False  # the last look did not see all
        self._batch_at = time.monotonic()  # when the last batch was heard of
        self._append_at = inf  # the next append by the clock
        self._not_before = 0.0  # rung under load, it waits until then
        self._drained_from = 0  # no transaction below this id is left, and all is drained
        self._waits_at = 0.0
        self._others = True  # processes that are to be told of batches
        self._rung_at: float | None = None  # rung, and no batch seen since
        self._announcing: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, dsn: str, log: Log, settings: Settings) -> "ListeningConnection":
        """`open_bus`, and whoever closes batches over it; raises what that raises."""
        bus, backend, doorbell, idle_ms = await open_bus(dsn, log, settings)
        sequencer = Sequencer(
            bus, dsn, settings, backend=backend, idle_ms=idle_ms, channels=CHANNELS
        )
        return cls(bus, sequencer, settings, doorbell)

    @property
    def leads(self) -> bool:
        """Does this process close the batches?"""
        return self._sequencer.leads

    @property
    def coalescing(self) -> bool:
        """Does it close them by the clock, so that producers need not ring?"""
        return self.leads and self._pace.mode is Mode.COALESCING

    @property
    def backend(self) -> int:
        """The process id of the server's end."""
        return self._sequencer.backend

    @property
    def worn_out(self) -> bool:
        """It hears nothing and has lived for a while: another one may hear."""
        return self._deaf and time.monotonic() - self._opened_at > DEAF_S

    @property
    def _deaf(self) -> bool:
        return self.doorbell is Doorbell.DEAF

    async def turn(
        self, at: LedgerRow, wake: Wake, watched: frozenset[str] | None
    ) -> Closed | None:
        """The batches closed since `at`, closing the next one where that is ours to do.

        None where the ledger does not hold `at`. `watched`: the tenants whose events are wanted
        (None: everybody's). Raises psycopg.Error.
        """
        with severed_after(self._bus, self._settings.query_timeout_s):
            await self._announced()
            more, self._more = self._more or wake.announced, False
            look: Look | None = None  # what this turn has seen of the ledger
            if wake.polled and not self._deaf and not self.leads:
                look = await self._poll(at)
            if wake.polled and self.leads:
                self._others = await self._sequencer.others_listen()
            now = time.monotonic()
            if wake.rung and not self.leads and self._rung_at is None:
                self._rung_at = now
            if self._must_append(wake, now):
                self._rung_at = None
                appended = await self._append(at, watched)
                look, batch = appended.look, appended.batch
                if batch is not None:
                    if (batch.n - 1, batch.before_ms) == (at.n, at.closed_at_ms):
                        row = LedgerRow(batch.n, at.total + batch.rows, batch.closed_at_ms)
                        return Closed([row], appended.events)
                    more = True
                elif not self.leads:
                    more = True  # somebody else did it, whom we did not hear yet
            changed = look is not None and (look.head, look.at_ms) != (at.n, at.closed_at_ms)
            if not more and not changed:
                return Closed([])
            rows, events = await self._ledger_from(at.n, watched)
        if not rows or rows[0] != at:
            return None
        if len(rows) > 1:
            self._rung_at = None
            self._batch_at = time.monotonic()
            if self.leads:
                # By somebody else, who may have looked before what rang us was committed.
                self._append_at = self._batch_at
        self._more = len(rows) == LEDGER_ROWS
        return Closed(rows[1:], events)

    async def _poll(self, at: LedgerRow) -> Look:
        look = await self._sequencer.poll(at.n)
        self._check(look)
        if self.leads:
            # Whoever led before may have held K when it went.
            self._drained_from = await self._sequencer.own_id()
            self._pace.drain()
            self._append_at = 0.0
        return look

    async def _append(self, at: LedgerRow, watched: frozenset[str] | None) -> Appended:
        """Closes the next batch, sees to it that the world is told, and minds the pace."""
        pace, began = self._pace, time.monotonic()
        # A follower cannot know who was spared the ringing.
        spared = not self.leads or pace.mode is not Mode.RINGING
        appended = await self._sequencer.append(at.n, watched, tell=spared)
        if not self._deaf:
            self._check(appended.look)
        batch, rows = appended.batch, appended.batch.rows if appended.batch is not None else 0
        metrics.appended(time.monotonic() - began, rows, told=appended.told)
        if batch is not None and not appended.told:
            self._announce(batch.n, spared=spared)
        self._batch_at = began
        if self.leads:
            pace.closed(began, rows)
            await self._keep_pace(appended)
        self._plan_next(began, rows, more=batch is not None and batch.more)
        return appended

    def _plan_next(self, began: float, rows: int, *, more: bool) -> None:
        """When to append next: at `_append_at` unasked, at a ring not before `_not_before`."""
        if more:
            self._append_at = self._not_before = 0.0
            self._rung_at = None if self.leads else began
            return
        # (Not longer than a poll: the server ends a session that says nothing.)
        interval_s = min(self._settings.append_interval_s, self._settings.poll_interval_s)
        self._not_before = began + interval_s if rows > BUSY_ROWS else 0.0
        interval_s = max(LEAST_INTERVAL_S, 2 * interval_s if rows > CROWDED_ROWS else interval_s)
        # (Deaf, for as long as there is something: nothing tells it.)
        next_s = interval_s if self.coalescing or (rows and self._deaf) else inf
        if self.leads and self._pace.mode is Mode.DRAINING:
            next_s = min(next_s, self._pace.next_drain_s())
        self._append_at = began + next_s

    async def _keep_pace(self, appended: Appended) -> None:
        pace, now = self._pace, time.monotonic()
        if pace.mode is Mode.COALESCING:
            if pace.should_ring(now):
                self._drained_from = await self._sequencer.ring_again()
                pace.drain()
            return
        if pace.mode is Mode.DRAINING and appended.oldest > self._drained_from:
            pace.ring()
        if pace.watch_waits(now) and now >= self._waits_at:
            self._waits_at = now + WATCH_WAITS_S
            pace.saw_waiting(now, await self._sequencer.commits_waiting())
        if pace.should_coalesce(now) and await self._sequencer.hush():
            pace.coalesce(now)

    def _announce(self, n: int, *, spared: bool) -> None:
        """Tells the others while this process reads the batch for itself.

        `spared`: the tenants' channels, too. That takes a while, so one batch at a time is told of.
        """
        if self._others:
            metrics.BATCHES_TOLD.inc()
            self._announcing = asyncio.create_task(self._sequencer.announce(n))
        if spared and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._sequencer.tell(n))

    async def _announced(self) -> None:
        if self._announcing is not None:
            await self._announcing

    async def answer(self, text: str) -> None:
        """Tells whoever asked where this process is. Raises psycopg.Error."""
        with severed_after(self._bus, self._settings.query_timeout_s):
            await self._announced()
            await self._bus.execute(NOTIFY_SQL, (ANSWER_CHANNEL, text))

    def look_again(self) -> None:
        """Not all that a turn returned was handed over: the next one comes at once."""
        self._more = True

    async def close(self) -> None:
        """Ends it, and leaves no task behind."""
        await end([task for task in (self._announcing, self._telling) if task is not None])
        await self._bus.close()

    def _must_append(self, wake: Wake, now: float) -> bool:
        if not self.leads and not self._deaf:
            return now >= self._overdue_at()
        rung = wake.rung and not self.coalescing  # (by some that looked before it began)
        return rung or wake.polled or now >= self._append_at

    def _overdue_at(self) -> float:
        """When to append in the sequencer's place: an event must not be left lying.

        It was rung; or it would not be, because producers are silent, and no batch comes.
        """
        patience_s = self._settings.follow_patience_s
        if self._rung_at is not None:
            return self._rung_at + patience_s
        if self._sequencer.k_held:
            return self._batch_at + max(patience_s, SILENT_S)
        return inf

    def _check(self, look: Look) -> None:
        if not look.listening:
            raise psycopg.OperationalError("it listens no more")

    async def _ledger_from(
        self, n: int, watched: frozenset[str] | None
    ) -> tuple[list[LedgerRow], tuple[Event, ...] | None]:
        """The ledger from `n` on, and the events of one small batch that is all there is more."""
        wanted = None if watched is None else list(watched)
        args = {"n": n, "limit": LEDGER_ROWS, "tenants": wanted}
        with suppress(psycopg.errors.NoDataFound):  # that batch was pruned already
            return ahead_of(await (await self._bus.execute(AHEAD_SQL, args)).fetchall())
        cursor = await self._bus.execute(LEDGER_SQL, args)
        return [LedgerRow(*row) for row in await cursor.fetchall()], None

    async def wait(self) -> Wake:
        """Waits until rung, told of a batch, or it is time to look. Raises psycopg.Error."""
        with severed_after(self._bus, self._settings.query_timeout_s):
            await self._announced()
        now = time.monotonic()
        if now < self._not_before and not self.coalescing:
            await asyncio.sleep(self._not_before - now)
        rings, announced, questions = 0, False, set[str]()
        timeout_s = max(0.0, self._wake_at() - time.monotonic())
        async for note in self._bus.notifies(timeout=timeout_s, stop_after=1):
            if note.channel == DOORBELL_CHANNEL:
                rings += 1
                # With a body it is another process, which begins to listen.
                self._others = self._others or bool(note.payload)
            elif note.channel == ASK_CHANNEL:
                questions.add(note.payload)
            elif note.pid != self.backend:
                announced = True
        now = time.monotonic()
        self._pace.rung(now, rings)
        metrics.DOORBELLS.inc(rings)
        polled = now >= self._poll_at
        if polled:
            self._poll_at = now + self._settings.poll_interval_s
        return Wake(rings > 0, announced, polled, tuple(questions)[:MOST_QUESTIONS])

    def _wake_at(self) -> float:
        if self._more:
            return 0.0
        follows = not self.leads and not self._deaf
        return min(self._poll_at, self._overdue_at() if follows else self._append_at)
