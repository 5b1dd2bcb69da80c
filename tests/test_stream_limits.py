"""What one client may cost: streams, frames, connections that say nothing. Each limit is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from agent_events import consumers
from tests.support import Server, make_tenant
from tests.support.asgi import Client
from tests.support.keys import make_key
from tests.support.streams import Socket, event_stream, websocket
from tests.support.tokens import token_settings
from tests.support.waiting import LATE_S


async def refused(socket: Socket) -> tuple[str, str, int | None]:
    """How a stream was refused: the word, the message, the close code."""
    frame = await socket.until("error")
    with pytest.raises(ConnectionClosed):
        await socket.frame()
    return frame["code"], frame["message"], socket.connection.close_code


async def test_a_principal_has_so_many_streams_and_room_again_once_one_has_gone(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    key, other = make_key(dsn, tenant), make_key(dsn, tenant)
    running = server(env=token_settings(STREAMS_PER_PRINCIPAL=2))
    with ExitStack() as stack:
        streams = [
            stack.enter_context(event_stream(running, {}, token=key)).messages() for _ in range(2)
        ]
        assert [next(stream)[0] for stream in streams] == ["hello", "hello"]
        async with websocket(running, {}, token=key) as socket:
            code, message, close = await refused(socket)
            assert (code, close) == ("too_many", 4429)
            assert "STREAMS_PER_PRINCIPAL" in message
        answer = httpx.get(
            f"{running.url}/api/agents/stream", headers={"Authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "STREAMS_PER_PRINCIPAL" in answer.json()["detail"]
        async with websocket(running, {}, token=other) as socket:
            assert (await socket.frame())["type"] == "hello"
    async with asyncio.timeout(LATE_S):
        while True:  # those that left are noticed when the server sees the end of them
            async with websocket(running, {}, token=key) as socket:
                if (await socket.frame())["type"] == "hello":
                    return


async def test_a_frame_over_the_limit_ends_the_stream(
    dsn: str, server: Callable[..., Server]
) -> None:
    key = make_key(dsn, make_tenant(dsn, "Harbour"))
    running = server(env=token_settings(FRAME_BYTES=1_000, AUTH_TIMEOUT_S=20.0))
    fits = json.dumps({"type": "filter", "agents": [], "types": ["é" * 90]}, ensure_ascii=False)
    for frame in ("x" * 1_001, "é" * 501, b"x" * 1_001):
        async with websocket(running, {}, token=key) as socket:
            await socket.until("live")
            await socket.connection.send(fits)
            await socket.connection.send(frame)
            code, message, close = await refused(socket)
            assert (code, close) == ("too_large", 4413)
            assert "FRAME_BYTES" in message
    async with websocket(running, {}) as socket:  # also of somebody who has not said who he is
        await socket.connection.send("x" * 1_001)
        assert (await refused(socket))[2] == 4413


async def test_frames_before_a_stream_begins_are_bounded(
    dsn: str, server: Callable[..., Server]
) -> None:
    key = make_key(dsn, make_tenant(dsn, "Harbour"))
    running = server(env=token_settings())
    async with websocket(running, {}, token=key) as socket:
        with suppress(ConnectionClosed):  # where it has refused already
            for _ in range(100 * consumers.MOST_EARLY):
                await socket.connection.send('{"type":"filter","agents":[],"types":[]}')
        frame = await socket.frame()
        # As quick as the server is: it has begun, or has refused.
        assert frame["type"] == "hello" or frame["code"] == "too_many"


async def test_connections_that_say_nothing_are_bounded_and_the_newest_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.AGENT_EVENTS = {"AUTH_TIMEOUT_S": 60.0}
    monkeypatch.setattr(consumers, "MOST_WAITING", 2)
    scope = {"type": "websocket", "path": "/ws/agents/stream", "query_string": b"", "headers": []}
    clients = [Client() for _ in range(3)]
    serving = []
    for client in clients:
        client.say(type="websocket.connect")
        serve = consumers.StreamConsumer.as_asgi()
        serving.append(asyncio.ensure_future(serve(scope, client.receive, client.send)))
        await client.has_got(1)
    await clients[2].has_got(3)
    assert json.loads(clients[2].sent[1]["text"])["code"] == "too_many"
    assert clients[2].sent[2] == {"type": "websocket.close", "code": 4429}
    assert [len(client.sent) for client in clients[:2]] == [1, 1]
    assert consumers.StreamConsumer.waiting == 2
    for client in clients:
        client.say(type="websocket.disconnect")
    await asyncio.gather(*serving)
    assert consumers.StreamConsumer.waiting == 0
