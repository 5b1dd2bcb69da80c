"""Redis Streams as a broker: what is particular to it, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from agent_events.brokers.parcels import Parcel, parcels_of
from agent_events.brokers.redis import Inlet, Outlet, Tally
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.window import Window
from project.broker_server import BrokerServerError
from project.redis_server import RedisServer
from tests.support import wait_until
from tests.support.certificates import Authority, tls_in_front_of
from tests.support.database import ROOT

ANN = "0b9f1c8e-0000-4000-8000-000000000001"
BOB = "0b9f1c8e-0000-4000-8000-000000000002"
MIB = 1024 * 1024
STREAM = "agent_events:1:0"

Make = Callable[..., RedisServer]


@pytest.fixture
def make() -> Iterator[Make]:
    """`make(**kwargs)`: a started server of the test's own."""
    made: list[RedisServer] = []

    def start(**kwargs: Any) -> RedisServer:
        one = RedisServer(**kwargs)
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        one.stop()


def settings_of(server: RedisServer, **changes: Any) -> Settings:
    return replace(Settings(), **{"broker_url": server.url, "broker_timeout_s": 1.0, **changes})


def client_of(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


@asynccontextmanager
async def opened(
    settings: Settings, tenants: frozenset[str] | None = None
) -> AsyncIterator[tuple[Outlet, Inlet]]:
    """Both ends, closed after."""
    outlet, inlet = Outlet(settings), Inlet(settings)
    try:
        await outlet.open()
        await inlet.open()
        await inlet.watch(frozenset({0}), tenants)
        yield outlet, inlet
    finally:
        await outlet.close()
        await inlet.close()


def slices(first: int, count: int, size: int = 100, tenant: str = ANN) -> list[Parcel]:
    return [Parcel(0, tenant, f"{n}", b"x" * size) for n in range(first, first + count)]


async def passes(settings: Settings) -> None:
    """What is sent there arrives."""
    async with opened(settings) as (outlet, inlet):
        await outlet.send(slices(1, 3))
        assert await inlet.next(5.0) == slices(1, 3)


# Bounds


async def test_a_stream_keeps_about_so_many_messages(make: Make) -> None:
    server = make()
    async with opened(settings_of(server, broker_messages=300)) as (outlet, _):
        for n in range(10):
            await outlet.send(slices(n * 200, 200))

    with client_of(server) as client:
        assert 300 <= client.xlen(STREAM) <= 400  # it drops whole nodes of 100 at most


async def test_a_stream_keeps_about_so_many_bytes_whoever_sends(make: Make) -> None:
    server = make()
    settings = settings_of(server, broker_bytes=4 * MIB)
    with client_of(server) as client:
        for sender in range(4):
            async with opened(settings) as (outlet, _):
                for n in range(40):
                    size = 100 if n % 2 else 50_000
                    await outlet.send(slices(n * 20, 20, size))
                    assert client.memory_usage(STREAM) < 5 * MIB, f"sender {sender}, {n}"
        assert client.memory_usage(STREAM) > 3 * MIB


async def test_the_bytes_are_shared_by_the_shards(make: Make) -> None:
    server = make()
    settings = settings_of(server, broker_bytes=4 * MIB, broker_shards=2)
    outlet = Outlet(settings)
    await outlet.open()
    for n in range(300):
        await outlet.send([Parcel(n % 2, ANN, f"{n}", b"x" * 50_000)])
    await outlet.close()

    with client_of(server) as client:
        for shard in range(2):
            assert 1 * MIB < client.memory_usage(f"agent_events:2:{shard}") < 3 * MIB


@given(
    st.integers(1, 1_000),
    st.integers(1, 20),
    st.integers(0, 30),
    st.integers(0, 2_000),
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
)
def test_a_tally_keeps_as_many_of_the_newest_as_fit(
    most_bytes: int, most: int, entries: int, used: int, sizes: list[int]
) -> None:
    tally = Tally(most_bytes, most, entries, used if entries else 0)
    each = used / entries if entries else 0.0
    there: list[float] = [each] * entries

    for size in sizes:
        there.append(size)
        kept = tally.add(size)
        there = there[-kept:]

        assert 1 <= kept <= most
        assert len(there) == kept
        assert kept == 1 or sum(there) <= most_bytes + 1e-6


# A server that refuses


async def test_a_full_server_is_said_to_be_full_and_goes_on_after(make: Make) -> None:
    server = make(maxmemory=6 * MIB)
    async with opened(settings_of(server)) as (outlet, inlet):
        with pytest.raises(BrokerAway, match=r"memory is full \(maxmemory\)"):
            for n in range(200):
                await outlet.send(slices(n, 1, 100_000))
        while await inlet.next(0.1):  # what is full can be read
            pass

        with client_of(server) as client:
            client.config_set("maxmemory", str(64 * MIB))
        await outlet.open()
        await outlet.send(slices(1_000, 5))

        assert await inlet.next(5.0) == slices(1_000, 5)


async def test_a_full_server_has_room_again_where_the_bound_in_bytes_is_lower(make: Make) -> None:
    server = make(maxmemory=6 * MIB)
    async with opened(settings_of(server)) as (outlet, _):
        with pytest.raises(BrokerAway):
            for n in range(200):
                await outlet.send(slices(n, 1, 100_000))
    with client_of(server) as client:
        client.xtrim(STREAM, maxlen=10, approximate=False)

    async with opened(settings_of(server, broker_bytes=2 * MIB)) as (outlet, _):
        for n in range(200):
            await outlet.send(slices(n, 1, 100_000))


async def test_a_wrong_password_is_refused_and_not_repeated(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = make(password="right/?#@")
    url = server.url.replace("right%2F%3F%23%40", "wr0ng")
    assert "wr0ng" in url

    for end in (Outlet(settings_of(server, broker_url=url)), Inlet(settings_of(server))):
        if isinstance(end, Outlet):
            with pytest.raises(BrokerAway, match="password") as raised:
                await end.open()
            assert "wr0ng" not in str(raised.value)
            assert raised.value.__cause__ is None
        else:
            await end.open()
        await end.close()
    assert "wr0ng" not in caplog.text


async def test_a_lacking_password_is_refused(make: Make) -> None:
    server = make(password="right")
    url = f"redis://127.0.0.1:{server.port}"

    with pytest.raises(BrokerAway, match="Authentication required"):
        await Outlet(settings_of(server, broker_url=url)).open()


@pytest.mark.parametrize(
    "url",
    [
        "redis://ann:geheim@127.0.0.1:port/0",
        "redis://ann:geheim@127.0.0.1/0?colour=geheim",
        "redis://ann:geheim@127.0.0.1/0?socket_keepalive=geheim&max_connections=x",
    ],
)
async def test_an_address_that_is_none_is_said_to_be_without_being_repeated(url: str) -> None:
    settings = replace(Settings(), broker_url=url)

    with pytest.raises(BrokerAway, match="BROKER_URL is not understood") as raised:
        await Inlet(settings).open()

    assert "geheim" not in str(raised.value)


async def test_a_replica_takes_nothing_and_can_be_read(make: Make) -> None:
    master = make()
    replica = make(
        settings={"replicaof": f"127.0.0.1 {master.port}", "repl-diskless-load": "swapdb"}
    )
    with client_of(replica) as client:
        wait_until(
            lambda: client.info("replication")["master_link_status"] == "up", what="the replica"
        )

    async with opened(settings_of(replica)) as (outlet, inlet):
        with pytest.raises(BrokerAway, match="read only"):
            await outlet.send(slices(1, 1))
        sender = Outlet(settings_of(master))
        await sender.open()
        await sender.send(slices(1, 1))
        await sender.close()

        assert await inlet.next(5.0) == slices(1, 1)


async def test_a_stream_that_is_none_is_refused(make: Make) -> None:
    server = make()
    with client_of(server) as client:
        client.set(STREAM, "a text")
    outlet = Outlet(settings_of(server))
    await outlet.open()

    with pytest.raises(BrokerAway, match="wrong kind of value"):
        await outlet.last(0)
    await outlet.close()


# Readers


async def test_a_reader_whose_stream_was_deleted_misses_nothing_of_the_next(make: Make) -> None:
    server = make()
    async with opened(settings_of(server)) as (outlet, inlet):
        await outlet.send(slices(1, 5))
        assert await inlet.next(5.0) == slices(1, 5)

        server.wipe()
        await outlet.send(slices(6, 5))

        assert await inlet.next(5.0) == slices(6, 5)


async def test_a_reader_goes_on_where_the_servers_clock_is_behind(make: Make) -> None:
    server = make()
    async with opened(settings_of(server)) as (outlet, inlet):
        await outlet.send(slices(1, 5))
        assert await inlet.next(5.0) == slices(1, 5)
        with client_of(server) as client:
            client.delete(STREAM)
            client.xadd(STREAM, {"t": ANN, "k": "before", "b": "x"}, id="5-0")
            assert await inlet.next(1.5) == []  # it has looked, meanwhile
            client.xadd(STREAM, {"t": ANN, "k": "after", "b": "x"}, id="6-0")

        assert await inlet.next(5.0) == [Parcel(0, ANN, "after", b"x")]


async def test_a_reader_behind_what_was_dropped_goes_on_with_the_oldest(make: Make) -> None:
    server = make()
    async with opened(settings_of(server)) as (outlet, inlet):
        await outlet.send(slices(1, 5))
        assert await inlet.next(5.0) == slices(1, 5)
        await outlet.send(slices(6, 20))
        with client_of(server) as client:
            client.xtrim(STREAM, maxlen=3, approximate=False)

        assert await inlet.next(5.0) == slices(23, 3)


async def test_nobody_gets_slices_of_tenants_that_he_does_not_watch(make: Make) -> None:
    server = make()
    async with opened(settings_of(server), frozenset({ANN})) as (outlet, inlet):
        await outlet.send(slices(1, 500, tenant=BOB) + slices(501, 1))

        assert await inlet.next(5.0) == slices(501, 1)


async def test_a_strangers_entry_is_skipped_and_complained_of_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = make()
    async with opened(settings_of(server)) as (outlet, inlet):
        with client_of(server) as client:
            for n in range(10):
                client.xadd(STREAM, {"n": n})
                client.xadd(STREAM, {"t": b"\xff", "k": "", "b": ""})
                client.xadd(STREAM, {"t": "", "k": "", "b": "[" * 100_000})
        assert await outlet.last(0) is None
        await outlet.send(slices(1, 2))

        came = await inlet.next(5.0)

        assert [one for one in came if not one.is_mark] == slices(1, 2)
        (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
        assert STREAM in record.getMessage()


async def test_the_last_mark_is_looked_for_behind_a_thousand_slices(make: Make) -> None:
    async with opened(settings_of(make())) as (outlet, _):
        await outlet.send(parcels_of(Window(7, 6, 1, 1, None), frozenset({0}), 1, outlet.limit))
        await outlet.send(slices(1, 1_000))

        mark = await outlet.last(0)

        assert mark is not None
        assert mark.last == 6


async def test_the_last_mark_is_not_looked_for_for_ever(make: Make) -> None:
    async with opened(settings_of(make())) as (outlet, _):
        await outlet.send(parcels_of(Window(7, 6, 1, 1, None), frozenset({0}), 1, outlet.limit))
        await outlet.send(slices(1, 3_000))

        assert await outlet.last(0) is None


# Other ways to the server


async def test_a_unix_socket_works(make: Make, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    server = make(settings={"unixsocket": str(socket)})

    await passes(settings_of(server, broker_url=f"unix://{socket}"))


async def test_a_user_and_another_database_work(make: Make) -> None:
    server = make(settings={"user": "ann on >geheim ~agent_events:* +@all"})

    await passes(settings_of(server, broker_url=f"redis://ann:geheim@127.0.0.1:{server.port}/3"))

    with redis.Redis(port=server.port, db=3) as client:
        assert client.xlen(STREAM) == 3


async def test_tls_works_and_a_certificate_of_others_is_refused(make: Make, tmp_path: Path) -> None:
    # A server without TLS of its own (as in the wheel) behind something that speaks it.
    server = make(password="geheim")
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    async with tls_in_front_of(server.port, ours.pair("redis")) as port:
        url = f"rediss://:geheim@127.0.0.1:{port}/0"

        await passes(settings_of(server, broker_url=url, broker_ca_file=str(ours.file)))

        for ca_file in ("", str(others.file), str(tmp_path / "none.pem")):
            with pytest.raises(BrokerAway) as raised:
                await Inlet(settings_of(server, broker_url=url, broker_ca_file=ca_file)).open()
            assert "geheim" not in str(raised.value)


# The server of tests and benchmarks


def test_a_server_keeps_its_port_and_nothing_else(make: Make) -> None:
    server = make(password="geheim")
    port = server.port
    with client_of(server) as client:
        client.set("a", "b")
    server.kill()
    server.wipe()

    server.start()

    assert server.port == port
    with client_of(server) as client:
        assert client.dbsize() == 0
        client.set("a", "b")
        server.wipe()
        assert client.dbsize() == 0


def test_a_frozen_server_can_be_stopped(make: Make) -> None:
    server = make()
    server.freeze()

    server.stop()

    assert not server.running
    with pytest.raises(BrokerServerError, match="call start"):
        server.thaw()


def test_a_port_that_is_taken_is_said_to_be(make: Make) -> None:
    port = make().port

    with pytest.raises(BrokerServerError, match=f"Port {port} .* is taken"):
        RedisServer(port).start()


def test_a_configuration_that_is_none_is_said_by_the_server_itself() -> None:
    server = RedisServer(settings={"colour": "red"})

    with pytest.raises(BrokerServerError, match="colour"):
        server.start()
    server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends it")
def test_a_server_ends_with_its_parent_also_while_frozen(tmp_path: Path) -> None:
    program = (
        "from project.redis_server import RedisServer; import sys, time; s = RedisServer();"
        "s.start(); s.freeze(); print(s._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # nobody is left to delete its folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())

    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()

    wait_until(lambda: not psutil.pid_exists(pid) or _is_zombie(pid), what="the server's end")


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
