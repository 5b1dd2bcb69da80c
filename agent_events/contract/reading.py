"""The addresses that events are read at: the stream, the history, a single event."""

from typing import Any

from agent_events.api import CURSOR_HEADER
from agent_events.conf import Settings
from agent_events.contract.pieces import (
    EITHER_WAY,
    STREAMS,
    answer,
    header,
    json_of,
    operation,
    query,
    refusals,
)
from agent_events.contract.schemas import (
    CURSOR,
    CURSOR_PATTERN,
    EVENT,
    TENANT,
    Schema,
    conditions,
    either,
    one_object,
    patterns,
    ref,
    text,
    whole,
    words,
)
from agent_events.position import EARLIEST, LATEST, MOST_ID
from agent_events.requests import DEFAULT_LIMIT, MOST_LIMIT

TAG = "Reading"
PLACE: Schema = {
    "type": "string",
    "anyOf": [{"pattern": CURSOR_PATTERN}, {"enum": [EARLIEST, LATEST, ""]}],
    "examples": [CURSOR],
}
_STREAM_TEXT = f"""retry: 2000
id: {CURSOR}
event: hello
data: {{"cursor":"{CURSOR}","tenants":["{TENANT}"]}}

"""


def paths(settings: Settings, pages: str) -> dict[str, Any]:
    """Their part of `paths`; the history is below `pages`, where Django's views are."""
    return {
        "/api/agents/stream": {"get": _stream(settings)},
        f"{pages}/api/agents/events": {"get": _history()},
        f"{pages}/api/agents/events/{{id}}": {"get": _event()},
    }


def schemas() -> dict[str, Schema]:
    """Their part of `components.schemas`."""
    return {
        "History": one_object(
            {
                "events": {"type": "array", "items": ref("Event"), "maxItems": MOST_LIMIT},
                "before": ref("Cursor"),
                "after": ref("Cursor"),
                "more": {
                    "type": "boolean",
                    "description": "Does the log go on that way? This page may be short all the "
                    "same. With `until`: it has not come there yet.",
                },
                "next": either(text("The next page's address.", format="uri-reference")),
                "previous": either(text("The address that leads back.", format="uri-reference")),
                "notice": {
                    "enum": ["truncated", "reset", None],
                    "description": "`truncated`: what `cursor` or `until` asks for is pruned. "
                    "`reset`: one of them is of another history. The page begins, or ends, where a "
                    "stream would go on.",
                },
            },
            description="A page of the log, and the cursors right before and right after it.",
        )
    }


def stream_query() -> list[dict[str, Any]]:
    """The query of either stream."""
    return [
        *whose(),
        cursor(LATEST),
        *(
            query(name, PLACE, "The same as `cursor`, as some clients spell it.")
            for name in ("lastEventId", "last_event_id")
        ),
        query("ticket", text(), "A ticket of `POST /api/agents/tickets`: it works once."),
    ]


def tenant(whose: str) -> dict[str, Any]:
    """Which tenants; `whose`: what of theirs is asked for."""
    return query(
        "tenant",
        {"type": "array", "items": text(format="uuid")},
        f"Whose {whose}; repeat it for several. May be left out by whoever has one tenant.",
        example=[TENANT],
    )


def whose() -> list[dict[str, Any]]:
    """Which events: the tenants, and the filter."""
    return [
        tenant("events"),
        query(
            "agent", patterns("An agent's id."), "Events of these agents. A trailing `*`: a prefix."
        ),
        query("type", patterns("A type."), "Events of these types. A trailing `*`: a prefix."),
        query("not_agent", patterns("An agent's id."), "None of these agents."),
        query("not_type", patterns("A type."), "None of these types."),
        query(
            "text",
            words("A text."),
            "Events with each of these in their type or payload, whatever the case of ASCII.",
        ),
        query(
            "where",
            conditions("`path operator value`, or a path alone: it is there."),
            "Events whose payload is as each of these says. Operators: `=` `!=` `>` `>=` `<` `<=`, "
            "and `~`: contains.",
            example=["payload.tokens > 1000"],
        ),
    ]


def cursor(left_out: str) -> dict[str, Any]:
    """Where to go on; `left_out`: from where, where it is left out."""
    return query(
        "cursor",
        PLACE,
        f"Where to go on: a cursor as it came, `{EARLIEST}` or `{LATEST}`. Left out or empty: "
        f"{left_out}.",
    )


def at() -> dict[str, Any]:
    """Where a page begins, by the clock."""
    return query(
        "at",
        text(format="date-time"),
        "In place of `cursor`: the place before the first batch closed at that time or later. "
        "`asc` goes on from that time, `desc` back from it.",
    )


def _stream(settings: Settings) -> dict[str, Any]:
    return operation(
        "stream",
        TAG,
        "Events as they come, as Server-Sent Events",
        "Each event is an unnamed message, whose `id` is its own cursor; all else is a named one. "
        "The AsyncAPI document has them all. The response ends after "
        f"{settings.sse_recycle_bytes:,} bytes or {settings.sse_recycle_s:g} s, and the client "
        "resumes at its last `id`, as `EventSource` does by itself. While the database is away, "
        "or the server is misconfigured, the answer is a 200 that ends at once.",
        {
            "200": answer(
                "The stream.",
                {"text/event-stream": {"schema": text(), "example": _STREAM_TEXT}},
            ),
            "204": answer(
                "A browser's `EventSource` that comes back by itself, and is refused for who it is:"
                " it ends its tries."
            ),
            **refusals("BadRequest", "NotSignedIn", "Forbidden", "NotFound", "TooMany"),
        },
        parameters=[
            *stream_query(),
            header("Last-Event-ID", PLACE, "The same as `cursor`, and it wins."),
        ],
        security=STREAMS,
    )


def _history() -> dict[str, Any]:
    return operation(
        "history",
        TAG,
        "A page of the log",
        "Newest first, or oldest first. `next` leads on, `previous` back; a stream from `after` "
        "goes on behind the newest event of the page.",
        {
            "200": answer(
                "A page.",
                json_of(
                    ref("History"),
                    example={
                        "events": [EVENT],
                        "before": "00000000002a-0000000000000000-19a8c3f1dff",
                        "after": "00000000002b-0000000000000000-19a8c3f1e00",
                        "more": False,
                        "next": None,
                        "previous": None,
                        "notice": None,
                    },
                ),
                ["Link"],
            ),
            **refusals("BadRequest", "NotSignedIn", "Forbidden", "NotFound", "Unavailable"),
        },
        parameters=[
            *whose(),
            cursor(f"`{LATEST}` for `desc`, `{EARLIEST}` for `asc`"),
            at(),
            query(
                "until",
                PLACE,
                "Where to end, exactly: a cursor. `asc` gives events up to it, `desc` down to it.",
            ),
            query("order", {"enum": ["desc", "asc"], "default": "desc"}, "By the log's order."),
            query(
                "limit",
                whole(minimum=1, maximum=MOST_LIMIT, default=DEFAULT_LIMIT),
                "Events a page at most.",
            ),
        ],
        security=EITHER_WAY,
    )


def _event() -> dict[str, Any]:
    identity = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The event's id.",
        "schema": whole(minimum=1, maximum=MOST_ID),
        "example": 1,
    }
    return operation(
        "event",
        TAG,
        "One event, in full",
        "404 until it has its place in the log, a moment after its commit; and where it is not "
        "yours.",
        {
            "200": answer("The event.", json_of(ref("Event"), example=EVENT), [CURSOR_HEADER]),
            **refusals("BadRequest", "NotSignedIn", "Forbidden", "NotFound", "Unavailable"),
        },
        parameters=[identity],
        security=EITHER_WAY,
    )
