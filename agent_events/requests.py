"""What a request asks for, and how one is refused: the same words at every door."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import django.db
import psycopg
from psycopg_pool import PoolTimeout

from agent_events.errors import (
    AgentEventsError,
    InvalidEvent,
    InvalidQuery,
    LimitReached,
    NotSignedIn,
    RightLacking,
    TooLarge,
    TooSlow,
    TryAgain,
    UnknownTenant,
    UnsupportedMedia,
    WrongDatabase,
    WrongOrigin,
)
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST
from agent_events.seldom import Seldom

# The header wins: polyfills of EventSource repeat the URL's cursor when they reconnect.
_CURSOR_NAMES = ("cursor", "lastEventId", "last_event_id")

AWAY = (psycopg.Error, django.db.Error, PoolTimeout, WrongDatabase)
"""What is raised where the database cannot be asked; whoever came is told to come back."""

MOST_LIMIT = 1_000
DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`tenants` and `cursor` as the client wrote them."""

    tenants: list[str]
    filter: Filter
    cursor: str


@dataclass(frozen=True, slots=True)
class HistoryRequest(StreamRequest):
    """A page of history; `limit` is in events."""

    newest_first: bool
    limit: int


def stream_request(scope: dict[str, Any]) -> StreamRequest:
    """Reads an ASGI scope. Raises InvalidFilter."""
    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    cursors = [value.decode("latin-1") for name, value in headers if name == b"last-event-id"]
    return StreamRequest(*_whose(query), _cursor(query, LATEST, cursors))


def history_request(query_string: str) -> HistoryRequest:
    """Reads a URL's query. Raises InvalidFilter, InvalidQuery."""
    query = parse_qs(query_string, errors="replace")
    order = query.get("order", ["desc"])[-1]
    if order not in ("asc", "desc"):
        raise InvalidQuery(
            f"order is {order[:40]!r}, expected 'desc' (newest first) or 'asc' (oldest first)."
        )
    limit = query.get("limit", [str(DEFAULT_LIMIT)])[-1]
    if not re.fullmatch("[0-9]{1,4}", limit, re.ASCII) or not 1 <= int(limit) <= MOST_LIMIT:
        raise InvalidQuery(f"limit is {limit[:40]!r}, expected a number from 1 to {MOST_LIMIT}.")
    newest_first = order == "desc"
    cursor = _cursor(query, LATEST if newest_first else EARLIEST)
    return HistoryRequest(*_whose(query), cursor, newest_first, int(limit))


def status_of(error: AgentEventsError) -> int:
    """The HTTP status that says why a request is refused."""
    match error:
        case NotSignedIn():
            return 401
        case RightLacking() | WrongOrigin():
            return 403
        case UnknownTenant():
            return 404
        case TooSlow():
            return 408
        case TooLarge():
            return 413
        case UnsupportedMedia():
            return 415
        case InvalidEvent():
            return 422
        case LimitReached():
            return 429
        case WrongDatabase() | TryAgain():
            return 503
    return 400


def _whose(query: dict[str, list[str]]) -> tuple[list[str], Filter]:
    filter = Filter.of(query.get("agent", []), query.get("type", []))
    return query.get("tenant", []), filter


def _cursor(query: dict[str, list[str]], default: str, first: Iterable[str] = ()) -> str:
    given = [*first, *(text for name in _CURSOR_NAMES for text in query.get(name, []))]
    return next((cursor.strip() for cursor in given if cursor.strip()), default)


say_could_not_begin = Seldom("A stream could not begin: %s").warn
