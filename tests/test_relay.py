"""A worker that cannot pass events on never says that all is well, and holds up nobody."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_events.brokers import inlet_of, outlet_of
from agent_events.brokers.parcels import parcels_of
from agent_events.conf import Settings
from agent_events.log import Log
from agent_events.sources.broker import BrokerSource
from agent_events.tasks import end
from agent_events.window import Window
from project.embedded import EmbeddedPostgres
from project.processes import free_port
from tests.conftest import fresh_database
from tests.support import login, make_tenant, make_user, wait_until
from tests.support.broker import Broker, event, window
from tests.support.broker_faults import server_of
from tests.support.deployment import BROKERS, deployment
from tests.support.slow_proxy import SlowProxy
from tests.support.streams import Socket, insert, websocket
from tests.support.waiting import until
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


# Two logs, of which one is a copy of the other


async def identity_of(dsn: str) -> str:
    log = Log(dsn, Settings())
    await log.open()
    try:
        return await log.identity()
    finally:
        await log.close()


async def test_a_copy_of_a_log_is_another_one_also_to_a_role_that_may_know_nothing(
    dsn: str, postgres: EmbeddedPostgres
) -> None:
    own = await identity_of(dsn)
    assert own == await identity_of(dsn)
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    assert isinstance(name, str)
    with fresh_database(postgres, name) as copy:
        assert own != await identity_of(copy)
        with psycopg.connect(copy, autocommit=True) as db:
            db.execute("CREATE ROLE nobody_in_particular")
            try:
                as_nobody = psycopg.conninfo.make_conninfo(
                    copy, options="-c role=nobody_in_particular"
                )
                assert await identity_of(as_nobody) == await identity_of(copy)
                db.execute("REVOKE ALL ON FUNCTION pg_control_system() FROM PUBLIC")
                assert await identity_of(as_nobody) == ""
            finally:
                db.execute("DROP ROLE nobody_in_particular")


@pytest.mark.parametrize("kind", BROKERS)
async def test_what_a_copy_of_the_log_publishes_under_the_same_name_is_not_shown(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(kind)
    settings = broker.settings
    own = "1/5"

    async def identity() -> str:
        return own

    shown: list[Window] = []
    source = BrokerSource(inlet_of(settings), settings, lambda: None, identity)

    async def show() -> None:
        async for one in source.windows():
            shown.append(one)

    async def publish(batch: int, log: str) -> None:
        one = window(batch, event(batch))
        if log != own:  # which closes its own batches behind the last one that both have
            one = replace(one, closed_at_ms=one.closed_at_ms + 7)
        await outlet.send(parcels_of(one, frozenset({0}), 1, outlet.limit, log))

    showing = asyncio.create_task(show())
    outlet = outlet_of(settings)
    try:
        await outlet.open()
        batch = 0
        while not shown:
            batch += 1
            await publish(batch, own)
            await asyncio.sleep(0.1)
        for number in range(1, 4):
            await publish(batch + number, "1/6")
        await publish(batch + 1, own)
        await until(lambda: shown[-1].last >= batch + 1)
        assert shown[-1].last == batch + 1
        assert [one.last for one in shown] == sorted({one.last for one in shown})
        (told,) = [one for one in caplog.records if "another log" in one.message]
        assert told.levelname == "ERROR"
        assert "BROKER_NAME" in told.message
    finally:
        await end([showing])
        await outlet.close()
        await broker.close()
        broker.server.stop()


async def test_a_source_goes_on_where_the_log_does_not_say_which_it_is(dsn: str) -> None:
    broker = Broker("redis")

    async def identity() -> str:
        raise psycopg.OperationalError("away")

    source = BrokerSource(inlet_of(broker.settings), broker.settings, lambda: None, identity)
    outlet = outlet_of(broker.settings)
    try:
        await outlet.open()
        windows = source.windows()
        coming = asyncio.ensure_future(anext(windows))
        batch = 0
        while not coming.done():
            batch += 1
            what = parcels_of(window(batch, event(batch)), frozenset({0}), 1, outlet.limit, "1/6")
            await outlet.send(what)
            await asyncio.sleep(0.1)
        assert (await coming).last <= batch
        await windows.aclose()
    finally:
        await outlet.close()
        broker.server.stop()


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_worker_says_which_log_it_publishes(dsn: str, tmp_path: Path, kind: str) -> None:
    with deployment(kind, dsn, tmp_path, **SETTINGS) as deployed:
        assert deployed.broker is not None
        url = deployed.broker.url
        outlet = outlet_of(Settings(broker_url=url, broker_timeout_s=5.0))
        await outlet.open(change=False)
        try:
            async with asyncio.timeout(BOUND_S):
                while (mark := await outlet.last(0)) is None:
                    await asyncio.sleep(0.05)
            assert mark.log == await identity_of(dsn)
        finally:
            await outlet.close()


@pytest.mark.parametrize("kind", BROKERS)
async def test_viewers_of_a_log_are_shown_nothing_of_a_copy_that_shares_its_broker(
    dsn: str, postgres: EmbeddedPostgres, server: StartServer, tmp_path: Path, kind: str
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    with psycopg.connect(dsn, autocommit=True) as db:
        insert(db, tenant)
        db.execute("SELECT agent_events_append()")
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    assert isinstance(name, str)
    with (
        fresh_database(postgres, name) as copy,
        deployment(kind, dsn, tmp_path, **SETTINGS) as deployed,
        psycopg.connect(dsn, autocommit=True) as db,
        psycopg.connect(copy, autocommit=True) as db_of_copy,
    ):
        web = server(env=deployed.env)
        async with websocket(web, login(web, "ann")) as socket:
            await asyncio.wait_for(socket.until("live"), BOUND_S)
            # From here on the copy goes on right behind what both have.
            deployed.worker(copy)
            async with asyncio.timeout(BOUND_S):
                while "another log" not in web.log():
                    insert(db_of_copy, tenant)
                    await asyncio.sleep(0.2)
            assert "reset" not in await come(socket, [insert(db, tenant)])
            assert web.log().count("another log") == 1
