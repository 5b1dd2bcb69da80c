"""`manage.py listen_events`, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.database import ROOT
from tests.support.streams import insert, websocket


class Listener:
    """A running `listen_events`, and what it has printed."""

    def __init__(self, dsn: str, folder: Path, *args: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "listen_events", *args],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
                stdout=out,
                stderr=err,
            )

    def lines(self, count: int) -> list[str]:
        """Its lines, once there are `count`."""
        wait_until(
            lambda: len(self.out().splitlines()) >= count, 20, f"{count} lines\n{self.err()}"
        )
        return self.out().splitlines()

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(10)


Listen = Callable[..., Listener]


@pytest.fixture
def listen(dsn: str, tmp_path: Path) -> Iterator[Listen]:
    """`listen(*args)`: a running listen_events."""
    started: list[Listener] = []

    def start(*args: str) -> Listener:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Listener(dsn, folder, *args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_a_line_per_event_and_ends_cleanly(
    connect: Connect, listen: Listen, number: signal.Signals
) -> None:
    tenant, producer = str(uuid.uuid4()), connect()
    insert(producer, tenant, kind="run.started")
    running = listen("--cursor=earliest")
    insert(producer, tenant, kind="tool.failed", payload='{"tool": "search"}')
    first, second = running.lines(2)
    assert "run.started" in first
    assert "tool.failed" in second
    assert '{"tool": "search"}' in second
    assert tenant[:8] in second
    assert running.end(number) == 0
    assert "web processes listen to PostgreSQL by themselves" in running.err()
    assert "Go on with --cursor 0" in running.err()


def test_the_cursor_that_it_leaves_goes_on_exactly_there(connect: Connect, listen: Listen) -> None:
    tenant, producer = str(uuid.uuid4()), connect()
    made = [insert(producer, tenant) for _ in range(3)]
    first = listen("--json", "--cursor=earliest")
    assert [json.loads(line)["id"] for line in first.lines(3)] == made
    assert first.end() == 0
    cursor = first.err().split()[-1]
    made = [insert(producer, tenant) for _ in range(2)]
    second = listen("--json", f"--cursor={cursor}")
    assert [json.loads(line)["id"] for line in second.lines(2)] == made


def test_it_prints_one_tenants_events_only_and_shows_escape_sequences(
    connect: Connect, listen: Listen
) -> None:
    mine, other, producer = str(uuid.uuid4()), str(uuid.uuid4()), connect()
    insert(producer, other, kind="other")
    insert(producer, mine, kind="evil\x1b[2J\nline")
    running = listen("--cursor=earliest", f"--tenant={mine}")
    (line,) = running.lines(1)
    assert "evil\\u001b[2J\\nline" in line


def test_a_cursor_that_is_none_is_refused_in_words(listen: Listen) -> None:
    running = listen("--cursor=yesterday")
    assert running.process.wait(20) == 1
    assert "'yesterday' is no cursor" in running.err()
    assert "Traceback" not in running.err()


async def test_it_serves_the_site_from_the_same_process(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    make_user(dsn, "ann", tenants=[tenant := make_tenant(dsn, "Harbour")])
    command = [sys.executable, "manage.py", "listen_events", "--serve", "127.0.0.1:{port}"]
    running = server(command=[*command, "--json"])
    async with websocket(running, login(running, "ann")) as socket:
        await socket.until("live")
        made = insert(connect(), tenant)
        assert [event["id"] for event in await socket.events(1)] == [made]
    wait_until(lambda: f'{{"id":{made},' in running.log(), 10, "the event on the terminal")
    assert running.stop() == 0


def test_a_taken_port_is_one_clear_line(listen: Listen, server: Callable[..., Server]) -> None:
    taken = server().port
    running = listen("--serve", f"127.0.0.1:{taken}")
    assert running.process.wait(20) == 1
    assert f"127.0.0.1:{taken} cannot be listened on" in running.err()
    assert "Traceback" not in running.err()
    nonsense = listen("--serve", "here")
    assert nonsense.process.wait(20) == 1
    assert "HOST:PORT" in nonsense.err()
