"""A failure that lasts is said once, and again only where its cause has changed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from agent_events.brokers import inlet_of
from agent_events.conf import Settings
from agent_events.outage import MOST_CAUSES, Outage
from agent_events.sources.broker import BrokerSource
from agent_events.tasks import end
from project.redis_server import RedisServer
from tests.support.waiting import until


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "agent_events")
    return caplog


def outage() -> Outage:
    return Outage("The thing failed (%s); trying until it is back.", "It is back after %.1f s.")


def test_a_failure_is_said_once_and_that_it_is_over_and_then_anew(
    said: pytest.LogCaptureFixture,
) -> None:
    one = outage()
    one.over()
    for _ in range(2):
        assert not one.lasts
        for _ in range(1_000):
            one.failed(OSError("refused"))
        assert one.lasts
        one.over()
    began = "The thing failed (refused); trying until it is back."
    assert said.messages == [began, "It is back after 0.0 s."] * 2


def test_another_cause_is_said_once_too_and_not_where_only_a_number_differs(
    said: pytest.LogCaptureFixture,
) -> None:
    one = outage()
    for number in range(100):
        one.failed(OSError("closed by server"))
        one.failed(TimeoutError(f"no answer within {number / 7:g} s, in <x at {id(one):#x}>"))
        one.failed(OSError("invalid password"))
    assert said.messages[0] == "The thing failed (closed by server); trying until it is back."
    assert said.messages[1].startswith("The thing fails for another reason now (no answer within ")
    assert said.messages[2:] == ["The thing fails for another reason now (invalid password)."]


def test_words_that_differ_each_time_do_not_fill_the_log(said: pytest.LogCaptureFixture) -> None:
    one = outage()
    for letter in "abcdefghijklmnopqrstuvwxyz":
        one.failed(OSError(letter))
    assert len(said.messages) == MOST_CAUSES
    one.over()
    one.failed(OSError("z"))
    assert said.messages[-1].startswith("The thing failed (z)")


async def test_a_broker_that_comes_back_with_another_password_is_said_to_refuse(
    said: pytest.LogCaptureFixture,
) -> None:
    with RedisServer(password="one") as server:
        settings = replace(Settings(), broker_url=server.url, broker_timeout_s=1.0)
        source = BrokerSource(inlet_of(settings), settings, lambda: None)

        async def read() -> None:
            async for _ in source.windows():
                pass

        reading = asyncio.create_task(read())
        try:
            await until(lambda: source.state.connected)
            server.kill()
            await until(lambda: "The broker failed" in said.text)
            server.password = "another"
            server.start()
            await until(lambda: "invalid username-password pair" in said.text)
        finally:
            await end([reading])
    assert said.text.count("The broker failed (") == 1
    assert said.text.count("invalid username-password pair") == 1
