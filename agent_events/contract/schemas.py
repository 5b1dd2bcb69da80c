"""What both documents speak of, events and cursors, and small helpers to write schemas with."""

from typing import Any

from agent_events.conditions import CONDITION_CHARS
from agent_events.conf import Settings
from agent_events.filters import MOST_PATTERNS, MOST_TEXTS, PATTERN_CHARS, TEXT_CHARS
from agent_events.position import MOST_ID

Schema = dict[str, Any]

VERSION = "1.0.0"
"""Of the contract, not of the package."""

CURSOR_PATTERN = "^(?!0{12})[0-9a-f]{12}-[0-7][0-9a-f]{15}-(0|[1-9a-f][0-9a-f]{0,11})$"
"""As `position.Cursor` spells it: batches begin at 1, ids end at 2^63 - 1."""
CURSOR = "00000000002a-0000000000000000-19a8c3f1e00"
TENANT = "cd8dc8d3-f602-5f0e-a829-9a0a5dbe906c"
AGENT = "5eed0000-0000-4000-8000-000000000001"
STORABLE = r"^[^\x00]*$"
"""PostgreSQL's text has no U+0000."""
EVENT: Schema = {
    "id": 1,
    "tenantId": TENANT,
    "agentId": AGENT,
    "type": "tool_call",
    "payload": {"tool": "search", "query": "weather in Vienna"},
    "createdAt": "2026-01-31T12:00:00.000000Z",
}


def one_object(
    properties: dict[str, Schema], required: list[str] | None = None, **more: Any
) -> Schema:
    """An object of these members and no others; all are required unless `required` says which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"description": description} if description else {}), **more}


def whole(description: str = "", **more: Any) -> Schema:
    """A whole number."""
    return {"type": "integer", **({"description": description} if description else {}), **more}


def patterns(described: str, **more: Any) -> Schema:
    """A list of what a filter takes, for agents or types."""
    one = text(described, maxLength=PATTERN_CHARS, pattern=STORABLE)
    return {"type": "array", "maxItems": MOST_PATTERNS, "items": one, **more}


def words(described: str, **more: Any) -> Schema:
    """A list of texts that a filter looks for."""
    one = text(described, maxLength=TEXT_CHARS, pattern=STORABLE)
    return {"type": "array", "maxItems": MOST_TEXTS, "items": one, **more}


def conditions(described: str, **more: Any) -> Schema:
    """A list of what a filter's `where` takes. Its grammar is in words: no pattern can say it."""
    one = text(described, maxLength=CONDITION_CHARS, examples=["payload.tokens > 1000"])
    return {"type": "array", "maxItems": MOST_TEXTS, "items": one, **more}


def either(schema: Schema) -> Schema:
    """This, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """The schema of this name, of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def cursor() -> Schema:
    """A cursor, at every door."""
    return text(
        "A place between two events of the log. Send it back exactly as it came.",
        pattern=CURSOR_PATTERN,
        examples=[CURSOR],
    )


def event() -> Schema:
    """An event, as the history and its own address have it."""
    return one_object(_event(), description="An event, in full.", examples=[EVENT])


def stream_event(settings: Settings) -> Schema:
    """An event, as streams have it."""
    return one_object(
        {
            **_event(),
            "payloadHref": text(
                "Where the event is in full: there only where its payload was too large.",
                format="uri-reference",
            ),
        },
        required=list(_event()),
        description="An event on a stream. A payload of more than "
        f"{settings.inline_payload_bytes:,} bytes is `null` there, and `payloadHref` leads to the "
        "whole event.",
        examples=[EVENT, {**EVENT, "payload": None, "payloadHref": "/api/agents/events/1"}],
    )


def _event() -> dict[str, Schema]:
    return {
        "id": whole("Unique, and no order: cursors are.", minimum=1, maximum=MOST_ID),
        "tenantId": text(format="uuid"),
        "agentId": text(format="uuid"),
        "type": text(minLength=1, maxLength=200),
        "payload": {"description": "Any JSON value, as PostgreSQL's jsonb spells it."},
        "createdAt": either(text("RFC 3339, UTC, to the microsecond.")),
    }
