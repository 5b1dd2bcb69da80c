"""What the tests of a broker's faults share: workers, web processes, load, followers, one broker.

A deployment lasts for many faults, since to start it takes longer than most of them. Each test ends
with `World.exact_so_far`: nothing of its fault is left.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import redis

from agent_events.brokers import inlet_of
from agent_events.brokers.parcels import Mark
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from project.nats_server import NatsServer
from project.redis_server import RedisServer
from tests.support.deployment import Broker, Deployment, Worker, deployment
from tests.support.load import GONE
from tests.support.nats_stranger import in_nats
from tests.support.server import Server, login
from tests.support.slow_proxy import SlowProxy
from tests.support.streams import websocket
from tests.support.waiting import wait_until
from tests.support.watch import Watch, watched

BROKER_MEMORY = 67_108_864
METRICS_TOKEN = "a-token-of-the-tests"
SETTINGS: dict[str, Any] = {
    "POLL_INTERVAL_S": 0.25,
    "TICK_TIMEOUT_S": 1.0,
    "BROKER_TIMEOUT_S": 2.0,
    "BROKER_BYTES": BROKER_MEMORY // 4,
    "METRICS_TOKEN": METRICS_TOKEN,
}


class Said(NamedTuple):
    """How often a process said that the broker failed, and that it is back."""

    failed: int
    back: int


class Marks:
    """All marks that the broker gives to a reader of its own, and when each came."""

    def __init__(self, url: str) -> None:
        self.came: list[tuple[float, Mark]] = []
        self._inlet = inlet_of(replace(Settings(), broker_url=url, broker_timeout_s=1.0))

    @property
    def reached(self) -> int:
        """The last batch that a mark told of."""
        return max((mark.last for _, mark in list(self.came)), default=0)

    def holes(self, start: int) -> list[tuple[int, Mark]]:
        """The marks, from the `start`th on, that begin beyond what those before had reached."""
        found = []
        reached = self.came[start - 1][1].last if start else self.came[0][1].first - 1
        for _, mark in self.came[start:]:
            if mark.first > reached + 1:
                found.append((reached, mark))
            reached = max(reached, mark.last)
        return found

    async def read(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self._inlet.open()
                    await self._inlet.watch(frozenset({0}), frozenset())
                    while True:
                        for parcel in await self._inlet.next(0.2):
                            if parcel.is_mark:
                                self.came.append((time.monotonic(), Mark.parse(parcel.body)))
                except BrokerAway:
                    await asyncio.sleep(0.05)
        finally:
            await self._inlet.close()


@asynccontextmanager
async def reading(marks: Marks) -> AsyncIterator[Marks]:
    """It reads within the block."""
    task = asyncio.create_task(marks.read())
    try:
        yield marks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Told:
    """What is watched under load, and one more client, which notes what it is told.

    Attributes:
        told: the kinds of the frames that it was sent.
    """

    TOLD_S, COME_S = 20.0, 30.0
    """So long it may take until it is told something, and until all has come."""

    def __init__(self, watch: Watch, web: Server) -> None:
        self.told: list[str] = []
        self.watch = watch
        self._web = web

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Within the block the client is there, and was told `live`."""
        task = asyncio.create_task(self._listen())
        try:
            await self.until_told("live", 0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        cookies = login(self._web, "ann")
        while True:
            try:
                async with websocket(self._web, cookies) as socket:
                    while True:
                        self.told.append((await socket.frame())["type"])
            except GONE:
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """`wait_until`, while clients go on."""
        return await asyncio.to_thread(wait_until, condition, timeout_s, what)

    async def until_told(self, kind: str, since: int) -> None:
        """Waits until the one client was sent such a frame, behind its `since`th."""
        await self.until(
            lambda: kind in self.told[since:], self.TOLD_S, f"a stream to be told {kind}"
        )

    async def exact_so_far(self) -> None:
        """Waits until all of it came, and compares. The load goes on afterwards."""
        with self.watch.load.paused():
            await self.until(self.watch.quiet, 20, "all events to be in the ledger")
            with self.watch.connection() as db:
                row = db.execute("SELECT count(*) FROM agent_events").fetchone()
            assert row is not None
            for follower in self.watch.followers:
                seen = follower.seen
                await self.until(partial(_has, seen, row[0]), self.COME_S, "all to have come")
            self.watch.exact()


class World(Told):
    """A deployment under load, to be broken again and again.

    The one more client is at the second web process.
    """

    def __init__(
        self, deployed: Deployment, watch: Watch, webs: list[Server], proxy: SlowProxy
    ) -> None:
        assert deployed.broker is not None
        super().__init__(watch, webs[1])
        self.deployed = deployed
        self.webs = webs
        self.proxy = proxy
        self.broker: Any = deployed.broker
        self.marks = Marks(self.broker.url)

    @property
    def kind(self) -> str:
        """Of the broker."""
        return self.deployed.kind

    def publisher(self) -> Worker:
        """The worker that publishes; waits until there is one."""
        found = wait_until(self._publisher, 20, "a worker of ours to publish")
        assert found is not None
        return found

    def _publisher(self) -> Worker | None:
        backend = self.deployed.publisher()
        with self.watch.connection() as db:
            row = db.execute(
                "SELECT client_port FROM pg_stat_activity WHERE pid = %s", [backend]
            ).fetchone()
        for worker in self.deployed.workers:
            if row and worker.process is not None and row[0] in _ports(worker.pid):
                return worker
        return None

    def said(self) -> dict[str, Said]:
        """How often each process said what it has to say once."""
        made = {}
        for web in self.webs:
            log = web.log()
            made[web.url] = Said(log.count("The broker failed"), log.count("The broker is back"))
        for number, worker in enumerate(self.deployed.workers):
            log = worker.log()
            back = log.count("Publishing works again")
            made[f"worker {number}"] = Said(log.count("Publishing failed"), back)
        return made

    def failures(self) -> int:
        """How often the second web process found the broker away, or could not connect."""
        answer = httpx.get(
            f"{self.webs[1].url}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}
        )
        found = re.search(r"^agent_events_broker_failures_total (\S+)$", answer.text, re.MULTILINE)
        assert found is not None, answer.text
        return int(float(found[1]))

    async def published_again(self, since: float) -> float:
        """Seconds from then until the broker had what was committed afterwards."""

        def found() -> list[float]:
            return [came for came, mark in list(self.marks.came) if mark.last > head and came > at]

        at, head = since, self.head()
        return float((await self.until(found, 30, "a new batch at the broker"))[0] - since)

    def head(self) -> int:
        """The last batch of the ledger."""
        with self.watch.connection() as db:
            row = db.execute("SELECT max(n) FROM agent_event_batches").fetchone()
        assert row is not None
        return int(row[0])


def _has(seen: list[int], count: int) -> bool:
    return len(seen) >= count


def _ports(pid: int) -> set[int]:
    found = psutil.Process(pid).net_connections("tcp")
    return {connection.laddr.port for connection in found}


def server_of(kind: str) -> Broker:
    """A broker with bounded memory. What Redis holds survives its death; NATS' stream does not."""
    if kind == "nats":
        made = NatsServer()
        store = {"store_dir": str(made.store_dir), "max_mem": BROKER_MEMORY}
        made.settings["jetstream"] = {**store, "max_file": BROKER_MEMORY}
        return made
    return RedisServer(maxmemory=BROKER_MEMORY, settings={"appendonly": "yes"})


@asynccontextmanager
async def world_of(kind: str, dsn: str, folder: Path) -> AsyncIterator[World]:
    """Two workers, two web processes, a broker of the kind; exact at the end.

    What they and the broker say to each other goes through a proxy. (A layer's does not.)
    """
    webs: list[Server] = []

    def server(**given: Any) -> Server:
        webs.append(Server(dsn, folder / f"web-{len(webs)}.log", **given))
        return webs[-1].start()

    broker = server_of(kind)
    broker.start()
    proxy = SlowProxy("127.0.0.1", broker.port)
    with (
        proxy.running(),
        deployment(
            kind,
            dsn,
            folder,
            workers=2,
            broker=broker,
            BROKER_URL="" if kind == "layer" else f"{kind}://127.0.0.1:{proxy.port}",
            **SETTINGS,
        ) as deployed,
    ):
        try:
            async with watched(dsn, server, env=deployed.env, pause_s=0.05) as watch:
                world = World(deployed, watch, webs, proxy)
                async with (
                    world.listening(),
                    nullcontext() if kind == "layer" else reading(world.marks),
                ):
                    yield world
        finally:
            for web in webs:
                web.stop()


@contextmanager
def filled(broker: Broker) -> Iterator[None]:
    """Within the block a stranger has used up the memory of the broker."""
    if isinstance(broker, NatsServer):
        with in_nats(broker.url) as stranger:
            stranger.fill()
            yield
            stranger.free()
        return
    with redis.from_url(broker.url) as client:
        # Well beyond the bound: buffers come and go. (By an offset: a text to set would itself
        # need the memory that is to be used up.)
        used = int(client.info("memory")["used_memory"])
        client.setrange("stranger", BROKER_MEMORY - used + BROKER_MEMORY // 8, b"x")
        yield
        client.delete("stranger")


def stored(world: World) -> int:
    """How many messages the broker holds for us."""
    if world.kind == "nats":
        with in_nats(world.broker.url) as stranger:
            return stranger.stored("agent_events")
    with redis.from_url(world.broker.url) as client:
        return int(client.xlen("agent_events:1:0"))


def delete_all(world: World) -> None:
    """A stranger deletes all that the broker holds."""
    if world.kind == "nats":
        with in_nats(world.broker.url) as stranger:
            stranger.delete("agent_events")
    else:
        world.broker.wipe()


def cut(watch: Watch, worker: Worker) -> list[int]:
    """PostgreSQL ends all sessions of a worker; returns which they were."""
    with watch.connection() as db:
        rows = db.execute(
            "SELECT pid, application_name, pg_terminate_backend(pid, 5000)"
            "  FROM pg_stat_activity WHERE client_port = ANY(%s) AND pid <> pg_backend_pid()",
            [list(_ports(worker.pid))],
        ).fetchall()
    names = {name for _, name, _ in rows}
    assert {"agent_events bus", "agent_events publisher"} <= names, names
    return [pid for pid, _, _ in rows]


class Peak:
    """How much memory a process had at most, beyond what it had before."""

    def __init__(self) -> None:
        self.grown = 0


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Looks again and again, within the block."""
    process, over = psutil.Process(pid), threading.Event()
    before = process.memory_info().rss
    peak = Peak()

    def look() -> None:
        while not over.wait(0.05):
            peak.grown = max(peak.grown, process.memory_info().rss - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join(10)
