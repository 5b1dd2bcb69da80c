"""What pages of other sites may do with the API: nothing, or what CORS_ORIGINS says.

One wrapper around every address below `/api/agents/`, Django's views among them, so that refusals
bear the headers too. Sites that are named may send cookies; with `"*"` anybody's page may ask, with
a token of its own, and its cookies count for nothing.
"""

from collections.abc import Mapping
from typing import Any

from agent_events import origins
from agent_events.conf import get_settings
from agent_events.responses import refuse

API = "/api/agents/"
METHODS = b"GET, HEAD, POST"
ALLOWED = (
    b"authorization, content-type, idempotency-key, last-event-id, ce-id, ce-source, "
    b"ce-specversion, ce-type, ce-subject, ce-time, ce-datacontenttype, ce-dataschema, "
    b"ce-tenantid, ce-agentid"
)
EXPOSED = b"Agent-Events-Cursor, Link, Retry-After, WWW-Authenticate"
MAX_AGE_S = 600
"""So long a browser need not ask again: a setting that was closed is closed everywhere by then."""


class CrossOrigin:
    """Wraps the whole HTTP application; looks at what is below `/api/agents/` alone."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Refuses a Host that is none of ours, answers preflights, adds headers to answers."""
        if scope["type"] != "http" or API not in scope["path"]:
            await self.inner(scope, receive, send)
            return
        if not origins.knows_host(scope):
            # A name of somebody else's that leads here: its pages would be of our own origin.
            await refuse(scope, send, 400, "This host is not in ALLOWED_HOSTS.")
            return
        origin = origins.header(scope, b"origin")
        allowed = _allowed(scope, origin)
        if origin and _asks_first(scope):
            await _preflight(scope, send, allowed)
            return
        if origin and not origins.is_trusted(scope, origin) and scope["method"] in ("GET", "HEAD"):
            scope = _without_cookies(scope)  # (a request that changes something is refused)

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                exposed = (b"access-control-expose-headers", EXPOSED)
                own = [*_vary(), *allowed, *([exposed] if allowed else [])]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await self.inner(scope, receive, send_with_headers)


def _asks_first(scope: Mapping[str, Any]) -> bool:
    """Is it a browser that asks whether a page may send what it wants to? Else it is a request of
    a method that no address here has."""
    return scope["method"] == "OPTIONS" and bool(
        origins.header(scope, b"access-control-request-method")
    )


def _allowed(scope: Mapping[str, Any], origin: str) -> list[tuple[bytes, bytes]]:
    """The headers that let a page of this origin read the answer; none where it may not."""
    listed = get_settings().cors_origins
    if not origin or not listed:
        return []
    if origins.is_listed(origin):
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
        ]
    return [(b"access-control-allow-origin", b"*")] if "*" in listed else []


def _vary() -> list[tuple[bytes, bytes]]:
    return [(b"vary", b"Origin")] if get_settings().cors_origins else []


async def _preflight(scope: dict[str, Any], send: Any, allowed: list[tuple[bytes, bytes]]) -> None:
    more = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", ALLOWED),
        (b"access-control-max-age", str(MAX_AGE_S).encode()),
    ]
    headers = [*_vary(), *allowed, *(more if allowed else [])]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _without_cookies(scope: dict[str, Any]) -> dict[str, Any]:
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"cookie"]}
