"""A connection to a Redis server, each of whose failures is a BrokerAway in words."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MovedError,
    RedisError,
    ResponseError,
)

from agent_events.brokers.addresses import servers_of, without_secrets
from agent_events.brokers.certificates import NO_PASSPHRASE, fault_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway, in_a_line

Command = tuple[bytes | str | int, ...]
"""Its name and its arguments."""
CLUSTERED = (AskError, ClusterCrossSlotError, ClusterDownError, MovedError)
"""What a server says that is one of a cluster."""


class Line:
    """One connection. Whatever goes wrong on it closes it, and is a BrokerAway."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url
        self._settings = settings
        self._timeout_s = settings.broker_timeout_s
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        """Connects anew. Raises BrokerAway."""
        await self.close()
        if why := fault_of(self._settings):
            raise BrokerAway(f"The Redis server is not reached: {why}.")
        try:
            connection = self._made()
        except (ValueError, TypeError, RedisError):
            # Their words may hold the address.
            raise BrokerAway(
                'BROKER_URL is not understood: expected "redis://user:password@host:6379/0", '
                '"rediss://..." or "unix:///path". Correct it.'
            ) from None
        self._connection = connection
        await self._tried(connection.connect(), self._timeout_s)  # type: ignore[no-untyped-call]
        await self.ask([("PING",)])

    async def ask(self, commands: Iterable[Command], patience_s: float = 0.0) -> list[Any]:
        """Sends commands at once; returns their answers, in order.

        They may take `patience_s` seconds longer than any other. Raises BrokerAway, also where one
        is refused.
        """
        if self._connection is None:
            raise BrokerAway("The Redis server is not connected: open() first.")
        asked = self._exchange(self._connection, list(commands))
        answers: list[Any] = await self._tried(asked, self._timeout_s + patience_s)
        return answers

    async def close(self) -> None:
        """Closes the connection, if there is one. Waits for nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _made(self) -> AbstractConnection:
        (server,) = servers_of(self._url)
        behind = self._url.partition("://")[2].rstrip()
        options: dict[str, Any] = dict(parse_url(f"{server.scheme}://{behind}"))
        made = options.pop("connection_class", Connection)
        if server.scheme == "rediss":
            options |= self._files()
            if options.get("ssl_cert_reqs") != "none":
                # Before 6, redis-py takes a certificate of any name.
                options.setdefault("ssl_check_hostname", True)
        options |= {
            # Every server speaks it, and we take no pushes, which are what the newer one is for.
            "protocol": 2,
            "decode_responses": False,
            "socket_connect_timeout": self._timeout_s,
            # A read that blocks may take longer than another: `ask` bounds each.
            "socket_timeout": None,
        }
        connection: AbstractConnection = made(**options)
        return connection

    def _files(self) -> dict[str, str]:
        settings = self._settings
        files: dict[str, str] = {}
        if settings.broker_ca_file:
            files["ssl_ca_certs"] = settings.broker_ca_file
        if settings.broker_cert_file:
            files["ssl_certfile"] = settings.broker_cert_file
            files["ssl_keyfile"] = settings.broker_key_file
            files["ssl_password"] = NO_PASSPHRASE
        return files

    @staticmethod
    async def _exchange(connection: AbstractConnection, commands: list[Command]) -> list[Any]:
        packed = connection.pack_commands(commands)
        await connection.send_packed_command(packed, check_health=False)
        return [await connection.read_response() for _ in commands]

    async def _tried(self, doing: Awaitable[Any], timeout_s: float) -> Any:
        done = False
        try:
            async with asyncio.timeout(timeout_s):
                answer = await doing
            done = True
            return answer
        except ResponseError as error:
            raise BrokerAway(f"The Redis server refuses: {self._words(error)}") from None
        except TimeoutError:
            raise BrokerAway(
                f"The Redis server has not answered within {timeout_s:g} s: "
                "see whether it runs there, with TLS where the address says rediss://, and "
                "BROKER_TIMEOUT_S."
            ) from None
        except (RedisError, OSError) as error:
            raise BrokerAway(f"The Redis server is away: {self._words(error)}") from None
        finally:
            # Also where we are cancelled: the answers would be taken for those of what is next.
            if not done:
                await self.close()

    def _words(self, error: Exception) -> str:
        if isinstance(error, CLUSTERED):
            return "it is one of a Redis Cluster, which is not supported. Name one that is not."
        if isinstance(error, InvalidResponse):  # which repeats all that came
            return "what answers there is no Redis server."
        # A server that does not know a command repeats its arguments: bodies, or a password.
        said = in_a_line(error).partition(", with args beginning with")[0]
        if said.startswith(("OOM ", "command not allowed when used memory")):
            return "its memory is full (maxmemory). Give it more, or lower BROKER_BYTES."
        return f"{without_secrets(said, self._url).rstrip('.')}."
