"""NATS as a cluster: three servers, the stream on all of them, and each broken in turn.

What one server must do is in test_nats, and what every broker must do in test_brokers. Faults
follow each other in one cluster, which is well again after each: what one leaves behind, the next
one finds. docs/scaling.md tells the times that are printed.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from agent_events.brokers import Inlet, Outlet, inlet_of, outlet_of
from agent_events.brokers.parcels import Parcel
from agent_events.conf import Settings
from project.embedded import EmbeddedPostgres
from project.nats_server import NatsServer
from tests.conftest import Report, fresh_database
from tests.support import Server
from tests.support.broker import SHARD_0, event, parcels, send, take, window
from tests.support.broker_faults import Told
from tests.support.deployment import deployment
from tests.support.nats_cluster import JETSTREAM, SERVERS, NatsCluster
from tests.support.nats_stranger import in_nats
from tests.support.waiting import until, wait_until
from tests.support.watch import Watch, watched

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLOW, STREAM = "flow", Settings().broker_name
SETTINGS: dict[str, Any] = {
    "BROKER_REPLICAS": SERVERS,
    "BROKER_TIMEOUT_S": 1.0,
    "BROKER_BYTES": 16_777_216,
    "TICK_TIMEOUT_S": 1.0,
    "POLL_INTERVAL_S": 0.25,
}
PARCELS = 100
"""So many more come while a server is away, and after it is back."""
PAUSE_S = 0.005
"""Between a window that was sent and the next one."""
BATCHES = itertools.count(1)
"""One ledger for all tests: a batch that was sent before is dropped."""
BOUND_S = 60.0
"""An election may take a while, and the next one may come before it is over."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[NatsCluster]:
    """Each test leaves it well."""
    with NatsCluster() as made:
        yield made


async def well(cluster: NatsCluster, stream: str) -> None:
    """Waits until every server has all of the stream, while others go on."""
    await asyncio.to_thread(
        wait_until, lambda: cluster.is_well(stream), BOUND_S, "the cluster to be whole"
    )


# The two ends


class Flow:
    """Windows sent one after the other, and what comes of them."""

    def __init__(self, outlet: Outlet, inlet: Inlet) -> None:
        self.sent: list[Parcel] = []
        self.came: list[Parcel] = []
        self.at: list[float] = []
        self.over = False
        self._outlet, self._inlet = outlet, inlet

    async def send(self) -> None:
        """Until it is `over`."""
        while not self.over:
            batch = next(BATCHES)
            made = parcels(window(batch, event(batch)), outlet=self._outlet)
            await send(self._outlet, made)
            self.sent += made
            await asyncio.sleep(PAUSE_S)

    async def take(self) -> None:
        """Until cancelled."""
        while True:
            made = await take(self._inlet, bool)
            self.came += made
            self.at += [time.monotonic()] * len(made)

    async def goes_on(self) -> None:
        """Waits until so many more have come."""
        wanted = len(self.came) + PARCELS
        await until(lambda: len(self.came) >= wanted, BOUND_S)


@asynccontextmanager
async def flowing(cluster: NatsCluster) -> AsyncIterator[Flow]:
    """Within the block; at its end all that was sent has come, once, in order."""
    settings = replace(
        Settings(),
        broker_url=cluster.url,
        broker_name=FLOW,
        **{name.lower(): value for name, value in SETTINGS.items()},
    )
    outlet, inlet = outlet_of(settings), inlet_of(settings)
    try:
        await outlet.open()
        await inlet.open()
        await inlet.watch(SHARD_0, None)
        flow = Flow(outlet, inlet)
        async with asyncio.TaskGroup() as tasks:
            sending, taking = tasks.create_task(flow.send()), tasks.create_task(flow.take())
            await flow.goes_on()
            yield flow
            flow.over = True
            await sending
            await until(lambda: flow.came[-1:] == flow.sent[-1:], BOUND_S)
            taking.cancel()
        assert flow.came == flow.sent
    finally:
        await outlet.close()
        await inlet.close()


@pytest.mark.parametrize("number", range(SERVERS))
async def test_no_parcel_is_lost_repeated_or_late_for_a_server_that_is_killed(
    cluster: NatsCluster, number: int, report: Report
) -> None:
    victim = cluster.servers[number]
    async with flowing(cluster) as flow:
        roles = {"the stream's leader": FLOW, "JetStream's leader": JETSTREAM}
        held = [role for role, what in roles.items() if cluster.leader(what) is victim]
        at = time.monotonic()
        victim.kill()
        await flow.goes_on()
        assert not victim.running
        victim.start()
        await flow.goes_on()
        await well(cluster, FLOW)
    who = f"nats, {' and '.join(held) or 'a server'} of three killed"
    report(f"{who}, {len(flow.came):,} parcels, longest pause of an inlet", pause(flow.at, at))


def pause(came: list[float], since: float) -> str:
    """The longest time between two things that came, which ended after `since`."""
    return f"{max(b - a for a, b in itertools.pairwise(came) if b > since):.2f} s"


# A whole deployment


class World(Told):
    """A worker, two web processes and the cluster in between, under load."""

    TOLD_S = COME_S = BOUND_S

    def __init__(self, watch: Watch, webs: list[Server], cluster: NatsCluster) -> None:
        super().__init__(watch, webs[-1])
        self.cluster = cluster

    def pause(self, since: float) -> str:
        """The longest time that a subscriber who stayed waited for an event, since then."""
        return pause(list(self.watch.followers[0].at.copy().values()), since)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    cluster: NatsCluster,
    postgres: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    """For all tests that follow; exact at the end of each, and of all."""
    folder = tmp_path_factory.mktemp("world")
    webs: list[Server] = []
    with fresh_database(postgres, template_database) as dsn:

        def server(**given: Any) -> Server:
            webs.append(Server(dsn, folder / f"web-{len(webs)}.log", **given))
            return webs[-1].start()

        with deployment("nats", dsn, folder, BROKER_URL=cluster.url, **SETTINGS) as deployed:
            try:
                async with watched(dsn, server, env=deployed.env, pause_s=0.05) as watch:
                    made = World(watch, webs, cluster)
                    async with made.listening():
                        yield made
            finally:
                for web in webs:
                    web.stop()


async def test_a_deployment_goes_on_while_the_streams_leader_is_killed(
    world: World, report: Report
) -> None:
    victim = world.cluster.wait_for_leader(STREAM)
    await without_leader(world, victim, victim.kill, report, "killed")
    assert not victim.running
    victim.start()  # (here: it dies with the thread that starts it)
    await well(world.cluster, STREAM)
    await world.exact_so_far()


async def test_a_deployment_goes_on_while_the_streams_leader_is_frozen(
    world: World, report: Report
) -> None:
    victim = world.cluster.wait_for_leader(STREAM)
    await without_leader(world, victim, victim.freeze, report, "frozen")
    assert victim.running
    victim.thaw()
    await well(world.cluster, STREAM)
    await world.exact_so_far()


async def without_leader(
    world: World, victim: NatsServer, fault: Callable[[], object], report: Report, how: str
) -> None:
    """Streams say that they read the log, until another server leads; nobody waits for that."""
    told, at = len(world.told), time.monotonic()
    fault()
    await world.until_told("catching_up", told)
    told = len(world.told)
    await world.until_told("live", told)
    live_s, longest = time.monotonic() - at, world.pause(at)
    assert world.cluster.leader(STREAM) not in (None, victim)
    report(f"nats, the stream's leader of three {how}, streams live", f"{live_s:.2f} s")
    report(f"nats, the stream's leader of three {how}, longest pause", longest)


async def test_servers_restarted_in_turn_are_hardly_noticed(world: World, report: Report) -> None:
    """As docs/scaling.md says: each asked to stop, and the next one when all say `ok`."""
    at, cluster = time.monotonic(), world.cluster
    held = await asyncio.to_thread(stored, cluster)
    for server in cluster.servers:
        await asyncio.to_thread(server.stop)
        assert not server.running
        await world.watch.recovery(time.monotonic())
        server.start()
        await asyncio.to_thread(wait_until, cluster.is_ready, BOUND_S, "all three to say ok")
    report("nats, each of three restarted in turn, longest pause", world.pause(at))
    assert await asyncio.to_thread(stored, cluster) > held, "none went on with a stream half copied"
    await well(cluster, STREAM)
    await world.exact_so_far()


def stored(cluster: NatsCluster) -> int:
    """How many messages the stream holds."""
    with in_nats(cluster.servers[0].url) as stranger:
        return stranger.stored(STREAM)


async def test_all_servers_killed_at_once_cost_nothing_but_time(
    world: World, report: Report
) -> None:
    """What the stream held was in memory, and is gone: the log has it."""
    told, at = len(world.told), time.monotonic()
    for server in world.cluster.servers:
        server.kill()
    await world.until_told("catching_up", told)
    told = len(world.told)
    await world.watch.recovery(time.monotonic())
    back_at = time.monotonic()
    for server in world.cluster.servers:
        server.start()
    await world.until_told("live", told)
    report("nats, all three killed, live after their start", f"{time.monotonic() - back_at:.2f} s")
    report("nats, all three killed, longest pause", world.pause(at))
    await well(world.cluster, STREAM)
    await world.exact_so_far()
