"""A worker that cannot pass events on never says that all is well, and holds up nobody."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from project.processes import free_port
from tests.support import login, make_tenant, make_user, wait_until
from tests.support.broker_faults import server_of
from tests.support.deployment import BROKERS, deployment
from tests.support.slow_proxy import SlowProxy
from tests.support.streams import Socket, insert, websocket
from tests.support.watch import StartServer, bus_settings

SETTINGS: dict[str, Any] = {
    "POLL_INTERVAL_S": 0.25,
    "TICK_TIMEOUT_S": 1.5,
    "BROKER_TIMEOUT_S": 1.0,
    "BROKER_BYTES": 16_777_216,
}
"""A try that fails takes less than the silence after which streams read the log."""
BOUND_S = 20.0
# In the place of the function, for a session whose search_path names this schema first.
SLOW_PAGES = """
    CREATE SCHEMA slow;
    CREATE FUNCTION slow.agent_events_page(
        uuid[], bigint, bigint, integer, text[], text[], not_agents text[], not_types text[],
        texts text[], conditions jsonpath)
    RETURNS TABLE (batch bigint, closed_at timestamptz, id bigint, tenant_id uuid, agent_id uuid,
                   event_type text, payload jsonb, created_at timestamptz)
    LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); END $$
"""


async def come(socket: Socket, made: list[int]) -> list[str]:
    """Waits until exactly these have come, in this order; returns the kinds of all frames."""
    told, came = len(socket.kinds), []
    async with asyncio.timeout(BOUND_S):
        while len(came) < len(made):
            came += [int(event["id"]) for event in (await socket.frame()).get("events", [])]
    assert came == made
    return socket.kinds[told:]


@pytest.mark.parametrize("kind", BROKERS)
async def test_an_event_too_large_for_a_narrow_way_to_the_broker_holds_up_no_stream(
    dsn: str, server: StartServer, tmp_path: Path, kind: str
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    broker = server_of(kind)
    broker.start()
    proxy = SlowProxy("127.0.0.1", broker.port)
    with ExitStack() as stack:
        stack.enter_context(proxy.running())
        url = f"{kind}://127.0.0.1:{proxy.port}"
        deployed = stack.enter_context(
            deployment(kind, dsn, tmp_path, broker=broker, BROKER_URL=url, **SETTINGS)
        )
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        worker = deployed.workers[0]
        web = server(env={**deployed.env, **bus_settings(**SETTINGS, BROKER_URL=broker.url)})
        async with websocket(web, login(web, "ann")) as socket:
            await asyncio.wait_for(socket.until("live"), BOUND_S)
            await come(socket, [insert(db, tenant)])
            proxy.bytes_per_s = 100_000
            large = insert(db, tenant, payload=json.dumps("x" * 400_000))
            made = [large, *(insert(db, tenant) for _ in range(5))]
            assert "catching_up" in await come(socket, made)
            await asyncio.to_thread(
                wait_until, lambda: "Publishing failed" in worker.log(), 20, "it to be said"
            )
            # Not live while nothing is published: each comes from the log.
            for _ in range(2):
                assert "live" not in await come(socket, [insert(db, tenant)])
            proxy.bytes_per_s = 0
            await asyncio.wait_for(socket.until("live"), BOUND_S)
            await come(socket, [insert(db, tenant)])
        said = worker.log()
        assert said.count("Publishing failed") == said.count("Publishing works again") == 1


async def test_a_worker_that_cannot_read_the_log_does_not_say_that_all_is_well(
    dsn: str, server: StartServer, tmp_path: Path
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    with (
        deployment("redis", dsn, tmp_path, **SETTINGS) as deployed,
        psycopg.connect(dsn, autocommit=True) as db,
    ):
        web = server(env=deployed.env)
        async with websocket(web, login(web, "ann")) as socket:
            await asyncio.wait_for(socket.until("live"), BOUND_S)
            await come(socket, [insert(db, tenant)])
            db.execute(SLOW_PAGES)
            backend = deployed.wait_for_publisher()
            deployed.workers[0].kill()
            slow = psycopg.conninfo.make_conninfo(dsn, options="-c search_path=slow,public")
            deployed.worker(slow)
            await asyncio.to_thread(
                wait_until,
                lambda: deployed.publisher() not in (None, backend),
                BOUND_S,
                "the next worker to publish",
            )
            made = [insert(db, tenant) for _ in range(3)]
            assert "catching_up" in await come(socket, made)
            assert "live" not in await come(socket, [insert(db, tenant)])


@pytest.mark.parametrize("kind", BROKERS)
async def test_before_the_first_word_of_a_broker_nothing_is_live(
    dsn: str, server: StartServer, kind: str
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    web = server(env=bus_settings(**SETTINGS, BROKER_URL=f"{kind}://127.0.0.1:{free_port(None)}"))
    with psycopg.connect(dsn, autocommit=True) as db:
        insert(db, tenant)
        db.execute("SELECT agent_events_append()")
        async with websocket(web, login(web, "ann"), "cursor=earliest") as socket:
            told = []
            for _ in range(3):
                insert(db, tenant)
                async with asyncio.timeout(BOUND_S):
                    await socket.events(1)
                told = socket.kinds
            assert "catching_up" in told
            assert "live" not in told
