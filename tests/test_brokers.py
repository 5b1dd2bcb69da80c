"""What every broker's two ends promise, each against a real server. And parcels, which are pure."""

from __future__ import annotations

import asyncio
import gc
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_events.brokers import inlet_of, outlet_of
from agent_events.brokers.parcels import Mark, Parcel, Part, events_in, parcels_of, shard_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.window import Window
from agent_events.wire import Event
from tests.support.broker import (
    ALL_TENANTS,
    ANN,
    BOB,
    BOUND_S,
    SHARD_0,
    SILENCE_S,
    Broker,
    again,
    event,
    marks,
    parcels,
    put_together,
    send,
    take,
    take_up_to,
    window,
)

HUGE = b"[4611686018427387905,4611686018427387904,1,1,false,null]"
"""A mark of the batch 2 ** 62."""


@pytest.fixture(params=["nats", "redis"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    """One after the other, each with a server of the test's own."""
    made = Broker(request.param)
    try:
        yield made
        await made.close()
    finally:
        made.server.stop()


# Order, wholeness, once


async def test_parcels_come_out_in_order_whole_and_once(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sent = parcels(
        *[window(n, event(n, ANN), event(n, BOB, id=n * 1000 + 1)) for n in range(1, 301)],
        outlet=outlet,
    )

    await outlet.send(sent[:5])
    await outlet.send(sent[5:])

    assert await take_up_to(inlet, sent[-1]) == sent
    assert await inlet.next(SILENCE_S) == []


async def test_every_inlet_gets_everything(broker: Broker) -> None:
    outlet = await broker.outlet()
    inlets = [await broker.inlet() for _ in range(3)]
    sent = marks(1, 20, outlet)

    await outlet.send(sent)

    for inlet in inlets:
        assert await take_up_to(inlet, sent[-1]) == sent


async def test_what_was_sent_before_an_inlet_watched_does_not_come(broker: Broker) -> None:
    outlet = await broker.outlet()
    await outlet.send(marks(1, 3, outlet))
    inlet = await broker.inlet()
    sent = marks(4, 3, outlet)

    await outlet.send(sent)

    assert await take_up_to(inlet, sent[-1]) == sent


async def test_an_inlet_opened_before_there_was_any_outlet_gets_the_first_parcel(
    broker: Broker,
) -> None:
    inlet = await broker.inlet()  # as web processes that start before the first worker do
    assert await inlet.next(SILENCE_S) == []
    outlet = await broker.outlet()
    sent = marks(1, 2, outlet)

    await outlet.send(sent)

    assert await take_up_to(inlet, sent[-1]) == sent


async def test_what_is_sent_twice_comes_once_to_those_who_follow_the_rule(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sent, end = marks(1, 10, outlet), marks(11, 1, outlet)

    await outlet.send(sent)
    await outlet.send(sent[6:])
    await outlet.send(end)

    events = put_together(await take_up_to(inlet, end[-1]))
    assert [e.batch for e in events] == list(range(1, 12))


async def test_slices_near_the_limit_are_split_and_come_together_again(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sizes = range(outlet.limit // 2 - 200, outlet.limit // 2, 20)
    windows = [window(n, event(n, text="ä" * size)) for n, size in enumerate(sizes, 1)]
    windows.append(window(11, *[event(11, text="x" * size, id=size) for size in sizes]))
    sent = parcels(*windows, outlet=outlet)
    assert outlet.limit - 128 < max(len(one.body) for one in sent) <= outlet.limit

    await outlet.send(sent)

    came = await take_up_to(inlet, sent[-1])
    assert came == sent
    assert put_together(came) == [e for w in windows for e in w.events]


# Watching


async def test_watching_more_tenants_loses_nothing(broker: Broker) -> None:
    outlet = await broker.outlet()
    inlet = await broker.inlet(tenants=frozenset({ANN}))
    windows = [window(n, event(n, ANN), event(n, BOB, id=n * 1000 + 1)) for n in range(1, 31)]
    sent = [parcels(w, outlet=outlet) for w in windows]
    came: list[Parcel] = []

    for n, one in enumerate(sent):
        await outlet.send(one)
        if n == 5:
            came += await take_up_to(inlet, one[-1])
        if n == 15:  # with ten windows that were not taken yet
            await inlet.watch(SHARD_0, frozenset({ANN, BOB}))
    came += await take_up_to(inlet, sent[-1][-1])

    ann = [e for e in put_together(came, frozenset({ANN})) if e.tenant_id == ANN]
    assert ann == [e for w in windows for e in w.events_of((ANN,))]
    bob = [one for one in came if one.tenant == BOB]
    assert [p for p in bob if p in [q for s in sent[16:] for q in s]] == [s[1] for s in sent[16:]]


async def test_an_inlet_that_watched_nothing_can_begin(broker: Broker) -> None:
    outlet = await broker.outlet()
    inlet = await broker.inlet(frozenset(), frozenset())
    early, late = marks(1, 2, outlet), marks(3, 2, outlet)
    await outlet.send(early)
    came = await inlet.next(SILENCE_S)  # others may come, too
    await inlet.watch(SHARD_0, frozenset({ANN}))

    await outlet.send(late)

    came += await take_up_to(inlet, late[-1])
    assert came in (late, early + late)


async def test_shards_travel_apart_and_come_together(broker: Broker) -> None:
    tenants = [f"0b9f1c8e-0000-4000-8000-{n:012x}" for n in range(8)]
    outlet = await broker.outlet(broker_shards=4)
    every = await broker.inlet(frozenset(range(4)), broker_shards=4)
    some = await broker.inlet(frozenset({1, 2}), frozenset({tenants[1]}), broker_shards=4)
    windows = [
        window(n, *[event(n, t, id=n * 100 + m) for m, t in enumerate(tenants) if (n + m) % 3])
        for n in range(1, 41)
    ]
    sent = parcels(*windows, outlet=outlet, shards=4)

    await outlet.send(sent)

    def ended(shards: frozenset[int]) -> Callable[[list[Parcel]], bool]:
        last = {one for one in sent[-4:] if one.shard in shards}
        return lambda came: last <= set(came)

    came = await take(every, ended(frozenset(range(4))))
    for shard in range(4):
        assert [p for p in came if p.shard == shard] == [p for p in sent if p.shard == shard]
    assert put_together(came, shards=frozenset(range(4))) == [e for w in windows for e in w.events]
    came = await take(some, ended(frozenset({1, 2})))
    assert {p.shard for p in came} == {1, 2}
    wanted = [p for p in sent if p.tenant == tenants[1] or (p.is_mark and p.shard in {1, 2})]
    assert [p for p in came if p.shard == 1 and p in wanted] == [p for p in wanted if p.shard == 1]
    assert [p for p in came if p.shard == 2 and p in wanted] == [p for p in wanted if p.shard == 2]


async def test_while_the_number_of_shards_changes_neither_takes_anything_from_the_other(
    broker: Broker,
) -> None:
    outlets = {shards: await broker.outlet(broker_shards=shards) for shards in (1, 2)}
    inlets = {
        shards: await broker.inlet(frozenset(range(shards)), broker_shards=shards)
        for shards in outlets
    }
    windows = [window(n, event(n, ANN), event(n, BOB, id=n * 1000 + 1)) for n in (1, 2, 3)]
    for shards, outlet in outlets.items():
        await outlet.send(parcels(*windows, outlet=outlet, shards=shards))
    for shards, inlet in inlets.items():
        own = frozenset(range(shards))
        came = await take(inlet, lambda came, n=shards: sum(p.is_mark for p in came) == 3 * n)
        assert put_together(came, shards=own) == [e for w in windows for e in w.events]
        assert await outlets[shards].last(shards - 1) == Mark.parse(came[-1].body)


async def test_watching_another_shard_loses_nothing_of_either(broker: Broker) -> None:
    outlet = await broker.outlet(broker_shards=2)
    inlet = await broker.inlet(SHARD_0, broker_shards=2)
    early = parcels(window(1), window(2), outlet=outlet, shards=2)
    await outlet.send(early)
    await inlet.watch(frozenset({0, 1}), ALL_TENANTS)
    late = parcels(window(3), outlet=outlet, shards=2)

    await outlet.send(late)

    came = await take(inlet, lambda came: set(late) <= set(came))
    assert [p for p in came if p.shard == 0] == [p for p in early + late if p.shard == 0]
    others = [p for p in came if p.shard == 1]  # from its end on, or from the first one's place
    assert others in ([p for p in all if p.shard == 1] for all in (late, early + late))


# The last mark


async def test_an_empty_stream_has_no_last_mark(broker: Broker) -> None:
    outlet = await broker.outlet()

    assert await outlet.last(0) is None


async def test_the_last_mark_is_the_newest_of_its_shard(broker: Broker) -> None:
    outlet = await broker.outlet(broker_shards=2)
    await outlet.send(parcels(window(1), window(2), outlet=outlet, shards=2))
    await outlet.send(list(parcels_of(window(3), frozenset({1}), 2, outlet.limit)))

    later = await broker.outlet(broker_shards=2)

    first, second = await later.last(0), await later.last(1)
    assert first is not None
    assert (first.first, first.last, first.closed_at_ms) == (2, 2, 1_002)
    assert second is not None
    assert second.last == 3


async def test_the_last_mark_is_found_behind_slices_of_a_sender_that_died(broker: Broker) -> None:
    outlet = await broker.outlet()
    many = [event(2, str(uuid.UUID(int=n)), "x" * 100, id=2_000 + n) for n in range(100)]
    sent = parcels(window(1, event(1)), window(2, *many), outlet=outlet)

    await outlet.send(sent[:-1])

    mark = await (await broker.outlet()).last(0)
    assert mark is not None
    assert mark.last == 1


async def test_a_tick_is_a_mark_too(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    tick = parcels(Window(8, 7, 1_007, 1_007, None), outlet=outlet)

    await outlet.send(tick)
    await outlet.send(tick)

    assert await take(inlet, lambda came: len(came) >= 2) == tick * 2
    mark = await outlet.last(0)
    assert mark is not None
    assert (mark.first, mark.last) == (8, 7)


# Faults


async def test_an_inlet_opened_again_goes_on_after_the_last_parcel_that_it_gave(
    broker: Broker,
) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sent = marks(1, 400, outlet)
    await outlet.send(sent[:300])
    came = await take(inlet, bool)
    await inlet.close()
    await outlet.send(sent[300:])

    await inlet.open()

    came += await take_up_to(inlet, sent[-1])
    assert came == sent


async def test_a_wait_that_is_cancelled_loses_nothing(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sent = marks(1, 61, outlet)
    came: list[Parcel] = []

    for one in sent[:-1]:
        waiting = asyncio.create_task(take(inlet, lambda came: len(came) > 500))
        await asyncio.sleep(0)
        await outlet.send([one])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        came += await take(inlet, lambda came: True)

    # What a cancelled wait had been given already is its own; of the last one none was.
    await outlet.send(sent[-1:])
    came += await take_up_to(inlet, sent[-1])
    numbers = [sent.index(one) for one in came]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == len(sent) - 1


async def test_both_ends_go_on_after_the_server_was_killed_and_started_again(
    broker: Broker,
) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    first = marks(1, 3, outlet)
    await outlet.send(first)
    assert await take_up_to(inlet, first[-1]) == first
    broker.server.kill()
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(BrokerAway):
            await outlet.send(marks(4, 1, outlet))
        with pytest.raises(BrokerAway):
            while True:
                assert await inlet.next(SILENCE_S) == []
        for end in (outlet, inlet):
            with pytest.raises(BrokerAway):
                await end.open()

    broker.server.start()
    await again(outlet)
    await again(inlet)

    second = marks(5, 3, outlet)
    await send(outlet, second)
    assert await take_up_to(inlet, second[-1]) == second


async def test_an_inlet_that_comes_back_before_any_outlet_goes_on(broker: Broker) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    first = marks(1, 3, outlet)
    await outlet.send(first)
    await take_up_to(inlet, first[-1])
    broker.server.kill()
    broker.server.start()
    came: list[Parcel] = []

    async def read() -> None:
        came.extend(await take(inlet, bool))

    reading = asyncio.create_task(read())
    await asyncio.sleep(SILENCE_S)
    await again(outlet)
    # A relay ticks; the inlet may begin at the end of what is there when it is back.
    for n in range(4, 400):
        await send(outlet, marks(n, 1, outlet))
        if reading.done():
            break
        await asyncio.sleep(0.05)

    await reading
    assert came


async def test_a_frozen_server_is_away_within_a_bounded_time_and_back_after(
    broker: Broker,
) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    first = marks(1, 3, outlet)
    await outlet.send(first)
    assert await take_up_to(inlet, first[-1]) == first
    broker.server.freeze()
    try:
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(BrokerAway):
                await outlet.send(marks(4, 1, outlet))
            with pytest.raises(BrokerAway):
                while True:
                    assert await inlet.next(SILENCE_S) == []
            for end in (outlet, inlet):
                with pytest.raises(BrokerAway):
                    await end.open()
            with pytest.raises(BrokerAway):
                await outlet.last(0)
    finally:
        broker.server.thaw()

    await again(outlet)
    await again(inlet)
    second = marks(5, 3, outlet)
    await send(outlet, second)
    came = await take_up_to(inlet, second[-1])
    # (The one that nobody confirmed may have arrived: the server was thawed with it.)
    assert [p for p in came if p not in marks(4, 1, outlet)] == second


async def test_an_inlet_goes_on_with_what_comes_after_the_broker_was_wiped(
    broker: Broker,
) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    first = marks(1, 50, outlet)
    await outlet.send(first)
    await take_up_to(inlet, first[-1])

    broker.server.wipe()

    came: list[Parcel] = []
    for n in range(51, 400):  # a relay ticks; what comes before the wipe is noticed may be lost
        await send(outlet, marks(n, 1, outlet))
        try:
            came += await inlet.next(0.05)
        except BrokerAway:
            await again(inlet)
        if came:
            break
    assert came
    later = marks(1_000, 10, outlet)
    await send(outlet, later)
    came = await take_up_to(inlet, later[-1])
    assert came[-len(later) :] == later


async def test_what_a_stranger_writes_is_skipped(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    outlet, inlet = await broker.outlet(), await broker.inlet()
    sent = marks(1, 4, outlet)

    await outlet.send(sent[:4])
    for _ in range(3):
        await broker.stranger()
    mark = await outlet.last(0)
    await outlet.send(sent[4:])

    came = await take_up_to(inlet, sent[-1])
    assert [one for one in came if one in sent] == sent
    assert mark is not None
    assert mark.last == 2
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) <= 1


async def test_a_reader_that_does_not_read_costs_this_process_little_and_keeps_the_order(
    broker: Broker,
) -> None:
    small = {"broker_bytes": 32 * 1024 * 1024}
    outlet, inlet = await broker.outlet(**small), await broker.inlet(**small)
    process = psutil.Process(os.getpid())

    def numbered(n: int) -> list[Parcel]:
        return [Parcel(0, ANN, f"{n}", b"%08d" % n + b"x" * 200_000)]

    for n in range(20):  # what sending takes once
        await outlet.send(numbered(n))
    gc.collect()
    before = process.memory_info().rss
    for n in range(20, 400):  # 76 MB
        await outlet.send(numbered(n))
        await asyncio.sleep(0)
    await asyncio.sleep(SILENCE_S)  # whatever is on its way has come
    gc.collect()
    grown = process.memory_info().rss - before

    came = await take(inlet, lambda came: bool(came) and came[-1].key == "399")
    numbers = [int(one.body[:8]) for one in came]
    assert numbers == sorted(set(numbers))
    assert [p.key for p in came] == [str(n) for n in numbers]
    assert grown < 48 * 1024 * 1024


async def test_a_reader_that_was_away_gets_the_newest_of_a_bounded_stream_in_order(
    broker: Broker,
) -> None:
    outlet = await broker.outlet(broker_messages=200)
    inlet = await broker.inlet(broker_messages=200)
    sent = marks(1, 1_000, outlet)
    await outlet.send(sent[:20])
    await take_up_to(inlet, sent[19])
    await inlet.close()

    await outlet.send(sent[20:])
    await inlet.open()

    came = await take_up_to(inlet, sent[-1])
    assert came == sent[-len(came) :]
    assert 200 <= len(came) <= 300


@pytest.mark.parametrize(
    "url", ["nats://ann:geheim@127.0.0.1:1", "redis://ann:geheim@127.0.0.1:1/0"]
)
async def test_nothing_that_is_said_of_an_absent_server_holds_its_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(Settings(), broker_url=url, broker_timeout_s=0.5)

    for end in (outlet_of(settings), inlet_of(settings)):
        with pytest.raises(BrokerAway) as raised:
            await end.open()
        await end.close()

        assert "geheim" not in str(raised.value)
    assert "geheim" not in caplog.text


# Parcels

JSON_TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)))
TENANTS = st.sampled_from([str(uuid.UUID(int=n)) for n in range(6)])


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Windows with events of a few tenants, in order."""
    first = draw(st.integers(1, 2**46))
    last = first + draw(st.integers(0, 3))
    drawn = draw(st.lists(st.tuples(st.integers(first, last), TENANTS, JSON_TEXT), max_size=12))
    drawn.sort(key=lambda one: one[0])
    # The tenant is cut out of the JSON: this is its beginning.
    events = [
        Event(batch, 2**40 + batch % 5, id, f'{{"id":"{id}","tenantId":"{tenant}",{text}')
        for id, (batch, tenant, text) in enumerate(drawn, draw(st.integers(1, 2**60)))
    ]
    return Window(first, last, 2**40, 2**40 + 9, None, tuple(events))


@given(windows(), st.integers(1_024, 4_096), st.integers(1, 5))
def test_parcels_hold_the_same_events_whatever_the_limit(
    window: Window, limit: int, shards: int
) -> None:
    made = parcels_of(window, frozenset(range(shards)), shards, limit)

    assert all(len(one.body) <= limit for one in made)
    assert len({one.key for one in made}) == len(made)
    texts: dict[str, list[bytes]] = {}
    for one in made:
        if one.is_mark:
            mark = Mark.parse(one.body)
            assert (mark.first, mark.last) == (window.first, window.last)
            assert mark.parts is not None
            assert {shard_of(tenant, shards) for tenant in mark.parts} <= {one.shard}
            assert all(len(texts[tenant]) == parts for tenant, parts in mark.parts.items())
            continue
        part = Part.parse(one.body)
        assert (part.first, part.last) == (window.first, window.last)
        assert part.closed_at_ms == window.closed_at_ms
        assert part.place == len(texts.setdefault(one.tenant, []))
        assert one.shard == shard_of(one.tenant, shards)
        texts[one.tenant].append(part.text)
    found = {tenant: events_in(b"".join(parts)) for tenant, parts in texts.items()}
    assert found == window.by_tenant


def test_a_window_that_is_too_large_for_a_mark_says_so() -> None:
    many = [event(1, str(uuid.UUID(int=n)), id=n) for n in range(100)]

    made = parcels_of(window(1, *many), SHARD_0, 1, 1_024)

    assert Mark.parse(made[-1].body).parts is None


@pytest.mark.parametrize("body", [b"", b"x", b"{}", b"[1]", b'[1,2,3,"x",0,null]', b"\xff", HUGE])
def test_what_is_no_mark_is_a_value_error(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Mark.parse(body)


@pytest.mark.parametrize("body", [b"", b"x", b"1 2 3\n", b"1 2 3 4 x\ntext", b"\xff\n"])
def test_what_is_no_part_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        Part.parse(body)
