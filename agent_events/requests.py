"""What a request asks for, and how one is refused: the same words at every door."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import django.db
import psycopg
from django.core.exceptions import ImproperlyConfigured
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

NO_STREAM = (*AWAY, ImproperlyConfigured)
"""What is raised where no stream can begin for now; whoever came is told to come back."""

MOST_LIMIT = 1_000
DEFAULT_LIMIT = 100
FILTER_NAMES = ("agent", "type", "not_agent", "not_type", "text", "where")
"""In the order of `Filter.of`."""
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
    r"([Zz]|[-+ ][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`tenants` and `cursor` as the client wrote them."""

    tenants: list[str]
    filter: Filter
    cursor: str


@dataclass(frozen=True, slots=True)
class HistoryRequest(StreamRequest):
    """Pages of history: `until` a cursor or ''.

    `at_ms`: it begins at that time (ms since 1970), and has no cursor.
    """

    newest_first: bool
    until: str
    at_ms: int | None


def stream_request(scope: dict[str, Any]) -> StreamRequest:
    """Reads an ASGI scope. Raises InvalidFilter."""
    query = query_of(scope)
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    cursors = [value.decode("latin-1") for name, value in headers if name == b"last-event-id"]
    return StreamRequest(*_whose(query), _cursor(query, LATEST, cursors))


def query_of(scope: dict[str, Any]) -> dict[str, list[str]]:
    """The query of an ASGI scope's URL."""
    return parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))


def limit_of(query: dict[str, list[str]], most: int) -> int | None:
    """How many events are asked for at most; None: it does not say. Raises InvalidQuery."""
    text = query.get("limit", [""])[-1]
    if not text:
        return None
    digits = f"[0-9]{{1,{len(str(most))}}}"
    if not re.fullmatch(digits, text, re.ASCII) or not 1 <= int(text) <= most:
        said = f"{most:,}" if most >= 10_000 else str(most)
        raise InvalidQuery(f"limit is {text[:40]!r}, expected a number from 1 to {said}.")
    return int(text)


def history_request(query: dict[str, list[str]]) -> HistoryRequest:
    """Reads a URL's query. Raises InvalidFilter, InvalidQuery."""
    order = query.get("order", ["desc"])[-1]
    if order not in ("asc", "desc"):
        raise InvalidQuery(
            f"order is {order[:40]!r}, expected 'desc' (newest first) or 'asc' (oldest first)."
        )
    newest_first = order == "desc"
    given = _cursor(query, "")
    at = query.get("at", [""])[-1].strip()
    if at and given:
        raise InvalidQuery("There is a cursor and at, expected one of the two: where to begin.")
    return HistoryRequest(
        *_whose(query),
        given or (LATEST if newest_first else EARLIEST),
        newest_first,
        query.get("until", [""])[-1].strip(),
        time_ms(at) if at else None,
    )


def filter_of(query: dict[str, list[str]]) -> Filter:
    """The filter that a URL's query asks for, by the names of every door. Raises InvalidFilter."""
    return Filter.of(*(query.get(name, []) for name in FILTER_NAMES))


def filter_query(filter: Filter) -> dict[str, tuple[str, ...]]:
    """The other way round: a filter as the values of a query, by their names."""
    values = (
        filter.agents,
        filter.types,
        filter.not_agents,
        filter.not_types,
        filter.texts,
        filter.where,
    )
    return dict(zip(FILTER_NAMES, values, strict=True))


def time_ms(text: str, or_else: str = "") -> int:
    """The time that an `at` is, in ms since 1970. Raises InvalidQuery.

    `or_else`: what else an `at` may be there, for the words of the refusal.
    """
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        # (A + that was not escaped in a URL is a space.)
        time = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3].replace(' ', '+')}".upper())
        return (time - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"at is {text[:40]!r}, expected {or_else}a time with its zone, such as "
            "2026-11-26T14:03:00Z."
        ) from None


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
    return query.get("tenant", []), filter_of(query)


def _cursor(query: dict[str, list[str]], default: str, first: Iterable[str] = ()) -> str:
    given = [*first, *(text for name in _CURSOR_NAMES for text in query.get(name, []))]
    return next((cursor.strip() for cursor in given if cursor.strip()), default)


def why_no_stream(error: Exception) -> str:
    """One of NO_STREAM, in words for whoever came: they name nothing."""
    misconfigured = isinstance(error, ImproperlyConfigured)
    return "the server is misconfigured" if misconfigured else "the database is away"


say_could_not_begin = Seldom("A stream could not begin: %s").warn
