"""When producers ring and when they need not: pure, time is handed in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_events import mode
from agent_events.conf import Settings
from agent_events.mode import Mode, Pace, Rate

SETTINGS = Settings(coalesce_above=200, ring_below=100)


def rung(pace: Pace, rate: float, since: float, for_s: float = 1.0) -> float:
    """Rings evenly; returns when it stopped."""
    for n in range(int(rate * for_s)):
        pace.rung(since + n / rate, 1)
    return since + for_s


def coalescing(settings: Settings = SETTINGS, rate: float = 400) -> tuple[Pace, float]:
    """A pace that coalesces since just now, because of so many rings a second."""
    pace = Pace(settings)
    pace.ring()
    now = rung(pace, rate, 0.0)
    pace.coalesce(now)
    return pace, now


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50)), max_size=40),
    window_s=st.sampled_from([0.25, 2.0]),
)
def test_a_rate_is_what_came_in_its_window_and_remembers_no_more(
    steps: list[tuple[float, int]], window_s: float
) -> None:
    rate, now, came = Rate(window_s), 0.0, list[tuple[float, int]]()
    for wait_s, count in steps:
        now += wait_s
        rate.add(now, count)
        came.append((now, count))
        within = [n for at, n in came if at > now - window_s and n]
        if count:  # asked or not
            assert len(rate._counts) == len(within)
        assert rate.at(now) == sum(within) / window_s


def test_whoever_takes_the_lead_begins_by_draining_what_the_last_leader_may_have_left() -> None:
    assert Pace(SETTINGS).mode is Mode.DRAINING


@pytest.mark.parametrize("begin", ["ring", "drain"])
def test_coalescing_begins_where_more_ring_than_coalesce_above_while_draining_too(
    begin: str,
) -> None:
    pace = Pace(SETTINGS)
    getattr(pace, begin)()
    now = rung(pace, 190, 0.0)
    assert not pace.should_coalesce(now)
    now = rung(pace, 220, now)
    assert pace.should_coalesce(now)


def test_a_burst_is_noticed_within_a_quarter_of_a_second_and_forgotten_as_soon() -> None:
    pace = Pace(SETTINGS)
    now = rung(pace, 1_000, 0.0, for_s=0.06)
    assert pace.should_coalesce(now)
    assert not pace.should_coalesce(now + mode.RING_RATE_S)


def test_a_pause_shorter_than_two_seconds_ends_nothing_and_a_longer_one_does() -> None:
    pace, now = coalescing()
    pace.closed(now + 1.0, 500)
    assert not pace.should_ring(now + 2.9)
    assert pace.should_ring(now + 3.1)


def test_ringing_does_not_come_back_sooner_than_two_seconds_though_nothing_comes() -> None:
    pace, now = coalescing()
    assert not pace.should_ring(now + mode.EVENT_RATE_S - 0.01)
    assert pace.should_ring(now + mode.EVENT_RATE_S)


@given(rate=st.integers(1, 2_000), per_commit=st.integers(1, 5))
def test_a_steady_load_never_goes_to_and_fro(rate: int, per_commit: int) -> None:
    # Each commit rings once and brings one event or more. Once it coalesces, it goes on to.
    pace = Pace(SETTINGS)
    pace.ring()
    flips = list(_driven(pace, rate, per_commit, for_s=12.0))
    assert len(flips) <= 1
    assert (pace.mode is Mode.COALESCING) == bool(flips)
    if rate > 1.1 * SETTINGS.coalesce_above:
        assert flips
    if rate < 0.9 * SETTINGS.coalesce_above - 4:
        assert not flips


def _driven(pace: Pace, rate: int, per_commit: int, for_s: float) -> Iterator[float]:
    """The leader's loop, 10 ms a turn; yields when it changes between ringing and coalescing."""
    done = 0
    for turn in range(int(for_s * 100)):
        now = turn / 100
        commits = int(now * rate) - done
        done += commits
        pace.closed(now, commits * per_commit)
        if pace.mode is Mode.COALESCING:
            if pace.should_ring(now):
                pace.drain()
                yield now
        else:
            pace.rung(now, commits)
            if pace.should_coalesce(now):
                pace.coalesce(now)
                yield now
            elif pace.mode is Mode.DRAINING:
                pace.ring()


def test_commits_that_wait_at_some_looks_within_a_second_begin_it_far_below_the_rate() -> None:
    pace = Pace(SETTINGS)
    now = rung(pace, 40, 0.0)
    assert pace.watch_waits(now)
    for waiting in (1, 0, *[2] * (mode.WAITED - 1), 1):  # one that waits alone is no queue
        pace.saw_waiting(now, waiting)
        assert not pace.should_coalesce(now)
    pace.saw_waiting(now, 5)
    assert pace.should_coalesce(now)


def test_what_waits_began_at_a_low_rate_does_not_end_at_once() -> None:
    pace = Pace(SETTINGS)
    now = rung(pace, 40, 0.0)
    for _ in range(mode.WAITED):
        pace.saw_waiting(now, 3)
    assert pace.should_coalesce(now)
    pace.coalesce(now)
    for tenth in range(30):  # the same 40 a second, which is below `ring_below`
        pace.closed(now + tenth / 10, 4)
    assert not pace.should_ring(now + 3.0)
    assert pace.should_ring(now + 4.5)  # a pause


def test_the_waits_that_began_it_do_not_begin_it_again() -> None:
    pace = Pace(SETTINGS)
    for _ in range(mode.WAITED):
        pace.saw_waiting(0.5, 3)
    pace.coalesce(1.0)
    pace.drain()
    assert not pace.should_coalesce(1.2)


def test_waits_of_long_ago_begin_nothing() -> None:
    pace = Pace(SETTINGS)
    for _ in range(mode.WAITED):
        pace.saw_waiting(1.0, 3)
    assert pace.should_coalesce(1.5)
    assert not pace.should_coalesce(1.0 + mode.WAITS_S)


def test_it_ends_on_a_log_without_events_whatever_began_it() -> None:
    pace = Pace(SETTINGS)
    for _ in range(mode.WAITED):
        pace.saw_waiting(1.0, 3)
    pace.coalesce(1.5)
    assert pace.should_ring(1.5 + mode.EVENT_RATE_S)


def test_a_lower_rate_that_is_above_the_upper_one_does_not_make_it_flap() -> None:
    pace = Pace(Settings(coalesce_above=200, ring_below=700))
    now = rung(pace, 300, 0.0)
    assert pace.should_coalesce(now)
    pace.coalesce(now)
    for tenth in range(30):
        pace.closed(now + tenth / 10, 30)
    assert not pace.should_ring(now + 2.9)


def test_the_commit_lock_is_not_looked_at_while_it_is_quiet_nor_while_nobody_rings() -> None:
    pace = Pace(SETTINGS)
    pace.ring()
    now = rung(pace, 15, 0.0)  # less than a tenth of `coalesce_above`
    assert not pace.watch_waits(now)
    now = rung(pace, 40, now)
    assert pace.watch_waits(now)
    pace.coalesce(now)
    assert not pace.watch_waits(now)


@pytest.mark.parametrize("fixed", ["ring", "coalesce"])
def test_a_mode_that_was_set_does_not_depend_on_the_load(fixed: str) -> None:
    pace = Pace(Settings(mode=fixed, coalesce_above=200, ring_below=100))
    for now in (0.0, rung(pace, 1_000, 0.0)):
        for _ in range(mode.WAITED):
            pace.saw_waiting(now, 9)
        assert pace.should_coalesce(now) is (fixed == "coalesce")
        assert not pace.watch_waits(now)
    pace.coalesce(1.0)
    assert pace.should_ring(60.0) is (fixed == "ring")


def test_draining_looks_often_at_first_and_four_times_a_second_in_the_end() -> None:
    pace, _ = coalescing()
    for _ in range(2):  # each time anew
        pace.drain()
        waits = [pace.next_drain_s() for _ in range(8)]
        assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25])
