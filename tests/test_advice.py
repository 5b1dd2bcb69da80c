"""The advice: silent about a bus that is well, and right about why one is slow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_events.advice import FAN_OUT_READS, Advice, advice
from agent_events.conf import Settings
from agent_events.deliveries import Answer
from agent_events.facts import (
    CommitWaits,
    Counters,
    Head,
    Interval,
    Rates,
    Session,
    Setup,
    Status,
    Waiter,
)
from agent_events.watching import rates

BUS = Session(1, "app", "agent_events bus", "10.0.0.1", None)
WELL = Status(
    setup=Setup(180004, False, (), False, (), "O", 1),
    head=Head(9, 99, datetime.now(UTC), 0.1),
    sequencer=BUS,
    listeners=(BUS,),
    counters=Counters(100.0, 1_000),
)
COALESCING = replace(WELL, coalescer=BUS)
MANY = tuple(replace(BUS, pid=pid) for pid in range(1, 11))
BROKER = "nats://me:s3cret@broker:4222"
QUIET = Interval(1.0, CommitWaits(looks=20), busy=0.0, rings=0, told=0, answers=())
IDLE = Rates(commits=3, events=0, batches=0, notifications=0, waits_grow=0)
LOAD = Rates(commits=5_000, events=5_000, batches=90, notifications=90, waits_grow=0)


def waiter(*, ours: bool) -> Waiter:
    session = Session(7, "them", "billing", None, 0.1)
    return Waiter(session, "shop", ours, looks=9, waits_s=0.01)


def waits(*, ours: bool) -> Interval:
    seen = CommitWaits(20, 9, 4, 0.01, (waiter(ours=ours),), 1, 0.0 if ours else 1.0)
    return replace(QUIET, waits=seen, rings=400)


def told(status: Status, between: Interval, rate: Rates | None = LOAD, **settings: Any) -> Advice:
    found = advice(status, between, rate, Settings(**settings))
    assert found is not None
    return found


@pytest.mark.parametrize("rate", [None, IDLE, LOAD])
@pytest.mark.parametrize(
    "status", [WELL, replace(WELL, listeners=(), sequencer=None), replace(WELL, behind=4)]
)
def test_a_bus_that_is_well_is_fine(status: Status, rate: Rates | None) -> None:
    assert told(status, QUIET, rate).fine
    assert told(status, Interval(), rate).fine  # nothing could be looked at


def test_commits_that_happen_to_meet_are_no_alarm() -> None:
    once = replace(QUIET, waits=CommitWaits(20, 2, 1, 0.001, (waiter(ours=True),), 1))
    assert told(WELL, once).fine


def test_coalescing_is_fine_too() -> None:
    found = told(COALESCING, replace(QUIET, busy=0.3))
    assert (found.code, found.fine) == ("coalescing", True)
    assert found.words.startswith("Coalescing, fine")


def test_waits_of_others_name_them() -> None:
    for status in (WELL, COALESCING):
        found = told(status, waits(ours=False))
        assert found.code == "waits"
        assert "pid 7 (them, billing, database shop)" in found.words
        assert "45% of 20 looks" in found.words


def test_waits_of_our_own_name_the_cause() -> None:
    ours = waits(ours=True)
    assert '"ring"' in told(WELL, ours, mode="ring").words
    assert "400 rings/s" in told(WELL, ours).words
    assert "COALESCE_ABOVE (1,000)" in told(WELL, ours).words
    assert "manage.py listen_events" in told(replace(WELL, sequencer=None), ours).words
    assert "Look again in a moment" in told(COALESCING, ours).words
    assert told(WELL, ours).code == "waits"


def test_events_that_come_faster_than_batches_are_closed_are_time_for_a_broker() -> None:
    late = replace(COALESCING, behind=9_000, waits_s=4.0, listeners=MANY)
    growing = replace(LOAD, waits_grow=0.8)
    assert told(late, QUIET, growing).code == "broker"
    assert "9,000 wait, for 4 s" in told(late, QUIET, growing).words
    assert "10 processes read each batch there, too" in told(late, QUIET, growing).words
    assert told(late, QUIET, replace(LOAD, waits_grow=-0.5)).code != "broker"  # it catches up
    assert told(replace(late, waits_s=0.1), QUIET, growing).code != "broker"
    ringing = replace(WELL, waits_s=4.0, listeners=MANY)
    assert told(ringing, QUIET, growing).code != "broker"  # not coalescing yet


def test_a_sequencer_without_room_is_time_for_a_broker() -> None:
    several = replace(COALESCING, listeners=MANY[:3])
    assert told(several, replace(QUIET, busy=0.95)).code == "broker"
    assert told(several, replace(QUIET, busy=0.95), IDLE).code != "broker"
    assert told(replace(WELL, listeners=MANY[:3]), replace(QUIET, busy=0.95)).code != "broker"
    few = replace(QUIET, busy=1.0, waits=CommitWaits(looks=3))
    assert told(several, few).code != "broker"


def test_a_lone_sequencer_at_its_end_is_told_what_helps_and_no_broker_does() -> None:
    found = told(COALESCING, replace(QUIET, busy=0.95))
    assert (found.code, found.fine) == ("limit", False)
    assert "A broker would not help: 1 process reads each batch there." in found.words
    assert "docs/scaling.md" in found.words
    late = replace(COALESCING, behind=9_000, waits_s=4.0)
    assert told(late, QUIET, replace(LOAD, waits_grow=0.8)).code == "limit"


# The fan-out


def answered(*watches: int | None) -> Interval:
    """What the first processes of MANY said: how many tenants are watched there."""
    one = Answer(1, 9, "host", 1_000, 5, 900, 1, leads=False, coalescing=False, watches=None)
    answers = [
        replace(one, backend=session.pid, watches=count)
        for session, count in zip(MANY, watches, strict=False)
    ]
    return replace(QUIET, answers=tuple(answers))


def test_many_processes_that_read_many_batches_are_time_for_a_broker() -> None:
    busy = replace(LOAD, batches=180.0)
    many = replace(COALESCING, listeners=MANY)
    found = told(many, QUIET, busy)
    assert (found.code, found.fine) == ("broker", False)
    assert found.words.startswith(
        "Time for a broker, because 10 processes read each of 180 batches/s from PostgreSQL, which "
        "makes 1,800 reads/s."
    )
    assert told(replace(many, coalescer=None), QUIET, busy).code == "broker"  # ringing, too
    assert told(many, QUIET, replace(LOAD, batches=90.0)).code == "coalescing"
    assert told(replace(many, listeners=MANY[:4]), QUIET, busy).code == "coalescing"
    assert told(many, QUIET, None).code == "coalescing"  # nobody knows


def test_the_fan_out_is_just_past_its_bound_or_it_is_fine() -> None:
    many = replace(COALESCING, listeners=MANY)
    at = FAN_OUT_READS / len(MANY)
    assert told(many, QUIET, replace(LOAD, batches=at)).fine
    assert told(many, QUIET, replace(LOAD, batches=at * 1.01)).code == "broker"


def test_processes_in_which_nobody_watches_read_nothing() -> None:
    busy = replace(LOAD, batches=180.0)
    many = replace(COALESCING, listeners=MANY)
    assert told(many, answered(*[0] * 10), busy).fine
    assert "6 processes" in told(many, answered(0, 0, 3, None, 0, 0), busy).words


def test_commits_that_wait_come_before_the_fan_out() -> None:
    busy = replace(LOAD, batches=180.0)
    assert told(replace(WELL, listeners=MANY), waits(ours=False), busy).code == "waits"


# With a broker


def test_where_there_is_a_broker_it_is_never_time_for_one() -> None:
    late = replace(COALESCING, behind=9_000, waits_s=4.0, listeners=MANY)
    growing, busy = replace(LOAD, waits_grow=0.8), replace(LOAD, batches=180.0)
    full = replace(WELL, queue_usage=0.6)
    for status, between, rate in (
        (late, QUIET, growing),
        (replace(COALESCING, listeners=MANY), replace(QUIET, busy=0.95), LOAD),
        (COALESCING, replace(QUIET, busy=0.95), LOAD),
        (full, QUIET, LOAD),
    ):
        found = told(status, between, rate, broker_url=BROKER)
        assert (found.code, found.fine) == ("limit", False)
        assert "Time for a broker" not in found.words
        assert "s3cret" not in found.words
    assert "docs/scaling.md" in told(late, QUIET, growing, broker_url=BROKER).words
    # Web processes that still listen were started before.
    left = told(replace(COALESCING, listeners=MANY), QUIET, busy, broker_url=BROKER)
    assert left.code == "waits"
    assert "restart web processes" in left.words
    assert "1,800 reads/s" in left.words
    assert told(COALESCING, QUIET, busy, broker_url=BROKER).fine


def test_a_notification_queue_that_others_fill_is_said() -> None:
    found = told(replace(WELL, queue_usage=0.6), QUIET)
    assert (found.code, found.fine) == ("broker", False)
    assert "if this comes again" in found.words


def test_what_is_wrong_is_not_called_fine() -> None:
    broken = replace(WELL, fault="overtaken")
    assert told(broken, QUIET).words == "No commit waits for another. See what is wrong, above."


def test_without_facts_there_is_no_advice() -> None:
    assert advice(Status(unreachable="refused"), Interval(), None, Settings()) is None
    standby = replace(WELL, setup=replace(WELL.setup, standby=True))  # type: ignore[type-var]
    assert advice(standby, QUIET, None, Settings()) is None


def test_rates_are_what_grew_between_two_looks_without_the_looking_itself() -> None:
    later = replace(
        WELL,
        head=Head(29, 599, datetime.now(UTC), 0.1),
        counters=Counters(102.0, 1_250),
        waits_s=1.0,
    )
    between = replace(QUIET, over_s=1.5, rings=30, told=15, own_commits=50)
    assert rates(WELL, later, between) == Rates(
        commits=100, events=250, batches=10, notifications=30, waits_grow=0.5
    )
    deaf = rates(WELL, later, replace(between, rings=None, told=None))
    assert deaf is not None
    assert deaf.notifications is None


def test_of_another_ledger_or_none_there_are_no_rates() -> None:
    assert rates(WELL, Status(unreachable="refused"), QUIET) is None
    restored = replace(WELL, head=Head(2, 20, datetime.now(UTC), 0.1))
    assert rates(WELL, replace(restored, counters=Counters(102.0, 1_250)), QUIET) is None
