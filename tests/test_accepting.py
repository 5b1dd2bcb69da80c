"""What a request that publishes brings, before any server is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent_events import cloud_events
from agent_events.accepting import JSON, accept, event_headers, request_key
from agent_events.errors import InvalidEvent, InvalidQuery, NotJson, TooLarge
from agent_events.posted import PostedEvent

AGENT = "5eed0000-0000-4000-8000-000000000001"
CLOUD = {"specversion": "1.0", "id": "1", "source": f"/agents/{AGENT}", "type": "message"}


def accepted(body: str, media: str = JSON, **headers: str) -> list[PostedEvent]:
    return accept(
        {"content-type": media, **headers},
        body.encode(),
        most_events=1_000,
        most_payload_bytes=1_048_576,
    )


def with_payload(payload: str) -> str:
    return f'{{"agentId":"{AGENT}","type":"message","payload":{payload}}}'


def cloud(**more: Any) -> str:
    return json.dumps({**CLOUD, **more})


@pytest.mark.parametrize(
    "payload",
    ["1.50", "1e3", "[1e-300,-2.5E+10]", '"1e999999"', "0.1234567890123456789", "1e1000"],
)
def test_the_text_of_a_payload_stays(payload: str) -> None:
    assert accepted(with_payload(payload))[0].payload == payload


@pytest.mark.parametrize("number", ["1e131073", "1e-16384", "1e99999999999", "9" * 131_073])
def test_a_number_that_postgresql_cannot_hold_is_refused(number: str) -> None:
    with pytest.raises(InvalidEvent, match="a number out of range"):
        accepted(with_payload(number))


def test_numbers_that_grow_when_they_are_written_out_count_as_what_they_become() -> None:
    accepted(with_payload("[" + ",".join(["1e131071"] * 7) + "]"))
    with pytest.raises(TooLarge, match=r"with its numbers written out.*POST_PAYLOAD_BYTES"):
        accepted(with_payload("[" + ",".join(["1e131071"] * 8) + "]"))


def test_long_runs_of_digits_are_looked_at_once() -> None:
    """(Each start within a run took a look at all of it: 11 s for a payload like this.)"""
    runs = ",".join(["1" * 15_999] * 65)
    assert accepted(with_payload(f"[{runs}]"))[0].payload == f"[{runs}]"


def test_a_refusal_does_not_repeat_what_was_sent_at_length() -> None:
    name = "x" * 100_000
    with pytest.raises(InvalidEvent) as caught:
        accepted(f'{{"{name}":1}}')
    assert len(str(caught.value)) < 400
    assert len(caught.value.field) < 100


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"data": 1, "data_base64": "MQ=="}, "data_base64"),
        ({"subject": ""}, "subject"),
        ({"time": "yesterday"}, "time"),
        ({"time": 7}, "time"),
    ],
)
def test_a_cloud_event_that_is_none_by_its_specification_is_refused(
    more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEvent) as caught:
        accepted(cloud(**more), cloud_events.STRUCTURED)
    assert caught.value.field == field


def test_the_key_of_a_cloud_event_is_of_its_source_and_id_apart() -> None:
    """Joined by a line break, these two were one event, and the second was lost."""
    agent = {"agentid": AGENT}
    one = cloud(source="A\n/a/B", id="b", **agent)
    other = cloud(source="A", id="/a/B\nb", **agent)
    keys = {accepted(body, cloud_events.STRUCTURED)[0].key for body in (one, other)}
    assert len(keys) == 2


def test_a_longer_list_than_allowed_is_refused_in_each_form() -> None:
    for body, media in (
        (with_payload("1"), JSON),
        (cloud(), cloud_events.BATCH),
    ):
        with pytest.raises(TooLarge, match=r"1,001 events. POST_EVENTS allows 1,000"):
            accepted("[" + ",".join([body] * 1_001) + "]", media)


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,6})?", fullmatch=True
)
# Near what PostgreSQL can hold, on either side of it.
EDGES = st.builds(
    lambda digits, exponent, past: f"{digits}e{exponent + past}",
    st.sampled_from(["0", "0.0", "1", "10", "9.99", "-0.001", "0.0001"]),
    st.sampled_from([131_072, -16_383]),
    st.integers(-5, 5),
)
# Escapes of all kinds, wrong ones too.
STRINGS = st.lists(
    st.sampled_from(["a", "å", "\U0001f600", "1e999999", "[", "\\\\", "\\n", "\\/", "\\u0041"])
    | st.sampled_from(
        ["\\u0000", "\\\\u0000", "\\ud83d", "\\ude00", "\\ud83d\\ude00", "\\x", "\x01"]
    ),
    max_size=5,
).map(lambda parts: f'"{"".join(parts)}"')
PAYLOADS = st.recursive(
    NUMBERS
    | EDGES
    | STRINGS
    | st.sampled_from(["true", "false", "null", "01", "+1", "NaN", " 1\n"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(STRINGS, inner), max_size=4).map(
            lambda pairs: f"{{{','.join(f'{name}: {value}' for name, value in pairs)}}}"
        )
    ),
    max_leaves=6,
)


@pytest.fixture
def taker(connect: Callable[..., psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
    return connect()


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAYLOADS)
@example("1e131071")
@example("1e131072")
@example("1e-16383")
@example("0e131073")
@example("1e-99999999999999999999")
def test_postgresql_takes_whatever_is_accepted_and_it_stays_what_it_was(
    taker: psycopg.Connection[Any], payload: str
) -> None:
    """(What is refused is not looked at: PostgreSQL takes `0e200000`, which nobody needs.)"""
    try:
        kept = accepted(with_payload(payload))[0].payload
    except (InvalidEvent, NotJson, TooLarge):
        return
    assert kept == payload.strip()
    ((stored,),) = taker.execute("SELECT %s::jsonb::text", [kept]).fetchall()
    assert exact(stored) == exact(kept)


def test_a_header_that_says_what_the_event_is_must_be_there_once() -> None:
    twice = [(b"accept", b"a"), (b"accept", b"b"), (b"ce-id", b"1")]
    assert event_headers(twice)["ce-id"] == "1"
    for name in (b"content-type", b"ce-id"):
        with pytest.raises(InvalidQuery, match=f"{name.decode()} is there twice"):
            event_headers([(name, b"1"), (name, b"1")])


def test_an_idempotency_key_is_there_once_with_printable_characters_quoted_or_not() -> None:
    name = b"idempotency-key"
    assert request_key([]) is None
    assert request_key([(name, b'"a-1"')]) == request_key([(name, b" a-1 ")]) == "a-1"
    for wrong in ([b""], [b'""'], [b"a b"], [b"\xe5"], [b"x" * 256], [b"a", b"a"]):
        with pytest.raises(InvalidQuery, match="Idempotency-Key must be there once"):
            request_key([(name, value) for value in wrong])


def test_an_empty_body_is_called_empty() -> None:
    with pytest.raises(NotJson, match="The body is empty"):
        accepted("")
