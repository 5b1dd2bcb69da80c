"""What streams send and take: the frames of WebSockets, the messages of Server-Sent Events."""

from typing import Any, NamedTuple

from agent_events.conf import Settings
from agent_events.contract.schemas import (
    CURSOR,
    EVENT,
    TENANT,
    Schema,
    conditions,
    either,
    patterns,
    ref,
    text,
    whole,
    words,
)
from agent_events.wire import PART_CHARS

REASONS = {
    "expired": "What the stream was opened with has come to its end.",
    "revoked": "It was taken back, or whoever made it lost what it gave.",
    "signed_out": "Nobody is signed in, or not any more.",
    "not_yours": "The membership or the tenant has ended.",
    "right_lacking": "The right to subscribe is lacking.",
    "bad_request": "The request, or a frame, is not understood.",
    "not_found": "No such tenant, or it is not yours.",
    "not_acknowledged": "Acknowledgements did not come.",
    "too_large": "A frame is too large.",
    "too_many": "Too many streams.",
    "try_again": "The database is away, the server is misconfigured, or the stream broke.",
}
"""The words that `code` of an `error` frame and `reason` of `stopped` may be."""

CLOSE_CODES = [
    (4400, "The request, or a frame, is not understood.", False),
    (4401, "Not signed in; or what the stream was opened with has expired or was revoked.", False),
    (4403, "A right is lacking.", False),
    (4404, "No such tenant, or it is not yours, or not any more.", False),
    (4408, "Acknowledgements did not come in time.", True),
    (4413, "A frame is too large.", False),
    (4429, "Too many streams, or too many that have not said who they are.", True),
    (4503, "The database is away, the server is misconfigured, or the stream broke.", True),
]
"""A WebSocket's close code, what it means, and whether to come back with the same request."""


class Message(NamedTuple):
    """One message of a stream. `name`: its `type` as a frame, or its event's name over SSE."""

    name: str
    summary: str
    fields: dict[str, Schema]
    example: dict[str, Any]
    has_id: bool = True  # over SSE: does it move the client's `Last-Event-ID`?
    optional: tuple[str, ...] = ()


def shared(settings: Settings) -> list[Message]:
    """What both doors say, but for events."""
    cursor = {"cursor": ref("Cursor")}
    at = {"cursor": CURSOR}
    tenants = either({"type": "array", "items": text(format="uuid")})
    expires_at = {"expiresAt": text("When that ends.", format="date-time")}
    return [
        Message(
            "hello",
            "The stream begins. `tenants`: whose events; `null`: all.",
            {**cursor, "tenants": tenants},
            {**at, "tenants": [TENANT]},
        ),
        Message("heartbeat", f"Nothing came for {settings.heartbeat_s:g} s.", cursor, at),
        Message("catching_up", "What follows comes from the log, and there is more.", cursor, at),
        Message("live", "The newest event was reached.", cursor, at),
        Message(
            "truncated",
            "Events are missing: what the cursor asked for is pruned. It goes on from here.",
            cursor,
            at,
        ),
        Message(
            "reset",
            "The cursor is of another history. The stream goes on from here.",
            cursor,
            at,
        ),
        Message(
            "expiring",
            f"The token ends within {settings.expiring_s:g} s.",
            {**cursor, **expires_at, "inS": whole("Seconds until then.", minimum=0)},
            {**at, "expiresAt": "2026-01-31T12:10:00Z", "inS": 30},
        ),
    ]


def frames(settings: Settings) -> list[Message]:
    """What the server sends over a WebSocket: `type`, and these fields."""
    return [
        *shared(settings),
        Message(
            "events",
            "Events, oldest first. Its cursor resumes after all of them; acknowledge it.",
            {
                "events": {"type": "array", "items": ref("StreamEvent"), "minItems": 1},
                "cursor": ref("Cursor"),
            },
            {"events": [EVENT], "cursor": CURSOR},
        ),
        Message(
            "part",
            "A piece of a long frame: join the texts to the one where `more` is false, and parse.",
            {
                "text": text(minLength=1, maxLength=PART_CHARS),
                "more": {"type": "boolean"},
            },
            {"text": '{"type":"events",...', "more": True},
        ),
        Message(
            "renewed",
            "The new token was taken; the stream goes on. `expiresAt`: when that ends.",
            {
                "cursor": ref("Cursor"),
                "expiresAt": either(text(format="date-time")),
            },
            {"cursor": CURSOR, "expiresAt": "2026-01-31T12:20:00Z"},
        ),
        Message(
            "error",
            "Why the connection is closed: the last frame.",
            {"code": _reason(), "message": text("In words.")},
            {"code": "expired", "message": "The token has come to its end. Send a new one."},
        ),
    ]


def client_frames(settings: Settings) -> list[Message]:
    """What a WebSocket takes, of at most FRAME_BYTES."""
    return [
        Message(
            "auth",
            f"A key or token: the first frame, within {settings.auth_timeout_s:g} s, where nothing "
            "else said who asks; later, a new token for the same stream.",
            {"token": text(minLength=1)},
            {"token": "aet.eyJ0Ijoi.MTc2.c2ln"},
        ),
        Message(
            "ack",
            "The `events` frame of this cursor, and all before it, were taken. Past "
            f"{settings.ack_window_bytes:,} bytes the server waits for it, "
            f"{settings.ack_timeout_s:g} s.",
            {"cursor": ref("Cursor")},
            {"cursor": CURSOR},
        ),
        Message(
            "filter",
            "Show these from now on; the position stays. `[]` means any. All lists have to agree.",
            {
                "agents": patterns("An agent's id: one of these."),
                "types": patterns("A type: one of these."),
                "notAgents": patterns("An agent's id: none of these."),
                "notTypes": patterns("A type: none of these."),
                "texts": words("Text in the type or the payload: each of these."),
                "where": conditions("A condition on the payload: each of these."),
            },
            {"agents": [], "types": ["turn_*"], "texts": ["timeout"], "where": ["tokens > 1000"]},
            optional=("notAgents", "notTypes", "texts", "where"),
        ),
    ]


def server_sent(settings: Settings) -> list[Message]:
    """Named events over SSE: `data` has these fields."""
    return [
        *shared(settings),
        Message(
            "stopped",
            "The stream has ended for good, and the response with it.",
            {"reason": _reason(), "message": text("In words."), "cursor": ref("Cursor")},
            {"reason": "revoked", "message": "The key was revoked.", "cursor": CURSOR},
            has_id=False,
        ),
    ]


def _reason() -> Schema:
    words = " ".join(f"`{code}`: {meaning}" for code, meaning in REASONS.items())
    return {"enum": list(REASONS), "description": words}


def close_codes() -> list[dict[str, Any]]:
    """The close codes, for machines."""
    return [
        {"code": code, "meaning": meaning, "comeBack": again}
        for code, meaning, again in CLOSE_CODES
    ]
