"""Ringing and coalescing with real servers: whoever closes batches by the clock holds an advisory
lock, K, and while it does nobody's commit rings. No event is lost, late or untold for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from agent_events.database import BUS_APPLICATION, COALESCING_KEY
from project.embedded import EmbeddedPostgres
from tests.conftest import Connect, Report
from tests.support import Server, login, make_tenant, make_user, manage, wait_until
from tests.support.database import ROOT
from tests.support.ear import Ear
from tests.support.proxy import proxy_to
from tests.support.roles import temporary_role
from tests.support.streams import Socket, insert, websocket
from tests.support.watch import (
    K_HOLDER,
    LEADER,
    StartServer,
    bus_settings,
    holder,
    process_state,
    watched,
)

Connection = psycopg.Connection[Any]

SOON_S = 2.0
"""Half a second, and some for a machine that is busy: much less than a poll takes there."""
RINGS_AGAIN_S = 2.9
"""1.5 s of silence, likewise: less than the 3 s that a session has which does not coalesce."""


async def test_while_the_mode_flips_under_load_no_event_is_lost_or_repeated_or_left_without_a_word(
    dsn: str, server: StartServer, connect: Connect, report: Report
) -> None:
    # The load alone, some 30 events a second, is too little to coalesce for.
    flips, db = bus_settings(COALESCE_ABOVE=60, RING_BELOW=48), connect()
    async with watched(dsn, server, env=flips, pause_s=0.2) as watch:
        load, bystander = watch.load, watch.followers[2].server
        ear = Ear(connect, load.tenant)
        for turn in range(3):
            assert holder(db) is None
            await asyncio.to_thread(load.wait_for_commits, 10)
            await asyncio.to_thread(burst, db, load.tenant)
            assert holder(db) == watch.leader
            await asyncio.to_thread(load.wait_for_commits, 10)
            if turn == 0:
                await asyncio.to_thread(bystander.restart)
            await asyncio.to_thread(wait_until, lambda: not holder(db), 15, "K to be free")
    heard = ear.bodies()
    assert ear.untold(heard) == set()
    by_count = sum(1 for body in heard if "batch" in body)
    assert 0 < by_count < len(heard), "both ways of telling were in use"
    report(
        "the mode flips",
        f"{len(load.committed)} events of the load and some bursts, K taken 3 times: "
        f"{len(heard) - by_count} told of one by one, {by_count} batches counted",
    )


def burst(db: Connection, tenant: str) -> None:
    """Inserts, a commit each, until K is held."""
    wait_until(lambda: insert(db, tenant) and holder(db), 10, "K to be taken", interval_s=0)


def at_rest(db: Connection) -> bool:
    """Has whoever leads made no query for longer than what follows an event takes?"""
    query = "SELECT clock_timestamp() - query_start > '0.1 s' FROM pg_stat_activity WHERE pid = %s"
    row = db.execute(query, [holder(db, LEADER)]).fetchone()
    return bool(row and row[0])


async def late(socket: Socket, db: Connection, wanted: int) -> float:
    """Commits; seconds until the event `wanted` is there."""
    at = time.monotonic()
    await asyncio.to_thread(db.commit)
    while True:
        if wanted in [event["id"] for event in await asyncio.wait_for(socket.events(1), 20)]:
            return time.monotonic() - at


async def test_who_looked_while_k_was_held_and_commits_later_is_delivered_within_half_a_second(
    dsn: str, server: StartServer, connect: Connect, report: Report
) -> None:
    tenant, other = make_tenant(dsn, "Harbour"), str(uuid.uuid4())
    make_user(dsn, "ann", tenants=[tenant])
    # Nobody polls in time to find it.
    slow = {"COALESCE_ABOVE": 20, "RING_BELOW": 10, "TICK_TIMEOUT_S": 60}
    first = server(env=bus_settings(**slow, POLL_INTERVAL_S=30))
    cookies = login(first, "ann")
    db = connect()
    silent = [connect(autocommit=False) for _ in range(3)]
    async with websocket(first, cookies) as near:
        await near.until("live")
        await asyncio.to_thread(wait_until, lambda: holder(db, LEADER), 10, "it to lead")
        second = server(env=bus_settings(**slow, POLL_INTERVAL_S=10))
        async with websocket(second, cookies) as far:
            await far.until("live")
            burst(db, other)
            made = [insert(connection, tenant) for connection in silent[:2]]
            assert holder(db), "they looked while it was held"
            await asyncio.to_thread(wait_until, lambda: not holder(db), 10, "K to be free")
            ear = Ear(connect, tenant)
            for connection, wanted, socket in zip(silent, made, (near, far), strict=False):
                delay_s = await late(socket, connection, wanted)
                report("a silent transaction, after K's release", f"{delay_s:.2f} s")
                assert delay_s < SOON_S
            heard = ear.heard()
            assert "agent_events" not in [channel for channel, _ in heard], "nothing rang"
            assert len(heard) == 2, "each batch is told of"

            burst(db, other)
            wanted = insert(silent[2], tenant)
            gone = holder(db)
            assert gone is not None
            await asyncio.to_thread(first.kill)
            at = time.monotonic()
            await asyncio.to_thread(
                wait_until, lambda: holder(db, LEADER) not in (None, gone), 30, "the next leader"
            )
            report("K's holder killed, the next one leads", f"{time.monotonic() - at:.2f} s")
            made = [insert(db, tenant)]
            assert [event["id"] for event in await far.events(1)] == made
            await asyncio.to_thread(wait_until, lambda: at_rest(db), 10, "it to wait for a while")
            assert holder(db) is None
            delay_s = await late(far, silent[2], wanted)
            report("a silent transaction, after K's holder died", f"{delay_s:.2f} s")
            assert delay_s < SOON_S


@pytest.mark.parametrize("fault", ["killed", "frozen", "cut off"])
async def test_ks_holder_lost_under_load_lets_producers_ring_within_two_seconds(
    dsn: str, server: StartServer, connect: Connect, report: Report, fault: str
) -> None:
    db = connect()
    with proxy_to(dsn) as (proxy, through):
        async with watched(
            dsn,
            server,
            victim_dsn=through if fault == "cut off" else None,
            env=bus_settings(MODE="coalesce"),
            bystander_env=bus_settings(MODE="ring"),  # so that nobody takes K after it
        ) as watch:
            victim, others = watch.followers[0].server, watch.followers[2:]
            assert victim.process is not None
            pid = victim.process.pid
            assert holder(db) == watch.leader
            ear, outside = Ear(connect, watch.load.tenant), connect()
            outside.execute("LISTEN agent_events")
            await asyncio.to_thread(watch.load.wait_for_commits, 10)
            assert list(outside.notifies(timeout=0)) == [], "nobody rings"

            at = time.monotonic()
            if fault == "killed":
                await asyncio.to_thread(victim.kill)
            elif fault == "frozen":
                victim.process.send_signal(signal.SIGSTOP)
                wait_until(lambda: process_state(pid) == "T", what="it to be stopped")
            else:
                # Not those of Django, which live for a request: they would wait for TCP's limits.
                assert proxy.freeze(older_than_s=1) > 0
            head = _head(db)
            await asyncio.to_thread(lambda: list(outside.notifies(timeout=10, stop_after=1)))
            rung_s = time.monotonic() - at
            report(f"K's holder {fault}, a producer rings again", f"{rung_s:.2f} s")
            assert holder(db) is None
            assert rung_s < RINGS_AGAIN_S
            recovery_s = await watch.recovery(at, others)
            report(f"K's holder {fault}, the other process", f"{recovery_s:.2f} s")
            await asyncio.to_thread(
                wait_until, lambda: not watch.alive(watch.leader), 10, "its session to be gone"
            )
            heard = ear.heard()
            in_silence = heard[: [channel for channel, _ in heard].index("agent_events")]
            if fault == "killed":
                await asyncio.to_thread(victim.start)
            elif fault == "frozen":
                assert process_state(pid) == "T"
                victim.process.send_signal(signal.SIGCONT)
                # It did not wait: a follower closed batches, and told of them, while K was held.
                told = [json.loads(body) for channel, body in in_silence]
                assert any(body["batch"] > head + 1 for body in told)
            else:
                assert proxy.swallowed > 0
    told = [json.loads(body) for channel, body in heard + ear.heard() if body]
    assert ear.untold(told) == set()


def _head(db: Connection) -> int:
    row = db.execute("SELECT batch FROM agent_events_head()").fetchone()
    assert row is not None
    return int(row[0])


def ready(process: Server) -> bool:
    """Does it deliver? (Whoever asks starts its bus.)"""
    return bool(httpx.get(f"{process.url}/readyz", timeout=5).json()["data"] == "ok")


def listening(db: Connection) -> set[int]:
    """The backends of the buses of this database."""
    rows = db.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = current_database()",
        [BUS_APPLICATION],
    )
    return {row[0] for row in rows.fetchall()}


async def test_one_of_a_worker_and_two_web_processes_holds_k_and_the_lead_and_then_another(
    dsn: str, server: StartServer, connect: Connect
) -> None:
    db, env = connect(), bus_settings(MODE="coalesce")

    def one(but: int | None = None) -> int | None:
        """The session that holds both, if it is not this one; never are there two."""
        k, lead = (db.execute(query).fetchall() for query in (K_HOLDER, LEADER))
        assert len(k) <= 1
        assert len(lead) <= 1
        return k[0][0] if k == lead != [] and k[0][0] != but else None

    worker = subprocess.Popen(
        [sys.executable, "manage.py", "listen_events", "--quiet"],
        cwd=ROOT,
        env={**os.environ, **env, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
    )
    try:
        first = wait_until(one, 20, "the worker to hold K and the lead")
        web = [server(env=env) for _ in range(2)]
        for process in web:
            wait_until(lambda process=process: ready(process), 10, "its bus to run")  # type: ignore[misc]
        assert one() == first, "whoever comes takes nothing"
        assert len(listening(db)) == 3
    finally:
        worker.terminate()
        worker.wait(10)
    second = wait_until(lambda: one(but=first), 10, "a web process to hold both")
    assert second in listening(db)
    web[0].kill()
    wait_until(lambda: listening(db) == {one()}, 10, "the last one to hold both")


@dataclass(frozen=True)
class Coalescing:
    """A process that always coalesces and tells no tenant's channel, on a database of its own.

    Attributes:
        cookies: of a superuser, who sees each test's own tenant.
    """

    dsn: str
    server: Server
    cookies: dict[str, str]


@pytest.fixture(scope="module")
def coalescing(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Coalescing]:
    name = f"coalescing_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        dsn = postgres.dsn(name)
        make_user(dsn, "root", superuser=True)
        env = bus_settings(MODE="coalesce", TENANT_BODIES=False)
        process = Server(dsn, tmp_path_factory.mktemp("coalescing") / "log", env=env).start()
        try:
            wait_until(lambda: ready(process), 10, "its bus to run")
            with psycopg.connect(dsn, autocommit=True) as db:
                wait_until(lambda: holder(db), 10, "K to be held")
            yield Coalescing(dsn, process, login(process, "root"))
        finally:
            process.stop()
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def tenant() -> str:
    return str(uuid.uuid4())


async def test_the_other_databases_of_a_server_ring_while_one_coalesces(
    coalescing: Coalescing, connect: Connect, tenant: str
) -> None:
    ear = Ear(connect, tenant)  # in another database
    key = f"SELECT {COALESCING_KEY}"
    with psycopg.connect(coalescing.dsn, autocommit=True) as db:
        assert db.execute(key).fetchone() == ear.other.execute(key).fetchone(), "a copy: same key"
        async with websocket(coalescing.server, coalescing.cookies, f"tenant={tenant}") as socket:
            await socket.until("live")
            insert(connect(), tenant)
            assert [channel for channel, _ in ear.heard()][:1] == ["agent_events"]
            ear.other.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})")  # theirs is another K
            made = insert(db, tenant)
            assert [event["id"] for event in await socket.events(1)] == [made]
            assert holder(db)
    assert ear.heard() == []


async def test_while_k_is_held_a_transaction_may_be_prepared_and_comes_after_commit_prepared(
    coalescing: Coalescing, tenant: str
) -> None:
    with psycopg.connect(coalescing.dsn, autocommit=True) as db:
        async with websocket(coalescing.server, coalescing.cookies, f"tenant={tenant}") as socket:
            await socket.until("live")
            db.execute("BEGIN")
            prepared = insert(db, tenant)
            db.execute(f"PREPARE TRANSACTION '{tenant}'")
            other = insert(db, tenant)
            assert [event["id"] for event in await socket.events(1)] == [other]
            db.execute(f"COMMIT PREPARED '{tenant}'")
            assert [event["id"] for event in await socket.events(1)] == [prepared]


async def test_an_insert_only_role_is_delivered_while_k_is_held(
    coalescing: Coalescing, tenant: str
) -> None:
    with (
        psycopg.connect(coalescing.dsn, autocommit=True) as db,
        temporary_role(coalescing.dsn) as role,
    ):
        db.execute(
            "GRANT INSERT (tenant_id, agent_id, event_type, payload), SELECT (id)"
            f" ON agent_events TO {role}"
        )
        async with websocket(coalescing.server, coalescing.cookies, f"tenant={tenant}") as socket:
            await socket.until("live")
            assert holder(db)
            db.execute(f"SET ROLE {role}")
            made = insert(db, tenant)
            assert [event["id"] for event in await socket.events(1)] == [made]
            db.execute("RESET ROLE")


async def test_without_tenant_bodies_the_tenants_channel_is_silent_and_nothing_else_changes(
    coalescing: Coalescing, tenant: str
) -> None:
    bodies = "SELECT bodies FROM agent_event_bus"
    with ExitStack() as stack:
        connect = lambda: stack.enter_context(psycopg.connect(coalescing.dsn, autocommit=True))  # noqa: E731
        ear, db = Ear(connect, tenant), connect()
        ear.connection.execute("LISTEN agent_events_batch")
        assert db.execute(bodies).fetchone() == (False,), "whoever leads writes it down"
        async with websocket(coalescing.server, coalescing.cookies, f"tenant={tenant}") as socket:
            await socket.until("live")
            made = insert(db, tenant)
            assert [event["id"] for event in await socket.events(1)] == [made]
        assert [channel for channel, _ in ear.heard()] == ["agent_events_batch"]


def test_migrate_writes_down_whether_tenants_channels_are_told(dsn: str, connect: Connect) -> None:
    bodies = "SELECT bodies FROM agent_event_bus"
    assert connect().execute(bodies).fetchone() == (True,)
    manage("migrate", "--verbosity=0", dsn=dsn, **bus_settings(TENANT_BODIES=False))
    assert connect().execute(bodies).fetchone() == (False,)


IDLE_S = 4.0
LOGGED = re.compile(r"\[(\d+)\] LOG:  (?:statement|execute)")


async def test_an_idle_process_makes_two_queries_a_second_at_most_and_finds_what_rang_nothing(
    dsn: str,
    postgres: EmbeddedPostgres,
    server: StartServer,
    connect: Connect,
    tenant: str,
    report: Report,
) -> None:
    make_user(dsn, "root", superuser=True)
    db = connect()
    db.execute(f"ALTER DATABASE {db.info.dbname} SET log_statement = 'all'")
    log = postgres.data_dir / "postgres.log"
    running = [server() for _ in range(2)]
    cookies = login(running[0], "root")
    async with (
        websocket(running[0], cookies, f"tenant={tenant}") as near,
        websocket(running[1], cookies, f"tenant={tenant}") as far,
    ):
        await near.until("live")
        await far.until("live")
        await asyncio.to_thread(wait_until, lambda: len(listening(db)) == 2, 10, "both to listen")
        loud = insert(db, tenant)
        for socket in (near, far):
            assert [event["id"] for event in await socket.events(1)] == [loud]
        await asyncio.to_thread(wait_until, lambda: at_rest(db), 20, "it to wait for a while")
        leader = holder(db, LEADER)
        follower = listening(db) - {leader}
        began, at = log.stat().st_size, time.monotonic()
        await asyncio.sleep(IDLE_S)
        # No other database of this server logs statements; its prefix has the process id.
        said = log.read_bytes()[began:].decode(errors="replace")
        idle_s = time.monotonic() - at
        made = Counter(LOGGED.findall(said))
        leads, follows = made[str(leader)], sum(made[str(pid)] for pid in follower)
        looks = made.total() - leads - follows  # of both: may those who stream still do so?
        each = {"leads": leads, "follows": follows, "for access": looks}
        words = ", ".join(f"{count / idle_s:.2g} {what}" for what, count in each.items())
        report("idle, queries a second", words)
        most = 2 * idle_s + 3  # (one poll more at the edges, and the event before has its end)
        assert 1 <= leads <= most
        assert 1 <= follows <= most

        ear = Ear(connect, tenant)
        db.execute("BEGIN")
        db.execute("SET LOCAL agent_events.quiet = on")
        quiet = insert(db, tenant)
        db.execute(f"PREPARE TRANSACTION '{tenant}'")
        loud = insert(db, tenant)
        for socket in (near, far):
            assert [event["id"] for event in await socket.events(1)] == [loud]
        assert len(ear.heard()) == 2
        db.execute(f"COMMIT PREPARED '{tenant}'")
        for socket in (near, far):
            assert [event["id"] for event in await socket.events(1)] == [quiet]
        assert ear.heard() == [], "it rang nothing, and was found by looking"
