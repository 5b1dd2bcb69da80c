"""The Server-Sent Events door: an ASGI application beside Django.

Deliberately no Django view: one that asks who the user is would hold a thread and a database
connection for as long as the stream lasts. A response ends after some MiB or minutes (the client
resumes by itself, at its last event): that is the bound on what a server without back-pressure
holds for a client that does not read.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from agent_events import metrics, wire
from agent_events.access import admit
from agent_events.bus import current_bus
from agent_events.conf import get_settings
from agent_events.credentials import of_scope
from agent_events.errors import AgentEventsError, LimitReached
from agent_events.guard import current_guard
from agent_events.inline import inline
from agent_events.principals import Right
from agent_events.requests import (
    NO_STREAM,
    say_could_not_begin,
    status_of,
    stream_request,
    why_no_stream,
)
from agent_events.responses import Receive, Send, refuse
from agent_events.seats import GOODBYE_S, Seat
from agent_events.subscriber import Subscriber, Update
from agent_events.wire import Inline

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
        await refuse(scope, send, 405, "Use GET.", headers={"Allow": "GET"})
        return
    try:
        seat = await _seat(scope)
    except NO_STREAM as error:
        say_could_not_begin(error)
        await come_back(send, why_no_stream(error))
        return
    except AgentEventsError as error:
        came_back = _came_back_by_itself(scope)
        if came_back and status_of(error) in (401, 403, 404):
            # Ends its retries (WHATWG HTML, section 9.2.3), without an error on the page's console.
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif came_back and isinstance(error, LimitReached):
            # Most often its own stream from before, whose end the server has not yet noticed.
            await come_back(send, "too many streams", error.retry_after_s)
        else:
            await refuse(scope, send, error)
        return
    try:
        await _serve(scope, receive, send, seat)
    finally:
        seat.leave()


async def _seat(scope: dict[str, Any]) -> Seat:
    # Of its own, so that who asked and what is not remembered for as long as the stream lasts.
    credentials = of_scope(scope)
    principal = await admit(credentials, Right.SUBSCRIBE)
    request = stream_request(scope)
    tenants = principal.choose(request.tenants)
    return current_guard().seat(credentials, principal, tenants, principal.filter(request.filter))


def _came_back_by_itself(scope: dict[str, Any]) -> bool:
    """Is it an EventSource that streamed before? A script, with other headers, reads a problem."""
    headers = dict(scope["headers"])
    return headers.get(b"accept") == b"text/event-stream" and b"last-event-id" in headers


async def _serve(scope: dict[str, Any], receive: Receive, send: Send, seat: Seat) -> None:
    settings = get_settings()
    try:
        cursor = stream_request(scope).cursor
        subscriber = await current_bus().subscribe(seat.tenants, seat.filter, cursor)
    except NO_STREAM as error:
        say_could_not_begin(error)
        await come_back(send, why_no_stream(error))
        return
    except AgentEventsError as error:
        await refuse(scope, send, error)
        return
    metrics.SSE.opened()
    gone = asyncio.create_task(_gone(receive))
    sending: asyncio.Task[None] | None = None
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        if scope["method"] == "GET":
            shown = inline(scope.get("root_path", ""))
            response = _Response(subscriber, seat, send, shown)
            sending = asyncio.create_task(response.send_all())
            seat.begin(subscriber, sending)
            # (Where the server waits for a client that reads nothing, it does not end by itself.)
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
            if sending.cancelled():  # by the guard: the client may read nothing
                with suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE_S):
                        await response.end()
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        metrics.SSE.closed()
        # Also where a server cancels this: what sends would go on by itself.
        gone.cancel()
        if sending is not None:
            sending.cancel()
        subscriber.close()


async def come_back(send: Send, why: str, after_s: float = RETRY_MS / 1_000) -> None:
    """Tells a client whose stream cannot begin for now to try again.

    Not by a 503 or 429: EventSource ends for good on any answer but 200.
    """
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    body = f": {why}\nretry: {round(after_s * 1_000)}\n\n".encode()
    await send({"type": "http.response.body", "body": body})


class _Response:
    """What comes, written until the response is due to end or the stream may not go on."""

    __slots__ = ("_cursor", "_inline", "_seat", "_send", "_sent", "_settings", "_subscriber")

    def __init__(self, subscriber: Subscriber, seat: Seat, send: Send, shown: Inline) -> None:
        self._subscriber = subscriber
        self._seat = seat
        self._send = send
        self._inline = shown
        self._settings = get_settings()
        self._sent = 0  # bytes
        self._cursor = subscriber.cursor  # behind what was sent

    async def send_all(self) -> None:
        """Sends all but the end."""
        subscriber, settings = self._subscriber, self._settings
        hello = wire.sse_named("hello", self._cursor, tenants=subscriber.tenants)
        await self._write(f"retry: {RETRY_MS}\n{hello}".encode())
        end_at = time.monotonic() + settings.sse_recycle_s
        while self._seat.stopped is None and not self._is_full and time.monotonic() < end_at:
            # (Nothing of what went out is kept while it waits for the next.)
            await self._pass_on(await subscriber.next(settings.heartbeat_s))
        if self._seat.stopped is not None:
            await self._say_stopped()
        else:
            await self._write(f"retry: {RETRY_AT_ONCE_MS}\n\n".encode())

    async def end(self) -> None:
        """The end of one that was cut off."""
        await self._say_stopped()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, update: Update) -> None:
        if self._seat.stopped is not None:
            return
        if update.stretch is None:
            kind = update.kind
            said = wire.sse_named(kind.value, update.cursor, **self._seat.said_with(kind))
            await self._write(said.encode(), update.cursor)
            return
        for block, events in update.stretch.blocks(self._inline):
            if self._sent + len(block) >= self._settings.sse_recycle_bytes:
                # The bound is passed by one event at most.
                block = wire.sse_up_to(events, self._settings.sse_recycle_bytes - self._sent)
            await self._write(block, events[-1].cursor)
            metrics.SSE.delivered(block.count(b"\n\n"))
            if self._is_full or self._seat.stopped is not None:
                return

    @property
    def _is_full(self) -> bool:
        return self._sent >= self._settings.sse_recycle_bytes

    async def _write(self, body: bytes, cursor: str = "") -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sent += len(body)
        self._cursor = cursor or self._cursor

    async def _say_stopped(self) -> None:
        assert self._seat.stopped is not None
        reason, message = self._seat.stopped
        # Without an id: the client's own is that of the last event it got, whatever happened.
        said = wire.sse_named("stopped", reason=reason, message=message, cursor=self._cursor)
        await self._write(said.encode())


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
