"""What a process remembers of what it handed over: enough to answer, never more than its bound."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from agent_events import deliveries
from agent_events.deliveries import Answer, Deliveries
from agent_events.window import Window

FACTS: dict[str, Any] = {
    "now_ms": 9_000,
    "backend": 11,
    "process": 22,
    "host": "web-1",
    "leads": True,
    "coalescing": False,
    "watches": 2,
}


def window(first: int, last: int, covers: frozenset[str] | None = frozenset("ab")) -> Window:
    """Batch n was closed at 10 n ms."""
    return Window(first, last, (first - 1) * 10, last * 10, covers)


def tick(batch: int) -> Window:
    return Window(batch + 1, batch, batch * 10, batch * 10, frozenset())


def ask(told: Deliveries, batch: int | None = None, tenant: str | None = None) -> dict[str, Any]:
    question = json.dumps({"nonce": "c0ffee", "batch": batch, "tenant": tenant})
    answer = told.answer(question, **FACTS)
    assert answer is not None
    found: dict[str, Any] = json.loads(answer)
    return found


def test_an_answer_says_when_a_batch_was_handed_over_and_whether_the_tenants_events_were() -> None:
    told = Deliveries()
    told.record(tick(4), 1_000)
    told.record(window(5, 7), 2_000)
    told.record(window(8, 8, None), 3_000)
    told.record(window(9, 9, frozenset()), 4_000)
    assert ask(told, 6, "a") == {
        **FACTS,
        "nonce": "c0ffee",
        "batch": 9,
        "at_ms": 4_000,
        "began": 5,
        "delivered_ms": 2_000,
        "covered": True,
    }
    assert ask(told, 7, "c")["covered"] is False
    assert (ask(told, 7)["delivered_ms"], ask(told, 7)["covered"]) == (2_000, None)
    assert (ask(told, 8, "c")["delivered_ms"], ask(told, 8, "c")["covered"]) == (3_000, True)
    assert (ask(told, 9, "a")["delivered_ms"], ask(told, 9, "a")["covered"]) == (4_000, False)
    for unknown in (4, 10, None):
        assert (ask(told, unknown)["delivered_ms"], ask(told, unknown)["covered"]) == (None, None)


def test_who_has_handed_over_nothing_says_where_it_began() -> None:
    told = Deliveries()
    nothing = ask(told, 1, "a")
    assert [nothing[name] for name in ("batch", "at_ms", "began")] == [None, None, None]
    told.record(tick(4), 1_000)
    told.record(tick(4), 2_000)
    begun = ask(told, 5, "a")
    assert [begun[name] for name in ("batch", "at_ms", "began")] == [4, None, 5]
    told.record(window(5, 5), 3_000)
    told.record(tick(5), 4_000)
    assert [ask(told)[name] for name in ("batch", "at_ms", "began")] == [5, 3_000, 5]


def test_of_another_ledger_nothing_is_remembered() -> None:
    told = Deliveries()
    told.record(window(5, 7), 2_000)
    told.record(Window(8, 7, 71, 71, frozenset(), restarted=True), 3_000)
    assert (ask(told, 6)["delivered_ms"], ask(told)["began"], ask(told)["at_ms"]) == (None, 8, None)


def test_only_the_last_windows_are_remembered() -> None:
    told = Deliveries(most=3)
    for n in range(1, 6):
        told.record(window(n, n), n)
    assert [ask(told, n)["delivered_ms"] for n in range(1, 6)] == [None, None, 3, 4, 5]
    assert ask(told)["began"] == 1


def test_viewers_who_come_and_go_make_it_forget_sooner_in_place_of_growing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "MOST_TENANTS", 10)
    told = Deliveries()
    for n in range(1, 9):  # the same tenants each time, in another set
        told.record(window(n, n, frozenset("abcd")), n)
    assert ask(told, 1, "a")["covered"] is True
    for n in range(9, 13):  # other tenants each time
        told.record(window(n, n, frozenset({f"{n}", "b", "c", "d"})), n)
    assert [ask(told, n)["delivered_ms"] for n in (1, 8, 9, 10, 11, 12)] == [None] * 4 + [11, 12]
    told.record(window(13, 13, frozenset(map(str, range(99)))), 13)  # too many by itself
    assert (ask(told, 12)["delivered_ms"], ask(told, 13, "7")["covered"]) == (None, True)
    told.record(window(14, 14), 14)
    assert (ask(told, 13)["delivered_ms"], ask(told, 14)["delivered_ms"]) == (None, 14)


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "x",
        "[]",
        "7",
        "{}",
        '{"nonce": 7}',
        '{"nonce": ""}',
        '{"nonce": "a b"}',
        json.dumps({"nonce": "f" * 65}),
        '{"nonce": "f", "batch": "1"}',
        '{"nonce": "f", "batch": true}',
        '{"nonce": "f", "batch": 1.5}',
        '{"nonce": "f", "tenant": 1}',
        "[" * (sys.getrecursionlimit() + 1_000),
    ],
)
def test_a_question_that_is_none_gets_no_answer(garbage: str) -> None:
    assert Deliveries().answer(garbage, **FACTS) is None


def test_an_answer_is_read_as_it_was_made() -> None:
    told = Deliveries()
    told.record(window(5, 7), 2_000)
    text = told.answer('{"nonce": "c0ffee", "batch": 6, "tenant": "a"}', **FACTS)
    assert text is not None
    assert len(text) < 1_000  # far from the 8,000 bytes of a notification
    answer = Answer.parse(text, "c0ffee")
    assert answer is not None
    assert (answer.process, answer.batch, answer.delivered_ms, answer.covered) == (
        22,
        7,
        2_000,
        True,
    )
    assert Answer.parse(text, "another") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": None},
        {"host": 7},
        {"host": "\x1b[2J"},  # it is shown on a terminal
        {"backend": None},
        {"backend": "11"},
        {"backend": True},
        {"batch": "7"},
        {"leads": None},
        {"leads": 1},
        {"covered": 1},
        {"watches": 1.5},
        {"more": 1},
    ],
)
def test_what_others_notify_is_no_answer(wrong: dict[str, Any]) -> None:
    text = Deliveries().answer('{"nonce": "c0ffee"}', **FACTS)
    assert text is not None
    assert Answer.parse(text, "c0ffee") is not None
    assert Answer.parse(json.dumps({**json.loads(text), **wrong}), "c0ffee") is None
    for garbage in ("", "x", "[]", '{"nonce": "c0ffee"}', "[" * 10_000):
        assert Answer.parse(garbage, "c0ffee") is None
