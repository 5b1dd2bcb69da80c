"""`/healthz` and `/readyz`: answered whatever hangs, and true."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured

from agent_events import broker_problems, health, problems
from agent_events.facts import Head, Session, Setup, Status
from agent_events.health import Readiness, judge
from agent_events.sources import Doorbell, SourceState
from agent_events.tasks import SharedLook
from project.database import CONNECT_TIMEOUT_S
from tests.conftest import find_program
from tests.support import Server, free_port, manage, wait_until
from tests.support.database import ROOT
from tests.support.pooler import pgbouncer

Connect = Callable[..., psycopg.Connection[Any]]

SETUP = Setup(180004, False, (), False, (), "O", 1)
HEAD = Head(7, 70, datetime(2026, 1, 1, tzinfo=UTC), 60.0)
WELL = Status(setup=SETUP, head=HEAD)
LISTENING = SourceState(connected=True, doorbell=Doorbell.HEARD, batch=7)


# A load balancer knows an address, and no name. A browser's session would be looked up in the
# database, if anything looked.
PROBE = {"Host": "10.1.2.3:8080", "Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}
PATIENCE_S = 6.0
"""Less than CONNECT_TIMEOUT_S, for which whoever asked the database would wait."""


def answer(server: Server) -> tuple[int, Any]:
    """What `/readyz` says."""
    got = httpx.get(f"{server.url}/readyz", headers=PROBE, timeout=10)
    return got.status_code, got.json()


def lives(server: Server) -> bool:
    """What `/healthz` says. (Whatever it could wait for hangs for longer.)"""
    return httpx.get(f"{server.url}/healthz", headers=PROBE, timeout=PATIENCE_S).status_code == 200


@contextmanager
def server_on(dsn: str, tmp_path: Path) -> Iterator[Server]:
    """A server process whose database is at `dsn`, whatever answers there."""
    server = Server(dsn, tmp_path / "server.log")
    try:
        yield server.start()
    finally:
        server.stop()


# A real process


def test_a_probed_process_is_ready_and_closes_batches_and_says_what_breaks(
    server: Callable[..., Server], connect: Connect
) -> None:
    running, database = server(), connect()
    well = {"status": "ready", "data": "ok", "doorbell": "heard", "problems": []}
    wait_until(lambda: answer(running) == (200, well), 30, "it to be ready")

    # Nobody subscribes, and yet what is inserted gets its place.
    database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}')"
    )
    head = "SELECT total FROM agent_events_head()"
    wait_until(lambda: database.execute(head).fetchone() == (1,), what="the batch")

    database.execute("ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring")
    slower = (200, {**well, "status": "degraded", "problems": ["no_trigger"]})
    wait_until(lambda: answer(running) == slower, what="the trigger to be missed")
    database.execute("ALTER TABLE agent_events ENABLE TRIGGER agent_events_ring")

    database.execute("CREATE TABLE saved AS SELECT * FROM agent_event_batches")
    database.execute("DELETE FROM agent_event_batches")
    _, body = wait_until(
        lambda: got if (got := answer(running))[0] == 503 else None, what="the ledger to be missed"
    )
    assert body["status"] == "unready"
    assert body["data"] == "failing"
    assert "ledger_empty" in body["problems"]
    assert lives(running)
    database.execute("INSERT INTO agent_event_batches SELECT * FROM saved")
    wait_until(lambda: answer(running) == (200, well), what="it to be ready again")


def test_get_and_head_and_nothing_else_and_for_no_host_in_particular(
    server: Callable[..., Server],
) -> None:
    running = server()
    wait_until(lambda: answer(running)[0] == 200, 30, "it to be ready")
    with httpx.Client(base_url=running.url, headers={"Host": "no.such.host"}) as client:
        for path in ("/healthz", "/readyz"):
            got, head = client.get(path), client.head(path)
            assert got.status_code == head.status_code == 200
            assert got.headers["cache-control"] == "no-store"
            assert head.headers["content-length"] == str(len(got.content))
            assert head.content == b""
            posted = client.post(path)
            assert posted.status_code == 405
            assert posted.headers["allow"] == "GET, HEAD"
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/").status_code == 400  # Django would have refused the name


def test_without_a_database_the_process_lives_is_not_ready_and_tells_no_secret(
    tmp_path: Path,
) -> None:
    dsn = f"postgresql://some_user:s3cret@127.0.0.1:{free_port()}/some_name"
    with server_on(dsn, tmp_path) as running:
        assert lives(running)
        found = {
            "status": "unready",
            "data": "failing",
            "doorbell": "unknown",
            "problems": ["unreachable", "source_disconnected"],
        }
        wait_until(lambda: answer(running) == (503, found), 30, "it to be found away")
        _, body = answer(running)
        for word in ("some_user", "s3cret", "some_name", "127.0.0.1"):
            assert word not in json.dumps(body)
        assert "s3cret" not in running.log()


def test_a_database_that_hangs_keeps_no_probe_waiting(tmp_path: Path) -> None:
    assert health.LIMIT_S < PATIENCE_S < CONNECT_TIMEOUT_S
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x"
        with server_on(dsn, tmp_path) as running:
            for _ in range(2):
                began = time.monotonic()
                status, body = answer(running)
                assert time.monotonic() - began < PATIENCE_S
                assert status == 503
                assert body["problems"] in (
                    ["no_answer"],
                    ["unreachable", "source_connecting"],
                    ["unreachable", "source_disconnected"],
                )
                assert lives(running)


def test_behind_a_pooler_it_is_ready_and_degraded_and_bus_status_works(
    dsn: str, tmp_path: Path
) -> None:
    program = find_program("pgbouncer")
    folder = tmp_path / "pooler"
    folder.mkdir()
    with (
        pgbouncer(program, dsn, "transaction", folder) as through,
        server_on(through, tmp_path) as running,
    ):
        deaf = {"status": "degraded", "data": "ok", "doorbell": "deaf"}
        wait_until(
            lambda: answer(running) == (200, {**deaf, "problems": ["doorbell_deaf"]}),
            what="the doorbell to be missed",
        )
        assert "Nothing is wrong." in manage("bus_status", dsn=through)


# Many probes


async def test_probes_that_come_together_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look() -> Readiness:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.05)
        return Readiness(True, "heard", ())

    monkeypatch.setattr(health, "_look", look)
    prober = SharedLook("", health._probe, fresh_s=60, limit_s=5)
    answers = await asyncio.gather(*(prober.answer() for _ in range(50)))
    assert {one.state for one in answers if one} == {"ready"}
    assert None not in answers
    again = await prober.answer()
    assert again is not None
    assert again.data
    assert looks == 1
    prober.fresh_s = 0.0
    await prober.answer()
    assert looks == 2


async def test_a_probe_that_gives_up_leaves_the_look_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end = asyncio.Event()

    async def look() -> Readiness:
        await may_end.wait()
        return Readiness(True, "heard", ())

    monkeypatch.setattr(health, "_look", look)
    prober = SharedLook("", health._probe, fresh_s=60, limit_s=0.05)
    monkeypatch.setattr(health, "_prober", prober)
    assert (await health.readiness()).problems == ("no_answer",)
    may_end.set()
    prober.limit_s = 30.0
    assert (await health.readiness()).state == "ready"


async def test_a_look_that_fails_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> Readiness:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(health, "_look", look)
    prober = SharedLook("", health._probe, fresh_s=60, limit_s=5)
    assert await prober.answer() == Readiness(False, "unknown", ("failed",))


async def test_why_it_failed_is_logged_once_and_again_where_the_words_differ(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception | None] = []

    async def look() -> Readiness:
        if (error := errors.pop(0)) is not None:
            raise error
        return Readiness(True, "heard", ())

    monkeypatch.setattr(health, "_look", look)
    prober = SharedLook("", health._probe, fresh_s=0.0, limit_s=30)

    async def said(error: Exception | None) -> list[tuple[int, str, bool]]:
        caplog.clear()
        errors.extend([error] * 3)
        for _ in range(3):
            await prober.answer()
        return [(one.levelno, one.getMessage(), bool(one.exc_info)) for one in caplog.records]

    await said(None)  # (whatever tests before left is over)
    for error, *line in (
        (ImproperlyConfigured("no address"), logging.ERROR, "failed (no address): this", False),
        (ImproperlyConfigured("no library"), logging.ERROR, "another reason now (no lib", False),
        (ImproperlyConfigured("no address"),),
        (RuntimeError("unforeseen"), logging.ERROR, "another reason now (unforeseen)", True),
        (None, logging.INFO, "works again", False),
        (RuntimeError("unforeseen"), logging.ERROR, "failed (unforeseen): this", True),
        (None, logging.INFO, "works again", False),
    ):
        lines = await said(error)
        assert len(lines) == bool(line)
        for (level, words, traceback), expected in zip(lines, [line], strict=False):
            assert (level, traceback) == (expected[0], expected[2])
            assert str(expected[1]) in words


# What the facts mean


def test_a_source_that_polls_is_ready_and_degraded() -> None:
    deaf = judge(WELL, replace(LISTENING, doorbell=Doorbell.DEAF), shared=False)
    assert (deaf.state, deaf.data, deaf.doorbell) == ("degraded", True, "deaf")
    assert deaf.problems == ("doorbell_deaf",)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (None, "source_connecting"),
        (SourceState(), "source_connecting"),
        (SourceState(trouble="connection refused"), "source_disconnected"),
    ],
)
def test_a_process_whose_source_is_not_connected_is_not_ready(source: Any, code: str) -> None:
    unready = judge(WELL, source, shared=False)
    assert (unready.state, unready.problems) == ("unready", (code,))


def test_a_source_that_is_stuck_is_not_ready() -> None:
    for late_s, poll_interval_s, data in ((4.0, 1.0, True), (6.0, 1.0, False), (6.0, 10.0, True)):
        status = replace(WELL, late_s=late_s)
        found = judge(status, LISTENING, shared=False, poll_interval_s=poll_interval_s)
        assert found.data is data
        assert found.problems == (() if data else ("source_behind",))


def test_behind_a_shared_layer_somebody_must_listen() -> None:
    listener = Session(1, "u", "agent_events bus", None, None)
    well = judge(replace(WELL, listeners=(listener,)), None, shared=True)
    assert (well.state, well.doorbell) == ("ready", "none")
    alone = judge(WELL, None, shared=True)
    assert (alone.state, alone.problems) == ("degraded", ("nobody_listens",))
    away = judge(replace(WELL, listeners=(listener,)), None, shared=True, layer_away=True)
    assert (away.state, away.problems) == ("degraded", ("layer_away",))


def test_events_that_others_hold_back_make_no_process_unready() -> None:
    waiting = replace(WELL, behind=1, waits_s=60.0)
    assert judge(waiting, LISTENING, shared=False) == Readiness(True, "heard", ())


def test_every_code_has_its_row_and_no_other() -> None:
    source = "".join(map(inspect.getsource, (health, problems, broker_problems)))
    codes = set(re.findall(r'(?:Problem\(\s*|code = |append\(|return \[)"([a-z_]+)"', source))
    codes |= {"no_answer", "source_connecting", "source_disconnected"}
    codes |= {code for code, _ in problems._FAULTS.values()}
    assert len(codes) > 20
    text = (ROOT / "docs/checks.md").read_text().split("## What bus_status and readyz tell")[1]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", text, re.M)) == codes
