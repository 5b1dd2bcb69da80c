"""What a process needs to serve subscribers, put together: log, source, layer, feed.

One for each event loop, started by its first subscriber and kept: with nobody sequencing,
producers would ring for nobody. With the in-memory layer the process listens to PostgreSQL by
itself; with a shared layer `manage.py listen_events` does, and this process only receives.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from agent_events.backoff import Backoff
from agent_events.conf import Settings, get_settings
from agent_events.database import listener_dsn, log_dsn
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.layer import LayerReceiver, LayerSink
from agent_events.log import Log
from agent_events.position import LATEST
from agent_events.sources import Sink, Source, SourceState
from agent_events.sources.postgres import PostgresSource
from agent_events.subscriber import Subscriber
from agent_events.tasks import OfLoop, end
from agent_events.window import Tenants, Window

logger = logging.getLogger("agent_events")

WELL_S = 60.0
"""A task that ran for so long was well: its next failure is a new one."""

_running: OfLoop["Bus"] = OfLoop()


def current_bus(*, everything: bool = False) -> "Bus":
    """The bus of the running event loop; made, not started, where there is none yet.

    `everything` as for `Bus`, where it is made.
    """
    return _running.get(lambda: Bus(get_settings(), everything=everything))


def layer_is_shared(alias: str) -> bool:
    """Does the channel layer reach other processes? Raises ImproperlyConfigured without one."""
    layer = get_channel_layer(alias)
    if layer is None:
        raise ImproperlyConfigured(
            f'CHANNEL_LAYERS has no "{alias}", and agent_events needs a channel layer. Add '
            f'"{alias}": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}} to it.'
        )
    return not isinstance(layer, InMemoryChannelLayer)


class Bus:
    """Log, feed, and the tasks that move windows: each owned, and started again if it fails."""

    def __init__(self, settings: Settings, *, everything: bool = False) -> None:
        """`everything`: source windows of all tenants, and though the layer be shared."""
        self._settings = settings
        self._everything = everything
        self.log = Log(log_dsn(), settings)
        self.feed = Feed(self.log, settings)
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        self._source: Source | None = None
        self._began = asyncio.Event()  # a window came: what was committed before is in the ledger

    async def start(self) -> None:
        """Starts once; later calls return when it has started. Raises ImproperlyConfigured."""
        async with self._starting:
            if self._tasks:
                return
            shared = layer_is_shared(self._settings.channel_layer)
            await self.log.open()
            receiver = LayerReceiver(self._settings, self._take, self.feed.interrupt)
            channel = await receiver.join()
            self._keep("receiver", lambda: receiver.run(channel))
            if self._everything or not shared:
                source = self._source = PostgresSource(
                    listener_dsn(),
                    self.log,
                    self._settings,
                    self.feed.watched if not self._everything else lambda: None,
                )
                sink = LayerSink(self._settings.channel_layer)
                self._keep("source", lambda: pump(source, sink))

    def source_state(self) -> SourceState | None:
        """How the source of this process does; None where it has none, or has not started."""
        return self._source.state if self._source is not None else None

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
            # The whole story once; a layer's server that is away fails every few seconds.
            log = logger.warning if again else logger.exception
            log("The %s failed (%s); starting it again in %.1f s.", name, error, wait_s)
            again = True
            await asyncio.sleep(wait_s)
