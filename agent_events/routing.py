"""The streams' routes, for `channels.routing.URLRouter`. The README shows an `asgi.py`."""

from typing import Any, cast

from django.urls import path

from agent_events.consumers import StreamConsumer
from agent_events.sse import stream

# Django's types know views only; URLRouter calls ASGI applications.
http_urlpatterns = [path("api/agents/stream", cast(Any, stream), name="agent_events_sse")]
websocket_urlpatterns = [
    path("ws/agents/stream", StreamConsumer.as_asgi(), name="agent_events_websocket")
]
