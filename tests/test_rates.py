"""How much each principal may publish, by a clock that is handed in."""

from __future__ import annotations

import pytest

from agent_events.rates import Rates


def test_a_seconds_worth_passes_at_once_and_then_as_much_as_the_rate() -> None:
    rates = Rates(10)
    assert [rates.take("a", 1, 0.0) for _ in range(10)] == [0] * 10
    assert rates.take("a", 1, 0.0) == pytest.approx(0.1)
    assert rates.take("a", 1, 0.1) == 0
    assert rates.take("a", 1, 0.1) > 0
    assert rates.take("b", 1, 0.1) == 0  # another's is another's


def test_a_list_passes_as_a_whole_and_is_paid_for_afterwards() -> None:
    rates = Rates(10)
    assert rates.take("a", 100, 0.0) == 0
    wait_s = rates.take("a", 1, 0.0)
    assert wait_s == pytest.approx(9.1)
    assert rates.take("a", 1, wait_s - 0.01) > 0
    assert rates.take("a", 1, wait_s + 0.01) == 0


def test_a_refusal_takes_nothing() -> None:
    rates = Rates(1)
    assert rates.take("a", 1, 0.0) == 0
    assert all(rates.take("a", 1, n / 100) for n in range(1, 99))
    assert rates.take("a", 1, 1.01) == 0


def test_only_so_many_are_remembered_those_who_came_last() -> None:
    rates = Rates(1, most_known=2)
    for who in ("a", "b", "c"):
        rates.take(who, 1, 0.0)
    assert rates.take("c", 1, 0.0) > 0
    assert rates.take("a", 1, 0.0) == 0
