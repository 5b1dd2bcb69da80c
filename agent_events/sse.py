"""The Server-Sent Events door: an ASGI application beside Django.

Deliberately no Django view: one that asks who the user is would hold a thread and a database
connection for as long as the stream lasts. A response ends after some MiB or minutes (the client
resumes by itself, at its last event): that is the bound on what a server without back-pressure
holds for a client that does not read.
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from agent_events import metrics, wire
from agent_events.access import principal_of_scope
from agent_events.bus import current_bus
from agent_events.conf import Settings, get_settings
from agent_events.errors import AgentEventsError
from agent_events.requests import AWAY, say_could_not_begin, status_of, stream_request
from agent_events.responses import Receive, Send, respond
from agent_events.subscriber import Subscriber, Update

logger = logging.getLogger("agent_events")

RETRY_MS = 2_000  # after a failure
RETRY_AT_ONCE_MS = 100  # after a planned end

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


async def stream(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /api/agents/stream?tenant=&agent=&type=`, resuming by `Last-Event-ID` or `?cursor=`."""
    if scope["method"] not in ("GET", "HEAD"):
        await _refuse(scope, send, 405, "Use GET.", [(b"allow", b"GET")])
        return
    try:
        subscriber = await _subscribe(scope)
    except AWAY as error:
        await come_back(send, error)
        return
    except AgentEventsError as error:
        await _refuse(scope, send, status_of(error), str(error))
        return
    metrics.SSE.opened()
    gone = asyncio.create_task(_gone(receive))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        if scope["method"] == "GET":
            sending = asyncio.create_task(_send_all(subscriber, send, get_settings()))
            # (Where the server waits for a client that reads nothing, it does not end by itself.)
            settings = get_settings()
            done, _ = await asyncio.wait(
                {gone, sending},
                timeout=settings.sse_recycle_s + settings.ack_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            sending.cancel()
            (result,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(result, Exception):
                logger.error("A stream broke; the client resumes.", exc_info=result)
            if gone.done() or not done:
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        metrics.SSE.closed()
        gone.cancel()
        subscriber.close()


async def _subscribe(scope: dict[str, Any]) -> Subscriber:
    # Of its own, so that who asked and what is not remembered for as long as the stream lasts.
    request = stream_request(scope)
    principal = await principal_of_scope(scope)
    tenants = principal.choose(request.tenants)
    return await current_bus().subscribe(tenants, request.filter, request.cursor)


async def come_back(send: Send, error: Exception) -> None:
    """Tells a client whose stream could not begin, for the database is away, to try again.

    Not by a 503: EventSource ends for good on any answer but 200, and the database comes back.
    """
    say_could_not_begin(error)
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    body = f": the database is away\nretry: {RETRY_MS}\n\n".encode()
    await send({"type": "http.response.body", "body": body})


async def _send_all(subscriber: Subscriber, send: Send, settings: Settings) -> None:
    """Sends what comes until the response is due to end."""
    sent = 0

    async def write(text: str | bytes) -> int:
        body = text if isinstance(text, bytes) else text.encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        return len(body)

    hello = wire.sse_named("hello", subscriber.cursor, tenants=subscriber.tenants)
    sent += await write(f"retry: {RETRY_MS}\n{hello}")
    end_at = time.monotonic() + settings.sse_recycle_s

    async def pass_on(update: Update) -> None:
        nonlocal sent
        if update.stretch is None:
            sent += await write(wire.sse_named(update.kind.value, update.cursor))
            return
        for block, events in update.stretch.blocks():
            if sent + len(block) >= settings.sse_recycle_bytes:
                # The bound is passed by one event at most.
                block = wire.sse_up_to(events, settings.sse_recycle_bytes - sent)
            sent += await write(block)
            metrics.SSE.delivered(block.count(b"\n\n"))
            if sent >= settings.sse_recycle_bytes:
                return

    while sent < settings.sse_recycle_bytes and time.monotonic() < end_at:
        # (Nothing of what went out is kept while it waits for the next.)
        await pass_on(await subscriber.next(settings.heartbeat_s))
    await write(f"retry: {RETRY_AT_ONCE_MS}\n\n")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(
    scope: dict[str, Any],
    send: Send,
    status: int,
    message: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    body = json.dumps({"error": message}).encode()
    await respond(scope, send, status, body, [(b"content-type", b"application/json"), *headers])
