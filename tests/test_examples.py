"""The examples in other languages run as they are printed, with rights as few as documented."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from tests.conftest import Connect, find_program, node_modules
from tests.support import wait_until
from tests.support.database import ROOT
from tests.support.roles import temporary_role
from tests.support.streams import insert

TENANT, OTHER = (str(uuid.UUID(int=n)) for n in (1, 2))

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> Path:
    """A `node_modules` with `pg` in it."""
    find_program("node")
    return node_modules(request, "node", "pg@8")


Run = Callable[..., "Program"]


class Program:
    """An example at work; what it prints is in `output()` and `errors()`."""

    def __init__(self, folder: Path, dsn: str, *args: str) -> None:
        self._files = [folder / f"{uuid.uuid4().hex}.{name}" for name in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                ["node", *args],
                cwd=folder,
                env={**os.environ, "DATABASE_URL": dsn},
                stdout=out,
                stderr=err,
            )

    def output(self) -> list[str]:
        *whole, _rest = self._files[0].read_text().split("\n")
        return whole

    def errors(self) -> str:
        return self._files[1].read_text()

    def wait_for(self, lines: int) -> list[str]:
        """Its output, once it is so long."""
        wait_until(
            lambda: len(self.output()) >= lines or self.process.poll() is not None,
            what=f"{lines} lines",
        )
        return self.output()


@pytest.fixture
def node(driver: Path, dsn: str, tmp_path: Path) -> Iterator[Run]:
    """`node("read.mjs", ..., dsn=dsn)`: an example, started in a folder of its own."""
    (tmp_path / "node_modules").symlink_to(driver)
    started: list[Program] = []

    def start(name: str, *args: str, dsn: str = dsn) -> Program:
        shutil.copy(ROOT / "examples" / name, tmp_path)
        started.append(Program(tmp_path, dsn, name, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def reader_dsn(dsn: str, connect: Connect) -> Iterator[str]:
    """The database as a role that may read the log and nothing else."""
    with temporary_role(dsn) as role:
        connect().execute(
            f"GRANT SELECT ON agent_events, agent_event_batches, agent_event_bus TO {role}"
        )
        yield f"{dsn}?options={quote(f'-c role={role}')}"


def close_batches(connection: Connection) -> None:
    while connection.execute("SELECT agent_events_append()").fetchone():
        pass


def many(connection: Connection, count: int) -> list[int]:
    """So many events in one transaction, closed; their ids."""
    with connection.transaction():
        made = [insert(connection, TENANT) for _ in range(count)]
    close_batches(connection)
    return made


def ids(lines: list[str]) -> list[int]:
    return [json.loads(line)["id"] for line in lines]


def stands_at_the_head(file: Path, connection: Connection) -> bool:
    row = connection.execute("SELECT batch FROM agent_events_head()").fetchone()
    assert row is not None
    return file.exists() and int(json.loads(file.read_text())["batch"]) == row[0] + 1


def test_what_one_example_writes_the_other_reads(
    node: Run, connect: Connect, reader_dsn: str, tmp_path: Path
) -> None:
    connection, file = connect(), tmp_path / "position"
    reading = node("read.mjs", TENANT, str(file), dsn=reader_dsn)
    wait_until(file.exists, what="its place in the log")
    writing = node("insert.mjs", TENANT)
    assert writing.process.wait(20) == 0, writing.errors()
    close_batches(connection)
    (line,) = reading.wait_for(1)
    event = json.loads(line)
    assert writing.output() == [f"event {event['id']}"]
    assert (event["type"], event["payload"]) == ("turn_complete", {"tokens": 142, "latency": 820})


def test_the_reader_prints_each_event_once_over_lost_connections_and_restarts(
    node: Run, connect: Connect, reader_dsn: str, tmp_path: Path
) -> None:
    connection, file = connect(), tmp_path / "position"
    before = many(connection, 1)
    reading = node("read.mjs", TENANT, str(file), dsn=reader_dsn)
    wait_until(file.exists, what="its place in the log")
    made = [insert(connection, TENANT, kind='say "hi"', payload='{"n": 1.50, "big": 1e30}')]
    insert(connection, OTHER)
    late = connect(autocommit=False)
    made_late = insert(late, TENANT)
    made += many(connection, 3)
    assert '"type":"say \\"hi\\"","payload":{"n": 1.50, "big": 1' in reading.wait_for(4)[0]

    killed = connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'read.mjs' AND datname = current_database()"
    ).fetchall()
    assert killed == [(True,)]
    for _ in range(3):  # while it is away: a full page ends in the middle of a batch
        made += many(connection, 400)
    late.commit()
    close_batches(connection)
    made.append(made_late)
    assert ids(reading.wait_for(len(made))) == made
    assert "again in a second" in reading.errors()

    wait_until(lambda: stands_at_the_head(file, connection), what="the position to be kept")
    reading.process.kill()
    reading.process.wait()
    missed = many(connection, 2)
    reading = node("read.mjs", TENANT, str(file), dsn=reader_dsn)
    assert ids(reading.wait_for(2)) == missed
    missed += many(connection, 1)
    assert ids(reading.wait_for(3)) == missed
    assert not set(before) & set(missed + made)


def test_the_reader_says_what_it_cannot_read(
    node: Run, connect: Connect, reader_dsn: str, tmp_path: Path
) -> None:
    connection, file = connect(), tmp_path / "position"
    made = [many(connection, 1)[0] for _ in range(4)]
    row = connection.execute(
        "SET TIME ZONE 'UTC'; SELECT closed_at::text FROM agent_event_batches WHERE n = 1"
    )
    while row.nextset():
        pass
    (closed,) = row.fetchone() or ("",)
    file.write_text(json.dumps({"batch": "1", "id": str(made[0]), "closed": closed}))
    connection.execute("UPDATE agent_event_bus SET oldest = 3")
    connection.execute("DELETE FROM agent_events WHERE id <= %s", [made[1]])
    reading = node("read.mjs", TENANT, str(file), dsn=reader_dsn)
    assert ids(reading.wait_for(2)) == made[2:]
    assert reading.errors().startswith("truncated")
    wait_until(lambda: stands_at_the_head(file, connection), what="the position to be kept")
    reading.process.kill()
    reading.process.wait()

    file.write_text(json.dumps({"batch": "4", "id": str(made[3]), "closed": "another time"}))
    reading = node("read.mjs", TENANT, str(file), dsn=reader_dsn)
    assert reading.process.wait(20) == 1
    assert reading.errors().startswith("reset")


def test_without_arguments_an_example_says_how_to_call_it(node: Run) -> None:
    for name in ("read.mjs", "insert.mjs"):
        program = node(name)
        assert program.process.wait(20) == 2
        assert program.errors().startswith("usage: DATABASE_URL=")
