"""CloudEvents over HTTP: what the official SDK sends, in all three forms, and how it is mapped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from agent_events.accepting import accept
from agent_events.errors import InvalidEvent, NotJson, UnsupportedMedia
from agent_events.posted import PostedEvent
from tests.support import Server, make_tenant
from tests.support.keys import make_key

AGENT = "0f6f7f0e-54a2-4a55-8f1c-0e4cf5a3b111"
TENANT = "7c1d5f1e-9a34-4d43-8a1e-2b7c9a1f0001"
SOURCE = f"https://agents.example/{AGENT}"
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": SOURCE, "ce-type": "message"}


def read(body: bytes, **headers: str) -> list[PostedEvent]:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return accept(named, body, most_events=10, most_payload_bytes=1000)


def binary(body: bytes, content_type: str, **more: str) -> PostedEvent:
    headers = {**HEADERS, "content-type": content_type, **more}
    (one,) = accept(headers, body, most_events=10, most_payload_bytes=1000)
    return one


def test_binary_data_is_json_as_it_came_or_text_as_a_json_string() -> None:
    assert binary(b'{"price": 1.50}', "application/json").payload == '{"price": 1.50}'
    assert binary(b"[1]", "application/vnd.x+json; charset=utf-8").payload == "[1]"
    assert binary('å "b"'.encode(), "text/plain").payload == '"å \\"b\\""'
    assert binary(b"", "application/json").payload == "null"
    with pytest.raises(InvalidEvent, match="expected JSON or text") as refused:
        binary(b"\x89PNG", "image/png")
    assert refused.value.field == "datacontenttype"
    with pytest.raises(InvalidEvent) as refused:
        binary(b"{", "application/json")
    assert refused.value.field == "data"


def test_headers_are_unquoted_and_percent_decoded() -> None:
    one = binary(b"1", "application/json", **{"ce-type": '"a%20b%E2%82%AC"'})
    assert one.event_type == "a b€"
    with pytest.raises(InvalidEvent, match="UTF-8"):
        binary(b"1", "application/json", **{"ce-type": "%ff"})


def test_the_agent_is_the_attribute_or_the_end_of_source_or_of_subject() -> None:
    other = AGENT.replace("0f6f", "1f6f")
    assert binary(b"1", "application/json", **{"ce-agentid": other}).agent_id == other
    assert binary(b"1", "application/json").agent_id == AGENT
    by_subject = {"ce-source": "/x", "ce-subject": f"agents/{other}"}
    assert binary(b"1", "application/json", **by_subject).agent_id == other
    with pytest.raises(InvalidEvent, match="names no agent") as refused:
        binary(b"1", "application/json", **{"ce-source": "/x"})
    assert refused.value.field == "agentid"


def test_source_and_id_are_the_key() -> None:
    keys = {
        binary(b"1", "application/json", **{"ce-source": source, "ce-id": id}).key
        for source in (SOURCE, f"urn:agent:{AGENT}")
        for id in ("1", "2")
    }
    assert len(keys) == 4
    assert binary(b"1", "application/json").key in keys


def test_structured_data_may_be_base64_and_unknown_attributes_are_let_be() -> None:
    body = (
        '{"specversion":"1.0","id":"1","source":"/x","type":"t","agentid":"%s","tenantid":"%s",'
        '"traceparent":"00-1","data_base64":"WzEuNTBd"}'
    )
    (one,) = read((body % (AGENT, TENANT)).encode(), content_type="application/cloudevents+json")
    assert (one.payload, one.agent_id, one.tenant_id) == ("[1.50]", AGENT, TENANT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("specversion", "0.3"), ("id", ""), ("source", ""), ("type", ""), ("agentid", "x")],
)
def test_an_attribute_that_cannot_be_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        binary(b"1", "application/json", **{f"ce-{field}": value})
    assert refused.value.field == field


def test_a_batch_names_the_place() -> None:
    good = f'{{"specversion":"1.0","id":"1","source":"{SOURCE}","type":"t"}}'
    body = f"[{good},{good.replace('1.0', '2.0')}]".encode()
    with pytest.raises(InvalidEvent) as refused:
        read(body, content_type="application/cloudevents-batch+json")
    assert (refused.value.place, refused.value.field) == (1, "specversion")
    with pytest.raises(NotJson):
        read(b"{", content_type="application/cloudevents+json")
    with pytest.raises(UnsupportedMedia):
        read(b"<a/>", content_type="application/cloudevents+xml")


def sdk_event(**data: Any) -> Any:
    from cloudevents.core.v1.event import CloudEvent

    attributes = {"type": "message", "source": SOURCE, "tenantid": TENANT}
    attributes |= {"id": "sdk-1", "datacontenttype": "application/json", "specversion": "1.0"}
    return CloudEvent(attributes, data)


def test_the_official_sdks_binary_and_structured_output_is_read_alike() -> None:
    from cloudevents.core.bindings.http import to_binary_event, to_structured_event

    made = sdk_event(text="å", n=1)
    read_alike = []
    for message in (to_binary_event(made), to_structured_event(made)):
        headers = {name.lower(): value for name, value in message.headers.items()}
        (one,) = accept(headers, message.body, most_events=10, most_payload_bytes=1000)
        assert (one.agent_id, one.tenant_id, one.event_type) == (AGENT, TENANT, "message")
        read_alike.append((one.key, one.payload.replace(" ", "")))
    assert read_alike[0] == read_alike[1]


def test_the_official_sdks_output_is_stored_once_in_whichever_form_it_comes(
    server: Callable[..., Server], dsn: str, connect: Callable[..., Any]
) -> None:
    """(The SDK makes no batches: a batch is the JSON list of what it makes.)"""
    from cloudevents.core.bindings.http import to_binary_event, to_structured_event

    tenant = make_tenant(dsn, "Harbour")
    made = sdk_event(text="å", n=1.5)
    made.get_attributes().update(tenantid=tenant, time=datetime.now(UTC), subject="a call")
    structured = to_structured_event(made)
    batch = {"content-type": "application/cloudevents-batch+json"}
    with httpx.Client(base_url=server().url) as client:
        client.headers["Authorization"] = f"Bearer {make_key(dsn, tenant)}"
        answers = [
            client.post("/api/agents/events", headers=headers, content=body)
            for headers, body in (
                (structured.headers, structured.body),
                (to_binary_event(made).headers, to_binary_event(made).body),
                (batch, b"[" + structured.body + b"]"),
                (batch, b"[" + structured.body.replace(b"1.5", b"2.5") + b"]"),
            )
        ]
    other = answers.pop()
    assert (other.status_code, other.json()["field"]) == (422, "id")
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert len({tuple(answer.json()["ids"]) for answer in answers}) == 1
    rows = connect().execute("SELECT event_type, payload FROM agent_events").fetchall()
    assert rows == [("message", {"text": "å", "n": 1.5})]
