"""A deployment to measure: web processes, and between them and PostgreSQL a broker, or nothing.

Its parts end with their `with` blocks. The broker's server and the workers run on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from agent_events.conf import Settings
from agent_events.database import BUS_APPLICATION
from agent_events.leases import publisher_keys
from benchmarks.cluster import environment, process, wait_until
from project.nats_server import NatsServer
from project.redis_server import RedisServer

ALONE, NATS, REDIS = "PostgreSQL alone", "NATS", "Redis"
KINDS = (ALONE, NATS, REDIS)
PROGRAMS = ("nats-server", "redis-server")
LEASES_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Between:
    """What events pass on their way to web processes.

    Args:
        settings: keys of AGENT_EVENTS for web processes and workers.
        broker: the broker's process; empty without one.
        workers: the processes of `manage.py listen_events`.
    """

    settings: dict[str, Any]
    broker: list[int]
    workers: list[int]


@contextmanager
def between(kind: str, dsn: str, workers: int = 1, **more: Any) -> Iterator[Between]:
    """A broker, and as many workers, each of which publishes one shard. Nothing for ALONE.

    Args:
        kind: one of KINDS.
        more: keys of AGENT_EVENTS besides.

    Raises:
        TimeoutError: a worker publishes nothing.
    """
    with ExitStack() as stack:
        if kind == ALONE:
            yield Between({}, [], [])
            return
        server: NatsServer | RedisServer = NatsServer() if kind == NATS else RedisServer()
        stack.enter_context(server)
        settings = {"BROKER_URL": server.url, "BROKER_SHARDS": workers, **more}
        command = [sys.executable, "manage.py", "listen_events", "--quiet"]
        started = [
            stack.enter_context(process(command, environment(dsn, **settings))).pid
            for _ in range(workers)
        ]
        with psycopg.connect(dsn, autocommit=True) as connection:
            wait_until(
                lambda: _publishers(connection, settings) == workers,
                LEASES_TIMEOUT_S,
                f"each of {workers} workers to publish a shard",
            )
        yield Between(settings, _brokers(), started)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used, all of their threads."""
    spent = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(one.user + one.system for one in spent))


def listening(dsn: str) -> int:
    """Sessions of the product that LISTEN on a database."""
    with psycopg.connect(dsn) as connection:
        return _count(
            connection,
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = current_database() AND application_name = '{BUS_APPLICATION}'",
        )


def _publishers(connection: psycopg.Connection[Any], settings: dict[str, Any]) -> int:
    """Sessions that hold leases of these settings' shards."""
    made = Settings(**{key.lower(): value for key, value in settings.items()})
    keys = ", ".join(publisher_keys(made))
    return _count(
        connection,
        f"""
        SELECT count(DISTINCT pid) FROM pg_locks
         WHERE locktype = 'advisory' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (classid::bigint << 32 | objid::bigint) IN ({keys})
        """,
    )


def _count(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _brokers() -> list[int]:
    children = psutil.Process().children()
    return [one.pid for one in children if one.name() in PROGRAMS]
