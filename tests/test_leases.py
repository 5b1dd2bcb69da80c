"""Whose shards are whose: workers that can publish share them all, whoever else is there."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

from agent_events.conf import Settings
from agent_events.database import PUBLISHER_APPLICATION
from agent_events.leases import Leases
from agent_events.tasks import end


def of(shards: int, url: str = "nats://one:4222", **more: Any) -> Settings:
    """Settings of a broker, which nobody here connects to."""
    return Settings(broker_url=url, broker_shards=shards, **more)


@asynccontextmanager
async def keeping(leases: Leases) -> AsyncIterator[Leases]:
    task = asyncio.create_task(leases.keep())
    try:
        yield leases
    finally:
        await end([task])


async def until(true: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(15):
        while not true():
            await asyncio.sleep(0.02)
    assert true(), what


def sessions(dsn: str) -> int:
    """How many hold leases, or would."""
    with psycopg.connect(dsn) as db:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        row = db.execute(query, [PUBLISHER_APPLICATION]).fetchone()
    assert row is not None
    return int(row[0])


async def test_workers_share_all_shards_and_give_and_take_as_they_come_and_go(dsn: str) -> None:
    able = {"b": True}
    settings = of(4)
    one = Leases(dsn, settings, lambda: True)
    other = Leases(dsn, settings, lambda: able["b"])
    everything = frozenset(range(4))
    async with keeping(one):
        await until(lambda: one.held == everything, "one alone holds all")
        async with keeping(other):
            await until(lambda: len(one.held) == len(other.held) == 2, "each holds its share")
            await until(lambda: one.held | other.held == everything, "together they hold all")
            able["b"] = False  # its broker is away, say; its session stays
            await until(lambda: one.held == everything, "nobody's shards are left lying")
            assert not other.held
            able["b"] = True
            await until(lambda: len(other.held) == 2, "it takes its share again")
        await until(lambda: one.held == everything, "the other one has gone")


async def test_whoever_publishes_other_shards_does_not_count(dsn: str) -> None:
    mine = Leases(dsn, of(2), lambda: True)
    others = Leases(dsn, of(3), lambda: True)
    async with keeping(others), keeping(mine):
        await until(lambda: len(mine.held) == 2, "both are held")
        await until(lambda: len(others.held) == 3, "and all three")


async def test_a_lease_ends_with_its_session_and_is_taken_again(dsn: str) -> None:
    leases = Leases(dsn, of(1), lambda: True)
    async with keeping(leases), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db:
        await until(lambda: bool(leases.held), "it is held")
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [PUBLISHER_APPLICATION],
        )
        await until(lambda: not leases.held, "it is lost")
        await until(lambda: bool(leases.held), "it is held again")


async def test_while_workers_move_to_another_broker_both_publish(dsn: str) -> None:
    here = Leases(dsn, of(1, "nats://ann:old@one:4222"), lambda: True)
    others = [
        Leases(dsn, settings, lambda: True)
        for settings in (
            of(1, "nats://one:4222", broker_name="another"),
            of(1, "rediss://one:6379"),
            Settings(),  # a shared channel layer
            Settings(channel_layer="o'clock"),
        )
    ]
    # As another machine knows the same one.
    stands_by = Leases(dsn, of(1, "tls://ann:new@two:4222"), lambda: True)
    async with AsyncExitStack() as stack:
        for one in (here, *others):
            await stack.enter_async_context(keeping(one))
            await until(lambda one=one: bool(one.held), "it publishes")  # type: ignore[misc]
        await stack.enter_async_context(keeping(stands_by))
        await until(lambda: sessions(dsn) == 6, "the last one is there, too")
        assert not stands_by.held
        assert all(one.held for one in (here, *others))


async def test_a_worker_that_gets_no_connection_for_leases_says_so_once(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent_events")
    role = f"narrow_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 0".encode())
        db.execute(f"GRANT USAGE ON SCHEMA public TO {role}".encode())
        db.execute(f"GRANT SELECT ON agent_events TO {role}".encode())
        info = psycopg.conninfo.make_conninfo(dsn, user=role, password="x")
        leases = Leases(info, of(1), lambda: True)
        try:
            async with keeping(leases):
                await until(lambda: "leases failed" in caplog.text, "it is said")
                assert "too many connections" in caplog.text
                db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 5".encode())
                await until(lambda: bool(leases.held), "it is held")
                await until(lambda: "is back after" in caplog.text, "it is said")
        finally:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    assert caplog.text.count("leases failed") == 1
