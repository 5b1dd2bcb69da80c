"""Web processes, workers, and what is between: PostgreSQL alone, a broker, or a shared layer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from agent_events.conf import Settings
from agent_events.leases import publisher_keys
from project.nats_server import NatsServer
from project.redis_server import RedisServer
from tests.support.server import Program
from tests.support.waiting import wait_until
from tests.support.watch import HOLDERS, bus_settings, holder

KINDS = ("postgres", "nats", "redis", "layer")
BROKERS = ("nats", "redis")

Broker = NatsServer | RedisServer


class Worker(Program):
    """`manage.py listen_events`."""

    def __init__(self, dsn: str, log_file: Path, env: dict[str, str]) -> None:
        command = [sys.executable, "manage.py", "listen_events", "--quiet"]
        super().__init__(dsn, log_file, command, env=env)


class Deployment:
    """How events get from the log to web processes.

    Attributes:
        broker: the running server, None without one.
        env: the environment of web processes and workers.
        workers: those that were started here.
    """

    def __init__(self, kind: str, dsn: str, folder: Path, settings: dict[str, Any]) -> None:
        self.kind = kind
        self.dsn = dsn
        self.broker: Broker | None = None
        self.workers: list[Worker] = []
        self._settings = settings
        self._folder = folder

    @property
    def env(self) -> dict[str, str]:
        """The environment of web processes and workers."""
        more: dict[str, str] = {}
        if self.kind == "layer":
            assert self.broker is not None
            layer = {
                "BACKEND": "channels_redis.core.RedisChannelLayer",
                "CONFIG": {"hosts": [self.broker.url]},
            }
            more["TEST_CHANNEL_LAYERS"] = json.dumps({"default": layer})
        return {**bus_settings(**self._of_all), **more}

    @property
    def _of_all(self) -> dict[str, Any]:
        """AGENT_EVENTS of web processes and workers."""
        if self.kind not in BROKERS:
            return self._settings
        assert self.broker is not None
        return {"BROKER_URL": self.broker.url, **self._settings}

    def worker(self, dsn: str | None = None) -> Worker:
        """Starts another worker."""
        self._folder.mkdir(exist_ok=True)
        log_file = self._folder / f"worker-{len(self.workers)}.log"
        made = Worker(dsn or self.dsn, log_file, self.env).start()
        self.workers.append(made)
        return made

    def publisher(self, shard: int = 0) -> int | None:
        """The backend that holds a shard's lease."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            settings = Settings(**{key.lower(): value for key, value in self._of_all.items()})
            return holder(db, HOLDERS.format(publisher_keys(settings)[shard]))

    def wait_for_publisher(self, shard: int = 0) -> int:
        """The same, once there is one."""
        found: int = wait_until(lambda: self.publisher(shard), 20, "a worker to publish")
        return found


@contextmanager
def deployment(
    kind: str,
    dsn: str,
    folder: Path,
    *,
    workers: int = 1,
    broker: Broker | None = None,
    **settings: Any,
) -> Iterator[Deployment]:
    """Starts what is between, and workers; ends them all. `settings`: AGENT_EVENTS for all.

    `broker`: a server of the kind, which is started here; a plain one where it is left out.
    """
    made = Deployment(kind, dsn, folder, settings)
    with ExitStack() as stack:
        if broker is not None:
            made.broker = stack.enter_context(broker)
        elif kind == "nats":
            made.broker = stack.enter_context(NatsServer())
        elif kind in ("redis", "layer"):
            made.broker = stack.enter_context(RedisServer())
        try:
            if kind != "postgres":
                for _ in range(workers):
                    made.worker()
                made.wait_for_publisher()
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
