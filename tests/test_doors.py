"""The two doors, WebSocket and Server-Sent Events, of a real server process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent_events.conf import Settings
from tests.conftest import Connect
from tests.support import Server, cookie_header, login, make_tenant, make_user, wait_until
from tests.support.streams import event_stream, insert, websocket
from tests.support.watch import bus_settings

WHOLE = bus_settings(INLINE_PAYLOAD_BYTES=10_000_000)


async def test_an_insert_arrives_at_a_websocket(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    producer = connect()
    async with websocket(running, login(running, "ann"), f"tenant={tenant}") as socket:
        hello = await socket.frame()
        assert hello["type"] == "hello"
        assert hello["tenants"] == [tenant]
        agent = str(uuid.uuid4())
        made = insert(producer, tenant, agent=agent, kind="turn_complete", payload='{"tokens":142}')
        (event,) = await socket.events(1)
        assert event.pop("createdAt").endswith("Z")
        assert event == {
            "id": made,
            "tenantId": tenant,
            "agentId": agent,
            "type": "turn_complete",
            "payload": {"tokens": 142},
        }


def test_an_insert_arrives_at_a_bare_event_source(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    producer = connect()
    cookies = login(running, "ann")
    with event_stream(running, cookies) as stream:
        assert next(stream.messages())[0] == "hello"
        first = insert(producer, tenant)
        assert [event["id"] for event in stream.events(1)] == [first]
    missed = [insert(producer, tenant) for _ in range(3)]
    with event_stream(running, cookies, last_id=stream.last_id) as stream:
        assert [event["id"] for event in stream.events(3)] == missed


async def test_both_doors_filter_at_the_server(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer, agent = server(), connect(), str(uuid.uuid4())
    cookies = login(running, "ann")
    insert(producer, tenant, kind="tool.started")
    wanted = insert(producer, tenant, agent=agent, kind="tool.failed")
    insert(producer, tenant, agent=agent, kind="message")
    query = f"cursor=earliest&agent={agent[:5]}*&agent=none&type=tool.*"
    async with websocket(running, cookies, query) as socket:
        assert [event["id"] for event in await socket.events(1)] == [wanted]
        later = insert(producer, tenant, agent=agent, kind="tool.finished")
        assert [event["id"] for event in await socket.events(1)] == [later]
    with event_stream(running, cookies, query) as stream:
        assert [event["id"] for event in stream.events(2)] == [wanted, later]


async def test_a_filter_frame_changes_what_is_shown_and_never_the_position(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(), connect()
    async with websocket(running, login(running, "ann"), "type=a") as socket:
        await socket.until("live")
        first = insert(producer, tenant, kind="a")
        assert [event["id"] for event in await socket.events(1)] == [first]
        await socket.connection.send(json.dumps({"type": "filter", "agents": [], "types": ["b"]}))
        # The frame travels while these are written: only what it must show is sure to come.
        insert(producer, tenant, kind="c")
        last = insert(producer, tenant, kind="b")
        assert [event["id"] for event in await socket.events(1)] == [last]


def test_a_stream_says_that_nobody_may_keep_or_delay_it(
    dsn: str, server: Callable[..., Server]
) -> None:
    make_user(dsn, "root", superuser=True)
    running = server()
    headers = {"Cookie": cookie_header(login(running, "root"))}
    with httpx.stream("GET", f"{running.url}/api/agents/stream", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"


async def test_nothing_is_shown_without_signing_in(dsn: str, server: Callable[..., Server]) -> None:
    running = server(env=bus_settings(AUTH_TIMEOUT_S=0.5))
    answer = httpx.get(f"{running.url}/api/agents/stream")
    assert answer.status_code == 401
    async with websocket(running, {}) as socket:
        assert (await socket.frame())["code"] == "signed_out"
        with pytest.raises(ConnectionClosed):
            await socket.frame()
        assert socket.connection.close_code == 4401


async def test_another_tenant_looks_like_none(dsn: str, server: Callable[..., Server]) -> None:
    mine, other = make_tenant(dsn, "Mine"), make_tenant(dsn, "Other")
    make_user(dsn, "ann", tenants=[mine])
    running = server()
    cookies = login(running, "ann")
    answers = [
        httpx.get(
            f"{running.url}/api/agents/stream?tenant={tenant}",
            headers={"Cookie": cookie_header(cookies)},
        )
        for tenant in (other, uuid.uuid4(), "nonsense")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    async with websocket(running, cookies, f"tenant={mine}&tenant={other}") as socket:
        await socket.frame()
        with pytest.raises(ConnectionClosed):
            await socket.frame()
        assert socket.connection.close_code == 4404


def test_a_member_of_several_tenants_is_asked_which(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenants = [make_tenant(dsn, "One"), make_tenant(dsn, "Two")]
    make_user(dsn, "ann", tenants=tenants)
    running = server()
    answer = httpx.get(
        f"{running.url}/api/agents/stream",
        headers={"Cookie": cookie_header(login(running, "ann"))},
    )
    assert answer.status_code == 400
    assert all(tenant in answer.text for tenant in tenants)


async def test_a_websocket_of_another_origin_is_refused(
    dsn: str, server: Callable[..., Server]
) -> None:
    make_user(dsn, "root", superuser=True)
    running = server()
    with pytest.raises(InvalidStatus) as refused:
        async with websocket(running, login(running, "root"), origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_frame_that_is_not_understood_is_answered_in_words(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    make_user(dsn, "root", superuser=True)
    running = server()
    cookies = login(running, "root")
    for text in ("{", "[]", '"ack"', '{"type":"dance"}', '{"type":"ack"}', '{"type":"filter"}'):
        async with websocket(running, cookies) as socket:
            await socket.until("live")
            await socket.connection.send(text)
            assert "ack" in (await socket.until("error"))["message"]
    async with websocket(running, cookies) as socket:
        await socket.until("live")
        made = insert(connect(), str(uuid.uuid4()))
        assert [event["id"] for event in await socket.events(1)] == [made]


async def test_five_megabytes_pass_through_both_doors_where_the_setting_lets_them(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(env=WHOLE), connect()
    cookies = login(running, "ann")
    text = "å" * 2_500_000
    async with websocket(running, cookies) as socket:
        await socket.until("live")
        for payload in (json.dumps(text), "1"):
            insert(producer, tenant, payload=payload)
        events = await socket.events(2)
        assert [event["payload"] for event in events] == [text, 1]
    with event_stream(running, cookies, "cursor=earliest") as stream:
        assert [event["payload"] for event in stream.events(2)] == [text, 1]


def held(database: psycopg.Connection[Any]) -> int:
    """How many connections others have to this database."""
    row = database.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_two_hundred_streams_hold_no_database_connection_each(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(), connect()
    cookies = login(running, "ann")
    threads_before = psutil.Process(running.process.pid).num_threads()
    with ExitStack() as stack:
        streams = [stack.enter_context(event_stream(running, cookies)) for _ in range(200)]
        for stream in streams:
            assert next(stream.messages())[0] == "hello"
        made = insert(producer, tenant)
        for stream in streams:
            assert [event["id"] for event in stream.events(1)] == [made]
        most = 1 + Settings().read_pool_size + 1  # listening, reading, Django's own
        # (One that was closed a moment ago may be on its way out.)
        wait_until(lambda: held(producer) <= most, 30, f"no more than {most} connections")
        assert psutil.Process(running.process.pid).num_threads() <= threads_before + 10


EVENTS, MEGABYTE = 90, 1_000_000


async def test_a_websocket_client_that_stops_reading_costs_little_and_stops_nobody(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(env=WHOLE), connect()
    cookies = login(running, "ann")
    async with websocket(running, cookies) as stuck, websocket(running, cookies) as reading:
        await stuck.until("live")
        await reading.until("live")
        stuck.connection.transport.pause_reading()
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        ids, seen = [], []
        for _ in range(EVENTS):
            ids.append(insert(producer, tenant, payload=json.dumps("x" * MEGABYTE)))
            seen += [event["id"] for event in await reading.events(1)]
        assert seen == ids
        assert process.memory_info().rss - before < EVENTS * MEGABYTE // 3
        stuck.connection.transport.abort()


def test_an_event_source_that_stops_reading_costs_little_and_stops_nobody(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(env=WHOLE), connect()
    cookies = login(running, "ann")
    with event_stream(running, cookies) as stuck:
        next(stuck.messages())
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        payload = json.dumps("x" * MEGABYTE)
        ids = [insert(producer, tenant, payload=payload) for _ in range(EVENTS)]
        seen: list[int] = []
        query, last_id = "cursor=earliest", ""
        while len(seen) < EVENTS:
            with event_stream(running, cookies, query, last_id=last_id) as reading:
                seen += [event["id"] for event in reading.events(EVENTS - len(seen))]
                last_id = reading.last_id
        assert seen == ids
        assert process.memory_info().rss - before < EVENTS * MEGABYTE // 3
