"""One suite for every way from the log to web processes: PostgreSQL itself, NATS, Redis, a layer.

Each test ends in exactly the committed set, in the ledger's order (`watched` sees to that), for
subscribers that stay and for such that come and go, over WebSocket and Server-Sent Events.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_events.database import BUS_APPLICATION, PUBLISHER_APPLICATION
from agent_events.tasks import end
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.deployment import BROKERS, KINDS, deployment
from tests.support.load import Load, in_log_order
from tests.support.streams import Socket, in_the_log, insert, websocket
from tests.support.waiting import until
from tests.support.watch import StartServer, watched

SHARED = tuple(kind for kind in KINDS if kind != "postgres")


@pytest.mark.parametrize("kind", KINDS)
async def test_all_that_is_committed_comes_once_and_in_order(
    dsn: str, server: StartServer, tmp_path: Path, kind: str
) -> None:
    with deployment(kind, dsn, tmp_path) as deployed:
        async with watched(dsn, server, env=deployed.env) as watch:
            await asyncio.to_thread(watch.load.wait_for_commits, 200)


@pytest.mark.parametrize("kind", BROKERS)
async def test_several_workers_share_the_shards_and_the_order_stays_one(
    dsn: str, server: StartServer, tmp_path: Path, kind: str
) -> None:
    with deployment(kind, dsn, tmp_path, workers=2, BROKER_SHARDS=4) as deployed:
        publishers = wait_until(
            lambda: _if_all(deployed.publisher(shard) for shard in range(4)), 20, "all shards held"
        )
        await asyncio.to_thread(
            wait_until,
            lambda: len({deployed.publisher(shard) for shard in range(4)}) == 2,
            20,
            f"two workers to share the shards, first held by {publishers}",
        )
        tenants = [make_tenant(dsn, f"Tenant {n}") for n in range(12)]
        make_user(dsn, "bob", tenants=tenants)
        web = server(env=deployed.env)
        loads = [Load(dsn, tenant, writers=1) for tenant in tenants]
        query = "&".join(f"tenant={tenant}" for tenant in tenants)
        async with websocket(web, login(web, "bob"), query) as socket:
            await socket.until("live")
            seen: list[int] = []
            # (What is beyond the window of a client that does not read comes from the log.)
            reading = asyncio.create_task(read(socket, seen))
            with ExitStack() as stack:
                for load in loads:
                    stack.enter_context(load.running())
                for load in loads:
                    await asyncio.to_thread(load.wait_for_commits, 40)
            with psycopg.connect(dsn, autocommit=True) as db:
                await asyncio.to_thread(in_the_log, db)
                expected = in_log_order(db, *tenants)
            await until(lambda: reading.done() or len(seen) >= len(expected), 60)
            await end([reading])
        assert seen == expected
        assert set(expected) == set().union(*(load.committed for load in loads))
        assert socket.kinds.count("catching_up") <= 1, "live from the broker, not from the log"


async def read(socket: Socket, seen: list[int]) -> None:
    """All that comes, until it is cancelled."""
    while True:
        seen += [event["id"] for event in await socket.events(1)]


def _if_all(found: Any) -> list[int] | None:
    listed = list(found)
    return listed if all(listed) else None


@pytest.mark.parametrize("kind", KINDS)
async def test_batches_of_any_size_come_whole(
    dsn: str, server: StartServer, tmp_path: Path, connect: Connect, kind: str
) -> None:
    tenant, other = make_tenant(dsn, "Meadow"), make_tenant(dsn, "Other")
    make_user(dsn, "bob", tenants=[tenant])
    with deployment(kind, dsn, tmp_path) as deployed:
        web = server(env=deployed.env)
        database = connect()
        async with websocket(web, login(web, "bob"), f"tenant={tenant}") as socket:
            await socket.until("live")
            for rows, letters in ((1, 300_000), (3_000, 10), (40, 60_000), (1, 1), (12_000, 1)):
                database.execute(
                    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                    " SELECT CASE mod(n, 3) WHEN 2 THEN %s::uuid ELSE %s::uuid END, %s, 'message',"
                    "        jsonb_build_object('note', repeat('\u00e9', %s))"
                    "   FROM generate_series(1, %s) AS n",
                    [other, tenant, uuid.uuid4(), letters, rows],
                )
            (count,) = database.execute(
                "SELECT count(*) FROM agent_events WHERE tenant_id = %s", [tenant]
            ).fetchone() or (0,)
            seen = await asyncio.wait_for(socket.events(count), 60)
        assert [event["id"] for event in seen] == in_log_order(database, tenant)


@pytest.mark.parametrize("kind", SHARED)
async def test_a_web_process_holds_no_listening_connection(
    dsn: str, server: StartServer, tmp_path: Path, connect: Connect, kind: str
) -> None:
    tenant = make_tenant(dsn, "Meadow")
    make_user(dsn, "bob", tenants=[tenant])
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with deployment(kind, dsn, tmp_path, workers=2) as deployed:
        webs = [server(env=deployed.env) for _ in range(2)]
        database = connect()
        for web in webs:
            async with websocket(web, login(web, "bob"), f"tenant={tenant}") as socket:
                await socket.until("live")
                made = insert(database, tenant)
                (event,) = await asyncio.wait_for(socket.events(1), 20)
                assert event["id"] == made
        # (The second worker may be the last of all to have come up.)
        for name in (PUBLISHER_APPLICATION, BUS_APPLICATION):
            wait_until(
                lambda name=name: database.execute(sessions, [name]).fetchone() == (2,),  # type: ignore[misc]
                30,
                f"two sessions of {name}",
            )


@pytest.mark.parametrize("kind", SHARED)
async def test_without_a_worker_events_come_from_the_log_and_streams_say_so(
    dsn: str, server: StartServer, tmp_path: Path, connect: Connect, kind: str
) -> None:
    tenant = make_tenant(dsn, "Meadow")
    make_user(dsn, "bob", tenants=[tenant])
    with deployment(kind, dsn, tmp_path, TICK_TIMEOUT_S=1.0) as deployed:
        web = server(env=deployed.env)
        database = connect()
        async with websocket(web, login(web, "bob"), f"tenant={tenant}") as socket:
            await socket.until("live")
            deployed.workers[0].kill()
            await asyncio.wait_for(socket.until("catching_up"), 20)
            made = [insert(database, tenant) for _ in range(3)]
            seen = await asyncio.wait_for(socket.events(3), 20)
            assert [event["id"] for event in seen] == made
            deployed.worker()
            await asyncio.wait_for(socket.until("live"), 20)
            made = [insert(database, tenant)]
            assert [event["id"] for event in await socket.events(1)] == made


async def test_either_flip_loses_and_repeats_nothing(
    dsn: str, server: StartServer, tmp_path: Path
) -> None:
    """Both web processes change their setting one after the other, from one way to the next."""
    with (
        deployment("nats", dsn, tmp_path / "nats") as nats,
        deployment("redis", dsn, tmp_path / "redis") as redis,
    ):
        async with watched(dsn, server) as watch:
            webs: list[Server] = []
            for follower in watch.followers:
                if follower.server not in webs:
                    webs.append(follower.server)
            for env in (nats.env, redis.env, _plain(redis.env), nats.env, _plain(nats.env)):
                for web in webs:
                    web.env.update(env)
                    await asyncio.to_thread(web.restart)
                    await asyncio.to_thread(watch.load.wait_for_commits, 30)


def _plain(env: dict[str, str]) -> dict[str, str]:
    settings = json.loads(env["TEST_AGENT_EVENTS"])
    return {**env, "TEST_AGENT_EVENTS": json.dumps({**settings, "BROKER_URL": ""})}


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_subscription_in_python_reads_the_broker_too(
    dsn: str, tmp_path: Path, connect: Connect, settings: Any, kind: str, django: None
) -> None:
    from agent_events.subscription import subscribe

    tenant = make_tenant(dsn, "Meadow")
    with deployment(kind, dsn, tmp_path) as deployed:
        assert deployed.broker is not None
        settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "BROKER_URL": deployed.broker.url}
        database = connect()
        async with subscribe(tenant) as events:
            made = [insert(database, tenant) for _ in range(5)]
            async with asyncio.timeout(20):
                assert [(await anext(events)).id for _ in made] == made
            (listening,) = database.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s",
                [BUS_APPLICATION],
            ).fetchone() or (0,)
            assert listening == 1, "the worker alone"
