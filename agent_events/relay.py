"""From a worker's feed to where web processes read: a broker, or a shared channel layer.

A relay is a subscriber like any other: what it cannot send it need not keep, for the log has it,
and nothing here ever holds up the closing of batches. It sends whole batches, each shard's in
order, and says each second how far the log has come. Owns: the leases of the shards, and the place
that was reached. It may repeat what another worker has sent, and where it is far behind it goes on
at the head: readers notice (the one rule) and read the log.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

import psycopg
from psycopg_pool import PoolTimeout

from agent_events import metrics
from agent_events.backoff import Backoff
from agent_events.brokers import Outlet
from agent_events.brokers.parcels import Mark, parcels_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway, in_a_line
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.layer import LayerSink
from agent_events.leases import Leases
from agent_events.log import Log
from agent_events.outage import Outage
from agent_events.position import LATEST, Cursor, Position
from agent_events.sources import Doorbell, SourceState
from agent_events.subscriber import Kind, Subscriber, Update
from agent_events.tasks import end
from agent_events.window import Window
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

BACKLOG_EVENTS = 10_000
"""Further behind than so many events it goes on at the head: meanwhile readers read the log."""
BACKLOG_BATCHES = 200
"""Where the source is so many batches ahead, it is worth a look."""
SLICE_ROWS = 10_000
SLICE_BYTES = 8_388_608
"""A worker's window is of so many events, and bytes, at most; twice as many wait for its relay."""
READY_S = 0.1
"""How often it looks whether the source is there."""
MOST_WAIT_S = 2.0
"""The longest wait before the next try."""
STANDING_BY_S = 3.0
"""Who can publish, and was given nothing for so long, stands by."""
RESTARTED_S = 5.0
"""For so long each window says that the ledger is another one."""


def widened(settings: Settings) -> Settings:
    """The settings for a worker's source, and for its relay: larger bounds, and still bounds.

    What is small enough for every viewer would end a worker far below what its core can do: a batch
    of all tenants' events is larger than one of theirs.
    """
    return replace(
        settings,
        slice_rows=max(settings.slice_rows, SLICE_ROWS),
        page_bytes=max(settings.page_bytes, SLICE_BYTES),
        queue_events=max(settings.queue_events, 2 * SLICE_ROWS),
        queue_bytes=max(settings.queue_bytes, 2 * SLICE_BYTES),
    )


class WindowOutlet(Protocol):
    """Where a relay sends windows."""

    shards: int

    async def open(self) -> None:
        """Connects. Raises BrokerAway."""
        ...

    async def last(self, shard: int) -> Mark | None:
        """The newest window there; None where nobody knows. Raises BrokerAway."""
        ...

    async def send(self, window: Window, shards: frozenset[int], log: str = "") -> None:
        """Sends a window of all tenants of the log to these shards' readers. Raises BrokerAway."""
        ...

    async def close(self) -> None:
        """Closes what was opened."""
        ...


class BrokerOutlet:
    """A broker."""

    def __init__(self, outlet: Outlet, settings: Settings) -> None:
        self._outlet = outlet
        self.shards = settings.broker_shards

    async def open(self) -> None:
        """As `Outlet.open`."""
        await self._outlet.open()

    async def last(self, shard: int) -> Mark | None:
        """As `Outlet.last`."""
        return await self._outlet.last(shard)

    async def send(self, window: Window, shards: frozenset[int], log: str = "") -> None:
        """Sends what these shards' readers need of it."""
        parcels = parcels_of(window, shards, self.shards, self._outlet.limit, log)
        await self._outlet.send(parcels)
        metrics.RELAY_PARCELS.inc(len(parcels))
        metrics.RELAY_BYTES.inc(sum([len(parcel.body) for parcel in parcels]))

    async def close(self) -> None:
        """As `Outlet.close`."""
        await self._outlet.close()


class LayerOutlet:
    """A shared channel layer. It keeps nothing, and may drop what it is given."""

    def __init__(self, settings: Settings) -> None:
        self._sink = LayerSink(settings.channel_layer)
        self._timeout_s = settings.broker_timeout_s
        self.shards = 1

    async def open(self) -> None:
        """Sees whether it can be sent to. Raises BrokerAway."""
        await self._sent(self._sink.probe())

    async def last(self, shard: int) -> Mark | None:
        """Nobody knows."""
        return None

    async def send(self, window: Window, shards: frozenset[int], log: str = "") -> None:
        """To every process of the layer."""
        await self._sent(self._sink.send(window))

    async def _sent(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await sending
        except Exception as error:  # each layer has errors of its own
            raise BrokerAway(f"the channel layer failed: {in_a_line(error)}") from error

    async def close(self) -> None:
        """The layer belongs to the process."""


class Relay:
    """Sends what this worker's source hands over, for the shards whose leases it holds."""

    def __init__(
        self,
        feed: Feed,
        log: Log,
        outlet: WindowOutlet,
        settings: Settings,
        dsn: str,
        state: Callable[[], SourceState | None],
    ) -> None:
        """`dsn`: where to hold leases, direct. `state`: how the worker's source does."""
        self._feed = feed
        self._log = log
        self._outlet = outlet
        self._settings = settings
        self._state = state
        self._open = False
        self._leases = Leases(dsn, settings, self._able)
        self._outage = Outage(
            "Publishing failed (%s); trying until it works. Events are safe in the log, where "
            "subscribers read them meanwhile.",
            "Publishing works again after %.1f s.",
        )
        self._backoff = Backoff(most_s=MOST_WAIT_S)
        self._restarted_until = 0.0
        self._identity = ""
        self._mark: Mark | None = None  # the newest one, as last seen while standing by

    async def run(self) -> None:
        """Until cancelled. A failure is said once, and its end."""
        keeping = asyncio.create_task(self._keep_leases(), name="agent_events leases")
        sending = asyncio.create_task(self._send_on(), name="agent_events sending")
        try:
            done, _ = await asyncio.wait({keeping, sending}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end([keeping, sending])
            await self._outlet.close()

    async def _keep_leases(self) -> None:
        while (doorbell := self._doorbell()) in (None, Doorbell.DEAF):
            # A pooler in transaction mode would keep the locks: every worker publishes then.
            shards = self._outlet.shards if doorbell is Doorbell.DEAF else 0
            self._leases.hold(frozenset(range(shards)))
            await asyncio.sleep(READY_S)
        self._leases.hold(frozenset())
        await self._leases.keep()

    def _doorbell(self) -> Doorbell | None:
        """That of the source; None while it is not connected."""
        state = self._state()
        return state.doorbell if state is not None and state.connected else None

    def _able(self) -> bool:
        return self._open and self._doorbell() is not None

    async def _send_on(self) -> None:
        while True:
            try:
                await self._outlet.open()
                self._open = True
                while True:
                    await self._publish(await self._shards())
            except BrokerAway as error:
                self._mark = None
                metrics.RELAY_FAILURES.inc()
                self._outage.failed(error)
            except (psycopg.Error, PoolTimeout, OSError) as error:
                # The source says that the database is away.
                logger.debug("The relay could not read the log (%s).", error)
            finally:
                self._open = False
                metrics.RELAY_SHARDS.set(0)
                await self._outlet.close()
            await asyncio.sleep(self._backoff.next_s())

    async def _shards(self) -> frozenset[int]:
        """Those that this worker is to publish, once there are some. Raises BrokerAway."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(STANDING_BY_S):
                    return await self._leases.some()
            # A connection that died meanwhile must not be found out only when it is needed.
            mark = await self._outlet.last(0)
            # (A layer tells of nobody, but took what it was sent when it was opened.)
            moved = mark is not None and self._mark not in (None, mark)
            if moved or isinstance(self._outlet, LayerOutlet):
                self._outage.over()  # somebody else publishes
            self._mark = mark

    async def _publish(self, shards: frozenset[int]) -> None:
        """Sends until other shards are held, or it has to begin at another place.

        Raises BrokerAway, psycopg.Error, psycopg_pool.PoolTimeout.
        """
        self._identity = await self._log.identity()
        cursor = await self._place(shards)
        while cursor and (held := self._leases.held) and held <= shards:
            metrics.RELAY_SHARDS.set(len(held))
            async with self._subscribed(cursor) as subscriber:
                if cursor == LATEST:
                    at = Cursor.parse(subscriber.cursor)
                    await self._send(_window(at, at, ()))  # a place to begin at, for all
                cursor = await self._follow(subscriber, shards)
        metrics.RELAY_SHARDS.set(len(self._leases.held))

    async def _place(self, shards: frozenset[int]) -> str:
        """Where to begin: after what the slowest of the shards' readers were sent last."""
        marks = [await self._outlet.last(shard) for shard in sorted(shards)]
        known = [mark for mark in marks if mark is not None]
        if known != marks:
            return LATEST
        places = sorted(
            {Cursor(Position(mark.last + 1), mark.closed_at_ms) for mark in known}, key=str
        )
        for place in places:
            if (await self._log.resolve(str(place))).notice:
                self._restarted_until = time.monotonic() + RESTARTED_S
                return LATEST
        return LATEST if await self._is_far_behind(places[0]) else str(places[0])

    def _seems_far_behind(self, at: Cursor) -> bool:
        state = self._state()
        head = state.batch if state is not None else None
        return head is not None and head - at.position.last_batch > BACKLOG_BATCHES

    async def _is_far_behind(self, cursor: Cursor) -> bool:
        rows = await self._log.ledger(cursor.position.last_batch, 1)
        head = await self._log.head()
        behind = head.total - rows[0].total if rows else 0
        if behind <= BACKLOG_EVENTS:
            return False
        metrics.RELAY_SKIPPED.inc(max(0, head.n - cursor.position.last_batch))
        return True

    @asynccontextmanager
    async def _subscribed(self, cursor: str) -> AsyncGenerator[Subscriber, None]:
        subscriber = await self._feed.subscribe(None, Filter(), cursor, self._settings)
        try:
            yield subscriber
        finally:
            subscriber.close()

    async def _follow(self, subscriber: Subscriber, shards: frozenset[int]) -> str:
        """Sends what comes; returns where to subscribe anew, or nothing where others are held."""
        at = Cursor.parse(subscriber.cursor)
        while (held := self._leases.held) and held <= shards:
            update = await subscriber.next(self._settings.poll_interval_s)
            if self._seems_far_behind(at) and await self._is_far_behind(at):
                return LATEST
            if update.kind in (Kind.RESET, Kind.TRUNCATED):
                if update.kind is Kind.RESET:
                    self._restarted_until = time.monotonic() + RESTARTED_S
                at = Cursor.parse(update.cursor)
                await self._send(_window(at, at, ()))
                continue
            if update.kind not in (Kind.EVENTS, Kind.HEARTBEAT, Kind.LIVE):
                continue
            if update.kind is not Kind.EVENTS and not (self._able() and subscriber.caught_up):
                continue  # a tick would say that all is well
            windows, at, whole = windows_of(at, update)
            for window in windows:
                await self._send(window)
            if not whole:
                return str(at)  # behind the rest of a batch that is too large to carry
        return ""

    async def _send(self, window: Window) -> None:
        if time.monotonic() < self._restarted_until:
            window = replace(window, restarted=True)
        await self._outlet.send(window, self._leases.held, self._identity)
        metrics.RELAY_WINDOWS.inc()
        self._backoff.reset()
        self._outage.over()


def windows_of(at: Cursor, update: Update) -> tuple[list[Window], Cursor, bool]:
    """An update of a subscriber to all tenants, that stood at `at`, as windows of whole batches.

    Returns them, where that leads, and whether the update ended with a whole batch. Where it did
    not, the last window covers nobody, and the place is behind that batch.
    """
    end, events = Cursor.parse(update.cursor), update.events
    if not end.position.after_id:
        return [_window(at, end, events)], end, True
    cut = end.position.batch
    whole = [event for event in events if event.batch < cut]
    windows = []
    if whole:
        # (Not at the batch that is cut: of one in between all rows may be gone, and its time with
        # them.)
        before = Cursor(Position(whole[-1].batch + 1), whole[-1].closed_at_ms)
        windows.append(_window(at, before, whole))
        at = before
    behind = Cursor(Position(cut + 1), end.closed_at_ms)
    windows.append(_window(at, behind, (), covers=frozenset()))
    return windows, behind, False


def _window(
    at: Cursor, end: Cursor, events: Sequence[Event], covers: frozenset[str] | None = None
) -> Window:
    first, last = at.position.batch, end.position.batch - 1
    return Window(first, last, at.closed_at_ms, end.closed_at_ms, covers, tuple(events))
