"""The live page: the newest events of the log, and the cursor from which its stream goes on."""

import logging
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.db import Error
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render, resolve_url
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.views.decorators.http import require_safe

from agent_events import first_page, history
from agent_events.access import admit_request
from agent_events.credentials import user_of
from agent_events.errors import (
    AgentEventsError,
    InvalidCursor,
    InvalidFilter,
    InvalidQuery,
    NotSignedIn,
    RightLacking,
    WrongDatabase,
)
from agent_events.principals import Principal, Right, TenantRef
from agent_events.problems import trouble_of
from agent_events.requests import filter_of

logger = logging.getLogger("agent_events")

AGAIN_S = 10
"""The page that says that there is nothing to show loads itself again after this time."""
STREAM_PATH = "ws/agents/stream"
SSE_PATH = "api/agents/stream"
NOW_PATH = "api/agents/now"
EXPORT_PATH = "api/agents/export"
SAMPLE_AGENT = "5eed0000-0000-4000-8000-000000000001"

# Payloads are agents' words, hence hostile: nothing inline runs, and no other site frames the page.
# 'self' covers the WebSocket of the same host and port too (CSP Level 3, section 6.7.2.8).
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def _or_why_not(view: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Where the log cannot be read, also to see who asks: a page that says why, with a 503."""

    @wraps(view)
    def answer(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except (Error, WrongDatabase) as error:
            words = str(error) if isinstance(error, WrongDatabase) else trouble_of(error)
            if words is None:
                raise
            logger.warning("The page could not be shown: %s", error)
            context = {"words": words, "again_s": AGAIN_S}
            page = render_to_string("agent_events/unavailable.html", context)
        return _safe(HttpResponse(page, status=503, headers={"Retry-After": str(AGAIN_S)}))

    return answer


def _safe(response: HttpResponse) -> HttpResponse:
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response["Cache-Control"] = "no-store"
    return response


# (A resolver of the application's own may know people whom Django's middleware does not.)
@login_not_required
@require_safe
@_or_why_not
def feed(request: HttpRequest) -> HttpResponse:
    """The live feed of one tenant, or of all for a superuser.

    Query: `tenant` (a UUID; left out: the first one, or all for a superuser), the filter's names as
    on every door, `at` (a cursor or an RFC 3339 time: the rows end there), `event` (an id: it is
    opened among its neighbours). A tenant that is not the user's is a 404, like one that does not
    exist; so is an event, with the newest rows. Whoever is not signed in is led to LOGIN_URL.
    """
    try:
        principal = admit_request(request, Right.SUBSCRIBE)
    except NotSignedIn:
        user = user_of(request)
        if user is None or not user.is_authenticated:
            return redirect_to_login(request.get_full_path(), resolve_url(settings.LOGIN_URL))
        # To be led to the sign-in would lead back here.
        page = render(request, "agent_events/feed.html", {"no_access": True}, status=403)
        return _safe(page)
    except RightLacking as error:
        return _refusal(403, error)
    tenants = principal.tenants()
    tenant_id = _chosen_tenant(request, principal, tenants)
    if tenant_id is None and not principal.everything:
        context: dict[str, Any] = {"no_access": True, "principal": principal}
    else:
        try:
            context = _page(request, principal, tenant_id)
        except (InvalidCursor, InvalidFilter, InvalidQuery) as error:
            return _refusal(400, error)
        except RightLacking as error:
            return _refusal(403, error)
        if tenant_id is not None and all(choice.id != tenant_id for choice in tenants):
            # The log takes tenants that nobody has named: they are chosen by id.
            tenants = [*tenants, TenantRef(tenant_id, str(tenant_id))]
        context |= {
            "principal": principal,
            "tenants": tenants,
            "sample_tenant": tenant_id or (tenants[0].id if tenants else None),
            "sample_agent": SAMPLE_AGENT,
        }
    status = 404 if context.get("missing") else 200
    return _safe(render(request, "agent_events/feed.html", context, status=status))


def _refusal(status: int, error: AgentEventsError) -> HttpResponse:
    plain = "text/plain; charset=utf-8"
    return _safe(HttpResponse(str(error), status=status, content_type=plain))


def _page(
    request: HttpRequest, principal: Principal, tenant_id: uuid.UUID | None
) -> dict[str, Any]:
    """The events that match and that they may see, and how the stream goes on after them.

    Raises InvalidCursor, InvalidFilter, and RightLacking for a filter beyond what they may see.
    """
    tenants = None if tenant_id is None else (str(tenant_id),)
    asked = filter_of(dict(request.GET.lists()))
    filter = principal.filter(asked)
    at, opened = request.GET.get("at", "").strip(), request.GET.get("event", "").strip()
    event = history.named(opened, tenants, principal.only) if opened else None
    if event is not None:
        rows = first_page.around(tenants, filter, event)
    elif at:
        rows = first_page.ending_at(tenants, filter, at)
    else:
        rows = first_page.newest(tenants, filter)
    login = resolve_url(settings.LOGIN_URL)
    return {
        "events": rows.events,
        "cursor": rows.cursor,
        "before": rows.before,
        "after": rows.after,
        "more": rows.more,
        "newer": rows.newer,
        "opened": event.id if event else None,
        "missing": bool(opened) and event is None,
        "rows": first_page.ROWS,
        "tenant_id": tenant_id,
        "everything": tenant_id is None,
        "filtered": bool(asked),
        "stream_path": get_script_prefix() + STREAM_PATH,
        "sse_path": get_script_prefix() + SSE_PATH,
        "now_path": get_script_prefix() + NOW_PATH,
        "export_path": get_script_prefix() + EXPORT_PATH,
        "user_key": principal.id,
        "login_url": f"{login}?{urlencode({'next': request.get_full_path()})}",
    }


def _chosen_tenant(
    request: HttpRequest, principal: Principal, tenants: list[TenantRef]
) -> uuid.UUID | None:
    """The tenant to show; None for all of them, and for a user who has none. Raises Http404."""
    text = request.GET.get("tenant", "")
    if not text:
        return None if principal.everything or not tenants else tenants[0].id
    try:
        tenant_id = uuid.UUID(text)
    except ValueError:
        raise Http404("No such tenant.") from None
    if not principal.may_see(tenant_id):
        raise Http404("No such tenant.")
    return tenant_id
