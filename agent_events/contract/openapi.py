"""The OpenAPI 3.1 document, out of its parts."""

from typing import Any

from django.conf import settings as django_settings

from agent_events.conf import Settings
from agent_events.contract import exporting, glancing, granting, pieces, reading, running, writing
from agent_events.contract.schemas import VERSION, cursor, event
from agent_events.credentials import TOKEN_COOKIE

_INTRODUCTION = (
    "An append-only log of what agents do, and live streams of it. A `Cursor` is a place in the "
    "log: it resumes a stream or a page of history with nothing lost and nothing twice."
)


def document(name: str, settings: Settings, pages: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 for all addresses over HTTP, with the limits of these settings.

    `name`: what the site is below, such as "/sub"; `pages`: what `agent_events.urls` are below, on
    the site.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agent events: HTTP",
            "version": VERSION,
            "description": _INTRODUCTION,
        },
        "servers": [{"url": name or "/"}],
        "tags": [
            {"name": reading.TAG, "description": "With the right `subscribe`."},
            {"name": writing.TAG, "description": "With the right `publish`."},
            {"name": granting.TAG, "description": "Short-lived ones, for whoever has none."},
            {"name": running.TAG, "description": "For load balancers and Prometheus."},
            {"name": running.CONTRACT, "description": "This document and its sibling."},
        ],
        "paths": _paths(settings, pages),
        "components": {
            "schemas": {
                "Cursor": cursor(),
                "Event": event(),
                **reading.schemas(),
                **glancing.schemas(settings),
                **writing.schemas(settings),
                **granting.schemas(settings),
                **running.schemas(),
                "Problem": pieces.problem_schema(),
            },
            "responses": pieces.refusal_responses(),
            "headers": pieces.headers(),
            "securitySchemes": _security_schemes(settings),
        },
    }


def _paths(settings: Settings, pages: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part in (
        reading.paths(settings, pages),
        exporting.paths(settings, pages),
        glancing.paths(),
        writing.paths(settings),
        granting.paths(settings),
        running.paths(),
    ):
        for path, methods in part.items():
            made.setdefault(path, {}).update(methods)
    return made


def _security_schemes(settings: Settings) -> dict[str, Any]:
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`ae_...`) or a stream token (`aet....`).",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": django_settings.SESSION_COOKIE_NAME,
            "description": "Of somebody who is signed in. Whatever is not GET must come from a page"
            " of this site (its `Origin` is looked at).",
        },
        "tokenCookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": TOKEN_COOKIE,
            "description": "A stream token, set as an HttpOnly cookie.",
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": f"At the stream alone. It works once, within {settings.ticket_s:g} s.",
        },
    }
