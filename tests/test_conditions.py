"""Conditions on payloads, and the filter's parts that look into an event."""

import json

import pytest

from agent_events import conditions
from agent_events.errors import InvalidFilter
from agent_events.filters import Filter
from agent_events.wire import Event

ONE = "5eed0000-0000-4000-8000-000000000001"


def event(payload: str, kind: str = "message") -> Event:
    text = (
        f'{{"id":1,"tenantId":"{ONE}","agentId":"{ONE}","type":{json.dumps(kind)},'
        f'"payload":{payload},"createdAt":"2026-01-01T00:00:00Z"}}'
    )
    return Event(1, 0, 1, text)


@pytest.mark.parametrize(
    ("where", "payload", "holds"),
    [
        ("payload.tokens > 1000", '{"tokens": 1001}', True),
        ("tokens > 1000", '{"tokens": 1000}', False),
        ("tokens > 1000", '{"tokens": "1001"}', False),
        ("error.type = TimeoutError", '{"error": {"type": "TimeoutError"}}', True),
        ("usage.total >= 5e2", '{"usage": {"total": 500.0}}', True),
        ('run_id == "run-17"', '{"run_id": "run-17"}', True),
        ("error", '{"error": null}', True),
        ("error", '{"errors": 1}', False),
        ("error != null", '{"error": {}}', True),
        ("error = null", '{"error": null}', True),
        ("a.b = 1", '{"a": [{"b": 2}, {"b": 1}]}', True),
        ("a.b = 1", '{"a": [[{"b": 1}]]}', False),
        ("a = 1", '{"a": [3, 1]}', True),
        ("a[1] = 1", '{"a": [3, 1]}', True),
        ("a[0] = 3", '{"a": 3}', True),
        ('["a.b"]."c d" ~ "x"', '{"a.b": {"c d": "axb"}}', True),
        ("a ~ X", '{"a": "axb"}', False),
        ("n > 1", '{"n": 1' + "0" * 131071 + "}", True),
        ("payload = 1", '{"payload": 1}', True),
    ],
)
def test_a_condition_holds_as_in_jsonpaths_lax_mode(where: str, payload: str, holds: bool) -> None:
    assert Filter.of(where=[where]).matches(event(payload)) is holds


@pytest.mark.parametrize(
    "where", ["", ".a", "a.", "a >", "a ! 1", 'a = "x', "a[x]", "a[99999999999]", 'a = "\\u0000"']
)
def test_what_is_no_condition_is_refused_with_what_was_expected(where: str) -> None:
    with pytest.raises(InvalidFilter, match="expected"):
        conditions.parse(where)


def test_a_text_is_found_in_type_or_payload_whatever_the_case_of_ascii_letters() -> None:
    assert Filter.of(texts=["TOOL"]).matches(event("{}", "tool.started"))
    assert Filter.of(texts=['say "HI"']).matches(event('{"a": "Say \\"hi\\""}'))
    assert not Filter.of(texts=["ä"]).matches(event('{"a": "Ä"}'))
    assert not Filter.of(texts=["one", "two"]).matches(event('{"a": "one"}'))


def test_what_is_excluded_is_not_wanted() -> None:
    assert not Filter.of(not_types=["tool.*"]).matches(event("{}", "tool.started"))
    assert not Filter.of(not_agents=[ONE]).matches(event("{}"))
    assert Filter.of(not_types=["tool.*"]).matches(event("{}"))


def test_a_payload_too_deep_for_pythons_own_reader_is_read_all_the_same() -> None:
    deep = '{"a": ' + "[" * 200_000 + "]" * 200_000 + ', "b": {"c": "d"}}'
    assert not Filter.of(where=["a = 1"]).matches(event(deep))
    assert Filter.of(where=["b.c = d"]).matches(event(deep))


@pytest.mark.parametrize(
    "number", ["1e131072", "10e131071", "1e-16384", "0.1e-16383", "1e9999999999999999999"]
)
def test_a_number_that_postgresql_cannot_hold_is_refused(number: str) -> None:
    with pytest.raises(InvalidFilter, match="131072 digits before the point"):
        conditions.parse(f"a = {number}")


def test_a_limit_is_never_widened_by_the_other_parts() -> None:
    limit, asked = Filter.of(types=["tool.*"]), Filter.of(not_types=["x"], where=["a"], texts=["t"])
    within = asked.within(limit)
    assert within.types == limit.types
    assert (within.not_types, within.texts, within.where) == (("x",), ("t",), ("a",))
