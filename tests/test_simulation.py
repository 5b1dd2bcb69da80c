"""The simulated agents: believable, repeatable, at the rate asked."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from typing import Any

import pytest

from project.pacing import LONGEST_CATCH_UP_S, Pacer
from project.simulation import SimulatedEvent, tenant_agents, tenant_name, tenant_story
from tests.support import manage, wait_until
from tests.support.database import ROOT

VOCABULARY = {
    "run.started",
    "run.finished",
    "run.failed",
    "turn.started",
    "turn.finished",
    "turn_complete",
    "tool.started",
    "tool.finished",
    "tool.failed",
    "handoff",
    "needs_human",
    "human.answered",
    "message",
    "guardrail",
    "error",
}
ENDS = {"run.finished", "run.failed"}


def story(count: int = 4000, seed: int = 1, start: int = 0) -> list[SimulatedEvent]:
    tenant = tenant_name(0)
    agents = tenant_agents(tenant, 5, seed)
    return list(itertools.islice(tenant_story(tenant, agents, seed, start), count))


def runs(events: list[SimulatedEvent]) -> list[list[SimulatedEvent]]:
    """The events of each run that has ended."""
    found: dict[str, list[SimulatedEvent]] = defaultdict(list)
    for event in events:
        found[event.payload["run_id"]].append(event)
    return [run for run in found.values() if run[-1].event_type in ENDS]


def test_the_same_seed_tells_the_same_story() -> None:
    assert story(500) == story(500)
    assert story(500) != story(500, seed=2)


def test_another_start_has_the_same_agents_and_other_runs() -> None:
    first, second = story(500), story(500, start=1000)
    assert {e.agent_id for e in first} == {e.agent_id for e in second}
    assert not {e.payload["run_id"] for e in first} & {e.payload["run_id"] for e in second}


def test_the_whole_vocabulary_occurs_and_nothing_else() -> None:
    assert {event.event_type for event in story()} == VOCABULARY


def test_every_run_begins_once_and_ends_once() -> None:
    for run in runs(story()):
        types = [event.event_type for event in run]
        assert types[0] == "run.started"
        assert types.count("run.started") == 1
        assert sum(type_ in ENDS for type_ in types) == 1
        assert len({event.agent_id for event in run}) == 1
        assert len({event.payload["thread_id"] for event in run}) == 1


def test_every_tool_call_has_its_result() -> None:
    for run in runs(story()):
        open_calls: dict[str, str] = {}
        for event in run:
            payload = event.payload
            if event.event_type == "tool.started":
                assert payload["tool_call_id"] not in open_calls
                open_calls[payload["tool_call_id"]] = payload["tool"]
            elif event.event_type in {"tool.finished", "tool.failed"}:
                assert open_calls.pop(payload["tool_call_id"]) == payload["tool"]
                assert payload["duration_ms"] > 0
        assert not open_calls


def test_every_turn_ends_and_every_question_is_answered() -> None:
    for run in runs(story()):
        counted = Counter(event.event_type for event in run)
        assert counted["turn.started"] == counted["turn.finished"] + counted["turn_complete"]
        assert counted["needs_human"] == counted["human.answered"]


def test_payloads_use_the_documented_keys() -> None:
    for event in story():
        payload: dict[str, Any] = event.payload
        json.dumps(payload, allow_nan=False)
        if event.event_type == "turn.finished":
            usage = payload["usage"]
            assert usage["total"] == usage["input"] + usage["output"]
        if event.event_type == "turn_complete":
            assert payload["tokens"] > 0
            assert payload["latency"] > 0
        if event.event_type == "handoff":
            assert payload["from_agent"] != payload["to_agent"]
        if event.event_type in {"run.failed", "tool.failed", "error"}:
            assert set(payload["error"]) == {"type", "message"}


def test_every_tenant_has_a_name_of_its_own() -> None:
    names = [tenant_name(index) for index in range(50)]
    assert len(set(names)) == 50


def test_the_agents_of_two_tenants_differ() -> None:
    first, second = (tenant_agents(tenant_name(index), 20, 1) for index in (0, 1))
    assert len({agent.id for agent in first + second}) == 40
    assert len({agent.name for agent in first}) == 20


# Pace


@pytest.mark.parametrize("rate", [0.5, 3, 1000])
def test_the_rate_holds_however_often_one_asks(rate: float) -> None:
    pacer = Pacer(rate, 100.0)
    given = sum(pacer.due(100.0 + step * 0.007) for step in range(1, 10_001))
    assert given == pytest.approx(70 * rate, abs=1)


def test_a_hiccup_is_caught_up_with_up_to_a_bound() -> None:
    pacer = Pacer(100, 0.0)
    assert pacer.due(1.0) == 100
    assert pacer.due(2.5) == 150
    assert pacer.due(3600.0) == LONGEST_CATCH_UP_S * 100
    assert pacer.due(3601.0) == 100


def test_the_next_event_is_due_when_the_pacer_says() -> None:
    pacer = Pacer(10, 5.0)
    assert pacer.due(pacer.next_at() - 0.001) == 0
    assert pacer.due(pacer.next_at() + 0.001) == 1


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="events per second"):
        Pacer(rate, 0.0)


# The command, for real


def test_the_command_writes_what_was_asked_for(dsn: str, connect: Any) -> None:
    began = time.monotonic()
    printed = manage(
        *("simulate_agents", "--rate=200", "--tenants=3", "--agents=2", "--duration=2"), dsn=dsn
    )
    assert time.monotonic() - began >= 2
    events, tenants, agents = (
        connect()
        .execute(
            "SELECT count(*), count(DISTINCT tenant_id), count(DISTINCT agent_id) FROM agent_events"
        )
        .fetchone()
    )
    assert f"{events} events published" in printed
    assert 40 < events <= 400  # what fell due while it slept past the end is not written
    assert (tenants, agents) == (3, 6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_cleanly(dsn: str, connect: Any, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "simulate_agents", "--rate=50"],
        cwd=ROOT,
        env={"DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        connection = connect()
        wait_until(
            lambda: connection.execute("SELECT count(*) FROM agent_events").fetchone()[0] > 10,
            what="events",
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "events published" in out
    assert err == ""
