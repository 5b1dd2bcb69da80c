"""`bus_status --trace`: the way of one event, and where it stopped."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import Connection

from agent_events import advice, journey
from agent_events.deliveries import ANSWER_CHANNEL, Answer
from agent_events.facts import Listener, Session, Status
from agent_events.journey import (
    Journey,
    Step,
    Stored,
    Verdict,
    delay_ms,
    step_in_words,
    step_of,
    verdict,
)
from agent_events.management.report import lines
from agent_events.position import Cursor
from agent_events.tracing import trace
from agent_events.watching import observe
from tests.support import Server, login, make_tenant, make_user
from tests.support.database import ROOT
from tests.support.streams import event_stream, in_the_log, insert
from tests.support.watch import bus_settings

Connect = Callable[..., Connection[Any]]
APPEND = "SELECT n FROM agent_events_append()"


def told_of(dsn: str, id: int, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "bus_status", "--trace", str(id), *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def where(dsn: str, id: int) -> Verdict:
    return verdict(await trace(dsn, dsn, id))


@pytest.fixture
def tenant(dsn: str) -> str:
    tenant = make_tenant(dsn, "Acme")
    make_user(dsn, "ann", tenants=[tenant])
    return tenant


@pytest.fixture
def viewers(dsn: str, tenant: str, server: Callable[..., Server]) -> Iterator[Callable[[], Server]]:
    """`viewers()`: one web process more, with a subscriber that is live."""
    read: list[Iterator[Any]] = []  # a stream whose reader is forgotten is closed
    with ExitStack() as open_streams:

        def start() -> Server:
            # (Who is frozen keeps its session for three polls.)
            running = server(env=bus_settings(POLL_INTERVAL_S=5.0, TICK_TIMEOUT_S=20.0))
            stream = open_streams.enter_context(event_stream(running, login(running, "ann")))
            read.append(messages := stream.messages())
            assert "live" in (name for name, _ in messages)
            return running

        yield start


# At the processes


async def test_a_delivered_event_names_each_process_and_when_and_a_frozen_one_is_where_it_stopped(
    dsn: str, tenant: str, viewers: Callable[[], Server], connect: Connect
) -> None:
    first, second = viewers(), viewers()
    assert first.process is not None
    assert second.process is not None
    producer = connect()
    id = insert(producer, tenant)
    in_the_log(producer)
    done = told_of(dsn, id, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["verdict"]["code"] == "delivered"
    assert told["stored"]["tenant"] == tenant
    assert Cursor.parse(told["cursor"]).position == (told["batch"], id)
    assert {one["answer"]["process"] for one in told["processes"]} == {
        first.process.pid,
        second.process.pid,
    }
    for one in told["processes"]:
        assert one["step"] == "delivered"
        assert 0 <= one["delay_ms"] < 5_000
        assert one["answer"]["covered"] is True

    # Another tenant's: nobody watches that one.
    unwatched = insert(producer, str(uuid.uuid4()))
    in_the_log(producer)
    assert (await where(dsn, unwatched)).code == "not_watched"

    # The one that does not lead is frozen.
    (frozen,) = (one["answer"] for one in told["processes"] if not one["answer"]["leads"])
    os.kill(frozen["process"], signal.SIGSTOP)
    try:
        last = insert(producer, tenant)
        in_the_log(producer)
        later = await trace(dsn, dsn, last)
    finally:
        os.kill(frozen["process"], signal.SIGCONT)
    found = verdict(later)
    assert found.code == "undelivered"
    assert found.stopped
    assert "was delivered by 1 of 2 processes. It stopped at: " in found.words
    assert f"backend {frozen['backend']}" in found.words
    assert "does not answer" in found.words

    # Whoever begins now could not have handed it over.
    viewers()
    found_again = await trace(dsn, dsn, later.id)
    steps = [step_of(one, found_again.batch or 0) for one in found_again.listeners]
    assert sorted(step.name for step in steps) == ["DELIVERED", "DELIVERED", "LATER"]
    assert verdict(found_again).code == "delivered"


def test_as_text_it_is_a_sentence_and_the_stations(
    dsn: str, tenant: str, viewers: Callable[[], Server], connect: Connect
) -> None:
    running = viewers()
    assert running.process is not None
    producer = connect()
    id = insert(producer, tenant, kind="turn_complete")
    in_the_log(producer)
    done = told_of(dsn, id)
    assert done.returncode == 0
    assert done.stdout.startswith("It is in batch 1, and was delivered.\n")
    assert f"event         {id} of tenant {tenant}, agent " in done.stdout
    assert "type          turn_complete\n" in done.stdout
    assert "batch         1, closed 20" in done.stdout
    assert f"processes     process {running.process.pid} on " in done.stdout
    assert " ms after its batch was closed\n" in done.stdout


async def test_answers_that_are_none_are_not_believed(
    dsn: str, tenant: str, connect: Connect
) -> None:
    """Anybody may notify."""
    listener = connect(application_name="agent_events bus")
    producer = connect()
    id = insert(producer, tenant)
    producer.execute(APPEND)
    producer.execute("SELECT pg_notify(%s, %s)", [ANSWER_CHANNEL, '{"nonce": "x"}'])
    found = await trace(dsn, dsn, id)
    (one,) = found.listeners
    assert one.session.pid == listener.info.backend_pid
    assert one.answer is None
    assert verdict(found).code == "undelivered"


# Before the processes


async def test_an_event_whose_transaction_is_open_names_the_session(
    dsn: str, tenant: str, connect: Connect
) -> None:
    writer = connect(autocommit=False, application_name="nightly import")
    id = insert(writer, tenant)
    found = await where(dsn, id)
    assert (found.code, found.stopped) == ("open", True)
    assert f"pid {writer.info.backend_pid} (" in found.words
    assert "nightly import" in found.words
    assert told_of(dsn, id).returncode == 1

    writer.rollback()
    found = await where(dsn, id)
    assert (found.code, found.stopped) == ("rolled_back", True)


async def test_a_committed_event_in_no_batch_says_who_does_not_close_one(
    dsn: str, tenant: str, connect: Connect
) -> None:
    producer = connect()
    id = insert(producer, tenant)
    assert (await where(dsn, id)).code == "nobody_sequences"
    stuck = connect(application_name="agent_events bus")
    found = await where(dsn, id)
    assert found.code == "waiting"
    stuck.close()
    producer.execute("DELETE FROM agent_event_batches")
    found = await where(dsn, id)
    assert found.code == "ledger"
    assert "manage.py mend_events" in found.words


async def test_an_event_in_a_batch_that_nobody_carried_is_in_the_log(
    dsn: str, tenant: str, connect: Connect
) -> None:
    producer = connect()
    id = insert(producer, tenant)
    producer.execute(APPEND)
    found = await where(dsn, id)
    assert (found.code, found.stopped) == ("nobody_listens", False)
    assert told_of(dsn, id).returncode == 0


async def test_an_id_that_nobody_has_is_said_to_be_unknown(
    dsn: str, tenant: str, connect: Connect
) -> None:
    assert (await where(dsn, 7)).code == "unknown"
    id = insert(connect(), tenant)
    found = await where(dsn, id + 5)
    assert (found.code, found.stopped) == ("unknown", True)
    assert f"the last that was handed out is {id}" in found.words
    done = told_of(dsn, id + 5, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["stored"], told["gap"]["before"], told["processes"]) == (None, id, [])


async def test_what_was_pruned_is_said_to_be(dsn: str, tenant: str, connect: Connect) -> None:
    owner = connect()
    first, second = insert(owner, tenant), 0
    owner.execute(APPEND)
    second = insert(owner, tenant)
    owner.execute(APPEND)
    # Its row may be there for a moment longer than its batch.
    owner.execute("UPDATE agent_event_bus SET oldest = 2")
    assert (await where(dsn, first)).code == "pruned"
    owner.execute("DELETE FROM agent_events WHERE id = %s", [first])
    assert (await where(dsn, first)).code == "pruned"
    assert (await where(dsn, second)).code == "nobody_listens"


def test_without_a_database_it_says_so_and_exits_with_2(dsn: str, connect: Connect) -> None:
    connect().execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = told_of(dsn, 1)
    assert done.returncode == 2
    assert "manage.py migrate" in done.stdout


# In words


CLOSED_MS = 1_700_000_000_000
IN_BATCH = Journey(
    1,
    Status(),
    Stored("t", "a", "x", "2026-01-31T12:00:00.000000Z", 700, tx_ahead=False),
    batch=5,
    closed_at=datetime.fromtimestamp(CLOSED_MS / 1_000, UTC),
    closed_at_ms=CLOSED_MS,
    clock_ms=CLOSED_MS + 500,
)
ANSWER = Answer(
    backend=11,
    process=22,
    host="web-1",
    now_ms=CLOSED_MS + 500,
    batch=9,
    at_ms=CLOSED_MS + 400,
    began=1,
    leads=False,
    coalescing=False,
    watches=1,
    delivered_ms=CLOSED_MS + 4,
    covered=True,
)
NO_TIME = replace(ANSWER, delivered_ms=None, covered=None)


@pytest.mark.parametrize(
    ("answer", "step", "words"),
    [
        (None, Step.SILENT, "backend 11: does not answer"),
        (ANSWER, Step.DELIVERED, "delivered, 4 ms after its batch was closed"),
        (replace(ANSWER, covered=False), Step.NOT_WATCHED, "without this tenant's events, 4 ms"),
        (replace(NO_TIME, batch=4), Step.BEHIND, "is behind, at batch 4"),
        (replace(NO_TIME, batch=None), Step.BEHIND, "is behind, at no batch yet"),
        (replace(NO_TIME, began=6), Step.LATER, "began later, at batch 6"),
        (NO_TIME, Step.FORGOTTEN, "handed over, so long ago that it is forgotten when"),
    ],
)
def test_how_far_it_came_at_a_process(answer: Answer | None, step: Step, words: str) -> None:
    listener = Listener(Session(11, "me", "agent_events bus", None, None), answer)
    assert step_of(listener, 5) is step
    assert words in step_in_words(IN_BATCH, listener)


def test_a_process_whose_clock_is_wrong_has_its_times_corrected() -> None:
    hour = 3_600_000
    late = replace(
        ANSWER, now_ms=ANSWER.now_ms + hour, delivered_ms=(ANSWER.delivered_ms or 0) + hour
    )
    assert delay_ms(IN_BATCH, late) == 4
    assert delay_ms(IN_BATCH, replace(ANSWER, delivered_ms=CLOSED_MS - 3)) == 0


def test_the_page_has_each_code_and_no_other() -> None:
    page = (ROOT / "docs" / "bus_status.md").read_text()
    for heading, module in (("## The advice", advice), ("## Where is my event?", journey)):
        codes = set(re.findall(r'(?:Verdict|Advice)\(\s*"([a-z_]+)"', inspect.getsource(module)))
        rows = page.split(f"\n{heading}\n")[1].split("\n## ")[0]
        assert set(re.findall(r"^\| `([a-z_]+)` \|", rows, re.M)) == codes
        assert len(codes) >= 4


def test_the_page_has_each_line(dsn: str) -> None:
    page = (ROOT / "docs" / "bus_status.md").read_text()
    seen = asyncio.run(observe(dsn, dsn, 0.1))
    told = {name for name, _ in lines(seen) if name} | {"prepared"} - {"server"}
    rows = page.split("\n## The lines\n")[1].split("\n## ")[0]
    named = {name for row in re.findall(r"^\| (`[^|]+) \|", rows, re.M) for name in row.split(", ")}
    assert {name.strip("`") for name in named} == told - {"server"}
