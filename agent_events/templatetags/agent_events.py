"""`{% load agent_events %}`: the cursor of this moment, and a small live feed, for templates.

Whatever is wrong with the log, the page around goes on: it shows a line that says why. The one
exception is a filter that is no filter, a mistake in the template: it raises where DEBUG is on.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlencode

from django import template
from django.conf import settings
from django.db import Error, connections, transaction
from django.template import Context, TemplateSyntaxError
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils.safestring import SafeString

from agent_events import history
from agent_events.access import admit_request
from agent_events.errors import (
    AgentEventsError,
    InvalidFilter,
    NotSignedIn,
    RightLacking,
    TenantNotNamed,
    UnknownTenant,
    WrongDatabase,
)
from agent_events.filters import Filter
from agent_events.position import LATEST
from agent_events.principals import Right
from agent_events.seldom import Seldom
from agent_events.views import SSE_PATH, STREAM_PATH

register = template.Library()

MOST_ROWS = 100
"""Rows that an embedded feed keeps, and that its first render may have."""
MOST_PAYLOAD = 4_000
"""Characters of a payload that a row of the first render hands to its script."""
_MEDIA = "_agent_events_media"

Names = str | Iterable[object] | None

_no_cursor = Seldom("A template got no cursor, and begins at 'latest': %s").warn
_no_feed = Seldom("A feed in a template could not be shown: %s").warn


@register.simple_tag
def agent_events_cursor() -> str:
    """The cursor of this moment, `latest` where the log cannot be read.

    A stream opened with it misses nothing that comes after, and repeats nothing from before.
    """
    try:
        with _apart():
            return str(history.resolve(LATEST).cursor)
    except (Error, WrongDatabase) as error:
        _no_cursor(error)
        return LATEST


@register.inclusion_tag("agent_events/embed_media.html", takes_context=True)
def agent_events_media(context: Context) -> dict[str, Any]:
    """The stylesheet and the script of the feeds on this page, once."""
    return {"first": _first_media(context)}


@register.inclusion_tag("agent_events/embed.html", takes_context=True)
def agent_events_feed(
    context: Context,
    tenant: object = "",
    agents: Names = None,
    types: Names = None,
    not_agents: Names = None,
    not_types: Names = None,
    text: Names = None,
    where: Names = None,
    rows: int = 20,
) -> dict[str, Any]:
    """The newest events that match, newest first, kept live by a script.

    Each part of the filter is one value or several. `rows`: how many the first render has, at most
    `MOST_ROWS`. Raises TemplateSyntaxError for a filter that is none, where DEBUG is on.
    """
    asked = [str(tenant)] if tenant else []
    shown: dict[str, Any] = {"first": _first_media(context), "most": MOST_ROWS}
    try:
        filter = Filter.of(
            *(_several(names) for names in (agents, types, not_agents, not_types, text, where))
        )
        return shown | _read(context, asked, filter, max(1, min(int(rows), MOST_ROWS)))
    except InvalidFilter as error:
        if settings.DEBUG:
            raise TemplateSyntaxError(f"agent_events_feed: {error}") from error
        _no_feed(error)
        return shown | {"why": "The filter of this feed is not valid."}
    except NotSignedIn:
        return shown | {"why": "Sign in to see agent events."}
    except RightLacking:
        return shown | {"why": "You may not see these agent events."}
    except (UnknownTenant, TenantNotNamed) as error:
        return shown | {"why": str(error)}
    except (Error, AgentEventsError) as error:
        _no_feed(error)
        return shown | {"why": "Agent events cannot be read right now."}


def _read(context: Context, asked: list[str], filter: Filter, rows: int) -> dict[str, Any]:
    request = context.get("request")
    if request is None:
        raise NotSignedIn("The template has no request.")
    with _apart():
        principal = admit_request(request, Right.SUBSCRIBE)
        tenants = principal.choose(asked)
        allowed = principal.filter(filter)
        now = history.latest(tenants, filter=allowed, limit=rows)
    feed = _reversed("agent_events:feed")
    options = {
        "url": get_script_prefix() + STREAM_PATH,
        "streamUrl": get_script_prefix() + SSE_PATH,
        "historyUrl": _reversed("agent_events:events"),
        "cursor": now.cursor,
        "tenants": list(tenants or ()),
        "agents": allowed.agents,
        "types": allowed.types,
        "notAgents": allowed.not_agents,
        "notTypes": allowed.not_types,
        "texts": allowed.texts,
        "where": allowed.where,
        "shareKey": principal.id,
    }
    found = [
        {
            "event": event,
            "href": feed and f"{feed}?{urlencode({'tenant': event.tenant_id, 'event': event.id})}",
            "payload": event.payload_text if len(event.payload_text) <= MOST_PAYLOAD else "",
        }
        for event in now.events
    ]
    return {"options": json.dumps(options), "rows": found, "feed": feed}


@contextmanager
def _apart() -> Iterator[None]:
    """A failed query must not spoil the transactions that the view may be in."""
    with ExitStack() as savepoints:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                savepoints.enter_context(transaction.atomic(using=connection.alias))
        yield


def _first_media(context: Context) -> bool:
    """Has nobody written the stylesheet and the script on this page yet?"""
    kept: Any = context.render_context.dicts[0]  # the whole page's, with what it includes
    first = _MEDIA not in kept
    kept[_MEDIA] = True
    return first


def _reversed(name: str) -> str:
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


def _several(names: Names) -> list[str]:
    if not names:
        return []
    if isinstance(names, (str, SafeString)):
        return [str(names)]
    return [str(name) for name in names]
