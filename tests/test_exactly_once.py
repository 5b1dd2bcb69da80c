"""The whole way, through real server processes: exactly the committed set, in one order."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg.rows import TupleRow
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user
from tests.support.streams import event_stream, insert, websocket

GONE = (ConnectionClosed, InvalidMessage, InvalidStatus, OSError, TimeoutError)


@dataclass
class Producers:
    """Threads that write as applications do: some fail, some are late."""

    dsn: str
    tenant: str
    rounds: int
    committed: set[int] = field(default_factory=set)
    rolled_back: set[int] = field(default_factory=set)

    def start(self, count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        with psycopg.connect(self.dsn) as connection:
            for _ in range(self.rounds):
                ids = {self._insert(connection) for _ in range(dice.randint(1, 4))}
                fate = dice.random()
                if fate < 0.2:
                    with connection.transaction(force_rollback=True):
                        self.rolled_back.add(self._insert(connection))
                if fate < 0.3:
                    # Late: whoever began after it commits before it.
                    connection.execute("SELECT pg_sleep(%s)", [dice.random() * 0.3])
                if fate > 0.85:
                    connection.rollback()
                    self.rolled_back |= ids
                else:
                    connection.commit()
                    self.committed |= ids

    def _insert(self, connection: psycopg.Connection[TupleRow]) -> int:
        return insert(connection, self.tenant, payload=json.dumps({"note": "x" * 50}))


def in_log_order(connection: psycopg.Connection[TupleRow], tenant: str) -> list[int]:
    """The ids of the tenant's events as the ledger orders them."""
    rows = connection.execute(
        "SELECT id FROM agent_events_read(%s, 1, 0, 1000000)", [tenant]
    ).fetchall()
    return [row[0] for row in rows]


async def follow(
    running: Server, cookies: dict[str, str], done: Callable[[list[int]], bool], patience: int
) -> list[int]:
    """The ids that a client gets which reconnects when cut off, or after `patience` frames."""
    seen: list[int] = []
    cursor = "earliest"
    while not done(seen):
        try:
            async with websocket(running, cookies, f"cursor={cursor}") as socket:
                for _ in range(patience):
                    frame = await asyncio.wait_for(socket.frame(), 0.5)
                    # Only now is the frame taken: what is lost with the socket comes again.
                    seen += [event["id"] for event in frame.get("events", [])]
                    cursor = frame["cursor"]
                    if done(seen):
                        break
        except GONE:
            # Back when the server is: the loop's condition ends it.
            await asyncio.sleep(0.05)
    return seen


def follow_by_event_source(
    running: Server, cookies: dict[str, str], done: Callable[[list[int]], bool]
) -> list[int]:
    """The ids that an EventSource gets which is closed after every few events."""
    seen: list[int] = []
    last_id = "earliest"
    while not done(seen):
        with event_stream(running, cookies, last_id=last_id) as stream:
            for name, data in stream.messages():
                if name == "message":
                    seen.append(data["id"])
                if done(seen) or (name == "message" and len(seen) % 7 == 0):
                    break
            last_id = stream.last_id
    return seen


async def test_live_and_reconnecting_subscribers_end_with_the_committed_set_in_one_order(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    killed, steady = server(), server()  # two processes: one sequences, the other follows
    cookies = login(steady, "ann")
    producers = Producers(dsn, tenant, rounds=40)
    threads = producers.start(4)

    def done(seen: list[int]) -> bool:
        return not any(t.is_alive() for t in threads) and len(seen) >= len(producers.committed)

    followers = [
        asyncio.create_task(follow(killed, cookies, done, 1_000_000)),
        asyncio.create_task(follow(killed, cookies, done, 3)),
        asyncio.create_task(follow(steady, cookies, done, 1_000_000)),
        asyncio.create_task(asyncio.to_thread(follow_by_event_source, steady, cookies, done)),
    ]
    await asyncio.to_thread(killed.kill)
    await asyncio.to_thread(killed.start)
    results = await asyncio.wait_for(asyncio.gather(*followers), 90)

    expected = in_log_order(connect(), tenant)
    assert set(expected) == producers.committed
    assert len(expected) == len(producers.committed)
    assert not producers.committed & producers.rolled_back
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
