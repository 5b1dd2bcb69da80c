"""What a broker brings is put together to windows that hold what they say, whatever was lost."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_events.brokers.assembly import Assembly
from agent_events.brokers.parcels import Mark, Parcel, parcels_of, shard_of
from agent_events.feed import Topic
from agent_events.position import Cursor, Position
from agent_events.relay import windows_of
from agent_events.stretch import Stretch
from agent_events.subscriber import Kind, Update
from agent_events.window import Window
from agent_events.wire import Event

TENANTS = [str(uuid.UUID(int=number)) for number in range(1, 7)]


def event(batch: int, id: int, tenant: str, note: str = "") -> Event:
    """An event as PostgreSQL would write it."""
    text = (
        f'{{"id":{id},"tenantId":"{tenant}","agentId":"{uuid.UUID(int=9)}","type":"message",'
        f'"payload":"{note}","createdAt":null}}'
    )
    return Event(batch, time_of(batch), id, text)


def time_of(batch: int) -> int:
    """When it was closed, in ms."""
    return 1_000 * batch


def window(first: int, last: int, events: list[Event]) -> Window:
    """The batches `first` to `last` of a log."""
    inside = tuple(one for one in events if first <= one.batch <= last)
    return Window(first, last, time_of(first - 1), time_of(last), None, inside)


def log_of(dice: random.Random, batches: int) -> list[Event]:
    """A log of some batches, most of them small."""
    events: list[Event] = []
    for batch in range(1, batches + 1):
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            note = "é" * dice.choice([0, 3, 400])
            events.append(event(batch, len(events) + 1, dice.choice(TENANTS), note))
    return events


def cut(dice: random.Random, events: list[Event], batches: int) -> list[Window]:
    """The log in windows, as one worker would send it; a tick now and then."""
    windows: list[Window] = []
    first = 1
    while first <= batches:
        last = min(batches, first + dice.choice([0, 0, 1, 3]))
        windows.append(window(first, last, events))
        if dice.random() < 0.3:
            windows.append(Window(last + 1, last, time_of(last), time_of(last), None))
        first = last + 1
    return windows


def ticks(last: int, shards: int) -> list[Parcel]:
    """What all workers say each second: the log has come to `last`."""
    tick = Window(last + 1, last, time_of(last), time_of(last), None)
    return parcels_of(tick, frozenset(range(shards)), shards, 1_024)


def taken(assembly: Assembly, parcels: list[Parcel]) -> list[Window]:
    """The windows that these make."""
    return [made for parcel in parcels if (made := assembly.take(parcel)) is not None]


@given(
    dice=st.randoms(use_true_random=False),
    shards=st.sampled_from([1, 2, 3]),
    lossy=st.booleans(),
    watched=st.sampled_from([None, frozenset(TENANTS[:1]), frozenset(TENANTS[1:4])]),
)
def test_a_window_holds_all_that_it_says_it_covers_whatever_was_lost_repeated_or_cut_otherwise(
    dice: random.Random, shards: int, lossy: bool, watched: frozenset[str] | None
) -> None:
    batches = 12
    events = log_of(dice, batches)
    # Each shard's worker cuts as it likes; the shards' streams come in any order among themselves.
    streams: list[list[Parcel]] = []
    for shard in range(shards):
        stream: list[Parcel] = []
        for one in cut(dice, events, batches):
            parcels = parcels_of(one, frozenset({shard}), shards, 1_024)
            stream += parcels
            if lossy and dice.random() < 0.2:
                stream += parcels  # another worker, or the same one again
        if lossy:
            stream = [parcel for parcel in stream if dice.random() > 0.1]
        streams.append(stream)
    mixed: list[Parcel] = []
    while any(streams):
        mixed.append(dice.choice([stream for stream in streams if stream]).pop(0))

    assembly = Assembly()
    wanted_shards = {shard_of(tenant, shards) for tenant in watched or TENANTS}
    if watched is None:
        wanted_shards = set(range(shards))
    assembly.watch(frozenset(wanted_shards), watched)
    made = taken(assembly, mixed)
    for one in made:
        assert one.before_ms == time_of(one.first - 1)
        assert one.closed_at_ms == time_of(one.last)
        if one.first <= one.last and one.covers != frozenset():
            assert one.covers == watched
            assert list(one.events) == [
                each
                for each in events
                if one.first <= each.batch <= one.last
                and (watched is None or each.tenant_id in watched)
            ]
    if not lossy:
        assert all(one.covers == watched for one in made if one.first <= one.last)
        chain = [one for one in made if one.first <= one.last]
        assert [one.first for one in chain[1:]] == [one.last + 1 for one in chain[:-1]]
        assert chain[-1].last == batches
        if len(wanted_shards) == 1:
            assert chain[0].first == 1


@pytest.mark.parametrize("shards", [1, 3])
def test_with_nothing_new_each_worker_must_speak_for_a_tick(shards: int) -> None:
    assembly = Assembly()
    assembly.watch(frozenset(range(shards)), None)
    all_but_one = ticks(5, shards)[1:]
    assert taken(assembly, all_but_one * 2) == []
    (made,) = taken(assembly, ticks(5, shards)[:1])
    assert (made.first, made.last) == (6, 5)


def test_a_shard_that_stands_still_holds_the_chain_until_it_is_forgotten() -> None:
    events = [event(1, 1, TENANTS[0]), event(2, 2, TENANTS[1])]
    assembly = Assembly()
    assembly.watch(frozenset({0, 1}), None)
    taken(assembly, ticks(0, 2))
    one = parcels_of(window(1, 2, events), frozenset({0}), 2, 1_024)
    other = parcels_of(window(1, 2, events), frozenset({1}), 2, 1_024)
    assert taken(assembly, one) == []
    (made,) = taken(assembly, other)
    assert list(made.events) == events
    assembly.forget()
    assert taken(assembly, ticks(2, 2)[:1]) == []
    (made,) = taken(assembly, ticks(2, 2)[1:])
    assert (made.first, made.last) == (3, 2)


def test_of_a_tenant_that_is_watched_from_now_on_nothing_before_is_taken_for_all() -> None:
    first, second = (next(t for t in TENANTS if shard_of(t, 2) == n) for n in (0, 1))
    gained = next(t for t in TENANTS if shard_of(t, 2) == 0 and t != first)
    events = [event(2, 1, first), event(2, 2, gained), event(2, 3, second)]
    assembly = Assembly()
    assembly.watch(frozenset({0, 1}), frozenset({first, second}))
    taken(assembly, ticks(1, 2))
    assert taken(assembly, parcels_of(window(2, 2, events), frozenset({0}), 2, 1_024)) == []
    assembly.watch(frozenset({0, 1}), frozenset({first, second, gained}))
    (made,) = taken(assembly, parcels_of(window(2, 2, events), frozenset({1}), 2, 1_024))
    assert (made.first, made.last, made.covers) == (2, 2, frozenset())


def test_a_shard_that_joins_does_not_bring_windows_again_without_their_events() -> None:
    events = [event(n, n, tenant) for n in (1, 2, 3) for tenant in TENANTS[:3]]
    assembly = Assembly()
    assembly.watch(frozenset({0, 1}), frozenset(TENANTS[:3]))
    late: list[Parcel] = []
    given: list[Window] = []
    for n in (1, 2):
        parcels = parcels_of(window(n, n, events), frozenset(range(3)), 3, 1_024)
        late = [one for one in parcels if one.shard == 2]
        given += taken(assembly, [one for one in parcels if one.shard != 2])
    assert [one.last for one in given] == [1, 2]
    # It is watched from now on, and the first that comes is of a window that was handed over.
    assembly.watch(frozenset(range(3)), frozenset(TENANTS[:3]))
    assert taken(assembly, late) == []
    given = taken(assembly, parcels_of(window(3, 3, events), frozenset(range(3)), 3, 1_024))
    (third,) = [one for one in given if one.first <= one.last]  # no tick
    assert (third.first, third.last, third.before_ms) == (3, 3, time_of(2))
    assert third.covers == frozenset(TENANTS[:3])
    assert list(third.events) == [one for one in events if one.batch == 3]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_next_batch_of_another_history_is_not_taken_for_one_of_this(shards: int) -> None:
    assembly = Assembly()
    assembly.watch(frozenset(range(shards)), None)
    own = [event(n, n, TENANTS[0]) for n in (1, 2)]
    for n in (1, 2):
        taken(assembly, parcels_of(window(n, n, own), frozenset(range(shards)), shards, 1_024))
    other = Window(3, 3, 7_000, 8_000, None, (event(3, 3, TENANTS[0]),))
    (told,) = taken(assembly, parcels_of(other, frozenset(range(shards)), shards, 1_024))
    assert (told.first, told.before_ms) == (3, 7_000)  # and the feed knows the time of batch 2


def test_pieces_of_a_slice_that_two_workers_cut_otherwise_are_not_mixed() -> None:
    note = "x" * 3_000
    one = Window(1, 1, 0, time_of(1), None, (event(1, 1, TENANTS[0], note),))
    large, small = (parcels_of(one, frozenset({0}), 1, limit) for limit in (2_048, 1_024))
    assembly = Assembly()
    assembly.watch(frozenset({0}), None)
    mixed = [part for pair in zip(large[:-1], small, strict=False) for part in reversed(pair)]
    (whole,) = taken(assembly, [*mixed, *small[len(large) - 1 : -1], small[-1]])
    assert whole.events == one.events


def test_what_waits_for_another_shard_is_bounded() -> None:
    alone = next(t for t in TENANTS if shard_of(t, 2) == 0)
    assembly = Assembly()
    assembly.watch(frozenset({0, 1}), None)
    taken(assembly, ticks(0, 2))
    note = "x" * 1_000_000
    for batch in range(1, 41):
        sent = window(batch, batch, [event(batch, batch, alone, note)])
        assert taken(assembly, parcels_of(sent, frozenset({0}), 2, 2_000_000)) == []
    (held,) = [shard for number, shard in assembly._shards.items() if number == 0]
    assert sum(len(one.json) for one in held.events) < 20_000_000
    (made,) = taken(assembly, parcels_of(window(1, 40, []), frozenset({1}), 2, 1_024))
    assert (made.first, made.last, made.covers) == (1, 40, frozenset())


def test_another_history_is_told() -> None:
    for shards in (1, 2):
        assembly = Assembly()
        assembly.watch(frozenset(range(shards)), None)
        taken(assembly, ticks(900, shards))
        restarted = Window(4, 3, 31, 31, None, restarted=True)
        made = taken(assembly, parcels_of(restarted, frozenset(range(shards)), shards, 1_024))
        assert made
        assert made[-1].restarted
        assert made[-1].last == 3


def test_a_window_too_large_to_carry_covers_nobody() -> None:
    sent = Window(4, 4, 3_000, 4_000, frozenset())
    assembly = Assembly()
    assembly.watch(frozenset({0}), None)
    (made,) = taken(assembly, parcels_of(sent, frozenset({0}), 1, 1_024))
    assert (made.covers, made.events) == (frozenset(), ())


def test_a_mark_that_would_be_too_long_covers_nobody() -> None:
    many = [str(uuid.UUID(int=number)) for number in range(1, 60)]
    sent = window(1, 1, [event(1, number, tenant) for number, tenant in enumerate(many, 1)])
    parcels = parcels_of(sent, frozenset({0}), 1, 1_024)
    assert max(len(parcel.body) for parcel in parcels) <= 1_024
    assert Mark.parse(parcels[-1].body).parts is None
    assembly = Assembly()
    assembly.watch(frozenset({0}), None)
    assert taken(assembly, parcels)[-1].covers == frozenset()


def test_what_is_no_parcel_of_ours_is_refused() -> None:
    for body in (
        b"",
        b"[]",
        b"{}",
        b'["a",1,1,1,false,{}]',
        b"[1,2,3,4,false,[]]",
        b"\xff",
        b"[" * 9_999,
    ):
        assembly = Assembly()
        assembly.watch(frozenset({0}), None)
        with pytest.raises((ValueError, TypeError)):
            assembly.take(Parcel(0, "", "", body))


def _update(events: list[Event], cursor: Cursor) -> Update:
    return Update(Kind.EVENTS, str(cursor), Stretch(events, str(cursor)) if events else None)


def test_an_update_that_ends_with_a_batch_is_one_window() -> None:
    at = Cursor(Position(3), time_of(2))
    events = [event(3, 1, TENANTS[0]), event(5, 2, TENANTS[1])]
    end = Cursor(Position(6), time_of(5))
    assert windows_of(at, _update(events, end)) == ([window(3, 5, events)], end, True)


def test_a_batch_that_is_cut_is_passed_over_by_a_window_that_covers_nobody() -> None:
    at = Cursor(Position(3), time_of(2))
    events = [event(3, 1, TENANTS[0]), event(4, 2, TENANTS[0]), event(4, 3, TENANTS[0])]
    cut_at = Cursor(Position(4, 3), time_of(4))
    windows, place, whole = windows_of(at, _update(events, cut_at))
    assert windows[0] == window(3, 3, events)
    assert (windows[1].first, windows[1].last, windows[1].covers) == (4, 4, frozenset())
    assert windows[1].before_ms == time_of(3)
    assert (place, whole) == (Cursor(Position(5), time_of(4)), False)


def test_a_batch_whose_rows_are_gone_leaves_no_wrong_time_behind() -> None:
    at = Cursor(Position(1), time_of(0))
    events = [event(1, 1, TENANTS[0]), event(3, 2, TENANTS[0])]  # of batch 2 nothing is left
    windows, _, _ = windows_of(at, _update(events, Cursor(Position(3, 2), time_of(3))))
    assert [(one.first, one.last) for one in windows] == [(1, 1), (2, 3)]
    assert windows[0].closed_at_ms == windows[1].before_ms == time_of(1)


def test_a_topic_takes_an_older_batch_of_a_later_time_for_another_history() -> None:
    topic = Topic(None, lambda: None)
    topic.take(Window(900, 900, 8_990, 9_000, None))
    assert topic.head == Cursor(Position(901), 9_000)
    topic.take(Window(4, 4, 3_000, 4_000, None))  # a repetition
    assert topic.head == Cursor(Position(901), 9_000)
    topic.take(Window(5, 5, 9_500, 9_600, None))
    assert topic.head == Cursor(Position(6), 9_600)


def test_what_another_log_says_is_left_out() -> None:
    assembly = Assembly()
    assembly.watch(frozenset({0}), None)
    ours, theirs, older = (
        parcels_of(window(n, n, [event(n, n, TENANTS[0])]), frozenset({0}), 1, 1_024, log)
        for n, log in ((1, "1/5"), (2, "1/6"), (3, ""))
    )
    # One that does not know its own log, and a worker that does not say, are as before.
    (made,) = taken(assembly, theirs)
    assert made.last == 2
    assembly.log = "1/5"
    assert not assembly.met_other
    assert taken(assembly, theirs) == []
    assert assembly.met_other
    assert [one.last for one in taken(assembly, ours + older)] == [1, 3]
    assert Mark.parse(theirs[-1].body).log == "1/6"
