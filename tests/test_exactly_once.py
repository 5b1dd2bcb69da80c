"""The whole way, through real server processes: exactly the committed set, in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user
from tests.support.load import Follower, Load, in_log_order
from tests.support.streams import insert, websocket


async def test_live_and_reconnecting_subscribers_end_with_the_committed_set_in_one_order(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    killed, steady = server(), server()  # two processes: one sequences, the other follows
    cookies = login(steady, "ann")
    load = Load(dsn, tenant, writers=4, pause_s=0, rounds=40)

    def done(seen: list[int]) -> bool:
        return load.over and len(seen) >= len(load.committed)

    with load.running():
        followers = [
            asyncio.create_task(Follower(killed, cookies).follow(done)),
            asyncio.create_task(Follower(killed, cookies, patience=3).follow(done)),
            asyncio.create_task(Follower(steady, cookies).follow(done)),
            asyncio.create_task(
                asyncio.to_thread(
                    Follower(steady, cookies, patience=7).follow_by_event_source, done
                )
            ),
        ]
        await asyncio.to_thread(killed.kill)
        await asyncio.to_thread(killed.start)
        results = await asyncio.wait_for(asyncio.gather(*followers), 90)

    expected = in_log_order(connect(), tenant)
    assert set(expected) == set(load.committed)
    assert len(expected) == len(load.committed)
    assert not load.committed.keys() & load.rolled_back
    for seen in results:
        assert seen == expected


async def test_a_long_open_transaction_delays_nobody_elses_events(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    slow, quick = connect(autocommit=False), connect()
    async with websocket(running, login(running, "ann")) as socket:
        await socket.until("live")
        early = insert(slow, tenant)
        later = [insert(quick, tenant) for _ in range(20)]
        assert [event["id"] for event in await socket.events(20)] == later
        slow.commit()
        assert [event["id"] for event in await socket.events(1)] == [early]
    assert in_log_order(quick, tenant) == [*later, early]


async def test_after_a_restart_of_everything_nothing_is_missing_and_nothing_comes_twice(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running, producer = server(), connect()
    cookies = login(running, "ann")
    async with websocket(running, cookies) as socket:
        await socket.until("live")
        before = [insert(producer, tenant) for _ in range(5)]
        assert [event["id"] for event in await socket.events(5)] == before
        cursor = socket.cursor
    running.kill()
    away = [insert(producer, tenant) for _ in range(5)]
    running.start()
    async with websocket(running, cookies, f"cursor={cursor}") as socket:
        assert [event["id"] for event in await socket.events(5)] == away
        made = insert(producer, tenant)
        assert [event["id"] for event in await socket.events(1)] == [made]
    assert in_log_order(producer, tenant) == [*before, *away, made]
