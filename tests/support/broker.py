"""What tests of brokers share: a server of either kind, its ends, windows, patience."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from agent_events.brokers import Inlet, Outlet, inlet_of, outlet_of
from agent_events.brokers.assembly import Assembly
from agent_events.brokers.parcels import Parcel, parcels_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.window import Window
from agent_events.wire import Event

ANN, BOB = (f"0b9f1c8e-0000-4000-8000-00000000000{n}" for n in (1, 2))
ALL_TENANTS = None
SHARD_0 = frozenset({0})
BOUND_S = 20.0
"""No call may take longer, whatever the server does. (BROKER_TIMEOUT_S is 1 here.)"""
SILENCE_S = 0.5


class Broker:
    """A server of one kind, and the ends that a test opens at it."""

    def __init__(self, kind: str) -> None:
        module = import_module(f"project.{kind}_server")
        self.kind = kind
        self.server: Any = getattr(module, f"{kind.capitalize()}Server")()
        self.server.start()
        self.settings = replace(
            Settings(),
            broker_url=self.server.url,
            broker_timeout_s=1.0,
            broker_bytes=64 * 1024 * 1024,
        )
        self._made: list[Outlet | Inlet] = []

    async def outlet(self, **changes: Any) -> Outlet:
        made = outlet_of(replace(self.settings, **changes))
        self._made.append(made)
        await made.open()
        return made

    async def inlet(
        self,
        shards: frozenset[int] = SHARD_0,
        tenants: frozenset[str] | None = ALL_TENANTS,
        **changes: Any,
    ) -> Inlet:
        made = inlet_of(replace(self.settings, **changes))
        self._made.append(made)
        await made.open()
        await made.watch(shards, tenants)
        return made

    async def close(self) -> None:
        for end in self._made:
            await end.close()

    async def stranger(self) -> None:
        """Somebody else writes where our parcels are."""
        name = self.settings.broker_name
        if self.kind == "redis":
            import redis.asyncio

            async with redis.asyncio.from_url(self.server.url) as client:
                await client.xadd(f"{name}:1:0", {"hello": "world"})
                await client.xadd(f"{name}:1:0", {"t": b"\xff\xfe", "k": "", "b": "x"})
                await client.xadd(f"{name}:1:0", {"t": ANN, "b": "no key"})
        else:
            import nats

            client = await nats.connect(self.server.url)
            stream = client.jetstream()
            await stream.publish(f"{name}.1.0.not-a-tenant", b"\xff\xfe")
            await stream.publish(f"{name}.1.0.a.b.c", b"")
            await stream.publish(f"{name}.hello", b"world")
            await client.close()


def event(batch: int, tenant: str = ANN, text: str = "", id: int | None = None) -> Event:
    """An event of a batch, as `wire` has it."""
    # Ids never repeat: with several in a batch the caller gives them.
    number = batch * 1000 if id is None else id
    body = (
        f'{{"id":"{number}","tenantId":"{tenant}","agentId":"{uuid.UUID(int=number)}",'
        f'"type":"turn_complete","payload":{json.dumps(text, ensure_ascii=False)},'
        f'"createdAt":"2026-01-01T00:00:00.000000Z"}}'
    )
    return Event(batch, 1_000 + batch, number, body)


def window(first: int, *events: Event, last: int | None = None) -> Window:
    """All tenants' events of batches `first` to `last` (the same one by default)."""
    last = first if last is None else last
    return Window(first, last, 999 + first, 1_000 + last, None, tuple(events))


def parcels(*windows: Window, outlet: Outlet, shards: int = 1) -> list[Parcel]:
    """All that is sent for them."""
    wanted = frozenset(range(shards))
    return [one for w in windows for one in parcels_of(w, wanted, shards, outlet.limit)]


def marks(first: int, count: int, outlet: Outlet) -> list[Parcel]:
    """The parcels of so many windows of one event each."""
    windows = [window(n, event(n)) for n in range(first, first + count)]
    return parcels(*windows, outlet=outlet)


async def take(inlet: Inlet, enough: Callable[[list[Parcel]], bool]) -> list[Parcel]:
    """What comes until it is enough. An inlet that is away is opened again, as a source does."""
    came: list[Parcel] = []
    async with asyncio.timeout(BOUND_S):
        while not enough(came):
            try:
                came += await inlet.next(SILENCE_S)
            except BrokerAway:
                await again(inlet)
    return came


async def take_up_to(inlet: Inlet, last: Parcel) -> list[Parcel]:
    """What comes up to and with that one."""
    return await take(inlet, lambda came: bool(came) and came[-1] == last)


async def again(end: Outlet | Inlet) -> None:
    """Opens it, as often as it takes."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await end.open()
            except BrokerAway:
                await asyncio.sleep(0.05)


async def send(outlet: Outlet, what: Sequence[Parcel]) -> None:
    """Sends them until the broker has them, as a relay does."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await outlet.send(what)
            except BrokerAway:
                await again(outlet)


def put_together(
    came: list[Parcel],
    tenants: frozenset[str] | None = ALL_TENANTS,
    shards: frozenset[int] = SHARD_0,
) -> list[Event]:
    """The events of whole windows, by the one rule: what was seen is dropped, gaps are errors."""
    assembly = Assembly()
    assembly.watch(shards, tenants)
    next_batch = 0
    events: list[Event] = []
    for one in filter(None, map(assembly.take, came)):
        assert not next_batch or one.first <= next_batch, f"a gap: {next_batch} to {one.first}"
        assert one.covers == tenants, f"a window is not whole: {one}"
        events += [e for e in one.events if e.batch >= next_batch]
        next_batch = max(next_batch, one.last + 1)
    return events
