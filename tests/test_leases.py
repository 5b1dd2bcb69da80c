"""Whose shards are whose: workers that can publish share them all, whoever else is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from agent_events.conf import Settings
from agent_events.leases import PUBLISHER_APPLICATION, Leases
from agent_events.tasks import end


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


async def test_workers_share_all_shards_and_give_and_take_as_they_come_and_go(dsn: str) -> None:
    able = {"b": True}
    one = Leases(dsn, Settings(), 4, lambda: True)
    other = Leases(dsn, Settings(), 4, lambda: able["b"])
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
    mine = Leases(dsn, Settings(), 2, lambda: True)
    others = Leases(dsn, Settings(), 3, lambda: True)
    async with keeping(others), keeping(mine):
        await until(lambda: len(mine.held) == 2, "both are held")
        await until(lambda: len(others.held) == 3, "and all three")


async def test_a_lease_ends_with_its_session_and_is_taken_again(dsn: str) -> None:
    leases = Leases(dsn, Settings(), 1, lambda: True)
    async with keeping(leases), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db:
        await until(lambda: bool(leases.held), "it is held")
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [PUBLISHER_APPLICATION],
        )
        await until(lambda: not leases.held, "it is lost")
        await until(lambda: bool(leases.held), "it is held again")
