"""While PostgreSQL is away nobody is sent off for good, and the log does not fill up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
from websockets.asyncio.client import connect

from agent_events.seldom import EVERY_S
from project.embedded import EmbeddedPostgres
from tests.support import Server, cookie_header, login, make_tenant, make_user
from tests.support.streams import event_stream, websocket


async def test_whoever_comes_meanwhile_is_told_to_come_back_and_the_log_says_so_once(
    cluster: Callable[..., EmbeddedPostgres], server: Callable[..., Server]
) -> None:
    postgres = cluster()
    dsn = postgres.dsn()
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server(env={"DATABASE_URL": dsn})
    cookies = login(running, "ann")
    async with websocket(running, cookies) as socket:
        await socket.until("live")
    postgres.stop("immediate")

    began = time.monotonic()
    for _ in range(3):
        # EventSource ends for good on any status but 200.
        answer = httpx.get(f"{running.url}/api/agents/stream", cookies=cookies, timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text == ": the database is away\nretry: 2000\n\n"
        async with connect(
            f"{running.ws_url}/ws/agents/stream",
            additional_headers={"Cookie": cookie_header(cookies)},
            origin=running.url,  # type: ignore[arg-type]
        ) as refused:
            assert json.loads(await refused.recv())["message"].startswith("The database is away")
            await refused.wait_closed()
            assert refused.close_code == 4503, running.log()
    log = running.log()
    # Six were refused: it is said once, and again where that took long.
    lines = log.count("A stream could not begin")
    assert 1 <= lines <= 1 + (time.monotonic() - began) // EVERY_S, log
    assert "Traceback" not in log

    postgres.start()
    async with websocket(running, cookies) as socket:
        await socket.until("live")
    with event_stream(running, cookies) as stream:
        assert next(stream.messages())[0] == "hello"
