"""A short answer of an ASGI door that is no Django view."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def respond(
    scope: dict[str, Any],
    send: Send,
    status: int,
    body: bytes,
    headers: Sequence[tuple[bytes, bytes]],
) -> None:
    """Sends `body` whole, or its headers alone where HEAD was asked for; nobody may keep it.

    `headers` name at least its content type.
    """
    own = [(b"cache-control", b"no-store"), (b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *own]}
    await send(start)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
