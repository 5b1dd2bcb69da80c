"""While PostgreSQL is away nobody is sent off for good, and the log does not fill up."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent_events.seldom import EVERY_S
from project.embedded import EmbeddedPostgres
from tests.support import Server, login, make_tenant, make_user
from tests.support.streams import event_stream, told_to_come_back, websocket


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
        await told_to_come_back(running, cookies, "the database is away")
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
