"""Windows over the Channels layer: both ends.

A window travels once per process, to one group, and not once per socket: a `group_send` walks
every channel of the in-memory layer, so its price is the number of processes' channels and not of
viewers. The layer may drop, repeat and reorder; nothing here tries to prevent it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer

from agent_events.backoff import Backoff
from agent_events.conf import Settings
from agent_events.outage import Outage
from agent_events.window import Window

logger = logging.getLogger("agent_events")

GROUP = "agent_events"
REJOIN_S = 3_600.0
"""Membership in a group lapses (`group_expiry`, a day by default): it is renewed each hour."""


class LayerSink:
    """The sending end: a sink."""

    def __init__(self, alias: str) -> None:
        self._layer: Any = get_channel_layer(alias)

    async def send(self, window: Window) -> None:
        """Sends one window to every process of this layer."""
        # Within the process it goes as it is.
        within = isinstance(self._layer, InMemoryChannelLayer)
        await self._group_send(window if within else window.to_text())

    async def probe(self) -> None:
        """Sends no window, to see whether one could be sent. Raises whatever the layer raises.

        Deliberately no tick: readers would take it for the word of somebody who publishes.
        """
        await self._group_send(None)

    async def _group_send(self, carried: Window | str | None) -> None:
        await self._layer.group_send(GROUP, {"type": "agent_events.window", "window": carried})


class LayerReceiver:
    """The receiving end: hands windows to `take`; with no word for long, calls `interrupt`.

    Also where the layer's own server is away: then it joins again until that works.
    """

    def __init__(
        self,
        settings: Settings,
        take: Callable[[Window], None],
        interrupt: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._layer: Any = get_channel_layer(settings.channel_layer)
        self._take = take
        self._interrupt = interrupt
        self._channel = ""
        self._joined_at = 0.0  # not joined
        self._outage = Outage(
            "The channel layer failed (%s); trying until it is back. Meanwhile events are read "
            "from the log.",
            "The channel layer is back after %.1f s.",
        )

    @property
    def away(self) -> bool:
        """Has the layer failed, and not been well since?"""
        return self._outage.lasts

    async def join(self) -> None:
        """Joins the group, with a channel of its own: the same one again after a failure.

        (The layer keeps for a day, in this process, what a channel of before is sent.)
        """
        async with asyncio.timeout(self._settings.tick_timeout_s):
            self._channel = self._channel or await self._layer.new_channel()
            await self._layer.group_add(GROUP, self._channel)
        self._joined_at = time.monotonic()

    async def run(self) -> None:
        """Receives until cancelled."""
        backoff = Backoff(most_s=self._settings.tick_timeout_s)
        while True:
            try:
                if not self._joined_at:
                    await self.join()
                await self._receive(backoff)
            except Exception as error:  # each layer has errors of its own
                self._joined_at = 0.0
                self._outage.failed(error)
                await self._interrupt()
                await asyncio.sleep(backoff.next_s())

    async def _receive(self, backoff: Backoff) -> None:
        receiving: asyncio.Task[Any] | None = None
        timeout_s = self._settings.tick_timeout_s
        heard_at = time.monotonic()
        try:
            while True:
                receiving = receiving or asyncio.create_task(self._layer.receive(self._channel))
                # Not cancelled where it takes longer: a layer may take its time for that, too.
                wait_s = max(0.0, heard_at + timeout_s - time.monotonic())
                done, _ = await asyncio.wait({receiving}, timeout=wait_s)
                if not done:
                    heard_at = time.monotonic()
                    await self._interrupt()
                    # A receiver that stalled past the layer's `expiry` is thrown out of its groups.
                    await self.join()
                    self._outage.over()  # it is well, and nobody sends
                    continue
                message, receiving = receiving.result(), None
                backoff.reset()
                self._outage.over()
                if self._take_from(message):
                    heard_at = time.monotonic()
                if time.monotonic() - self._joined_at > REJOIN_S:
                    await self.join()
        finally:
            if receiving is not None:
                receiving.cancel()
                receiving.add_done_callback(_forget)

    def _take_from(self, message: Any) -> bool:
        """Hands a window on; returns whether there was one."""
        try:
            window = message["window"]
            if window is None:  # a probe
                return False
            if not isinstance(window, Window):
                window = Window.from_text(window)
        except (KeyError, TypeError, ValueError) as error:
            logger.error("A message on the channel layer is no window (%s); ignored.", error)
            return False
        self._take(window)
        return True


def _forget(task: asyncio.Task[Any]) -> None:
    """What it raises is nobody's any more."""
    if not task.cancelled():
        task.exception()
