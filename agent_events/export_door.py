"""The log as a download: `GET /api/agents/export`; the admin's exports are sent by it, too.

A Django view, so that it works under WSGI, and sent a page at a time under either. Under ASGI the
pages are read in a few threads of this module's own (`lookups`), and the request's own database
connection is given back first: a client that reads slowly holds neither. One that leaves ends it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import cast
from urllib.parse import parse_qs, urlencode
from uuid import UUID

import django.db
from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.encoding import escape_uri_path
from django.utils.text import slugify

from agent_events import access, api, history
from agent_events.credentials import of_request
from agent_events.errors import (
    InvalidQuery,
    LimitReached,
    NotSignedIn,
    RightLacking,
    UnknownTenant,
)
from agent_events.export_forms import FORMS, Form
from agent_events.exporting import Export, Range
from agent_events.filters import Filter
from agent_events.lookups import Lookups
from agent_events.principals import Principal, Right
from agent_events.requests import FILTER_NAMES, history_request, limit_of
from agent_events.window import Tenants

MOST_AT_ONCE = 4
"""Exports of one principal that are being sent at the same time, in each process; past that 429."""
TOO_MANY_S = 5.0
"""Whoever has too many may come again this much later."""
MOST_LIMIT = 100_000_000
"""Events that `limit` may ask for; how much a response holds is `EXPORT_BYTES`."""
MOST_READERS = 2
"""Threads of a process that read pages for exports, and connections that they have at most."""
PAGE_S = 30.0
"""A page that is not there after so long, its turn included, ends the export."""

_REPEATED = ("tenant", *FILTER_NAMES, "format", "order")
_readers = Lookups(MOST_READERS, "agent_events export")


def _export(request: HttpRequest) -> HttpResponseBase:
    """What matches, as a file: `format=jsonl|csv`, and the names of the history.

    `limit` may be left out: all there is, as far as a response goes (`EXPORT_BYTES`).
    docs/admin.md says how a file ends.
    """
    principal = access.admit_request(request, Right.SUBSCRIBE)
    query = parse_qs(request.META.get("QUERY_STRING", ""))
    form, limit = form_of(query.get("format", ["jsonl"])[-1]), limit_of(query, MOST_LIMIT)
    asked = history_request(query)
    tenants, filter = principal.choose(asked.tenants), principal.filter(asked.filter)
    start = asked.cursor if asked.at_ms is None else str(history.since(asked.at_ms))
    source = Range(tenants, filter, asked.newest_first, start, asked.until, limit)
    made = Export(
        source,
        form,
        partial(_address, escape_uri_path(request.path), query, source),
        _still(request, principal, tenants, filter),
    )
    names = {str(tenant.id): tenant.name for tenant in principal.tenants()}
    return download(request, made, file_name(form, tenants, names), principal.id)


# (A view of JSON by what it refuses with; typed there as one that does not stream.)
export = api.json_view(cast("api.View", _export))


def form_of(name: str) -> Form:
    """The form of this name. Raises InvalidQuery."""
    form = FORMS.get(name)
    if form is None:
        known = " or ".join(map(repr, FORMS))
        raise InvalidQuery(f"format is {name[:40]!r}, expected {known}.")
    return form


def file_name(form: Form, tenants: Tenants, names: Mapping[str, str]) -> str:
    """`agent-events-harbour-20261126T101500Z.csv`: whose, and when; plain ASCII.

    `names`: of tenants, by their ids.
    """
    whose = "all" if tenants is None else f"{len(tenants)}-tenants"
    if tenants is not None and len(tenants) == 1:
        whose = slugify(names.get(tenants[0], ""))[:40] or tenants[0][:8]
    return f"agent-events-{whose}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form.name}"


def download(request: HttpRequest, made: Export, name: str, holder: str) -> HttpResponseBase:
    """The response that sends a file, of whoever is `holder`. Its first page is read here.

    Raises LimitReached, and what `Export.begin` raises: nothing is sent then.
    """
    _under_way.refuse_one_more(holder)
    first = made.begin()
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    if request.method == "HEAD":
        return HttpResponse(content_type=made.form.content_type, headers=headers)
    kind = _Awaited if isinstance(request, ASGIRequest) else _Sending
    pieces = kind(made, first, holder)
    return StreamingHttpResponse(pieces, content_type=made.form.content_type, headers=headers)


class _Sending:
    """The pieces of a file, for a server that asks for them in a thread (WSGI)."""

    def __init__(self, made: Export, first: bytes, holder: str) -> None:
        self._made, self._first, self._holder = made, first, holder
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        self._begin()
        try:
            _give_back()
            yield self._first
            while not self._made.done:
                self._made.mark()
                piece = self._made.step()
                _give_back()
                if piece:
                    yield piece
        finally:
            self.close()

    def close(self) -> None:
        """It is over; Django calls it with its response, also where the client has left."""
        if self._begun:
            self._begun = False
            _under_way.leave(self._holder)

    def _begin(self) -> None:
        self._begun = True
        _under_way.enter(self._holder)


class _Awaited(_Sending):
    """The same for one that awaits them (ASGI): of `_Sending` Django would read all at once."""

    __iter__ = None  # type: ignore[assignment]  # which is how Django tells them apart

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begin()
        try:
            await sync_to_async(_give_back)()  # the request's own, in the thread that has it
            yield self._first
            while not self._made.done:
                self._made.mark()
                try:
                    piece = await _readers.run(self._made.step, PAGE_S)
                except django.db.Error as error:  # no turn, or no answer
                    piece = self._made.failed(error)
                if piece:
                    yield piece
        finally:
            self.close()


class _UnderWay:
    """How many exports each principal has."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._of: Counter[str] = Counter()

    def refuse_one_more(self, holder: str) -> None:
        """Raises LimitReached where these are enough."""
        if self._of[holder] >= MOST_AT_ONCE:
            raise LimitReached(
                f"{holder} has {MOST_AT_ONCE} downloads under way here. Wait for one to end.",
                TOO_MANY_S,
            )

    def enter(self, holder: str) -> None:
        """One more."""
        with self._lock:
            self._of[holder] += 1

    def leave(self, holder: str) -> None:
        """One less."""
        with self._lock:
            self._of[holder] -= 1
            if not self._of[holder]:
                del self._of[holder]


_under_way = _UnderWay()


def _give_back() -> None:
    """Nobody waits for a client with a database connection in hand."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # a test's
            connection.close()


def _still(
    request: HttpRequest, principal: Principal, tenants: Tenants, filter: Filter
) -> Callable[[], None]:
    """Raises where whoever asked may not see this any more."""
    # As it was presented: whom Django's middleware found then may have signed out.
    credentials = replace(of_request(request), user=None)

    def check() -> None:
        now = async_to_sync(access.look)(credentials)
        if now.id != principal.id:
            raise NotSignedIn("This is somebody else by now.")
        now.require(Right.SUBSCRIBE)
        theirs = now.everything or (
            tenants is not None and all(now.may_see(UUID(tenant)) for tenant in tenants)
        )
        if not theirs:
            raise UnknownTenant("A tenant of this file is not yours any more.")
        if now.only != principal.only and not now.only.covers(filter):
            raise RightLacking("Not all that this file has is yours to see.")

    return check


def _address(path: str, query: dict[str, list[str]], source: Range, cursor: str) -> str:
    """The same question from a cursor on; only what is understood is repeated.

    With where it ends: files that go on from one another are what one file would have been.
    """
    asked = {name: query[name] for name in _REPEATED if name in query}
    asked["until"], asked["cursor"] = [source.until], [cursor]
    if source.left is not None:
        asked["limit"] = [str(source.left)]
    return f"{path}?{urlencode(asked, doseq=True)}"
