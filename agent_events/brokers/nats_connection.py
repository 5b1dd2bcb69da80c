"""A connection to a NATS server. What the outlet and the inlet share.

A failure ends a connection: nothing here connects again by itself, the caller has the backoff.
(nats-py would, and would hold back what is sent meanwhile.) Every wait has a limit, and no message
repeats a user, a password or a token.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from django.core.exceptions import ImproperlyConfigured
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from agent_events.brokers import certificates
from agent_events.brokers.addresses import servers_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway, in_a_line

logger = logging.getLogger("agent_events")

RETRY_S = 0.05
"""Each server named is tried twice, so far apart."""
CLOSE_S = 1.0

FAILURES = (NatsError, OSError, TimeoutError, ValueError)
"""What nats-py raises. (Some of its errors are no NatsError.)"""


class Refused(Exception):
    """The server answered, and said no; `code` is its number for why."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("description", error)))
        self.code = error.get("err_code")


class Connection:
    """One connection at a time. `lost` says why there is none; empty: there is one. `news` is set
    when it is lost, and by its owner's handlers: one thing to wait for.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.broker_credentials and find_spec("nkeys") is None:
            raise ImproperlyConfigured(
                'AGENT_EVENTS["BROKER_CREDENTIALS"] takes a library that is not installed (nkeys): '
                "pip install 'nats-py[nkeys]'."
            )
        self._settings = settings
        self.timeout_s = settings.broker_timeout_s
        self.news = asyncio.Event()
        self.lost = "it is not open"
        self.max_payload = 0
        self._client: Client | None = None
        self._complaint = ""  # of the server, such as that one may not do this

    async def open(self) -> None:
        """Connects to one of the servers that BROKER_URL names. Raises BrokerAway."""
        await self.close()
        self._complaint = ""

        async def failed(error: Exception) -> None:
            # The first one: what follows comes of it.
            self._complaint = self._complaint or in_a_line(error)
            logger.debug("NATS: %s", in_a_line(error))

        async def closed() -> None:
            if self._client is client:
                self._lose("the connection was lost")

        try:
            options = _options(self._settings)
        except FAILURES as error:
            raise BrokerAway(f"NATS is not reached: {in_a_line(error)}") from None
        client = _Client(_wants_tls(self._settings))
        try:
            async with asyncio.timeout(self.timeout_s):
                await client.connect(**options, error_cb=failed, closed_cb=closed)
        except BaseException as error:
            await _end(client)
            if not isinstance(error, FAILURES):
                raise
            why = self._complaint or in_a_line(error)
            if isinstance(error, TimeoutError) and not self._complaint:
                why = f"no answer within {self.timeout_s:g} s: is it a NATS server?"
            raise BrokerAway(f"NATS is not reached: {why}") from None
        self._client, self.lost, self.max_payload = client, "", client.max_payload
        self._complaint = ""
        self.news = asyncio.Event()

    async def close(self) -> None:
        """Ends it at once; what was not sent yet is not sent."""
        client, self._client = self._client, None
        self._lose("it is not open")
        if client is not None:
            await _end(client)

    def away(self, error: Exception | str) -> BrokerAway:
        """The error to raise for this one, with what the server complained of, if it did."""
        why = in_a_line(error) if isinstance(error, Exception) else error
        if isinstance(error, TimeoutError):
            why = f"no answer within {self.timeout_s:g} s"
        more = f" ({self._complaint})" if self._complaint and self._complaint != why else ""
        return BrokerAway(f"NATS is away: {why}{more}")

    def _lose(self, why: str) -> None:
        self.lost = why
        self.news.set()

    def _connected(self) -> Client:
        if self._client is None or self.lost:
            raise self.away(self.lost)
        return self._client

    async def heard(self, timeout_s: float) -> bool:
        """Waits for `news`, and clears it. Returns whether there were any in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.news.wait()
        except TimeoutError:
            return False
        self.news.clear()
        return True

    async def ask(self, what: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JetStream's answer to a request, `STREAM.INFO.<name>` say. Raises Refused, BrokerAway."""
        client = self._connected()
        body = b"" if request is None else json.dumps(request).encode()
        try:
            message = await client.request(f"$JS.API.{what}", body, timeout=self.timeout_s)
            answer: dict[str, Any] = json.loads(message.data)
        except NoRespondersError:
            raise BrokerAway("NATS answers, but its JetStream does not: is it enabled?") from None
        except FAILURES as error:
            raise self.away(error) from None
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    async def publish(self, subject: str, body: bytes, reply: str = "", key: str = "") -> None:
        """Sends a message, without waiting for anything. Raises BrokerAway."""
        headers = {"Nats-Msg-Id": key} if key else None
        try:
            await self._connected().publish(subject, body, reply, headers)
        except FAILURES as error:
            raise self.away(error) from None

    def inbox(self) -> str:
        """A subject of one's own. Raises BrokerAway."""
        return self._connected().new_inbox()

    async def subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """Whatever comes on this subject goes to the handler. Raises BrokerAway."""
        # Without limits of nats-py's, which drops what is beyond them: no more comes than was
        # asked for.
        try:
            return await self._connected().subscribe(
                subject, cb=handler, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except FAILURES as error:
            raise self.away(error) from None

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Nothing more comes there; no matter whether the connection has ended."""
        try:
            await subscription.unsubscribe()
        except FAILURES as error:
            logger.debug("NATS: %s", in_a_line(error))


def _options(settings: Settings) -> dict[str, Any]:
    """What nats-py's `connect` takes. Raises ValueError, OSError."""
    servers: list[str] = []
    who: dict[str, str] = {}
    for one in servers_of(settings.broker_url):
        user, password = one.username or "", one.password
        servers.append(f"{one.scheme}://{one.netloc.rpartition('@')[2]}")
        if user and not who:
            known = {"user": user, "password": password} if password else {"token": user}
            who = {name: unquote(text) for name, text in known.items()}
    made: dict[str, Any] = {
        "servers": servers,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": RETRY_S,
        "connect_timeout": settings.broker_timeout_s / len(servers),
        "pending_size": 0,  # sending never waits within nats-py, which would swallow a cancellation
        "name": "agent_events",
        **who,
    }
    if why := certificates.fault_of(settings):
        raise ValueError(why)
    if settings.broker_ca_file or settings.broker_cert_file or _wants_tls(settings):
        made["tls"] = ssl.create_default_context(cafile=settings.broker_ca_file or None)
        if settings.broker_cert_file:
            certificates.own(settings, made["tls"])
    if settings.broker_credentials:
        made["user_credentials"] = _credentials(settings)
    return made


def _credentials(settings: Settings) -> RawCredentials:
    text = Path(settings.broker_credentials).read_text()
    # nats-py looks for these for ever.
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise ValueError('the file that AGENT_EVENTS["BROKER_CREDENTIALS"] names is no .creds file')
    return RawCredentials(text)


def _wants_tls(settings: Settings) -> bool:
    return any(one.scheme == "tls" for one in servers_of(settings.broker_url))


class _Client(Client):
    """nats-py takes `tls://` for `nats://` where a server, or whoever is in between, does not
    speak of TLS. This one says nothing then of who we are.
    """

    def __init__(self, wants_tls: bool) -> None:
        super().__init__()
        self._wants_tls = wants_tls

    def _connect_command(self) -> bytes:
        if self._wants_tls and not self._server_info.get("tls_required"):
            raise NatsError("the address says tls://, but the server offers no TLS")
        return super()._connect_command()


async def _end(client: Client) -> None:
    """Closes a client at once, whatever state it and the server are in.

    Its own `close` waits until a peer that may be frozen has read everything, and where that fails
    leaves the tasks of its subscriptions.
    """
    subscriptions = list(client._subs.values())
    client._pending, client._pending_data_size = [], 0
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    except (*FAILURES, AttributeError) as error:  # before 2.15, of one that never connected
        logger.debug("NATS: %s", in_a_line(error))
    for subscription in subscriptions:
        if subscription._wait_for_msgs_task is not None:
            subscription._wait_for_msgs_task.cancel()
