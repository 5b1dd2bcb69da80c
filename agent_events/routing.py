"""The routes of streams, publishing, tokens, probes and metrics, and how they stand beside Django's
pages."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

from agent_events import grants, posts, spec_door, sse
from agent_events.addresses import script_name
from agent_events.consumers import StreamConsumer
from agent_events.cross_origin import CrossOrigin
from agent_events.health import healthz, readyz
from agent_events.metrics_door import metrics
from agent_events.now_door import now

# Any: ASGI applications, where the stubs of Django's path() expect views.
_stream: Any = sse.stream
_tokens: Any = grants.tokens
_tickets: Any = grants.tickets
_openapi: Any = spec_door.openapi
_asyncapi: Any = spec_door.asyncapi
_docs: Any = spec_door.docs
_healthz: Any = healthz
_readyz: Any = readyz
_metrics: Any = metrics
_now: Any = now

# Ready for a URLRouter. Each of them asks by itself who is there.
http_urlpatterns = [
    path("api/agents/stream", _stream, name="agent_events_sse"),
    path("api/agents/now", _now, name="agent_events_now"),
    path("api/agents/tokens", _tokens, name="agent_events_tokens"),
    path("api/agents/tickets", _tickets, name="agent_events_tickets"),
    path("api/agents/openapi.json", _openapi, name="agent_events_openapi"),
    path("api/agents/asyncapi.json", _asyncapi, name="agent_events_asyncapi"),
    path("api/agents/docs", _docs, name="agent_events_docs"),
    path("healthz", _healthz, name="agent_events_healthz"),
    path("readyz", _readyz, name="agent_events_readyz"),
    path("metrics", _metrics, name="agent_events_metrics"),
]
# Likewise: the consumer looks at the Origin, where a cookie says who is there.
websocket_urlpatterns = [
    path("ws/agents/stream", StreamConsumer.as_asgi(), name="agent_events_websocket")
]


def application(pages: Any) -> ProtocolTypeRouter:
    """The whole ASGI application: `pages` for all addresses but ours.

    `pages` is Django's `get_asgi_application()`, called before this module is imported (it loads
    the apps), or any ASGI application around it. A project with WebSockets of its own, or other
    protocols, makes the same from `http` and `websocket`.
    """
    return ProtocolTypeRouter({"http": http(pages), "websocket": websocket()})


def http(pages: Any) -> CrossOrigin:
    """What answers HTTP: ours, and `pages` for the rest."""
    rest: Any = Publishing(pages)
    return CrossOrigin(BelowScriptName(URLRouter([*http_urlpatterns, re_path("", rest)])))


def websocket(others: Sequence[Any] = ()) -> "BelowScriptName":
    """What answers WebSockets: ours, `others` (routes), and a refusal for the rest.

    Ours ask by themselves who is there, and whose page it is. The others do not, unless they are
    wrapped in what does.
    """
    routes = [*websocket_urlpatterns, *others, re_path("", _no_websocket)]
    return BelowScriptName(URLRouter(routes))


class Publishing:
    """Takes what is posted to `/api/agents/events`, and leaves the rest to the pages.

    The history is read at the same address; it is a Django view.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes the request on, by its method and what is left of its path."""
        if scope.get("path_remaining", scope["path"]).lstrip("/") != "api/agents/events":
            await self.inner(scope, receive, send)
        elif scope["method"] == "POST":
            await posts.publish(scope, receive, send)
        else:
            await self.inner(scope, receive, partial(_send_with_post, send))


async def _send_with_post(send: Any, message: dict[str, Any]) -> None:
    """A view that refuses a method names its own: here one may post, too."""
    if message["type"] == "http.response.start" and message["status"] == 405:
        headers = [
            (name, value + b", POST" if name.lower() == b"allow" else value)
            for name, value in message["headers"]
        ]
        message = {**message, "headers": headers}
    await send(message)


_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")


class BelowScriptName:
    """Routes what is below FORCE_SCRIPT_NAME, or below the `root_path` that the server was given.

    Whether or not the proxy took that off the address, as Django does for its pages: a URLRouter
    by itself knows no FORCE_SCRIPT_NAME, and refuses whatever does not begin with `root_path`.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes the connection on with the rest of its path as `path_remaining`."""
        # Daphne believes a request header for it, which anybody may send: it must look like a path.
        given = scope.get("root_path") or ""
        root = given if _ROOT_PATH.fullmatch(given) else ""
        name = script_name(root)
        path = scope["path"]
        if path.startswith(f"{name}/"):
            path = path.removeprefix(name)
        await self.inner({**scope, "root_path": root, "path_remaining": path}, receive, send)


async def _refuse_websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """No such address: a router without an answer would write a traceback for each of them."""
    await receive()
    await send({"type": "websocket.close"})


_no_websocket: Any = _refuse_websocket
