"""What a process needs to serve subscribers, put together: log, source, layer, feed.

One for each event loop, started by its first subscriber and kept: with nobody sequencing,
producers would ring for nobody. With the in-memory layer the process listens to PostgreSQL by
itself. With a broker or a shared layer a worker (`manage.py listen_events`) does, and passes on
what it hears; this process only receives.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import psycopg
from channels.exceptions import InvalidChannelLayerError
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from psycopg_pool import PoolTimeout

from agent_events.backoff import Backoff
from agent_events.brokers import inlet_of, outlet_of
from agent_events.conf import Settings, get_settings
from agent_events.database import listener_dsn, log_dsn
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.layer import LayerReceiver, LayerSink
from agent_events.log import Log
from agent_events.position import LATEST
from agent_events.relay import BrokerOutlet, LayerOutlet, Relay, widened
from agent_events.sources import Sink, Source, SourceState
from agent_events.sources.broker import BrokerSource
from agent_events.sources.postgres import PostgresSource
from agent_events.subscriber import Subscriber
from agent_events.tasks import OfLoop, end
from agent_events.window import Tenants, Window

logger = logging.getLogger("agent_events")

WELL_S = 60.0
"""A task that ran for so long was well: its next failure is a new one."""

_running: OfLoop["Bus"] = OfLoop()


def current_bus(*, worker: bool = False) -> "Bus":
    """The bus of the running event loop; made, not started, where there is none yet.

    `worker` as for `Bus`, where it is made.
    """
    return _running.get(lambda: Bus(get_settings(), worker=worker))


def layer_is_shared(alias: str) -> bool:
    """Does the channel layer reach other processes?

    Raises ImproperlyConfigured where there is none, or its library is missing.
    """
    try:
        layer = get_channel_layer(alias)
    except (InvalidChannelLayerError, ImportError) as error:
        raise ImproperlyConfigured(f'CHANNEL_LAYERS["{alias}"] cannot be used: {error}') from error
    if layer is None:
        raise ImproperlyConfigured(
            f'CHANNEL_LAYERS has no "{alias}", and agent_events needs a channel layer. Add '
            f'"{alias}": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}} to it.'
        )
    return not isinstance(layer, InMemoryChannelLayer)


class Bus:
    """Log, feed, and the tasks that move windows: each owned, and started again if it fails."""

    def __init__(self, settings: Settings, *, worker: bool = False) -> None:
        """`worker`: listens to PostgreSQL whatever the settings say, and passes windows on to the
        broker, or the shared layer, of the settings.
        """
        self._settings = settings
        self._worker = worker
        self.log = Log(log_dsn(), settings)
        self.feed = Feed(self.log, settings)
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        self._source: Source | None = None
        self._receiver: LayerReceiver | None = None
        self._began = asyncio.Event()  # a window came: what was committed before is in the ledger
        self._heard = asyncio.Event()

    async def start(self) -> None:
        """Starts once; later calls return when it has started. Raises ImproperlyConfigured."""
        async with self._starting:
            if self._tasks:
                return
            shared = layer_is_shared(self._settings.channel_layer)
            broker = bool(self._settings.broker_url)
            outlet = self._outlet(shared) if self._worker else None
            settings = widened(self._settings) if outlet is not None else self._settings
            if self._worker or broker or not shared:
                self._source = self._made_source(settings)
            await self.log.open()
            # Nothing is live before the first word, but where this process listens by itself.
            self.feed.interrupted = not isinstance(self._source, PostgresSource)
            if self._source is not None and (self._worker or shared):
                self._feed_directly(self._source)
            else:
                self._feed_over_the_layer()
            if outlet is not None:
                dsn = listener_dsn()
                relay = Relay(self.feed, self.log, outlet, settings, dsn, self.source_state)
                self._keep("relay", relay.run)

    def _made_source(self, settings: Settings) -> Source:
        watched = self.feed.watched
        if settings.broker_url and not self._worker:
            return BrokerSource(inlet_of(settings), settings, watched, self.log.identity)
        return PostgresSource(listener_dsn(), self.log, settings, watched)

    def _outlet(self, shared: bool) -> BrokerOutlet | LayerOutlet | None:
        """Where a worker passes windows on; None where nobody else is to be reached."""
        if self._settings.broker_url:
            return BrokerOutlet(outlet_of(self._settings), self._settings)
        return LayerOutlet(self._settings) if shared else None

    def _feed_over_the_layer(self) -> None:
        receiver = self._receiver = LayerReceiver(self._settings, self._take, self._silent)
        self._keep("receiver", receiver.run)
        if (source := self._source) is not None:
            sink = LayerSink(self._settings.channel_layer)
            self._keep("source", lambda: pump(source, sink))

    def _feed_directly(self, source: Source) -> None:
        self._keep("source", lambda: pump(source, self))
        self._keep("watch", self._watch)

    async def send(self, window: Window) -> None:
        """As a sink: straight to the feed."""
        self._heard.set()
        self._take(window)

    async def _watch(self) -> None:
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(self._settings.tick_timeout_s):
                    await self._heard.wait()
            except TimeoutError:
                await self._silent()

    async def _silent(self) -> None:
        """No word from the source for long: everybody looks into the log."""
        if not isinstance(self._source, PostgresSource):
            # Maybe no worker is there, and nobody closes batches.
            with suppress(psycopg.Error, PoolTimeout, OSError):
                await self.log.append()
        self.feed.interrupt()
        self._began.set()  # whoever waits for a first word reads the log, too

    def source_state(self) -> SourceState | None:
        """How the source of this process does; None where it has none, or has not started."""
        return self._source.state if self._source is not None else None

    @property
    def layer_away(self) -> bool:
        """Does this process read from a channel layer, and that is away?"""
        return self._receiver is not None and self._receiver.away

    async def stop(self) -> None:
        """Ends every task and closes every connection."""
        await end(self._tasks)
        self._tasks.clear()
        await self.feed.close()
        await self.log.close()

    async def subscribe(
        self, tenants: Tenants, filter: Filter | None = None, cursor: str = "latest"
    ) -> Subscriber:
        """`Feed.subscribe`, starting the bus if need be."""
        await self.start()
        if cursor == LATEST and not self._began.is_set():
            # While nobody subscribed nobody closed batches: "latest" is behind what waits there.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.tick_timeout_s):
                    await self._began.wait()
        return await self.feed.subscribe(tenants, filter or Filter(), cursor)

    def _take(self, window: Window) -> None:
        self.feed.take(window)
        self._began.set()

    def _keep(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(asyncio.create_task(_restarting(name, run), name=f"agent_events {name}"))


async def pump(source: Source, sink: Sink) -> None:
    """Moves windows from a source to a sink until cancelled."""
    async with aclosing(source.windows()) as windows:
        async for window in windows:
            await sink.send(window)


async def _restarting(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A task that dies at its first error, and nobody knows, is the classic fault of a listener."""
    backoff = Backoff()
    again = False
    while True:
        began = time.monotonic()
        try:
            await run()
        except Exception as error:
            if time.monotonic() - began > WELL_S:
                backoff.reset()
                again = False
            wait_s = backoff.next_s()
            # The whole story once.
            log = logger.warning if again else logger.exception
            log("The %s failed (%s); starting it again in %.1f s.", name, error, wait_s)
            again = True
            await asyncio.sleep(wait_s)
