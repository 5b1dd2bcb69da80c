"""The way over a shared channel layer, against a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import redis
from django.test import override_settings

from agent_events.conf import Settings
from agent_events.layer import GROUP, LayerReceiver, LayerSink
from agent_events.tasks import end
from agent_events.window import Window
from project.redis_server import RedisServer
from tests.support.broker import event
from tests.support.waiting import until

SETTINGS = replace(Settings(), tick_timeout_s=1.0)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Redis, as the layer of two processes: of who sends, and of who receives."""
    with RedisServer() as made:
        layer = {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [made.url]},
        }
        with override_settings(CHANNEL_LAYERS={"default": layer, "sender": layer}):
            yield made


def cut(server: RedisServer) -> int:
    """Ends all connections; returns how many."""
    with redis.from_url(server.url) as client:
        own = str(client.client_id())
        others = [one["id"] for one in client.client_list() if one["id"] != own]
        for one in others:
            client.client_kill_filter(_id=one)
        return len(others)


async def test_a_receiver_whose_connections_are_cut_goes_on_with_the_channel_that_it_had(
    server: RedisServer,
) -> None:
    came: list[int] = []
    missed: list[float] = []

    async def interrupt() -> None:
        missed.append(time.monotonic())

    receiver = LayerReceiver(SETTINGS, lambda window: came.append(window.last), interrupt)
    await receiver.join()
    receiving = asyncio.create_task(receiver.run())
    sink = LayerSink("sender")
    batch = 0
    try:
        for _ in range(3):
            # What is sent while it joins again is lost, which its subscribers are told of.
            async with asyncio.timeout(20):
                reached = batch
                while max(came, default=0) <= reached:
                    batch += 1
                    with suppress(redis.RedisError):  # its connection was cut, too
                        await sink.send(Window(batch, batch, batch, batch, None, (event(batch),)))
                    await asyncio.sleep(0.05)
            known = len(missed)
            assert cut(server) > 0
            await until(lambda known=known: len(missed) > known, 20)  # type: ignore[misc]
        with redis.from_url(server.url) as client:
            assert client.zcard(f"asgi:group:{GROUP}") == 1
    finally:
        await end([receiving])
