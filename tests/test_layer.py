"""The way over a shared channel layer, against a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.test import override_settings

from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.layer import GROUP, LayerReceiver, LayerSink
from agent_events.leases import TURN_S
from agent_events.relay import MOST_WAIT_S, LayerOutlet
from agent_events.tasks import end
from agent_events.window import Window
from project.redis_server import RedisServer
from tests.support import Server, wait_until
from tests.support.broker import event
from tests.support.deployment import deployment
from tests.support.waiting import until

SETTINGS = replace(Settings(), tick_timeout_s=1.0)
QUICK: dict[str, Any] = {"TICK_TIMEOUT_S": 1.0, "BROKER_TIMEOUT_S": 1.0}


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
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
    redis_server: RedisServer,
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
            assert cut(redis_server) > 0
            await until(lambda known=known: len(missed) > known, 20)  # type: ignore[misc]
        with redis.from_url(redis_server.url) as client:
            assert client.zcard(f"asgi:group:{GROUP}") == 1
    finally:
        await end([receiving])


async def test_a_layer_that_is_away_is_noticed_and_that_it_is_back_though_nobody_sends(
    redis_server: RedisServer,
) -> None:
    async def interrupt() -> None: ...

    receiver = LayerReceiver(SETTINGS, lambda window: None, interrupt)
    receiving = asyncio.create_task(receiver.run())
    try:
        assert not receiver.away
        for _ in range(2):
            redis_server.kill()
            await until(lambda: receiver.away, 20)
            redis_server.start()
            await until(lambda: not receiver.away, 20)
    finally:
        await end([receiving])


async def test_whoever_cannot_send_is_told_when_it_opens_and_readers_take_nothing_from_that(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Window] = []
    silent: list[float] = []

    async def interrupt() -> None:
        silent.append(time.monotonic())

    receiver = LayerReceiver(SETTINGS, taken.append, interrupt)
    await receiver.join()
    receiving = asyncio.create_task(receiver.run())
    outlet = LayerOutlet(replace(SETTINGS, channel_layer="sender"))
    try:
        async with asyncio.timeout(20):
            while not silent:  # a worker that opens again and again publishes nothing
                await outlet.open()
                await asyncio.sleep(0.05)
        await outlet.send(Window(1, 1, 1, 1, None, (event(1),)), frozenset({0}))
        await until(lambda: taken, 20)
        assert [window.last for window in taken] == [1]
        assert not caplog.records
        redis_server.kill()
        with pytest.raises(BrokerAway, match="the channel layer failed"):
            await outlet.open()
    finally:
        await end([receiving])


def test_with_the_layer_away_no_worker_holds_the_lease_and_a_web_process_says_so(
    dsn: str, server: Callable[..., Server], tmp_path: Path
) -> None:
    with deployment("layer", dsn, tmp_path, workers=2, **QUICK) as deployed:
        assert deployed.broker is not None
        web = server(env=deployed.env)

        def problems() -> list[str]:
            return list(httpx.get(f"{web.url}/readyz", timeout=10).json()["problems"])

        wait_until(lambda: problems() == [], what="the web process to be well")
        deployed.broker.kill()
        wait_until(lambda: problems() == ["layer_away"], what="the layer to be missed")
        wait_until(
            lambda: all("Publishing failed" in worker.log() for worker in deployed.workers),
            what="the workers to notice",
        )
        wait_until(lambda: deployed.publisher() is None, what="the lease to be free")
        # Longer than any worker waits for its next try.
        until_s = time.monotonic() + 2 * MOST_WAIT_S + TURN_S
        while time.monotonic() < until_s:
            assert deployed.publisher() is None
            time.sleep(0.05)
        assert problems() == ["layer_away"]
        deployed.broker.start()
        deployed.wait_for_publisher()
        wait_until(lambda: problems() == [], what="the web process to be well again")
        wait_until(
            lambda: all("Publishing works again" in worker.log() for worker in deployed.workers),
            what="both workers to say that it is over",
        )
