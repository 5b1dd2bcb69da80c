"""What an operator is told about a broker: by `bus_status`, `/readyz`, `/metrics` and the admin."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import httpx
import psycopg
import pytest
from django.test import Client, override_settings

from agent_events import broker_problems, brokers
from agent_events.admin import bus_looks
from agent_events.asking import POOLED
from agent_events.broker_status import leases_wanted, look
from agent_events.brokers.addresses import host_of, without_secrets
from agent_events.brokers.parcels import parcels_of, shard_of
from agent_events.conf import Settings
from agent_events.database import PUBLISHER_APPLICATION
from agent_events.database_metrics import database_metrics
from agent_events.facts import Broker, Interval, Publisher, Session, Setup, Shard, Status
from agent_events.findings import Part, Problem
from agent_events.health import judge
from agent_events.journey import verdict
from agent_events.leases import publisher_keys
from agent_events.log import OID_SQL
from agent_events.problems import problems_of
from agent_events.sources import SourceState
from agent_events.status import gather
from agent_events.tracing import trace
from agent_events.watching import Observation, observe
from agent_events.window import Window
from tests.support import Server, free_port, wait_until
from tests.support.broker import BOUND_S
from tests.support.database import ROOT
from tests.support.streams import insert
from tests.support.watch import bus_settings

Connect = Callable[..., psycopg.Connection[Any]]

KINDS = ("nats", "redis")
PASSWORD = "s3cret"
LATE_S = 40.0  # for what should take a moment, a process that starts among it
APPEND = "SELECT n FROM agent_events_append()"
WELL = Setup(180004, False, (), False, (), "O", 1)
WORKER = Session(7, "app", PUBLISHER_APPLICATION, "10.0.0.1", None)
REACHED = Broker("nats", "broker:4222", "", (Shard(0, 5, 50, lag=0),))


def start(kind: str) -> Any:
    made: Any = getattr(import_module(f"project.{kind}_server"), f"{kind.capitalize()}Server")
    server = made(user="me", password=PASSWORD) if kind == "nats" else made(password=PASSWORD)
    server.start()
    return server


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A broker that stays, for all tests that do not stop it."""
    server = start(request.param)
    yield server
    server.stop()


@pytest.fixture
def names(running: Any) -> dict[str, Any]:
    """AGENT_EVENTS of a broker with streams of the test's own."""
    return broker_names(running)


def broker_names(server: Any) -> dict[str, Any]:
    return {
        "BROKER_URL": server.url,
        "BROKER_NAME": f"test_{uuid.uuid4().hex[:12]}",
        "BROKER_TIMEOUT_S": 1.0,
    }


def settings_of(names: dict[str, Any]) -> Settings:
    return Settings(**{key.lower(): value for key, value in names.items()})


@contextmanager
def worker(dsn: str, names: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py listen_events`, that publishes or stands by."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "listen_events", "--quiet"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1", **bus_settings(**names)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def bus_status(dsn: str, names: dict[str, Any], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "bus_status", *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1", **bus_settings(**names)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def seen(dsn: str, settings: Settings) -> Status:
    return await gather(dsn, leases=leases_wanted(settings), broker=await look(settings))


def look_now(dsn: str, settings: Settings) -> Status:
    return asyncio.run(seen(dsn, settings))


def codes(status: Status, between: Interval | None = None) -> list[str]:
    return [problem.code for problem in problems_of(status, between)]


def problem(status: Status) -> Problem:
    (found,) = problems_of(status)
    assert found.part is Part.DOORBELL  # events come from the log, later
    return found


def held(connect: Connect, settings: Settings, *shards: int) -> psycopg.Connection[Any]:
    """A session that holds these leases, as a worker's does."""
    connection = connect(application_name=PUBLISHER_APPLICATION)
    for shard in shards:
        key = publisher_keys(settings)[shard]
        connection.execute(f"SELECT pg_advisory_lock({key})".encode())
    return connection


async def sent(settings: Settings, batch: int, closed_at_ms: int, log: str = "") -> None:
    """The mark of a worker of that log that has come to this batch, in every shard."""
    outlet = brokers.outlet_of(settings)
    await outlet.open()
    tick = Window(batch + 1, batch, closed_at_ms, closed_at_ms, None)
    shards = settings.broker_shards
    await outlet.send(parcels_of(tick, frozenset(range(shards)), shards, outlet.limit, log))
    await outlet.close()


def closed_at_ms(connect: Connect, batch: int) -> int:
    query = (
        "SELECT floor(extract(epoch FROM closed_at) * 1000)::bigint FROM agent_event_batches"
        " WHERE n = %s"
    )
    row = connect().execute(query, [batch]).fetchone()
    assert row is not None
    return int(row[0])


# The look


async def test_without_a_broker_nothing_is_looked_at_and_nothing_changes(dsn: str) -> None:
    assert await look(Settings()) is None
    assert leases_wanted(Settings()) == ()
    with override_settings(CHANNEL_LAYERS={}):
        assert leases_wanted(Settings()) == ()
    status = await gather(dsn)
    assert (status.broker, status.shards, status.publishers, codes(status)) == (None, 0, (), [])


async def test_who_publishes_and_who_stands_by_is_told_with_how_far_each_shard_is(
    dsn: str, connect: Connect, names: dict[str, Any]
) -> None:
    settings = settings_of(names | {"BROKER_SHARDS": 3})
    insert(connect(), str(uuid.uuid4()))
    connect().execute(APPEND)
    publishes, stands_by = held(connect, settings, 0, 2), held(connect, settings)
    elsewhere = held(connect, replace(settings, broker_name="another"), 1)
    await sent(settings, 1, closed_at_ms(connect, 1))
    insert(connect(), str(uuid.uuid4()))
    connect().execute(APPEND)

    status = await seen(dsn, settings)
    assert {one.session.pid: one.shards for one in status.publishers} == {
        publishes.info.backend_pid: (0, 2),
        stands_by.info.backend_pid: (),
        elsewhere.info.backend_pid: (),
    }
    assert status.unpublished == (1,)
    broker = status.broker
    assert broker is not None
    assert (broker.trouble, broker.kind) == ("", settings.broker_url.split(":")[0])
    assert [(one.batch, one.lag, one.foreign) for one in broker.shards] == [(1, 1, False)] * 3
    assert all(0 < one.late_s < 5 for one in broker.shards)
    # A batch that is late for a moment is no problem; a shard that nobody has is one.
    found = problem(status)
    assert found.code == "nobody_publishes"
    assert "shard 1 of 3" in found.message
    assert f"pid {stands_by.info.backend_pid}" in found.message


async def test_a_fresh_worker_may_have_sent_nothing_yet_and_an_older_one_is_named(
    dsn: str, connect: Connect, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(names)
    silent = held(connect, settings, 0)
    monkeypatch.setattr(broker_problems, "UNPUBLISHED_S", 3_600.0)
    status = await seen(dsn, settings)
    assert status.broker is not None
    assert [one.batch for one in status.broker.shards] == [None]
    assert codes(status) == []

    monkeypatch.setattr(broker_problems, "UNPUBLISHED_S", 0.2)
    found = problem(await wait_for(lambda: seen(dsn, settings), lambda status: codes(status) != []))
    assert found.code == "broker_behind"
    assert f"pid {silent.info.backend_pid} (" in found.message
    assert "has nothing of the log in shard 0" in found.message
    assert "BROKER_URL" in found.hint
    assert "noeviction" in found.hint


def test_a_worker_that_publishes_to_another_server_is_named(
    dsn: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_problems, "UNPUBLISHED_S", 0.5)
    settings = settings_of(names)
    other = start(names["BROKER_URL"].split(":")[0])
    try:
        with worker(dsn, names | {"BROKER_URL": other.url}):
            wait_until(
                lambda: codes(look_now(dsn, settings)) == ["broker_behind"], LATE_S, "it to be told"
            )
    finally:
        other.stop()


async def test_a_worker_that_holds_its_lease_and_sends_nothing_is_named(
    dsn: str, connect: Connect, names: dict[str, Any]
) -> None:
    settings = settings_of(names)
    stuck = held(connect, settings, 0)
    await sent(settings, 0, closed_at_ms(connect, 0))
    insert(connect(), str(uuid.uuid4()))
    connect().execute(APPEND)
    connect().execute(
        "UPDATE agent_event_batches SET closed_at = clock_timestamp() - interval '9 s' WHERE n > 0"
    )
    began = time.monotonic()
    found = problem(await seen(dsn, settings))
    assert found.code == "broker_behind"
    words = r"lacks the newest batch of the log in shard 0, which was closed (\d+) s ago"
    told = re.search(words, found.message)
    assert told is not None, found.message
    assert 9 <= int(told[1]) <= 10 + time.monotonic() - began
    assert f"pid {stuck.info.backend_pid} (" in found.message
    # Nobody at all: that is said, and not what follows from it.
    stuck.close()
    status = await wait_for(lambda: seen(dsn, settings), lambda status: not status.publishers)
    assert codes(status) == ["nobody_publishes"]


async def wait_for(
    look: Callable[[], Any], until: Callable[[Status], bool], timeout_s: float = 20.0
) -> Status:
    async with asyncio.timeout(timeout_s):
        while True:
            status: Status = await look()
            if until(status):
                return status
            await asyncio.sleep(0.05)


async def test_what_another_log_published_under_the_same_name_is_told(
    dsn: str, connect: Connect, names: dict[str, Any]
) -> None:
    settings = settings_of(names)
    held(connect, settings, 0)
    await sent(settings, 0, closed_at_ms(connect, 0))
    assert codes(await seen(dsn, settings)) == []
    await sent(settings, 99, 1)  # ahead of this log
    found = problem(await seen(dsn, settings))
    assert found.code == "broker_foreign"
    assert "BROKER_NAME" in found.hint
    await sent(settings, 0, 1)  # a batch that this log closed at another time
    assert codes(await seen(dsn, settings)) == ["broker_foreign"]
    # Nothing differs yet from a copy but which database it is.
    await sent(settings, 0, closed_at_ms(connect, 0))
    assert codes(await seen(dsn, settings)) == []
    row = connect().execute(f"SELECT {OID_SQL}").fetchone()
    assert row is not None
    for log, told in ((f"12/{row[0]}", []), (f"12/1{row[0]}", ["broker_foreign"])):
        await sent(settings, 0, closed_at_ms(connect, 0), log)
        assert codes(await seen(dsn, settings)) == told


@pytest.mark.parametrize("kind", KINDS)
async def test_a_broker_that_is_not_there_or_hangs_or_refuses_is_a_fact_in_time(
    dsn: str, kind: str
) -> None:
    def at(port: int, who: str = f"me:{PASSWORD}") -> Settings:
        return Settings(broker_url=f"{kind}://{who}@127.0.0.1:{port}", broker_timeout_s=0.5)

    server = start(kind)
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for settings in (
                at(free_port()),
                at(silent.getsockname()[1]),
                at(server.port, "me:not-the-s3cret"),
            ):
                began = time.monotonic()
                found = await look(settings)
                assert time.monotonic() - began < BOUND_S
                assert found is not None
                assert found.trouble
                assert found.shards == ()
                assert PASSWORD not in f"{found}"
                status = await gather(dsn, leases=leases_wanted(settings), broker=found)
                told = problem(status)  # not that nobody publishes, too: nobody can
                assert told.code == "broker_away"
                assert f"{kind} at 127.0.0.1:" in told.message
                assert found.trouble in told.message
                assert "restart web processes and workers" in told.hint
    finally:
        server.stop()


async def test_an_address_that_is_none_is_a_fact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await look(Settings(broker_url=f"kafka://me:{PASSWORD}@host:9092"))
    assert found is not None
    assert (found.kind, found.host) == ("", "host:9092")
    assert "it is no address of a broker" in found.trouble
    # A library's own words may repeat the address.
    url = f"nats://me:{PASSWORD}@host:4222"

    def fail(settings: Settings) -> Any:
        raise RuntimeError(f"cannot use {settings.broker_url}, user me, password {PASSWORD}!")

    monkeypatch.setattr(brokers, "outlet_of", fail)
    found = await look(Settings(broker_url=url))
    assert found is not None
    assert PASSWORD not in found.trouble
    assert found.trouble.startswith("cannot use the address")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("nats://me:s3cret@one:4222,nats://me:s3cret@two:4222", "one:4222, two:4222"),
        ("nats://me:s3cret@one:4222,me:s3cret@two:4222", "one:4222, two:4222"),
        ("redis://:s3cret@[::1]:6379/0", "[::1]:6379"),
        ("rediss://host", "host"),
        ("nats://s3cret@host", "host"),
        ("unix:///run/redis.sock?password=s3cret", "/run/redis.sock"),
        ("unix://me:s3cret@/run/redis.sock", "/run/redis.sock"),
    ],
)
def test_the_host_is_told_and_neither_user_nor_password(url: str, host: str) -> None:
    assert host_of(url) == host
    told = without_secrets(f"{url} failed" + (" for s3cret" if "s3cret" in url else ""), url)
    assert told.startswith("the address failed")
    assert "s3cret" not in told


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3[cret@host",
        "redis://:s3#cret@host:6379/0",
        "redis://me:s3/cret@host:6379/0",
        "redis://me:3?cret@host",
        "nats://me:s3,cret@host:4222",
    ],
)
def test_of_an_address_that_cannot_be_taken_apart_nothing_is_repeated(url: str) -> None:
    assert host_of(url) == ""
    assert "percent-encoded" in without_secrets("no connection with s3[cret", url)
    found = asyncio.run(look(Settings(broker_url=url, broker_timeout_s=0.5)))
    assert found is not None
    assert "cret" not in f"{found}"
    assert "me:" not in f"{found}"
    assert (
        " at an address that cannot be read) " in problem(Status(setup=WELL, broker=found)).message
    )


def test_how_far_behind_the_broker_is_and_since_when_is_told() -> None:
    late = replace(REACHED, shards=(Shard(0, 5, 50, lag=3, late_s=61.0), Shard(1, 8, 80, lag=0)))
    publishers = (Publisher(replace(WORKER, connected_s=60.0), (0, 1)),)
    status = Status(setup=WELL, shards=2, publishers=publishers, broker=late)
    assert problem(status).message.startswith(
        "The broker lacks the newest 3 batches of the log in shard 0, the first of them closed "
        "61 s ago. Who publishes: pid 7 ("
    )
    empty = replace(late, shards=(late.shards[0], Shard(1, None, None)))
    assert (
        "61 s ago. The broker has nothing of the log in shard 1. Who publishes: pid 7 ("
        in problem(replace(status, broker=empty)).message
    )


# What it means


def test_which_shards_nobody_publishes_is_told() -> None:
    alone = Status(setup=WELL, shards=1, broker=REACHED)
    assert problem(alone).code == "nobody_publishes"
    assert problem(alone).message.startswith("No worker publishes to the broker: ")
    assert "Start manage.py listen_events" in problem(alone).hint
    layer = replace(alone, broker=None)
    assert "to the shared channel layer" in problem(layer).message
    well = replace(alone, publishers=(Publisher(WORKER, (0,)),))
    assert codes(well) == codes(replace(well, broker=None)) == []
    standing = replace(alone, publishers=(Publisher(WORKER, ()),))
    assert "standing by: pid 7 (" in problem(standing).message
    for name in ("BROKER_NAME", "BROKER_SHARDS", "BROKER_URL"):
        assert name in problem(standing).hint


def test_behind_a_pooler_nobody_knows_who_publishes() -> None:
    alone = Status(setup=WELL, shards=1, broker=REACHED)
    assert codes(alone, Interval(trouble=POOLED)) == []
    assert codes(alone, Interval()) == ["nobody_publishes"]


def test_a_database_that_is_away_does_not_hide_that_the_broker_is_too() -> None:
    away = Broker("redis", "host:6379", "refused")
    assert codes(Status(unreachable="refused", shards=1, broker=away)) == [
        "unreachable",
        "broker_away",
    ]


def test_a_web_process_of_a_broker_is_ready_while_it_can_read_the_log() -> None:
    status = Status(setup=WELL)
    source = SourceState(kind="broker", connected=True, heard=True, batch=7)
    well = judge(status, source, shared=False)
    assert (well.state, well.doorbell, well.problems) == ("ready", "none", ())
    for changed, late_s, code in (
        (replace(source, connected=False, trouble="refused"), 0.0, "broker_away"),
        (replace(source, connected=False), 60.0, "broker_away"),
        (replace(source, heard=False), 60.0, "broker_silent"),
        (source, 60.0, "broker_behind"),
    ):
        found = judge(replace(status, late_s=late_s), changed, shared=False)
        assert (found.state, found.doorbell, found.problems) == ("degraded", "none", (code,))
    away = judge(Status(unreachable="refused"), source, shared=False)
    assert (away.state, away.problems) == ("unready", ("unreachable",))


def test_what_is_scraped_says_who_publishes_and_what_is_wrong() -> None:
    def told(status: Status) -> dict[str, float]:
        metrics = database_metrics(Observation(status))
        return {
            " ".join((sample.name, *sample.labels.values())): sample.value
            for metric in metrics
            for sample in metric.samples
        }

    behind = replace(REACHED, shards=(Shard(0, 5, 50, lag=3), Shard(1, 7, 70, lag=1)))
    status = Status(setup=WELL, shards=2, publishers=(Publisher(WORKER, (0,)),), broker=behind)
    found = told(status)
    assert found["agent_events_publishers"] == 1
    assert found["agent_events_unpublished_shards"] == 1
    assert found["agent_events_broker_lag_batches"] == 3
    assert found["agent_events_problem nobody_publishes doorbell"] == 1
    alone = told(Status(setup=WELL))
    assert (alone["agent_events_publishers"], alone["agent_events_unpublished_shards"]) == (0, 0)


# A shared layer


async def test_of_a_shared_layer_too_it_is_told_that_no_worker_publishes(
    dsn: str, connect: Connect
) -> None:
    server = start("redis")
    layer = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [server.url]},
    }
    try:
        with override_settings(CHANNEL_LAYERS={"default": layer}):
            settings = Settings()
            assert len(leases_wanted(settings)) == 1
            found = problem(await seen(dsn, settings))
            assert found.code == "nobody_publishes"
            assert "to the shared channel layer" in found.message
            held(connect, settings, 0)
            assert codes(await seen(dsn, settings)) == []
    finally:
        server.stop()


# Real processes


def test_the_command_tells_a_worker_from_none_and_what_becomes_of_an_event(
    dsn: str, connect: Connect, names: dict[str, Any]
) -> None:
    kind = names["BROKER_URL"].split(":")[0]
    alone = bus_status(dsn, names)
    assert alone.returncode == 1
    assert alone.stdout.startswith("nobody_publishes: No worker publishes to the broker")
    assert "publishers    none" in alone.stdout
    settings = settings_of(names)
    with worker(dsn, names):
        wait_until(lambda: not look_now(dsn, settings).unpublished, LATE_S, "a lease")
        tenant = str(uuid.uuid4())
        id = insert(connect(), tenant)

        def arrived() -> bool:
            broker = look_now(dsn, settings).broker
            return broker is not None and broker.shards[0].batch == 1

        wait_until(arrived, LATE_S, "the batch in the broker")
        well = bus_status(dsn, names)
        assert (well.returncode, well.stderr) == (0, ""), well.stdout
        assert "Nothing is wrong." in well.stdout
        assert f"broker        {kind} at 127.0.0.1:" in well.stdout
        assert ", reachable\n              shard 0: at the head\n" in well.stdout
        assert "agent_events publisher; publishes shard 0\n" in well.stdout
        told = json.loads(bus_status(dsn, names, "--json").stdout)
        assert told["problems"] == []
        assert told["broker"]["kind"] == kind
        assert told["broker"]["shards"][0]["lag"] == 0
        assert [one["shards"] for one in told["publishers"]] == [[0]]
        assert PASSWORD not in json.dumps(told) + well.stdout + alone.stdout

        traced = bus_status(dsn, names, "--trace", str(id))
        assert traced.returncode == 0
        assert traced.stdout.startswith("It is in batch 1, and the broker has it")
        assert "shard 0: at batch 1" in traced.stdout


async def test_an_event_that_the_broker_lacks_or_that_cannot_be_asked_is_told(
    dsn: str, connect: Connect, names: dict[str, Any]
) -> None:
    settings = settings_of(names | {"BROKER_SHARDS": 2})
    tenant = str(uuid.uuid4())
    await sent(settings, 0, closed_at_ms(connect, 0))
    id = insert(connect(), tenant)
    connect().execute(APPEND)
    lacking = await trace(
        dsn, dsn, id, leases=leases_wanted(settings), look=partial(look, settings)
    )
    assert lacking.broker is not None
    assert [one.number for one in lacking.broker.shards] == [shard_of(tenant, 2)]
    assert (verdict(lacking).code, verdict(lacking).stopped) == ("unpublished", True)
    assert "no worker publishes" in verdict(lacking).words
    away = replace(settings, broker_url=f"nats://127.0.0.1:{free_port()}")
    found = verdict(await trace(dsn, dsn, id, leases=leases_wanted(away), look=partial(look, away)))
    assert (found.code, found.stopped) == ("broker_away", True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_process_says_whether_the_broker_is_there_and_whether_anybody_publishes(
    dsn: str, kind: str, server: Callable[..., Server]
) -> None:
    broker = start(kind)
    names = broker_names(broker)
    web = server(env=bus_settings(**names, TICK_TIMEOUT_S=2.0, METRICS_TOKEN="token"))

    def scraped(name: str) -> str:
        headers = {"Authorization": "Bearer token"}
        text = httpx.get(f"{web.url}/metrics", headers=headers, timeout=10).text
        assert PASSWORD not in text
        found = [line for line in text.splitlines() if line.startswith(f"agent_events_{name} ")]
        return found[0].split()[1] if found else ""

    def ready() -> tuple[int, Any]:
        answer = httpx.get(f"{web.url}/readyz", timeout=10)
        return answer.status_code, answer.json()

    well = {"status": "ready", "data": "ok", "doorbell": "none", "problems": []}
    try:
        silent = (200, {**well, "status": "degraded", "problems": ["broker_silent"]})
        wait_until(lambda: ready() == silent, LATE_S, "nobody to be heard")
        with worker(dsn, names):
            wait_until(lambda: ready() == (200, well), LATE_S, "it to be ready")
            connected = ("source_connected", "source_hears", "publishers", "unpublished_shards")
            wait_until(
                lambda: [scraped(name) for name in connected] == ["1.0", "1.0", "1.0", "0.0"],
                LATE_S,
                "it to be scraped",
            )
            assert float(scraped("broker_windows_total")) > 0
            broker.stop()
            away = (200, {**well, "status": "degraded", "problems": ["broker_away"]})
            wait_until(lambda: ready() == away, LATE_S, "the broker to be missed")
            settings = settings_of(names)
            wait_until(
                lambda: [one.shards for one in look_now(dsn, settings).publishers] == [()],
                LATE_S,
                "the worker to give its lease back",
            )
            done = bus_status(dsn, names)
            assert done.returncode == 1
            assert done.stdout.startswith("broker_away: The broker (")
            assert "publishers    pid " in done.stdout
            assert "; stands by\n" in done.stdout
            assert PASSWORD not in done.stdout + web.log()
            code = 'problem{code="broker_away",part="doorbell"}'
            wait_until(lambda: scraped(code) == "1.0", LATE_S, "the problem to be scraped")
            assert float(scraped("broker_failures_total")) > 0
            broker.start()
            wait_until(lambda: ready() == (200, well), LATE_S, "it to be ready again")
    finally:
        broker.stop()


def test_the_admins_page_shows_the_broker_and_who_publishes(
    dsn: str, root: Client, connect: Connect, names: dict[str, Any]
) -> None:
    held(connect, settings_of(names), 0)
    asyncio.run(sent(settings_of(names), 0, closed_at_ms(connect, 0)))

    def figures() -> dict[str, Any]:
        bus_looks.forget()
        answer = root.get("/admin/agent_events/bus/figures/")
        assert answer.status_code == 200
        assert PASSWORD not in answer.content.decode()
        told: dict[str, Any] = answer.json()
        return told | {"figures": {name: rest for name, *rest in told["figures"]}}

    assert "Broker" not in figures()["figures"]
    kind = names["BROKER_URL"].split(":")[0]
    with override_settings(AGENT_EVENTS=names):
        told = figures()
    value, note = told["figures"]["Broker"]
    assert value == "reachable"
    assert note.startswith(f"{kind} at 127.0.0.1:")
    assert told["figures"]["Publishing"][0] == "1"
    assert told["problems"] == []
    with override_settings(
        AGENT_EVENTS=names | {"BROKER_URL": f"{kind}://127.0.0.1:{free_port()}"}
    ):
        told = figures()
    assert told["figures"]["Broker"][0] == "away"
    assert [one["code"] for one in told["problems"]] == ["broker_away"]
    bus_looks.forget()


async def test_a_look_and_the_watching_take_no_longer_together(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        settings = Settings(broker_url=url, broker_timeout_s=0.5)
        found = await observe(
            dsn, dsn, 0.1, leases=leases_wanted(settings), look=partial(look, settings)
        )
    assert codes(found.status) == ["broker_away"]
