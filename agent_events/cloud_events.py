"""CloudEvents 1.0 as our events: structured, batched and binary. Pure.

    type            -> the type
    data            -> the payload; text as a JSON string
    source and id   -> the key: CloudEvents says that the two together name one event
    agentid         -> the agent (an extension attribute); else the UUID at the end of `source`, or
                       of `subject`
    tenantid        -> the tenant (likewise); may be left out by whoever has just one

Nothing else of an event is kept. (The specification: cloudevents.io, CloudEvents 1.0.2, its JSON
format and its HTTP protocol binding.)
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import unquote
from uuid import UUID

import msgspec

from agent_events.errors import InvalidEvent
from agent_events.json_text import decoded, decoded_list, invalid, payload_text
from agent_events.posted import PostedEvent, Type

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_AGENT = re.compile(r"(?:^|[^0-9a-fA-F])([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/?$", re.I)
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class _CloudEvent(msgspec.Struct):
    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: Type
    subject: _Name | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: bytes | None = None
    tenantid: UUID | None = None
    agentid: UUID | None = None


_ONE = msgspec.json.Decoder(_CloudEvent)
_LIST = msgspec.json.Decoder(list[_CloudEvent])
_ANY = msgspec.json.Decoder(msgspec.Raw)


def structured(body: bytes, most_payload_bytes: int) -> list[PostedEvent]:
    """The event of `application/cloudevents+json`. Raises NotJson, InvalidEvent, TooLarge."""
    return [_posted(decoded(_ONE, body), 0, most_payload_bytes)]


def batch(body: bytes, most_events: int, most_payload_bytes: int) -> list[PostedEvent]:
    """The events of `application/cloudevents-batch+json`. Raises the same."""
    found = decoded_list(_LIST, body, most_events)
    return [_posted(one, place, most_payload_bytes) for place, one in enumerate(found)]


def is_binary(headers: Mapping[str, str]) -> bool:
    """Do these headers, by their names in lower case, bear the attributes of an event?"""
    return "ce-specversion" in headers


def binary(headers: Mapping[str, str], body: bytes, most_payload_bytes: int) -> list[PostedEvent]:
    """The event whose attributes are the headers `ce-...` and whose data is the body.

    Raises NotJson, InvalidEvent, TooLarge.
    """
    attributes = {
        name.removeprefix("ce-"): _unquoted(name, value)
        for name, value in headers.items()
        if name.startswith("ce-") and name not in ("ce-data", "ce-data_base64")
    }
    try:
        event = msgspec.convert(attributes, _CloudEvent)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    event.datacontenttype = headers.get("content-type")
    event.data_base64 = body
    return [_posted(event, 0, most_payload_bytes)]


def _unquoted(name: str, value: str) -> str:
    """HTTP protocol binding, 3.1.3.2: quoted strings first, then percent-encoding of UTF-8."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        field = name.removeprefix("ce-")
        raise InvalidEvent(
            f"Event 0: {field}: the header {name} is no percent-encoded UTF-8.",
            place=0,
            field=field,
        ) from error


def _posted(event: _CloudEvent, place: int, most_bytes: int) -> PostedEvent:
    if event.data_base64 is not None and bytes(event.data):
        raise InvalidEvent(
            f"Event {place}: it has data and data_base64. Send one of them.",
            place=place,
            field="data_base64",
        )
    if event.data_base64 is None:
        payload = payload_text(bytes(event.data) or b"null", place, "data", most_bytes)
    else:
        payload = _payload_of(event.data_base64, event.datacontenttype, place, most_bytes)
    named = json.dumps([event.source, event.id])
    return PostedEvent(
        tenant_id=str(event.tenantid) if event.tenantid else None,
        agent_id=_agent_of(event, place),
        event_type=event.type,
        payload=payload,
        key=f"cloudevent:{hashlib.sha256(named.encode()).hexdigest()}",
        key_field="id",
    )


def _agent_of(event: _CloudEvent, place: int) -> str:
    if event.agentid:
        return str(event.agentid)
    for text in (event.source, event.subject or ""):
        if found := _AGENT.search(text):
            return found[1].lower()
    raise InvalidEvent(
        f"Event {place}: it names no agent. Give it the extension attribute agentid, or let "
        "source or subject end with the agent's UUID.",
        place=place,
        field="agentid",
    )


def _payload_of(data: bytes, content_type: str | None, place: int, most_bytes: int) -> str:
    """The payload for data that came as bytes: JSON as it is, text as a JSON string."""
    media = (content_type or "application/json").partition(";")[0].strip().lower()
    if not data:
        return "null"
    is_text = media.startswith("text/")
    if not is_text and not media.endswith(("/json", "+json")):
        raise InvalidEvent(
            f"Event {place}: its data is {media[:100]!r}, expected JSON or text.",
            place=place,
            field="datacontenttype",
        )
    try:
        text = data.decode()
        if is_text:
            data = json.dumps(text, ensure_ascii=False).encode()
        else:
            data = bytes(_ANY.decode(data))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidEvent(
            f"Event {place}: its data is no {media[:100]} in UTF-8: {error}.",
            place=place,
            field="data",
        ) from error
    return payload_text(data, place, "data", most_bytes)
