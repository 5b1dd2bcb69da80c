"""`subscribe` and its sync twin: each event once and in order, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.exceptions import SynchronousOnlyOperation

from agent_events import subscribe, subscribe_sync
from agent_events.bus import current_bus
from agent_events.errors import InvalidCursor, InvalidFilter, InvalidQuery
from agent_events.position import Cursor, Position
from agent_events.subscription import Subscription
from agent_events.tasks import end
from agent_events.wire import Event
from project.embedded import EmbeddedPostgres
from tests.conftest import Connect
from tests.support import wait_until
from tests.support.database import ROOT
from tests.support.django_log import django_on
from tests.support.streams import insert
from tests.test_docs import README, TENANT, blocks_of

HARBOUR, MEADOW = (str(uuid.UUID(int=n)) for n in (1, 2))
AGENT = str(uuid.UUID(int=3))

Connection = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def log_here(dsn: str) -> Iterator[None]:
    """The log of this process is the test's."""
    with django_on(dsn):
        yield


@pytest.fixture
def producer(connect: Connect) -> Connection:
    """Writes, and looks into the server."""
    return connect()


def connections_of(producer: Connection) -> int:
    """How many connections to the test's database there are besides this one."""
    row = producer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def listening(producer: Connection) -> int:
    row = producer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'agent_events bus'"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def nothing_is_left(producer: Connection) -> None:
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > 1 or connections_of(producer):
            await asyncio.sleep(0.01)


async def take(events: AsyncIterator[Event], count: int) -> list[int]:
    """The ids of the next events."""
    async with asyncio.timeout(20):
        return [(await anext(events)).id for _ in range(count)]


# What comes


async def test_events_come_as_they_are_inserted_and_bear_all_there_is(producer: Connection) -> None:
    async with subscribe(HARBOUR) as events:
        insert(producer, MEADOW)
        made = insert(producer, HARBOUR, agent=AGENT, kind="turn_complete", payload='{"n": 1.50}')
        event = await anext(events)
        assert (event.id, event.tenant_id, event.agent_id) == (made, HARBOUR, AGENT)
        assert (event.type, event.payload) == ("turn_complete", {"n": 1.5})
        assert event.payload_text == '{"n": 1.50}'
        assert event.created_at.endswith("Z")
        later = [insert(producer, HARBOUR) for _ in range(3)]
        assert await take(events, 1) == later[:1]
    await nothing_is_left(producer)
    async with subscribe([HARBOUR], cursor=event.cursor) as events:
        assert await take(events, 3) == later
    async with subscribe(uuid.UUID(HARBOUR), cursor=event.cursor) as events:
        await take(events, 2)
        kept = events.cursor
    async with subscribe(HARBOUR, cursor=kept) as events:
        assert await take(events, 1) == later[2:]


async def test_of_one_tenant_of_several_or_of_all_with_filters(producer: Connection) -> None:
    third = str(uuid.uuid4())
    made = [insert(producer, tenant) for tenant in (HARBOUR, MEADOW, third)]
    tool = insert(producer, MEADOW, agent=AGENT, kind="tool.started")
    async with subscribe([MEADOW, HARBOUR], cursor="earliest") as events:
        assert await take(events, 3) == [made[0], made[1], tool]
    async with subscribe("all", cursor="earliest") as events:
        assert await take(events, 4) == [*made, tool]
    async with subscribe("all", types="tool.*", agents=[AGENT], cursor="earliest") as events:
        assert await take(events, 1) == [tool]
        insert(producer, MEADOW, agent=AGENT)
        again = insert(producer, MEADOW, agent=AGENT, kind="tool.failed")
        assert await take(events, 1) == [again]


async def test_from_the_log_into_the_live_stream_each_comes_once(
    producer: Connection, connect: Connect
) -> None:
    with producer.transaction():
        made = [insert(producer, HARBOUR) for _ in range(1_200)]
    other = connect(autocommit=False)
    late = insert(other, HARBOUR)  # an id before those that are seen before it
    async with subscribe(HARBOUR, cursor="earliest") as events:
        seen = await take(events, 700)
        made += [insert(producer, HARBOUR) for _ in range(50)]
        seen += await take(events, 550)
        other.commit()
        made.append(late)
        seen += await take(events, 1)
        made += [insert(producer, HARBOUR) for _ in range(50)]
        seen += await take(events, 50)
    assert seen == made


@pytest.mark.parametrize("begin", [subscribe, subscribe_sync])
def test_what_cannot_be_asked_for_is_refused_at_once(begin: Callable[..., Any]) -> None:
    for tenants in (None, [], "", "everybody", [HARBOUR, "no"]):
        with pytest.raises(InvalidQuery, match="expected the id of a tenant"):
            begin(tenants)
    with pytest.raises(InvalidCursor):
        begin(HARBOUR, cursor="yesterday")
    with pytest.raises(InvalidFilter):
        begin(HARBOUR, types=["\x00"])


# How it ends


async def test_a_loop_that_is_left_leaves_nothing_behind(producer: Connection) -> None:
    made = [insert(producer, HARBOUR) for _ in range(3)]
    async for event in subscribe(HARBOUR, cursor="earliest"):
        assert event.id == made[0]
        break
    await nothing_is_left(producer)
    with pytest.raises(ZeroDivisionError):
        async for _event in subscribe(HARBOUR, cursor="earliest"):
            raise ZeroDivisionError
    await nothing_is_left(producer)
    events = subscribe(HARBOUR, cursor="earliest")
    assert await take(events, 1) == made[:1]
    await events.aclose()
    assert connections_of(producer) == 0 or await nothing_is_left(producer) is None
    assert [event async for event in events] == []
    await events.aclose()
    never_begun = subscribe(HARBOUR)
    await never_begun.aclose()


async def test_a_task_that_is_cancelled_leaves_nothing_behind(producer: Connection) -> None:
    begun = asyncio.Event()

    async def watch() -> None:
        async for _ in subscribe(HARBOUR, cursor="earliest"):
            begun.set()

    insert(producer, HARBOUR)
    task = asyncio.create_task(watch())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await nothing_is_left(producer)


async def test_a_wait_that_is_given_up_loses_nothing(producer: Connection) -> None:
    async with subscribe(HARBOUR) as events:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.02)
            made = insert(producer, HARBOUR)
            assert await take(events, 1) == [made]


async def test_it_is_closed_from_another_task(producer: Connection) -> None:
    events = subscribe(HARBOUR)
    waiting = asyncio.create_task(take(events, 1))
    async with asyncio.timeout(10):
        while not connections_of(producer):
            await asyncio.sleep(0.01)
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
    await nothing_is_left(producer)


async def test_subscriptions_of_a_loop_share_one_listening_connection(
    producer: Connection,
) -> None:
    async with subscribe(HARBOUR) as one, subscribe("all") as other:
        made = insert(producer, HARBOUR)
        assert await take(one, 1) == await take(other, 1) == [made]
        assert listening(producer) == 1
        await one.aclose()
        made = insert(producer, HARBOUR)
        assert await take(other, 1) == [made]
    await nothing_is_left(producer)


async def test_where_the_process_serves_streams_their_source_is_used(producer: Connection) -> None:
    bus = current_bus()
    await bus.start()
    try:
        async with subscribe(HARBOUR) as events:
            made = insert(producer, HARBOUR)
            assert await take(events, 1) == [made]
            assert listening(producer) == 1
        assert listening(producer) == 1  # it is the process's to end
    finally:
        await end(bus._tasks)
        await bus.stop()


def test_each_event_loop_has_its_own_and_ends_it(
    producer: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    # A pool whose loop ends while it connects says so; pytest would keep the record, and with its
    # traceback the half-made connection.
    caplog.set_level(logging.ERROR, "psycopg.pool")
    made = [insert(producer, HARBOUR) for _ in range(3)]
    found: list[list[int]] = []
    kept: list[Subscription] = []

    async def main() -> None:
        events = subscribe(HARBOUR, cursor="earliest")
        kept.append(events)  # neither closed nor forgotten when its loop ends
        found.append(await take(events, 3))

    def run_twice() -> None:
        for _ in range(2):
            asyncio.run(main())

    threads = [threading.Thread(target=run_twice) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [made] * 4
    wait_until(lambda: connections_of(producer) == 0, what="all connections to be closed")


# What goes wrong


async def test_lost_connections_cost_no_event_and_repeat_none(producer: Connection) -> None:
    made: list[int] = []
    seen: list[int] = []
    async with subscribe(HARBOUR) as events:
        for _ in range(3):
            producer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            made += [insert(producer, HARBOUR) for _ in range(5)]
            seen += await take(events, 5)
    assert seen == made


async def test_it_waits_for_a_database_that_is_away_at_its_start(
    postgres: EmbeddedPostgres, producer: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    name = producer.info.dbname
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as outside:
        outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        taking = asyncio.create_task(take(subscribe(HARBOUR, cursor="earliest"), 1))
        async with asyncio.timeout(20):
            while "not currently accepting connections" not in caplog.text:
                await asyncio.sleep(0.01)
        outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    made = insert(producer, HARBOUR)
    assert await taking == [made]


async def test_missing_events_are_said(
    producer: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    for _ in range(4):
        made.append(insert(producer, HARBOUR))
        producer.execute("SELECT agent_events_append()")
    async with subscribe(HARBOUR, cursor="earliest") as events:
        old = (await anext(events)).cursor
    producer.execute("UPDATE agent_event_bus SET oldest = 3")
    producer.execute("DELETE FROM agent_events WHERE id <= %s", [made[1]])
    told: list[tuple[str, str]] = []
    async with subscribe(
        HARBOUR, cursor=old, on_notice=lambda kind, cursor: told.append((kind, cursor))
    ) as events:
        assert await take(events, 2) == made[2:]
    ((kind, cursor),) = told
    assert (kind, Cursor.parse(cursor).position) == ("truncated", Position(3))

    lost = str(Cursor(Position(99, 5), 1))
    async with subscribe(HARBOUR, cursor=lost) as events:
        assert await take(events, 2) == made[2:]
    assert "are of another history of the log (reset)" in caplog.text

    def stop(kind: str, cursor: str) -> None:
        raise LookupError(kind)

    with pytest.raises(LookupError, match="reset"):
        async for _ in subscribe(HARBOUR, cursor=lost, on_notice=stop):
            pass
    await nothing_is_left(producer)


def test_a_database_without_the_log_is_an_error(
    postgres: EmbeddedPostgres, producer: Connection
) -> None:
    async def begin() -> None:
        with pytest.raises(psycopg.errors.UndefinedFunction):
            async with subscribe(HARBOUR):
                pass

    with django_on(postgres.dsn("postgres")):
        asyncio.run(begin())
        with pytest.raises(psycopg.errors.UndefinedTable):
            next(subscribe_sync(HARBOUR, cursor="earliest"))
    wait_until(lambda: not threads() and not connections_of(producer), what="its end")


# The sync twin


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "agent_events subscription"]


def test_the_sync_twin_gives_the_same_and_leaves_nothing_behind(producer: Connection) -> None:
    made = [insert(producer, HARBOUR) for _ in range(700)]
    seen = []
    for event in subscribe_sync(HARBOUR, cursor="earliest"):
        seen.append(event.id)
        if len(seen) == 650:
            made.append(insert(producer, HARBOUR))
        if len(seen) == len(made):
            break
    assert seen == made
    wait_until(lambda: not threads() and not connections_of(producer), what="its end")
    with subscribe_sync(HARBOUR) as events:
        made.append(insert(producer, HARBOUR))
        assert next(events).id == made[-1]
        cursor = events.cursor
        made.append(insert(producer, HARBOUR))
    assert not threads()
    assert list(events) == []
    with pytest.raises(ZeroDivisionError):
        for event in subscribe_sync(HARBOUR, cursor=cursor):
            assert event.id == made[-1]
            raise ZeroDivisionError
    wait_until(lambda: not threads() and not connections_of(producer), what="its end")


def test_the_sync_twin_is_closed_from_another_thread(producer: Connection) -> None:
    events = subscribe_sync(HARBOUR)
    closing = threading.Thread(
        target=lambda: (wait_until(lambda: connections_of(producer)), events.close())
    )
    closing.start()
    assert list(events) == []
    closing.join(10)
    assert not threads()


async def test_the_sync_twin_does_not_stop_an_event_loop() -> None:
    with pytest.raises(SynchronousOnlyOperation, match="Use subscribe and async for"):
        next(subscribe_sync(HARBOUR))
    with pytest.raises(SynchronousOnlyOperation), subscribe_sync(HARBOUR):
        pass


SCRIPT = """
import django
django.setup()
from agent_events import subscribe_sync
"""


def script(dsn: str, body: str) -> subprocess.Popen[str]:
    """A program of a user's."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT + body],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": dsn,
            "DJANGO_DEBUG": "1",
            "DJANGO_SETTINGS_MODULE": "project.settings",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_ends_a_script_at_once(dsn: str, producer: Connection) -> None:
    made = insert(producer, HARBOUR)
    with script(
        dsn,
        f"for event in subscribe_sync({HARBOUR!r}, cursor='earliest'):\n"
        "    print(event.id, flush=True)\n",
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == f"{made}\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=10)
    assert running.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in errors
    wait_until(lambda: not connections_of(producer), what="its end")


def test_the_readmes_loop_prints_what_comes(dsn: str, producer: Connection) -> None:
    (block,) = blocks_of(README, "python")
    made = insert(producer, TENANT, kind="turn_complete", payload='{"tokens": 142}')
    insert(producer, TENANT, kind="message")
    with script(dsn, f"print = __import__('functools').partial(print, flush=True)\n{block}") as one:
        assert one.stdout is not None
        assert one.stdout.readline().startswith(f"{made} ")
        later = insert(producer, TENANT, kind="turn_complete")
        assert one.stdout.readline().startswith(f"{later} ")
        one.send_signal(signal.SIGINT)
        one.communicate(timeout=10)


def test_a_script_that_forgets_to_close_ends_all_the_same(dsn: str, producer: Connection) -> None:
    made = insert(producer, HARBOUR)
    with script(
        dsn,
        f"events = subscribe_sync({HARBOUR!r}, cursor='earliest')\nprint(next(events).id)\n",
    ) as running:
        output, errors = running.communicate(timeout=20)
    assert (running.returncode, output, errors) == (0, f"{made}\n", "")
    wait_until(lambda: not connections_of(producer), what="its end")
