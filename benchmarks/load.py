"""pgbench: single-row INSERTs, each a commit of its own, prepared, as fast as they go."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.cluster import AGENT, PAYLOAD, TENANT, Cluster, wait_until
from project.postgres_home import shipped_program

INSERT = (
    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) "
    f"VALUES ('{TENANT}', '{AGENT}', 'turn_complete', '{PAYLOAD}');\n"
)
WARM_UP_S = 1.0
"""A load runs so long before it is watched: sessions are open, modes have changed."""
MORE_S = 60
"""pgbench is ended; if nobody is left to do that, it ends by itself so much later."""
APPLICATION = "benchmarks pgbench"
ENDED_S = 10.0


@dataclass(frozen=True)
class Load:
    """What was seen of a load while it went on.

    Attributes:
        per_s: commits a second.
        cpu_us: CPU microseconds a commit of all PostgreSQL processes together.
        written: all commits, from the first to the last, those that were not watched too.
        counted: by how much `count` grew meanwhile.
    """

    per_s: float
    cpu_us: float
    written: int
    counted: int


def pgbench(
    server: Cluster,
    dsn: str,
    connections: int,
    seconds: float,
    *,
    rate: int = 0,
    count: Callable[[], int] = int,
) -> Load:
    """Inserts from so many connections, and watches that for so many seconds, after a warm-up.

    Begins behind a checkpoint, ends when the last session has ended. How many commits there were
    at a moment, the sequence of the ids tells.

    Args:
        rate: commits a second; as many as go, if left out.
        count: asked at the beginning and at the end of the time that is watched.

    Raises:
        RuntimeError: an INSERT failed.
    """
    server.settle()
    with (
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(dsn, autocommit=True) as watching,
    ):
        script = Path(folder, "insert.sql")
        script.write_text(INSERT)
        command = [
            str(shipped_program("pgbench")),
            "--no-vacuum",
            "--protocol=prepared",
            f"--client={connections}",
            f"--jobs={min(connections, os.cpu_count() or 1)}",
            f"--time={round(WARM_UP_S + seconds) + MORE_S}",
            *([f"--rate={rate}"] if rate else []),
            f"--file={script}",
        ]
        before = _ids(watching)
        with subprocess.Popen(
            command, env=_where(dsn), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as running:
            try:
                time.sleep(min(WARM_UP_S, seconds))
                counted = count()
                began, first, cpu_s = time.perf_counter(), _ids(watching), server.cpu_s()
                time.sleep(seconds)
                took_s = time.perf_counter() - began
                commits, cpu_s = _ids(watching) - first, server.cpu_s() - cpu_s
                counted = count() - counted
                if running.poll() is not None:
                    raise RuntimeError(f"pgbench ended by itself: {_said(running)}")
            finally:
                running.terminate()
        wait_until(lambda: _sessions(watching) == 0, ENDED_S, "pgbench's sessions to end")
        written = _one(watching, "SELECT count(*) FROM agent_events WHERE id > %s", before)
        if not commits:
            raise RuntimeError("pgbench inserted nothing while it was watched")
        return Load(commits / took_s, cpu_s / commits * 1e6, written, counted)


def _where(dsn: str) -> dict[str, str]:
    """The environment that leads libpq's programs there: arguments are for everybody to see."""
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
    }
    there = {names[name]: str(value) for name, value in conninfo_to_dict(dsn).items()}
    return {**os.environ, **there, "PGAPPNAME": APPLICATION}


def _said(running: subprocess.Popen[bytes]) -> str:
    """The last line that it wrote."""
    lines = running.communicate()[1].decode().strip().splitlines()
    return lines[-1] if lines else "without a word"


def _ids(connection: psycopg.Connection[Any]) -> int:
    """How many ids the table has given out."""
    return _one(
        connection, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM agent_events_id_seq"
    )


def _sessions(connection: psycopg.Connection[Any]) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return _one(connection, query, APPLICATION)


def _one(connection: psycopg.Connection[Any], query: str, *values: object) -> int:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return int(row[0])
