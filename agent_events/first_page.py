"""Which rows the page opens with: the newest, those before a place, or an event's neighbours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent_events import history
from agent_events.filters import Filter
from agent_events.position import LATEST
from agent_events.requests import time_ms
from agent_events.window import Tenants
from agent_events.wire import Event

ROWS = 100
NEIGHBOURS = 10
"""On each side of an event that is opened by its address."""


@dataclass(frozen=True, slots=True)
class FirstPage:
    """`events`, newest first, are all that match between the cursors `before` and `after`.

    A stream from `cursor` goes on behind `after`, or further on, where newer events are left out.
    `more`: the log goes on before them. `newer`: the place that the next newer page ends at, ""
    for the newest of all; None where these are the newest.
    """

    events: Sequence[Event]
    before: str
    after: str
    cursor: str
    more: bool
    newer: str | None = None


def newest(tenants: Tenants, filter: Filter) -> FirstPage:
    """The newest `ROWS` events. Raises InvalidFilter, WrongDatabase, django.db.Error."""
    page = _back(tenants, filter, LATEST, ROWS)
    return FirstPage(page.events, str(page.before), str(page.after), str(page.after), page.more)


def ending_at(tenants: Tenants, filter: Filter, at: str) -> FirstPage:
    """The newest `ROWS` events before a place: a cursor, or an RFC 3339 time.

    Raises InvalidCursor, InvalidQuery, and what `newest` raises.
    """
    now = str(history.resolve(LATEST).cursor)
    page = _back(tenants, filter, _cursor_of(at), ROWS)
    after = str(page.after)
    newer = _newer(tenants, filter, after) if page.other_way else None
    cursor = now if newer is not None else after
    return FirstPage(page.events, str(page.before), after, cursor, page.more, newer)


def around(tenants: Tenants, filter: Filter, event: Event) -> FirstPage:
    """An event among its neighbours that match. It is there whether it matches or not.

    Raises what `newest` raises.
    """
    now = str(history.resolve(LATEST).cursor)
    # One more, as the event itself is the first of them; where it does not match, so is one older.
    older = _back(tenants, filter, event.cursor, NEIGHBOURS + 1)
    newer = history.read(tenants, filter, event.cursor, newest_first=False, limit=NEIGHBOURS)
    after = str(newer.after)
    return FirstPage(
        [*reversed(newer.events), event, *(one for one in older.events if one.id != event.id)],
        str(older.before),
        after,
        now if newer.more else after,
        older.more,
        _newer(tenants, filter, after) if newer.more else None,
    )


def _back(tenants: Tenants, filter: Filter, cursor: str, limit: int) -> history.Pages:
    return history.read_on(tenants, filter, cursor, newest_first=True, limit=limit)


def _newer(tenants: Tenants, filter: Filter, after: str) -> str:
    page = history.read(tenants, filter, after, newest_first=False, limit=ROWS)
    return str(page.after) if page.more else ""


def _cursor_of(at: str) -> str:
    if not re.match(r"\d{4}-\d\d-\d\d", at, re.ASCII):
        return at
    return str(history.since(time_ms(at, "a cursor, or ")))
