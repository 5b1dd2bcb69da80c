"""The WebSocket door.

Deliberately unlike most consumers: it has no channel of its own on the layer (each one would make
every send cost more), and it counts what the client has acknowledged, because a server without
back-pressure buffers without bound for a client that does not read.
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer

from agent_events import metrics, wire
from agent_events.access import principal_of_scope
from agent_events.bus import current_bus
from agent_events.conf import get_settings
from agent_events.errors import (
    AgentEventsError,
    InvalidCursor,
    InvalidFilter,
    NotSignedIn,
    TenantNotNamed,
    UnknownTenant,
)
from agent_events.filters import Filter
from agent_events.requests import AWAY, say_could_not_begin, stream_request
from agent_events.subscriber import Subscriber, Update
from agent_events.tasks import end

logger = logging.getLogger("agent_events")

# Close codes: 4400, 4401 and 4404 mean "do not come back with this request".
BAD_REQUEST = 4400
NOT_SIGNED_IN = 4401
NOT_FOUND = 4404
NOT_ACKNOWLEDGED = 4408
TRY_AGAIN = 4503  # (RFC 6455 has 1013, which not every server may send)

_AWAY = "The database is away. Try again in a moment."


async def come_back(receive: Any, send: Any, error: Exception) -> None:
    """Tells a client whose stream could not begin, for the database is away, to try again.

    Accepts first: a refused handshake would hide from scripts why.
    """
    say_could_not_begin(error)
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    for text in wire.messages(wire.frame("error", message=_AWAY)):
        await send({"type": "websocket.send", "text": text})
    await send({"type": "websocket.close", "code": TRY_AGAIN})


def close_code(error: AgentEventsError) -> int:
    """The close code that says what kind of refusal it was."""
    match error:
        case NotSignedIn():
            return NOT_SIGNED_IN
        case UnknownTenant():
            return NOT_FOUND
        case InvalidCursor() | InvalidFilter() | TenantNotNamed():
            return BAD_REQUEST
    return TRY_AGAIN


class Unacknowledged:
    """What was sent and not yet acknowledged, in bytes."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._sent: list[tuple[str, int]] = []
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None  # while somebody waits for it

    def sent(self, cursor: str, size: int) -> None:
        """A frame of `size` bytes went out; the client will acknowledge it by its cursor."""
        self._sent.append((cursor, size))
        self._bytes += size

    def acknowledge(self, cursor: str) -> None:
        """The client has this frame and all before it.

        Only a cursor that was sent counts: a client cannot acknowledge what it has not read.
        """
        places = (n for n, (sent, _) in enumerate(self._sent, 1) if sent == cursor)
        count = next(places, 0)
        self._bytes -= sum(size for _, size in self._sent[:count])
        del self._sent[:count]
        if self._bytes < self._window_bytes and self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def room(self, timeout_s: float) -> None:
        """Waits until the next frame may go, however large it is. Raises TimeoutError."""
        if self._bytes < self._window_bytes:
            return
        self._room = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._room
        finally:
            self._room = None


class StreamConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """`/ws/agents/stream?tenant=&cursor=&agent=&type=`: frames in docs/architecture.md."""

    def __init__(self) -> None:
        self._settings = get_settings()
        self._subscriber: Subscriber | None = None
        self._unacknowledged = Unacknowledged(self._settings.ack_window_bytes)
        self._pump: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one connection, and leaves nothing behind however it ends.

        Channels' own loop would take a task and a thread for each frame of the client's: it looks
        after a layer's channel, and closes old database connections. There are none here.
        """
        self.scope, self.base_send = scope, send
        try:
            with suppress(StopConsumer):
                while True:
                    message = await receive()
                    await getattr(self, get_handler_name(message))(message)
        finally:
            if self._pump is not None:
                await end([self._pump])

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        """Accepts first: a refused handshake would hide from scripts why."""
        await self.send({"type": "websocket.accept"})
        # A task: a client that leaves while the database is away is noticed all the same.
        self._pump = asyncio.create_task(self._run_to_its_end())

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """A client's frame: `ack` or `filter`."""
        try:
            self._handle(json.loads(message.get("text") or ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if self._pump is not None:
                self._pump.cancel()  # nothing may follow the close
            known = isinstance(error, InvalidFilter)  # (a ValueError)
            await self._refuse(
                BAD_REQUEST,
                str(error)
                if known
                else "That frame was not understood. Known: "
                '{"type":"ack","cursor":...} and {"type":"filter","agents":[],"types":[]}.',
            )

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """The client has gone."""
        raise StopConsumer

    def _handle(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "ack":
                self._unacknowledged.acknowledge(str(frame["cursor"]))
            case "filter":
                filter = Filter.of(map(str, frame["agents"]), map(str, frame["types"]))
                if self._subscriber is not None:
                    self._subscriber.refilter(filter)
            case _:
                raise ValueError

    async def _run_to_its_end(self) -> None:
        try:
            await self._run()
        except Exception:
            logger.exception("A stream broke; the client resumes.")
            await self._refuse(TRY_AGAIN, "The stream broke. Try again in a moment.")

    async def _run(self) -> None:
        try:
            subscriber = self._subscriber = await self._subscribe()
        except AWAY as error:
            say_could_not_begin(error)
            await self._refuse(TRY_AGAIN, _AWAY)
            return
        except AgentEventsError as error:
            await self._refuse(close_code(error), str(error))
            return
        metrics.WEBSOCKET.opened()
        try:
            tenants = subscriber.tenants
            await self._text(wire.frame("hello", cursor=subscriber.cursor, tenants=tenants))
            while True:
                await self._unacknowledged.room(self._settings.ack_timeout_s)
                await self._pass_on(await subscriber.next(self._settings.heartbeat_s))
        except TimeoutError:
            await self._refuse(
                NOT_ACKNOWLEDGED,
                f"{self._settings.ack_window_bytes} bytes are not acknowledged. Send "
                '{"type":"ack","cursor":...} after each events frame.',
            )
        finally:
            metrics.WEBSOCKET.closed()
            subscriber.close()

    async def _subscribe(self) -> Subscriber:
        # Of its own, so that who asked and what is not remembered for as long as the stream lasts.
        request = stream_request(self.scope)
        principal = await principal_of_scope(self.scope)
        tenants = principal.choose(request.tenants)
        return await current_bus().subscribe(tenants, request.filter, request.cursor)

    async def _pass_on(self, update: Update) -> None:
        if update.stretch is not None:
            for frame in update.stretch.frames():
                self._unacknowledged.sent(frame.cursor, frame.size)
                for message in frame.messages:
                    await self.send({"type": "websocket.send", "text": message})
            metrics.WEBSOCKET.delivered(len(update.stretch.events))
        else:
            await self._text(wire.frame(update.kind.value, cursor=update.cursor))

    async def _text(self, text: str) -> None:
        for message in wire.messages(text):
            await self.send({"type": "websocket.send", "text": message})

    async def _refuse(self, code: int, message: str) -> None:
        await self._text(wire.frame("error", message=message))
        await self.send({"type": "websocket.close", "code": code})
