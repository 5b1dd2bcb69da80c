"""The address that events are published at: our own form, and CloudEvents in its three."""

from typing import Any

from agent_events.conf import Settings
from agent_events.contract.pieces import EITHER_WAY, answer, header, json_of, operation, refusals
from agent_events.contract.schemas import (
    AGENT,
    STORABLE,
    TENANT,
    Schema,
    either,
    one_object,
    ref,
    text,
    whole,
)
from agent_events.writing import MOST_KEY_CHARS

TAG = "Publishing"

_NEW: Schema = {
    "tenantId": TENANT,
    "agentId": AGENT,
    "type": "tool_call",
    "payload": {"tool": "search", "query": "weather in Vienna"},
    "eventKey": "run-7/step-3",
}
_CLOUD: Schema = {
    "specversion": "1.0",
    "id": "run-7/step-3",
    "source": f"/agents/{AGENT}",
    "type": "tool_call",
    "datacontenttype": "application/json",
    "tenantid": TENANT,
    "data": {"tool": "search", "query": "weather in Vienna"},
}


_AGENT_AT_END = "(^|[^0-9a-fA-F])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/?$"


def paths(settings: Settings) -> dict[str, Any]:
    """Their part of `paths`."""
    return {"/api/agents/events": {"post": _publish(settings)}}


def schemas(settings: Settings) -> dict[str, Schema]:
    """Their part of `components.schemas`."""
    most = settings.post_events
    return {
        "NewEvent": one_object(
            {
                "tenantId": either(text("Left out: the only one that is yours.", format="uuid")),
                "agentId": text(format="uuid"),
                "type": _type(),
                "payload": {
                    "description": "Any JSON value, of at most "
                    f"{settings.post_payload_bytes:,} bytes."
                },
                "eventKey": either(
                    text(
                        "The same key and event again: written once, answered with its id.",
                        minLength=1,
                        maxLength=MOST_KEY_CHARS,
                        pattern=STORABLE,
                    )
                ),
            },
            required=["agentId", "type", "payload"],
            examples=[_NEW],
        ),
        "NewEvents": {"type": "array", "items": ref("NewEvent"), "minItems": 1, "maxItems": most},
        "CloudEvent": {
            "type": "object",
            "description": "CloudEvents 1.0 (JSON format). `source` and `id` together are the "
            "event's key. The agent is `agentid`, or the UUID at the end of `source` or `subject`.",
            "properties": {
                "specversion": {"const": "1.0"},
                "id": text(minLength=1),
                "source": text(minLength=1),
                "type": _type(),
                "subject": either(text()),
                "datacontenttype": either(text()),
                "tenantid": either(text(format="uuid")),
                "agentid": either(text(format="uuid")),
                "data": {
                    "description": "Any JSON value: the payload. In its place `data_base64`, "
                    "where that is JSON or text in UTF-8."
                },
            },
            "required": ["specversion", "id", "source", "type"],
            "anyOf": [
                {"required": ["agentid"], "properties": {"agentid": text(format="uuid")}},
                {"properties": {"source": text(pattern=_AGENT_AT_END)}},
                {"required": ["subject"], "properties": {"subject": text(pattern=_AGENT_AT_END)}},
            ],
            "examples": [_CLOUD],
        },
        "CloudEvents": {
            "type": "array",
            "items": ref("CloudEvent"),
            "minItems": 1,
            "maxItems": most,
        },
        "Published": one_object(
            {
                "ids": {
                    "type": "array",
                    "items": whole(minimum=1),
                    "description": "Of each event, in the order given.",
                },
                "duplicates": {
                    "type": "array",
                    "items": whole(minimum=0),
                    "description": "The places, from 0, of those that were known already.",
                },
            }
        ),
    }


def _type() -> Schema:
    return text(minLength=1, maxLength=200, pattern=STORABLE)


def _publish(settings: Settings) -> dict[str, Any]:
    ce = [
        header(f"ce-{name}", schema, f"CloudEvents' `{name}`, in binary mode.")
        for name, schema in {
            "specversion": {"const": "1.0"},
            "id": text(),
            "source": text(),
            "type": text(),
            "subject": text(),
            "tenantid": text(),
            "agentid": text(),
        }.items()
    ]
    published = {"ids": [1], "duplicates": []}
    return operation(
        "publish",
        TAG,
        "Publish one event, or several",
        f"All or nothing. At most {settings.post_events:,} events and {settings.post_bytes:,} bytes"
        f" a request, {settings.post_payload_bytes:,} bytes a payload, {settings.post_rate:,.10g} "
        "events a second. With a key a request that is sent again writes nothing twice.",
        {
            "200": answer(
                "All were known already; nothing was written.",
                json_of(ref("Published"), example={"ids": [1], "duplicates": [0]}),
            ),
            "201": answer("Written, and durable.", json_of(ref("Published"), example=published)),
            **refusals(
                "BadRequest",
                "TooSlow",
                "NotSignedIn",
                "Forbidden",
                "NotFound",
                "TooLarge",
                "UnsupportedMediaType",
                "Unprocessable",
                "TooMany",
                "Unavailable",
            ),
        },
        parameters=[
            header(
                "Idempotency-Key",
                text(pattern=f"^[!-~]{{1,{MOST_KEY_CHARS}}}$"),
                "Covers the request: each event that has no key of its own gets one derived of it.",
            ),
            *ce,
        ],
        requestBody={
            "required": True,
            "description": "With `ce-` headers and `application/json`: the payload alone (binary "
            "mode).",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [ref("NewEvent"), ref("NewEvents")]},
                    "examples": {"one": {"value": _NEW}, "several": {"value": [_NEW]}},
                },
                "application/cloudevents+json": {"schema": ref("CloudEvent"), "example": _CLOUD},
                "application/cloudevents-batch+json": {
                    "schema": ref("CloudEvents"),
                    "example": [_CLOUD],
                },
            },
        },
        security=EITHER_WAY,
    )
