"""A web process whose settings are wrong: an ASGI server runs no system checks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest

from agent_events.seldom import EVERY_S
from tests.support import Server, login, make_tenant, make_user
from tests.support.streams import told_to_come_back
from tests.support.watch import bus_settings

MISSING_LAYER = json.dumps({"default": {"BACKEND": "no_such_library.ChannelLayer"}})


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (bus_settings(BROKER_URL="kafka://x"), "BROKER_URL"),
        (bus_settings(BROKER_URL="nats:/host"), "BROKER_URL"),
        ({**bus_settings(), "TEST_CHANNEL_LAYERS": MISSING_LAYER}, "no_such_library"),
    ],
)
async def test_streams_are_told_to_come_back_and_the_log_says_why_without_a_traceback(
    dsn: str, server: Callable[..., Server], env: dict[str, str], words: str
) -> None:
    make_user(dsn, "ann", tenants=[make_tenant(dsn, "Harbour")])
    running = server(env=env)
    cookies = login(running, "ann")
    began = time.monotonic()
    for _ in range(3):
        await told_to_come_back(running, cookies, "the server is misconfigured")
    log = running.log()
    lines = [line for line in log.splitlines() if "A stream could not begin" in line]
    assert 1 <= len(lines) <= 1 + (time.monotonic() - began) // EVERY_S, log
    assert all(words in line for line in lines)
    assert "Traceback" not in log


def test_readyz_says_so_each_time_and_the_log_once(server: Callable[..., Server]) -> None:
    running = server(env=bus_settings(BROKER_URL="kafka://x"))
    began, probes = time.monotonic(), 0
    # (An answer serves for a second: so long until there is another look.)
    while probes < 2 or time.monotonic() - began < 3:
        answer = httpx.get(f"{running.url}/readyz", timeout=10)
        assert answer.status_code == 503
        assert answer.json()["problems"] == ["misconfigured"]
        probes += 1
        time.sleep(0.2)
    log = running.log()
    assert log.count("BROKER_URL") == 1, log
    assert "Traceback" not in log
