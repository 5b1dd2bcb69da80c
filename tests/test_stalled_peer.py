"""A client that reads nothing, at a server that waits for it: its stream ends all the same.

In-process, with a `send` that never returns: how long a real server's buffers last is the kernel's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agent_events import sse
from agent_events.bus import current_bus
from tests.support.django_log import django_on


@pytest.fixture(autouse=True)
def log_here(dsn: str) -> Iterator[None]:
    """The log of this process is the test's."""
    with django_on(dsn):
        yield


SUPERUSER = {"PRINCIPAL_RESOLVER": "tests.support.resolvers.superuser"}
PATH = "/api/agents/stream"


async def test_a_stream_whose_client_takes_nothing_ends_when_it_is_due(settings: Any) -> None:
    settings.AGENT_EVENTS = {
        **SUPERUSER,
        "SSE_RECYCLE_S": 1.0,
        "ACK_TIMEOUT_S": 0.5,
        "HEARTBEAT_S": 0.2,
    }

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) > 2:  # the head and the greeting were taken
            await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": PATH, "query_string": b"", "headers": []}
    bus = current_bus()
    try:
        async with asyncio.timeout(15):
            await sse.stream(scope, receive, send)
        assert len(sent) == 3, "it was stuck"
        assert bus.feed.watched() == frozenset(), "and has left the feed"
    finally:
        await bus.stop()
