"""The routes of streams, probes and metrics, and how they stand beside Django's pages."""

from typing import Any

import django.db
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.urls import path, re_path

from agent_events import consumers, sse
from agent_events.consumers import StreamConsumer
from agent_events.health import healthz, readyz
from agent_events.metrics_door import metrics


class SignedIn:
    """Who asks, by Django's session; while that cannot be looked up, the client is to come back."""

    def __init__(self, inner: Any) -> None:
        self.inner = AuthMiddlewareStack(inner)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes the connection on with its user."""
        try:
            await self.inner(scope, receive, send)
        except django.db.Error as error:  # before the stream began: it asks Django nothing later
            if scope["type"] == "websocket":
                await consumers.come_back(receive, send, error)
            else:
                await sse.come_back(send, error)


# Any: ASGI applications, where the stubs of Django's path() expect views.
_stream: Any = SignedIn(sse.stream)
_healthz: Any = healthz
_readyz: Any = readyz
_metrics: Any = metrics

# Ready for a URLRouter. The session is looked up for the stream alone: that takes the database,
# which probes and scrapes must do without, and Django does it by itself for its pages.
http_urlpatterns = [
    path("api/agents/stream", _stream, name="agent_events_sse"),
    path("healthz", _healthz, name="agent_events_healthz"),
    path("readyz", _readyz, name="agent_events_readyz"),
    path("metrics", _metrics, name="agent_events_metrics"),
]
# For a URLRouter within SignedIn and a validator of the Origin.
websocket_urlpatterns = [
    path("ws/agents/stream", StreamConsumer.as_asgi(), name="agent_events_websocket")
]


def application(pages: Any) -> ProtocolTypeRouter:
    """The whole ASGI application: `pages` for all addresses but the streams', probes' and metrics'.

    `pages` is Django's `get_asgi_application()`, called before this module is imported (it loads
    the apps), or any ASGI application around it. A project with WebSockets or routes of its own
    builds the same from `http_urlpatterns` and `websocket_urlpatterns`.
    """
    return ProtocolTypeRouter(
        {
            "http": BelowScriptName(URLRouter([*http_urlpatterns, re_path("", pages)])),
            "websocket": AllowedHostsOriginValidator(
                SignedIn(BelowScriptName(URLRouter(websocket_urlpatterns)))
            ),
        }
    )


class BelowScriptName:
    """Routes what is below FORCE_SCRIPT_NAME, or below the `root_path` that the server was given.

    Whether or not the proxy took that off the address, as Django does for its pages: a URLRouter
    by itself knows no FORCE_SCRIPT_NAME, and refuses whatever does not begin with `root_path`.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes the connection on with the rest of its path as `path_remaining`."""
        name = (settings.FORCE_SCRIPT_NAME or scope.get("root_path") or "").rstrip("/")
        path = scope["path"]
        if path.startswith(f"{name}/"):
            path = path.removeprefix(name)
        await self.inner({**scope, "path_remaining": path}, receive, send)
