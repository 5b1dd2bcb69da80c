"""The contract: `openapi.json`, `asyncapi.json`, and a page to read both at `docs`.

Deliberately for everybody, signed in or not: they describe the software and its limits, and hold no
data, no names and no secrets. Browsers may keep them for CACHE_S (caches that many share may
not: they say where the site is, and some servers believe a request's header about that). The page
is made on the server; no script runs on it.
"""

import asyncio
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.template.loader import render_to_string
from django.urls import NoReverseMatch, set_script_prefix

from agent_events.addresses import address_of, script_name
from agent_events.conf import Settings, get_settings
from agent_events.contract import asyncapi as asyncapi_document
from agent_events.contract import openapi as openapi_document
from agent_events.contract import page
from agent_events.responses import Receive, Send, refuse

CACHE_S = 300
"""So long may a browser keep them: a deploy may change them."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HTML = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
]
_JSON = [(b"content-type", b"application/json")]


async def openapi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /api/agents/openapi.json`: OpenAPI 3.1, for HTTP."""
    await _answer(scope, send, _openapi, _JSON)


async def asyncapi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /api/agents/asyncapi.json`: AsyncAPI 3.0, for what WebSockets and SSE send."""
    await _answer(scope, send, _asyncapi, _JSON)


async def docs(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /api/agents/docs`: both, to be read."""
    await _answer(scope, send, _page, _HTML)


@lru_cache(maxsize=4)
def _openapi(name: str, settings: Settings) -> bytes:
    return json.dumps(openapi_document.document(name, settings, below(name))).encode()


@lru_cache(maxsize=4)
def _asyncapi(name: str, settings: Settings) -> bytes:
    return json.dumps(asyncapi_document.document(name, settings)).encode()


@lru_cache(maxsize=4)
def _page(name: str, settings: Settings) -> bytes:
    context = page.context(
        openapi_document.document(name, settings, below(name)),
        asyncapi_document.document(name, settings),
    )
    set_script_prefix(f"{name}/")
    return render_to_string("agent_events/contract.html", context).encode()


def below(name: str) -> str:
    """What `agent_events.urls` are below, on a site that is below `name`: "", or "/agents"."""
    try:
        address = address_of(name, "agent_events:events")
    except NoReverseMatch:  # they are not there
        return ""
    return address.removeprefix(name).removesuffix("/api/agents/events")


async def _answer(
    scope: dict[str, Any],
    send: Send,
    made: Callable[[str, Settings], bytes],
    headers: list[tuple[bytes, bytes]],
) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        await refuse(scope, send, 405, "Use GET.", headers={"Allow": "GET, HEAD"})
        return
    # In a thread with a context of its own: templates are files, the prefix is this request's.
    body = await asyncio.to_thread(made, script_name(scope.get("root_path") or ""), get_settings())
    own = [
        (b"cache-control", f"private, max-age={CACHE_S}".encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, *own]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
