"""What a stream's request asks for: the same words at both doors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from agent_events.filters import Filter
from agent_events.position import LATEST

# The header wins: polyfills of EventSource repeat the URL's cursor when they reconnect.
_CURSOR_NAMES = ("cursor", "lastEventId", "last_event_id")


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`tenants` and `cursor` as the client wrote them."""

    tenants: list[str]
    filter: Filter
    cursor: str


def stream_request(scope: dict[str, Any]) -> StreamRequest:
    """Reads an ASGI scope. Raises InvalidFilter."""
    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    cursors = [value.decode("latin-1") for name, value in headers if name == b"last-event-id"]
    for name in _CURSOR_NAMES:
        cursors += query.get(name, [])
    return StreamRequest(
        tenants=query.get("tenant", []),
        filter=Filter.of(query.get("agent", []), query.get("type", [])),
        cursor=next((cursor.strip() for cursor in cursors if cursor.strip()), LATEST),
    )
