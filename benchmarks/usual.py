"""The usual ways, to compare with: what Channels' tutorial and Django's manual lead to.

`/ws/usual`: each event is one `group_send` to a group of consumers, from a LISTEN client of the
seed's trigger in the same process. `/ws/empty`, `/stream/empty`: connections that do nothing.
"""

import asyncio
import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
pages = get_asgi_application()

import psycopg  # noqa: E402
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from benchmarks.cluster import TENANT  # noqa: E402

_listening: list[asyncio.Task[None]] = []


async def _listen() -> None:
    layer = get_channel_layer()
    connection = await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True)
    await connection.execute(f'LISTEN "agent_event_{TENANT}"')
    async for note in connection.notifies():
        await layer.group_send("usual", {"type": "agent.event", "text": note.payload})


class Usual(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One consumer of the group."""

    async def connect(self) -> None:
        """Joins the group."""
        if not _listening:
            _listening.append(asyncio.create_task(_listen()))
        await self.channel_layer.group_add("usual", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leaves it."""
        await self.channel_layer.group_discard("usual", self.channel_name)

    async def agent_event(self, message: dict[str, Any]) -> None:
        """One event."""
        await self.send(text_data=message["text"])


class Empty(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Accepts, and does nothing."""


async def empty_stream(scope: Any, receive: Any, send: Any) -> None:
    """A response that never ends, without a word."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
    )
    await send({"type": "http.response.body", "body": b": empty\n\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def readyz(scope: Any, receive: Any, send: Any) -> None:
    """Says that it is there."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


_ready: Any = readyz
_pages: Any = pages
_empty: Any = AuthMiddlewareStack(empty_stream)
application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [path("readyz", _ready), path("stream/empty", _empty), re_path("", _pages)]
        ),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter([path("ws/usual", Usual.as_asgi()), path("ws/empty", Empty.as_asgi())])
            )
        ),
    }
)
