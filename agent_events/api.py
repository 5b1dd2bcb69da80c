"""The log over HTTP: pages of history either way, and single events, as JSON.

Events are joined as text: PostgreSQL's own JSON, byte for byte as on the streams. Cursors stand
beside the events, never in them.
"""

import json
import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any
from urllib.parse import parse_qs, urlencode

from django.contrib.auth.decorators import login_not_required
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.utils.encoding import escape_uri_path
from django.views.decorators.csrf import csrf_exempt

from agent_events import history
from agent_events.access import admit_request
from agent_events.errors import AgentEventsError, UnknownTenant
from agent_events.position import Cursor
from agent_events.principals import Right
from agent_events.problems import trouble_of
from agent_events.requests import (
    DEFAULT_LIMIT,
    MOST_LIMIT,
    HistoryRequest,
    filter_query,
    history_request,
    limit_of,
)
from agent_events.responses import JSON, PROBLEM, Refusal, refusal

logger = logging.getLogger("agent_events")

CURSOR_HEADER = "Agent-Events-Cursor"
MOST_LINK_CHARS = 2_000
"""A longer `Link` header is left out: proxies refuse answers with large headers."""

View = Callable[..., HttpResponse]


def json_view(view: View) -> View:
    """Every answer is JSON that nobody keeps, also one that refuses."""

    @wraps(view)
    def answer(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            response = _refused(refusal(405, "Use GET."))
            response["Allow"] = "GET, HEAD"
            return response
        try:
            return view(request, **kwargs)
        except AgentEventsError as error:
            return _refused(refusal(error))
        except Error as error:
            if trouble_of(error) is None:
                raise
            logger.warning("The log could not be read: %s", error)
            return _refused(refusal(error))

    # A script has no use for a sign-in page, and nothing here writes: whoever adds a method that
    # does takes csrf_exempt away.
    return csrf_exempt(login_not_required(answer))


@json_view
def events(request: HttpRequest) -> HttpResponse:
    """A page of the log: `tenant=`, the filter's names, `cursor=` or `at=`, `until=`, `order=`
    (`desc` or `asc`), `limit=`.

    All are optional, as on the streams; `order=desc` (newest first, from `latest`) is the default,
    `order=asc` begins at `earliest`. docs/architecture.md has the answer's fields.
    """
    principal = admit_request(request, Right.SUBSCRIBE)
    query = parse_qs(request.META.get("QUERY_STRING", ""))
    asked, limit = history_request(query), limit_of(query, MOST_LIMIT) or DEFAULT_LIMIT
    tenants, filter = principal.choose(asked.tenants), principal.filter(asked.filter)
    start = asked.cursor if asked.at_ms is None else str(history.since(asked.at_ms))
    page = history.read(
        tenants,
        filter,
        start,
        newest_first=asked.newest_first,
        limit=limit,
        until=asked.until,
    )
    last, first = (page.before, page.after) if asked.newest_first else (page.after, page.before)
    url = partial(_url, escape_uri_path(request.path), asked, limit)
    links = {
        "next": url(last, asked.newest_first, page.until) if page.more else None,
        "previous": url(first, not asked.newest_first) if page.other_way else None,
    }
    fields = json.dumps(
        {
            "before": str(page.before),
            "after": str(page.after),
            "more": page.more,
            **links,
            "notice": page.notice or None,
        }
    )
    bodies = ",".join(event.json for event in page.events)
    response = _json(f'{{"events":[{bodies}],{fields[1:]}')
    relations = {"next": links["next"], "prev": links["previous"]}
    link = ", ".join(f'<{url}>; rel="{name}"' for name, url in relations.items() if url)
    if 0 < len(link) <= MOST_LINK_CHARS:
        response["Link"] = link
    return response


@json_view
def event(request: HttpRequest, event_id: str) -> HttpResponse:
    """One event, as it is on the streams; its cursor is in the header `Agent-Events-Cursor`.

    404 until it has its place in the log, a moment after its commit; and for another tenant's.
    """
    principal = admit_request(request, Right.SUBSCRIBE)
    theirs = None if principal.everything else tuple(str(one.id) for one in principal.tenants())
    found = history.named(event_id, theirs, principal.only)
    if found is None:
        raise UnknownTenant("No such event, or it is not yours.")
    response = _json(found.json)
    response[CURSOR_HEADER] = found.cursor
    return response


def _url(
    path: str,
    asked: HistoryRequest,
    limit: int,
    cursor: Cursor,
    newest_first: bool,
    until: Cursor | None = None,
) -> str:
    """The same question from another cursor; only what is understood is repeated."""
    query = {
        "tenant": asked.tenants,
        **filter_query(asked.filter),
        "order": "desc" if newest_first else "asc",
        "limit": limit,
        "cursor": cursor,
        **({"until": until} if until else {}),
    }
    return f"{path}?{urlencode(query, doseq=True)}"


def _json(text: str) -> HttpResponse:
    return HttpResponse(text, content_type=JSON, headers={"Cache-Control": "no-store"})


def _refused(refused: Refusal) -> HttpResponse:
    return HttpResponse(
        refused.body,
        content_type=PROBLEM,
        status=refused.status,
        headers={**refused.headers, "Cache-Control": "no-store"},
    )
