"""Faults of the broker, and of all that is around it, under load.

Each shows that its fault was in force, and ends in exactly the committed set, in the ledger's
order, for subscribers that stay and for such that come and go, over WebSocket and Server-Sent
Events. Faults follow each other in one deployment for each kind of broker: what one leaves behind,
the next one finds. docs/reliability.md tells the times that are printed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from project.embedded import EmbeddedPostgres
from project.redis_server import RedisServer
from tests.conftest import Report
from tests.support import login, make_tenant, make_user, manage, wait_until
from tests.support.broker_faults import (
    SETTINGS,
    Marks,
    Said,
    World,
    cut,
    delete_all,
    filled,
    peak_of,
    reading,
    server_of,
    stored,
    world_of,
)
from tests.support.deployment import BROKERS, Broker, deployment
from tests.support.streams import Socket, insert, websocket
from tests.support.watch import StartServer, Watch, process_state

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRIES = 5
"""So many times at least a process tries in vain before a broker comes back, so that to say it once
is no accident; fewer where each try takes BROKER_TIMEOUT_S."""
TAKEOVER_S = 5.0
"""A worker that is gone is replaced within this time."""
DELAY_S = 0.2
"""Each way between a process and the broker."""
PER_STATEMENT = 1_000
STATEMENTS = 300
MEMORY_BYTES = 67_108_864
"""A worker may grow by so much, which is less than all that it could not publish."""


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A PostgreSQL to be broken at will, and the name of a migrated database in it."""
    folder = Path(tempfile.mkdtemp(prefix="agent-events-tests-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(
        folder / "data", settings={"fsync": "off", "max_connections": "200"}, die_with_parent=True
    )
    postgres.start()
    manage("migrate", "--skip-checks", "--verbosity=0", dsn=postgres.dsn())
    yield postgres, "agent_events"
    postgres.destroy()
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BROKERS)
async def world(
    own_postgres: tuple[EmbeddedPostgres, str],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    """Two workers, two web processes and a broker, under load."""
    postgres, template = own_postgres
    name = f"world_{request.param}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    folder = tmp_path_factory.mktemp("world")
    async with world_of(request.param, postgres.dsn(name), folder) as made:
        yield made


def difference(before: dict[str, Said], after: dict[str, Said]) -> dict[str, Said]:
    none = Said(0, 0)
    return {
        name: Said(
            said.failed - before.get(name, none).failed, said.back - before.get(name, none).back
        )
        for name, said in after.items()
    }


async def said_once(world: World, before: dict[str, Said], *, by_webs: bool = True) -> None:
    """Waits until every process is well again; each said so once, and that it was not."""

    def all_well() -> bool:
        return all(one.failed == one.back for one in difference(before, world.said()).values())

    await world.until(all_well, 20, "every process to say that it is well again")
    said = difference(before, world.said())
    webs = {said[web.url] for web in world.webs}
    workers = [one for name, one in said.items() if name.startswith("worker")]
    assert webs == {Said(1, 1) if by_webs else Said(0, 0)}, said
    assert set(workers) <= {Said(0, 0), Said(1, 1)}, said
    assert Said(1, 1) in workers, said


async def still_written_and_read(world: World) -> float:
    """Commits are acknowledged, and every follower gets what is committed from now on."""
    at = time.monotonic()
    await asyncio.to_thread(world.watch.load.wait_for_commits, 30)
    return await world.watch.recovery(at)


async def test_the_broker_killed_and_started_again(world: World, report: Report) -> None:
    def start() -> None:
        assert not world.broker.running
        world.broker.start()  # (here: it dies with the thread that starts it)

    meanwhile_s, live_s = await away_and_back(world, world.broker.kill, start, RETRIES)
    report(f"{world.kind} killed, events from the log", f"{meanwhile_s:.2f} s")
    report(f"{world.kind} started again, streams live", f"{live_s:.2f} s")


async def test_the_broker_frozen_and_thawed(world: World, report: Report) -> None:
    broker = world.broker
    meanwhile_s, live_s = await away_and_back(world, broker.freeze, broker.thaw, RETRIES // 2)
    report(f"{world.kind} frozen, events from the log", f"{meanwhile_s:.2f} s")
    report(f"{world.kind} thawed, streams live", f"{live_s:.2f} s")


async def away_and_back(
    world: World, away: Callable[[], object], back: Callable[[], object], retries: int
) -> tuple[float, float]:
    """Takes the broker away for so many failures, and gives it back; exact and said once.

    Returns the seconds until events came from the log meanwhile, and until streams were live again.
    """
    before, told, tried = world.said(), len(world.told), world.failures()
    away()
    await world.until_told("catching_up", told)
    meanwhile_s = await still_written_and_read(world)
    await world.until(
        lambda: world.failures() >= tried + retries, 30, "some tries that fail to be made"
    )
    told = len(world.told)
    back()
    at = time.monotonic()
    await world.until_told("live", told)
    live_s = time.monotonic() - at
    await said_once(world, before)
    await world.exact_so_far()
    return meanwhile_s, live_s


async def test_the_broker_full(world: World, report: Report) -> None:
    """Its memory is used up by somebody else: it refuses what is published, and answers readers."""
    before, told = world.said(), len(world.told)
    with filled(world.broker):
        await world.until_told("catching_up", told)
        meanwhile_s = await still_written_and_read(world)
        refused = difference(before, world.said())
        assert any(one.failed for name, one in refused.items() if name.startswith("worker")), (
            refused
        )
        told = len(world.told)
    at = time.monotonic()
    await world.until_told("live", told)
    live_s = time.monotonic() - at
    await said_once(world, before, by_webs=False)
    await world.exact_so_far()
    report(f"{world.kind} full, events from the log", f"{meanwhile_s:.2f} s")
    report(f"{world.kind} no more full, streams live", f"{live_s:.2f} s")


async def test_the_broker_wiped(world: World, report: Report) -> None:
    await asyncio.to_thread(world.watch.load.wait_for_commits, 100)
    held = await asyncio.to_thread(stored, world)
    at = time.monotonic()
    await asyncio.to_thread(delete_all, world)
    recovery_s = await world.watch.recovery(at)
    published_s = await world.published_again(at)
    assert await asyncio.to_thread(stored, world) < held, "it was empty"
    await world.exact_so_far()
    report(f"{world.kind} wiped, events come", f"{recovery_s:.2f} s")
    report(f"{world.kind} wiped, published again", f"{published_s:.2f} s")


async def test_a_slow_broker(world: World, report: Report) -> None:
    at = time.monotonic()
    world.proxy.delay_s = DELAY_S
    await asyncio.to_thread(world.watch.load.wait_for_commits, 100)
    await still_written_and_read(world)
    assert world.proxy.late > 0
    late_s = delays(world.watch, at)
    median_s = late_s[len(late_s) // 2]
    assert median_s > DELAY_S
    await world.exact_so_far()
    world.proxy.delay_s = 0.0
    report(f"{world.kind} slow, from commit to client", f"{median_s:.2f} s")


def delays(watch: Watch, since: float) -> list[float]:
    """Seconds from each commit since then until the client that always stays had it; sorted."""
    committed = watch.load.committed
    came = list(watch.followers[0].at.copy().items())
    return sorted(at - committed[event] for event, at in came if committed.get(event, 0.0) > since)


async def test_a_path_to_the_broker_that_swallows_all(world: World, report: Report) -> None:
    """As a firewall does that has forgotten the connections. New ones pass."""
    before, told, at = world.said(), len(world.told), time.monotonic()
    assert world.proxy.freeze() > 0
    await world.until_told("catching_up", told)
    told = len(world.told)
    await world.until_told("live", told)
    live_s = time.monotonic() - at
    assert world.proxy.swallowed > 0
    await said_once(world, before)
    await world.exact_so_far()
    report(f"{world.kind}, a path that swallows all, live on another", f"{live_s:.2f} s")


async def test_the_publishing_worker_killed(world: World, report: Report) -> None:
    victim, backend = world.publisher(), world.deployed.wait_for_publisher()
    marks = len(world.marks.came)
    at = time.monotonic()
    assert victim.kill() == -signal.SIGKILL
    await world.until(
        lambda: world.deployed.publisher() not in (None, backend), TAKEOVER_S, "another publisher"
    )
    taken_s = time.monotonic() - at
    published_s = await world.published_again(at)
    assert published_s < TAKEOVER_S
    recovery_s = await world.watch.recovery(at)
    assert world.publisher() is not victim
    assert not world.marks.holes(marks), "the next one goes on where it ended"
    world.deployed.worker()
    await world.exact_so_far()
    report(f"{world.kind}, publishing worker killed, another holds the lease", f"{taken_s:.2f} s")
    report(f"{world.kind}, publishing worker killed, published again", f"{published_s:.2f} s")
    report(f"{world.kind}, publishing worker killed, events come", f"{recovery_s:.2f} s")


async def test_the_publishing_worker_frozen_and_thawed(world: World, report: Report) -> None:
    victim, backend = world.publisher(), world.deployed.wait_for_publisher()
    marks = len(world.marks.came)
    at = time.monotonic()
    victim.signal(signal.SIGSTOP)
    await world.until(
        lambda: world.deployed.publisher() not in (None, backend), TAKEOVER_S, "another publisher"
    )
    taken_s = time.monotonic() - at
    published_s = await world.published_again(at)
    assert published_s < TAKEOVER_S
    assert process_state(victim.pid) == "T"
    assert world.publisher() is not victim
    await asyncio.to_thread(world.watch.load.wait_for_commits, 50)
    # What it had in hand is sent once more, and batches that others have sent: readers drop them.
    victim.signal(signal.SIGCONT)
    await still_written_and_read(world)
    assert not world.marks.holes(marks)
    await world.exact_so_far()
    report(f"{world.kind}, publishing worker frozen, another holds the lease", f"{taken_s:.2f} s")
    report(f"{world.kind}, publishing worker frozen, published again", f"{published_s:.2f} s")


async def test_the_sessions_of_the_publishing_worker_ended(world: World, report: Report) -> None:
    victim = world.publisher()
    marks = len(world.marks.came)
    at = time.monotonic()
    ended = await asyncio.to_thread(cut, world.watch, victim)
    assert not any(map(world.watch.alive, ended))
    published_s = await world.published_again(at)
    assert published_s < TAKEOVER_S
    await still_written_and_read(world)
    assert not world.marks.holes(marks)
    await world.exact_so_far()
    report(f"{world.kind}, the worker's sessions ended, published again", f"{published_s:.2f} s")


async def test_the_broker_and_the_publishing_worker_at_once(world: World, report: Report) -> None:
    victim, told = world.publisher(), len(world.told)
    world.broker.kill()
    victim.kill()
    await world.until_told("catching_up", told)
    await still_written_and_read(world)
    told = len(world.told)
    world.broker.start()
    at = time.monotonic()
    await world.until_told("live", told)
    live_s = time.monotonic() - at
    assert world.publisher() is not victim
    world.deployed.worker()
    await world.exact_so_far()
    report(f"{world.kind} and a worker killed, streams live", f"{live_s:.2f} s")


async def test_a_web_process_killed_and_started_again(world: World, report: Report) -> None:
    victim = world.webs[0]
    own, others = world.watch.followers[:2], world.watch.followers[2:]
    at = time.monotonic()
    victim.kill()
    recovery_s = await world.watch.recovery(at, others)
    assert victim.process is None
    at = time.monotonic()
    await asyncio.to_thread(victim.start)
    started_s = await world.watch.recovery(at, own)
    await world.exact_so_far()
    report(f"{world.kind}, a web process killed, the other", f"{recovery_s:.2f} s")
    report(f"{world.kind}, a web process started again", f"{started_s:.2f} s")


async def test_a_web_process_frozen_and_thawed(world: World, report: Report) -> None:
    process = world.webs[0].process
    assert process is not None
    own, others = world.watch.followers[:2], world.watch.followers[2:]
    at = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    recovery_s = await world.watch.recovery(at, others)
    await asyncio.to_thread(world.watch.load.wait_for_commits, 200)
    assert process_state(process.pid) == "T"
    at = time.monotonic()
    os.kill(process.pid, signal.SIGCONT)
    thawed_s = await world.watch.recovery(at, own)
    await world.exact_so_far()
    report(f"{world.kind}, a web process frozen, the other", f"{recovery_s:.2f} s")
    report(f"{world.kind}, a web process thawed, its subscribers", f"{thawed_s:.2f} s")


async def test_postgresql_restarted(
    world: World, own_postgres: tuple[EmbeddedPostgres, str], report: Report
) -> None:
    postgres, _ = own_postgres
    pid, told = postgres.pid, len(world.told)
    before = {worker: worker.log() for worker in world.deployed.workers if worker.process}
    await asyncio.to_thread(postgres.stop, "fast")
    assert postgres.pid is None
    postgres.start()  # (here: it dies with the thread that starts it)
    at = time.monotonic()  # since it answers again
    assert postgres.pid != pid
    recovery_s = await world.watch.recovery(at)
    published_s = await world.published_again(at)
    await world.until(lambda: world.told[told:], 20, "a stream that goes on")
    await world.exact_so_far()
    for worker, log in before.items():
        said = worker.log()[len(log) :]
        assert said.count("The listening connection failed") == 1, said
        assert said.count("The listening connection is back after") == 1, said
    report(f"{world.kind}, PostgreSQL restarted, events come", f"{recovery_s:.2f} s")
    report(f"{world.kind}, PostgreSQL restarted, published again", f"{published_s:.2f} s")


async def test_a_shared_layer_killed_frozen_and_without_its_worker(
    dsn: str, tmp_path: Path, report: Report
) -> None:
    async with world_of("layer", dsn, tmp_path) as world:
        world.broker.freeze()
        meanwhile_s = await still_written_and_read(world)
        world.broker.thaw()
        report("layer frozen, events from the log", f"{meanwhile_s:.2f} s")
        await world.exact_so_far()

        world.broker.kill()
        meanwhile_s = await still_written_and_read(world)
        world.broker.start()
        at = time.monotonic()
        report("layer killed, events from the log", f"{meanwhile_s:.2f} s")
        report("layer started again, events come", f"{await world.watch.recovery(at):.2f} s")
        await world.exact_so_far()

        victim, told = world.publisher(), len(world.told)
        at = time.monotonic()
        victim.kill()
        await world.until(lambda: world.publisher() is not victim, TAKEOVER_S, "another publisher")
        taken_s = time.monotonic() - at
        report("layer, publishing worker killed, another holds the lease", f"{taken_s:.2f} s")
        await still_written_and_read(world)
        assert world.told[told:]


@pytest.mark.parametrize("kind", BROKERS)
async def test_the_worker_needs_no_memory_for_what_it_cannot_publish(
    dsn: str, server: StartServer, tmp_path: Path, report: Report, kind: str
) -> None:
    """What it could hold grows with the events, not with the time: so many stand for an hour of
    83 a second. NATS is killed here; Redis is full, where the worker can connect again and again.
    """
    tenant, other = make_tenant(dsn, "Meadow"), make_tenant(dsn, "Other")
    make_user(dsn, "ann", tenants=[tenant])
    broker = server_of(kind)
    with (
        deployment(kind, dsn, tmp_path, broker=broker, **SETTINGS) as deployed,
        psycopg.connect(dsn, autocommit=True) as db,
    ):
        web, worker = server(env=deployed.env), deployed.workers[0]
        async with websocket(web, login(web, "ann")) as socket:
            await socket.until("live")
            insert_many(db, other, 10)
            await comes(socket, db, tenant)
            with away(broker):
                await asyncio.to_thread(
                    wait_until, lambda: "Publishing failed" in worker.log(), 20, "it to be noticed"
                )
                await asyncio.wait_for(socket.until("catching_up"), 20)
                with peak_of(worker.pid) as peak:
                    await asyncio.to_thread(insert_many, db, other, STATEMENTS)
                    await asyncio.to_thread(wait_until, lambda: all_closed(db), 60, "all closed")
                assert peak.grown < MEMORY_BYTES, f"{peak.grown:,} bytes"
                await comes(socket, db, tenant)  # from the log
                assert "works again" not in worker.log()
            at = time.monotonic()
            await asyncio.wait_for(socket.until("live"), 20)
            live_s = time.monotonic() - at
            await comes(socket, db, tenant)
        async with reading(Marks(broker.url)) as marks:
            await asyncio.to_thread(
                wait_until, lambda: marks.reached >= head_of(db)[0], 20, "the head published"
            )
    report(f"{kind} away, the worker's memory grew", f"{peak.grown / 2**20:.1f} MiB")
    report(f"{kind} back after {STATEMENTS * PER_STATEMENT:,} events, live", f"{live_s:.2f} s")


@contextmanager
def away(broker: Broker) -> Iterator[None]:
    """A broker that takes nothing within the block."""
    if isinstance(broker, RedisServer):
        with filled(broker):
            yield
        return
    broker.kill()
    yield
    broker.start()


async def comes(socket: Socket, db: psycopg.Connection[Any], tenant: str) -> None:
    """A new event is what comes next."""
    made = insert(db, tenant)
    (event,) = await asyncio.wait_for(socket.events(1), 20)
    assert event["id"] == made


def insert_many(db: psycopg.Connection[Any], tenant: str, statements: int) -> None:
    """So many transactions of PER_STATEMENT events each."""
    for _ in range(statements):
        db.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " SELECT %s, %s, 'message', jsonb_build_object('note', repeat('x', 300))"
            "   FROM generate_series(1, %s)",
            [tenant, uuid.uuid4(), PER_STATEMENT],
        )


def head_of(db: psycopg.Connection[Any]) -> tuple[int, int]:
    """The last batch, and how many events the ledger has up to it."""
    row = db.execute("SELECT batch, total FROM agent_events_head()").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def all_closed(db: psycopg.Connection[Any]) -> bool:
    """Is every event in the ledger?"""
    row = db.execute("SELECT count(*) FROM agent_events").fetchone()
    return row is not None and head_of(db)[1] == row[0]
