"""The WebSocket door.

Deliberately unlike most consumers: it has no channel of its own on the layer (each one would make
every send cost more), and it counts what the client has acknowledged, because a server without
back-pressure buffers without bound for a client that does not read.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer

from agent_events import metrics, origins, wire
from agent_events.access import admit
from agent_events.bus import current_bus
from agent_events.client_frames import Ack, Auth, ClientFrame, Refilter, read
from agent_events.conf import get_settings
from agent_events.credentials import PROTOCOL, Credentials, Via, of_scope
from agent_events.errors import (
    AgentEventsError,
    LimitReached,
    NotSignedIn,
    TooLarge,
    WrongOrigin,
)
from agent_events.guard import current_guard
from agent_events.inline import inline
from agent_events.principals import Principal, Right
from agent_events.requests import (
    NO_STREAM,
    say_could_not_begin,
    status_of,
    stream_request,
    why_no_stream,
)
from agent_events.seats import GOODBYE_S, Seat
from agent_events.subscriber import Subscriber, Update
from agent_events.tasks import end
from agent_events.unacknowledged import Unacknowledged

logger = logging.getLogger("agent_events")

# Close codes: 4400 to 4404 and 4413 mean "do not come back with this request".
BAD_REQUEST = 4400
NOT_SIGNED_IN = 4401
RIGHT_LACKING = 4403
NOT_FOUND = 4404
NOT_ACKNOWLEDGED = 4408
TOO_LARGE = 4413
TOO_MANY = 4429
TRY_AGAIN = 4503  # (RFC 6455 has 1013, which not every server may send)

_REFUSED = {
    400: (BAD_REQUEST, "bad_request"),
    401: (NOT_SIGNED_IN, "signed_out"),
    403: (RIGHT_LACKING, "right_lacking"),
    404: (NOT_FOUND, "not_found"),
    413: (TOO_LARGE, "too_large"),
    429: (TOO_MANY, "too_many"),
    503: (TRY_AGAIN, "try_again"),
}
"""By the HTTP status that says the same."""
_STOPPED = {
    "expired": NOT_SIGNED_IN,
    "revoked": NOT_SIGNED_IN,
    "signed_out": NOT_SIGNED_IN,
    "not_yours": NOT_FOUND,
    "right_lacking": RIGHT_LACKING,
}
"""By the reason for which a live stream ends."""

_SAY_FIRST = 'Say first who you are: {"type":"auth","token":...}.'

MOST_WAITING = 1_000
"""Connections of a process that have not said yet who they are."""
MOST_EARLY = 16
"""Frames of a client that came before its stream began."""


def _refusal(error: Exception) -> tuple[int, str, str]:
    """The close code, the word and the message for this error."""
    if isinstance(error, NO_STREAM):
        why = why_no_stream(error)
        return TRY_AGAIN, "try_again", f"{why[0].upper()}{why[1:]}. Try again in a moment."
    if isinstance(error, AgentEventsError):
        return *_REFUSED[status_of(error)], str(error)
    logger.error("A stream broke; the client resumes.", exc_info=error)
    return TRY_AGAIN, "try_again", "The stream broke. Try again in a moment."


class StreamConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """`/ws/agents/stream?tenant=&cursor=&agent=&type=`: frames in docs/architecture.md."""

    waiting = 0
    """Connections of this process that have not said yet who they are."""

    def __init__(self) -> None:
        self._settings = get_settings()
        self._seat: Seat | None = None
        self._subscriber: Subscriber | None = None
        self._unacknowledged = Unacknowledged(self._settings.ack_window_bytes)
        self._introduction: asyncio.Future[str] | None = None  # while its first frame is awaited
        self._early: list[ClientFrame] = []  # what came before the stream began
        self._begun = self._closed = False
        self._pump: asyncio.Task[None] | None = None
        self._listening: asyncio.Timeout | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one connection, and leaves nothing behind however it ends.

        Channels' own loop would take a task and a thread for each frame of the client's: it looks
        after a layer's channel, and closes old database connections. There are none here.
        """
        self.scope, self.base_send = scope, send
        try:
            with suppress(StopConsumer, TimeoutError):
                async with asyncio.timeout(None) as self._listening:
                    while True:
                        message = await receive()
                        await getattr(self, get_handler_name(message))(message)
        finally:
            self._listening = None
            if self._pump is not None:
                await end([self._pump])

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        """Accepts first: a refused handshake would hide from scripts why.

        But not one that bears a cookie and comes from a page of another site: that is told nothing.
        """
        credentials = of_scope(self.scope)
        try:
            origins.check(self.scope, credentials)
        except WrongOrigin:
            await self.send({"type": "websocket.close", "code": RIGHT_LACKING})
            raise StopConsumer from None
        offered = self.scope.get("subprotocols", ())
        # Never the one that bears a secret: it would come back in the answer.
        chosen = PROTOCOL if PROTOCOL in offered else None
        await self.send({"type": "websocket.accept", "subprotocol": chosen})
        # A task: a client that leaves while the database is away is noticed all the same.
        self._pump = asyncio.create_task(self._run_to_its_end(credentials))

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """A client's frame: `ack`, `filter` or `auth`."""
        if self._pump is None or self._pump.done():
            return  # it was refused, and has not heard so yet
        text = message.get("text") or ""
        most = self._settings.frame_bytes
        if max(len(text.encode()), len(message.get("bytes") or b"")) > most:
            error = f'A frame is over {most} bytes, which AGENT_EVENTS["FRAME_BYTES"] allows.'
            await self._refuse_now(TooLarge(error))
            return
        try:
            await self._take(read(text))
        except Exception as error:
            await self._refuse_now(error)

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """The client has gone."""
        raise StopConsumer

    async def _run_to_its_end(self, credentials: Credentials) -> None:
        try:
            await self._run(credentials)
        except StopConsumer:
            return
        except asyncio.CancelledError:
            if self._seat is None or self._seat.stopped is None:
                raise
            await self._cut_off(self._seat)
        except Exception as error:
            if isinstance(error, NO_STREAM):
                say_could_not_begin(error)
            await self._refuse(*_refusal(error))

    async def _run(self, credentials: Credentials) -> None:
        try:
            seat, subscriber = await self._begin(credentials)
            metrics.WEBSOCKET.opened()
            try:
                await self._stream(seat, subscriber)
            finally:
                metrics.WEBSOCKET.closed()
                subscriber.close()
        finally:
            if self._seat is not None:
                self._seat.leave()

    async def _begin(self, credentials: Credentials) -> tuple[Seat, Subscriber]:
        # Of its own, so that who asked and what is not remembered for as long as the stream lasts.
        credentials, principal = await self._who(credentials)
        request = stream_request(self.scope)
        tenants = principal.choose(request.tenants)
        filter = principal.filter(request.filter)
        seat = self._seat = current_guard().seat(credentials, principal, tenants, filter)
        subscriber = await current_bus().subscribe(tenants, filter, request.cursor)
        self._subscriber = subscriber
        task = asyncio.current_task()
        assert task is not None
        seat.begin(subscriber, task)
        return seat, subscriber

    async def _who(self, credentials: Credentials) -> tuple[Credentials, Principal]:
        if credentials.via is Via.NOTHING:
            if credentials.headers:  # a resolver of the application's own may know them by these
                with suppress(NotSignedIn):
                    return credentials, await admit(credentials, Right.SUBSCRIBE)
            credentials = credentials.with_token(await self._introduced())
        return credentials, await admit(credentials, Right.SUBSCRIBE)

    async def _introduced(self) -> str:
        """The token of the first frame. Raises NotSignedIn, LimitReached."""
        if self._early:
            first = self._early.pop(0)
            if not isinstance(first, Auth):
                raise NotSignedIn(_SAY_FIRST)
            return first.token
        if StreamConsumer.waiting >= MOST_WAITING:
            raise LimitReached(
                f"{MOST_WAITING} connections have not said yet who they are. Try again later, or "
                "send the token with the handshake."
            )
        StreamConsumer.waiting += 1
        introduction: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._introduction = introduction
        try:
            async with asyncio.timeout(self._settings.auth_timeout_s):
                return await introduction
        except TimeoutError:
            raise NotSignedIn(
                f"No key or token came within {self._settings.auth_timeout_s:g} s: "
                '{"type":"auth","token":...}.'
            ) from None
        finally:
            StreamConsumer.waiting -= 1

    async def _stream(self, seat: Seat, subscriber: Subscriber) -> None:
        """Passes on what comes until the stream may not go on. Raises AgentEventsError."""
        hello = wire.frame("hello", cursor=subscriber.cursor, tenants=subscriber.tenants)
        await self._text(hello)
        while self._early:  # what comes meanwhile waits behind them
            await self._obey(self._early.pop(0))
        self._begun = True
        while seat.stopped is None:
            try:
                await self._unacknowledged.room(self._settings.ack_timeout_s)
            except TimeoutError:
                await self._refuse(
                    NOT_ACKNOWLEDGED,
                    "not_acknowledged",
                    f"{self._settings.ack_window_bytes} bytes are not acknowledged. Send "
                    '{"type":"ack","cursor":...} after each events frame.',
                )
                return
            await self._pass_on(await subscriber.next(self._settings.heartbeat_s), seat)
        await self._say_stopped(seat)

    async def _pass_on(self, update: Update, seat: Seat) -> None:
        if seat.stopped is not None:
            return
        if update.stretch is None:
            told = {"cursor": update.cursor, **seat.said_with(update.kind)}
            await self._text(wire.frame(update.kind.value, **told))
            return
        shown = inline(self.scope.get("root_path", ""))
        for frame in update.stretch.frames(shown):
            self._unacknowledged.sent(frame.cursor, frame.size)
            for message in frame.messages:
                await self.send({"type": "websocket.send", "text": message})
            if seat.stopped is not None:
                return
        metrics.WEBSOCKET.delivered(len(update.stretch.events))

    async def _take(self, frame: ClientFrame) -> None:
        """Takes what the client says. Raises AgentEventsError."""
        if self._introduction is not None and not self._introduction.done():
            if not isinstance(frame, Auth):
                raise NotSignedIn(_SAY_FIRST)
            self._introduction.set_result(frame.token)
        elif self._begun:
            await self._obey(frame)
        elif len(self._early) < MOST_EARLY:
            self._early.append(frame)
        else:
            raise LimitReached(f"Over {MOST_EARLY} frames came before hello. Wait for it.")

    async def _obey(self, frame: ClientFrame) -> None:
        """Does what a frame asks for, one after the other. Raises AgentEventsError."""
        assert self._seat is not None
        assert self._subscriber is not None
        match frame:
            case Ack(cursor):
                self._unacknowledged.acknowledge(cursor)
            case Refilter(filter):
                self._subscriber.refilter(self._seat.refilter(filter))
            case Auth(token):
                credentials = self._seat.credentials.with_token(token)
                principal = await admit(credentials, Right.SUBSCRIBE)
                self._seat.renew(credentials, principal)

    async def _refuse_now(self, error: Exception) -> None:
        """Refuses what the client has just sent; nothing may follow the close."""
        if self._pump is not None:
            await end([self._pump])
        await self._refuse(*_refusal(error))

    async def _cut_off(self, seat: Seat) -> None:
        """Says goodbye where it can be said at once, and goes: the client may read nothing."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._say_stopped(seat)
        except TimeoutError:
            if self._listening is not None:
                self._listening.reschedule(asyncio.get_running_loop().time())

    async def _say_stopped(self, seat: Seat) -> None:
        assert seat.stopped is not None
        await self._refuse(_STOPPED[seat.stopped.reason], *seat.stopped)

    async def _refuse(self, close: int, code: str, message: str) -> None:
        if self._closed:
            return
        await self._text(wire.frame("error", code=code, message=message))
        await self.send({"type": "websocket.close", "code": close})
        self._closed = True

    async def _text(self, text: str) -> None:
        for message in wire.messages(text):
            await self.send({"type": "websocket.send", "text": message})

    async def send(self, message: dict[str, Any]) -> None:
        """To the client. Raises StopConsumer where it has gone, which `receive` may say later.

        Each server has an error of its own for that: Daphne's is autobahn's `Disconnected`.
        """
        try:
            await super().send(message)
        except Exception:
            raise StopConsumer from None
