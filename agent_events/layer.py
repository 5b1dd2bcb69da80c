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

from agent_events.conf import Settings
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
        carried = window if within else window.to_text()
        await self._layer.group_send(GROUP, {"type": "agent_events.window", "window": carried})


class LayerReceiver:
    """The receiving end: hands windows to `take`; with no word for long, calls `interrupt`."""

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

    async def join(self) -> str:
        """Joins the group with a channel of its own; returns the channel's name."""
        channel: str = await self._layer.new_channel()
        await self._layer.group_add(GROUP, channel)
        return channel

    async def run(self, channel: str) -> None:
        """Receives until cancelled."""
        joined_at = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._settings.tick_timeout_s):
                    message = await self._layer.receive(channel)
            except TimeoutError:
                # A receiver that stalled past the layer's `expiry` is thrown out of its groups.
                await self._layer.group_add(GROUP, channel)
                await self._interrupt()
                continue
            try:
                window = message["window"]
                if not isinstance(window, Window):
                    window = Window.from_text(window)
            except (KeyError, TypeError, ValueError) as error:
                logger.error("A message on the channel layer is no window (%s); ignored.", error)
                continue
            self._take(window)
            if time.monotonic() - joined_at > REJOIN_S:
                joined_at = time.monotonic()
                await self._layer.group_add(GROUP, channel)
