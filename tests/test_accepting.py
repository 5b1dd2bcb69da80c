"""What a request that publishes brings, before any server or database is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_events import cloud_events
from agent_events.accepting import JSON, accept
from agent_events.errors import InvalidEvent, TooLarge
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
