"""How a stream says who it is, goes on by another token, and what it is told before it ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from tests.conftest import Connect
from tests.support import Server, make_tenant
from tests.support.keys import make_key
from tests.support.streams import Socket, event_stream, insert, websocket
from tests.support.tokens import make_ticket, make_token, token_settings

TOKEN_S = 4.0
EXPIRING_S = 2.5
LOAD = 30  # that some came under each token; how fast is the machine's affair


@contextmanager
def writing(dsn: str, tenant: str) -> Iterator[list[int]]:
    """A producer that writes all the time, a row at a time; the ids, once it has ended."""
    ids: list[int] = []
    enough = threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not enough.wait(0.003):
                ids.append(insert(connection, tenant))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield ids
    finally:
        enough.set()
        thread.join()


async def refused(socket: Socket) -> tuple[str, int | None]:
    """How a stream was refused: the word, and the close code."""
    frame = await socket.until("error")
    with pytest.raises(ConnectionClosed):
        await socket.frame()
    return frame["code"], socket.connection.close_code


async def test_a_websocket_outlives_three_tokens_without_losing_or_repeating_an_event(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    key = make_key(dsn, tenant)
    running = server(env=token_settings(EXPIRING_S=EXPIRING_S))
    seen: list[int] = []
    renewals = 0
    with writing(dsn, tenant) as ids:
        async with (
            asyncio.timeout(60),
            websocket(running, {}, token=make_token(key, tenant, TOKEN_S)) as socket,
        ):
            await socket.until("live")
            ids_before = len(ids)
            while renewals < 3:
                frame = await socket.frame()
                assert frame["type"] != "error", frame
                seen += [event["id"] for event in frame.get("events", [])]
                if frame["type"] == "expiring":
                    assert 0 <= frame["inS"] <= EXPIRING_S + 1
                    assert frame["expiresAt"].endswith("Z")
                    token = make_token(key, tenant, TOKEN_S)
                    await socket.connection.send(json.dumps({"type": "auth", "token": token}))
                renewals += frame["type"] == "renewed"
            assert socket.kinds.count("hello") == 1, "one connection"
            upto = len(ids)
            while len(seen) < upto - ids_before:
                seen += [event["id"] for event in (await socket.frame()).get("events", [])]
    first = ids.index(seen[0])
    assert first <= ids_before
    assert seen == ids[first : first + len(seen)]
    assert len(seen) > LOAD


def test_an_event_source_outlives_three_tokens_without_losing_or_repeating_an_event(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    key = make_key(dsn, tenant)
    running = server(env=token_settings(EXPIRING_S=EXPIRING_S))
    seen: list[int] = []
    last_id, ends = "", []
    with writing(dsn, tenant) as ids:
        for _ in range(3):
            token = make_token(key, tenant, TOKEN_S)
            kinds = []
            with event_stream(running, {}, token=token, last_id=last_id) as stream:
                for name, data in stream.messages():
                    kinds.append(name)
                    if name == "message":
                        seen.append(data["id"])
                    if name == "stopped":
                        ends.append(data["reason"])
                        assert data["cursor"] == stream.last_id
            assert kinds.index("expiring") < kinds.index("stopped")
            last_id = stream.last_id
    assert ends == ["expired"] * 3
    first = ids.index(seen[0])
    assert seen == ids[first : first + len(seen)]
    assert len(seen) > LOAD


async def test_a_first_frame_says_who_a_websocket_is(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant, db = make_tenant(dsn, "Harbour"), connect()
    key = make_key(dsn, tenant)
    running = server(env=token_settings(AUTH_TIMEOUT_S=3.0))
    for secret in (key, make_token(key, tenant, 60)):
        async with websocket(running, {}) as socket:
            await socket.connection.send(json.dumps({"type": "auth", "token": secret}))
            # What is sent before the stream has begun is done once it has.
            await socket.connection.send('{"type":"filter","agents":[],"types":["b"]}')
            await socket.until("live")
            insert(db, tenant, kind="a")
            wanted = insert(db, tenant, kind="b")
            assert [event["id"] for event in await socket.events(1)] == [wanted]
    for first in ('{"type":"ack","cursor":"x"}', '{"type":"auth","token":"ae_nonsense"}'):
        async with websocket(running, {}) as socket:
            await socket.connection.send(first)
            assert await refused(socket) == ("signed_out", 4401)
    async with websocket(running, {}) as socket:
        assert await refused(socket) == ("signed_out", 4401), "it said nothing"


@asynccontextmanager
async def offering(server: Server, *protocols: Any) -> AsyncIterator[Socket]:
    """A WebSocket that offers these subprotocols."""
    async with connect_websocket(
        f"{server.ws_url}/ws/agents/stream", subprotocols=protocols
    ) as connection:
        yield Socket(connection)


async def test_a_subprotocol_says_who_a_websocket_is_and_never_comes_back(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    key = make_key(dsn, tenant)
    running = server(env=token_settings())
    for secret in (key, make_token(key, tenant, 60)):
        async with offering(running, "agent-events", f"bearer.{secret}") as socket:
            assert (await socket.frame())["tenants"] == [tenant]
            assert socket.connection.subprotocol == "agent-events"
            assert secret not in str(socket.connection.response)
    async with offering(running, f"bearer.{key}") as socket:
        assert (await socket.frame())["type"] == "hello"
        assert socket.connection.subprotocol is None
    assert key not in running.log()


async def test_a_renewal_must_cover_what_the_stream_shows(
    dsn: str, server: Callable[..., Server]
) -> None:
    harbour, meadow = make_tenant(dsn, "Harbour"), make_tenant(dsn, "Meadow")
    ours, theirs = make_key(dsn, harbour), make_key(dsn, meadow)
    running = server(env=token_settings())
    cases = [
        (theirs, ("not_found", 4404)),
        (make_token(ours, harbour, 60, types=("tool.*",)), ("right_lacking", 4403)),
        (make_key(dsn, harbour, subscribe=False), ("right_lacking", 4403)),
        ("ae_nonsense", ("signed_out", 4401)),
    ]
    for secret, expected in cases:
        async with websocket(running, {}, "type=message", token=ours) as socket:
            await socket.until("live")
            await socket.connection.send(json.dumps({"type": "auth", "token": secret}))
            assert await refused(socket) == expected
    async with websocket(running, {}, "type=tool.started", token=ours) as socket:
        await socket.until("live")
        token = make_token(ours, harbour, 60, types=("tool.*",))
        await socket.connection.send(json.dumps({"type": "auth", "token": token}))
        assert (await socket.until("renewed"))["expiresAt"].endswith("Z")
        # From here on, no more than that can be asked for.
        await socket.connection.send('{"type":"filter","agents":[],"types":["message"]}')
        assert await refused(socket) == ("right_lacking", 4403)


async def test_a_token_of_some_types_shows_no_others_whatever_is_asked_for(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant, db = make_tenant(dsn, "Harbour"), connect()
    token = make_token(make_key(dsn, tenant), tenant, 60, types=("tool.*",))
    running = server(env=token_settings())
    async with websocket(running, {}, token=token) as socket:
        await socket.until("live")
        insert(db, tenant, kind="message")
        wanted = insert(db, tenant, kind="tool.started")
        assert [event["id"] for event in await socket.events(1)] == [wanted]
        await socket.connection.send('{"type":"filter","agents":[],"types":[]}')
        insert(db, tenant, kind="message")
        wanted = insert(db, tenant, kind="tool.failed")
        assert [event["id"] for event in await socket.events(1)] == [wanted]


def test_a_ticket_opens_one_stream_and_a_script_that_comes_again_is_told_why(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant, db = make_tenant(dsn, "Harbour"), connect()
    key = make_key(dsn, tenant)
    running = server(env=token_settings(REVOKE_WITHIN_S=0.5))
    ticket = make_ticket(key, tenant)
    with event_stream(running, {}, f"ticket={ticket}") as stream:
        assert next(stream.messages())[0] == "hello"
        begun = time.monotonic()
        made = []
        while time.monotonic() - begun < 1:  # it was looked at again, and goes on
            made.append(insert(db, tenant))
            assert [event["id"] for event in stream.events(1)] == made[-1:]
    address = f"{running.url}/api/agents/stream?ticket={ticket}"
    again = httpx.get(address)
    assert again.status_code == 401
    assert again.headers["content-type"] == "application/problem+json"
    assert "used" in again.json()["detail"]
    back = {"Accept": "text/event-stream", "Last-Event-ID": stream.last_id}
    assert httpx.get(address, headers=back).status_code == 204
