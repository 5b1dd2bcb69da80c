"""Short answers of the doors that are no Django views; what a refusal looks like at every door.

A refusal's body is a problem as of RFC 9457, `application/problem+json`. Django's views
(`api`) send the same.
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from agent_events.errors import (
    AgentEventsError,
    InvalidEvent,
    LimitReached,
    TryAgain,
    UnknownTenant,
)
from agent_events.problems import AWAY as DATABASE_AWAY
from agent_events.problems import trouble_of
from agent_events.requests import status_of

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Headers = Sequence[tuple[bytes, bytes]]

PROBLEM = "application/problem+json"
JSON = "application/json"

NOT_SIGNED_IN_RETRY_S = 5
"""A client that is nobody may ask again this much later: it needs another key first."""
AWAY_RETRY_S = 2
"""The database is away: this much later it may be back."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusal says, at a door of either kind. `headers` are by name, as text."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, detail: str, **members: Any) -> bytes:
    """The body of a refusal; `members` stand beside the usual four, those that are None do not."""
    said = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **{name: value for name, value in members.items() if value is not None},
    }
    return json.dumps(said).encode()


def refusal(why: Exception | int, detail: str = "", **members: Any) -> Refusal:
    """The refusal for an error, or for a status and its words; with the headers that it needs.

    An event that is at fault is named: `place` (in the list, from 0) and `field`. An error that is
    none of ours means that the database could not be asked (`requests.AWAY`): 503, without its
    words, which may name hosts.
    """
    headers: dict[str, str] = {}
    if isinstance(why, int):
        status = why
    elif isinstance(why, AgentEventsError):
        status, detail = status_of(why), str(why)
    else:
        status, detail = 503, trouble_of(why) or DATABASE_AWAY
    match why:
        case InvalidEvent():
            members = {"place": why.place, "field": why.field or None}
        case UnknownTenant():
            members = {"place": why.place}
        case LimitReached() | TryAgain():
            headers = {"Retry-After": str(max(1, math.ceil(why.retry_after_s)))}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer", "Retry-After": str(NOT_SIGNED_IN_RETRY_S)}
    elif status == 503 and not headers:
        headers = {"Retry-After": str(AWAY_RETRY_S)}
    return Refusal(status, problem(status, detail, **members), headers)


async def refuse(
    scope: dict[str, Any],
    send: Send,
    why: Exception | int,
    detail: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> None:
    """Refuses a request at an ASGI door: for an error, or by a status and its words.

    `await refuse(scope, send, error)`, or `await refuse(scope, send, 405, "Use POST.",
    headers={"Allow": "POST"})`. 401, 429 and 503 say by themselves when to come back.
    """
    refused = refusal(why, detail, **members)
    named = {"content-type": PROBLEM, **refused.headers, **(headers or {})}
    pairs = [(name.lower().encode(), text.encode()) for name, text in named.items()]
    await respond(scope, send, refused.status, refused.body, pairs)


async def respond(
    scope: dict[str, Any], send: Send, status: int, body: bytes, headers: Headers
) -> None:
    """Sends `body` whole, or its headers alone where HEAD was asked for; nobody may keep it.

    `headers` name at least its content type.
    """
    own = [
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),  # a refusal repeats what was asked for
    ]
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *own]}
    await send(start)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
