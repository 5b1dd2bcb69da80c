"""`bus_status` over time: who waits for the commit lock, rates, and one line each time."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.sql import SQL, Identifier

from agent_events.advice import advice
from agent_events.asking import STANDING
from agent_events.conf import Settings
from agent_events.database import BUS_APPLICATION, COALESCING_KEY, SEQUENCER_KEY
from agent_events.deliveries import ANSWER_CHANNEL, ASK_CHANNEL, Deliveries
from agent_events.management.commands.bus_status import CLEAR
from agent_events.management.report import lines
from agent_events.problems import problems_of
from agent_events.status import gather
from agent_events.watching import Observation, observe, watch
from agent_events.window import Window
from project.embedded import EmbeddedPostgres
from tests.support import wait_until
from tests.support.database import ROOT

Connect = Callable[..., Connection[Any]]

# The well-known recipe: a notification for each row.
SEED = """
    CREATE TABLE seed_events (id bigint GENERATED ALWAYS AS IDENTITY, payload text);
    CREATE FUNCTION seed_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', NEW.payload);
        RETURN NEW;
    END $$;
    CREATE TRIGGER seed_notify AFTER INSERT ON seed_events
        FOR EACH ROW EXECUTE FUNCTION seed_notify()
"""
SEED_INSERT = "INSERT INTO seed_events (payload) VALUES ('x')"
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}')
"""


@contextmanager
def committers(
    dsn: str, statement: str, count: int = 6, pause_s: float = 0.0
) -> Iterator[set[int]]:
    """So many sessions that commit `statement` all the time, in the server; their pids."""
    loop = f"DO $$ BEGIN LOOP {statement}; COMMIT; PERFORM pg_sleep({pause_s}); END LOOP; END $$"
    sessions = [
        psycopg.connect(dsn, autocommit=True, application_name="busy") for _ in range(count)
    ]

    def commit(session: Connection[Any]) -> None:
        with suppress(psycopg.errors.QueryCanceled):
            session.execute(loop.encode())

    threads = [threading.Thread(target=commit, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    try:
        yield {session.info.backend_pid for session in sessions}
    finally:
        while any(thread.is_alive() for thread in threads):
            for session in sessions:
                session.cancel_safe()
            for thread in threads:
                thread.join(0.2)
        for session in sessions:
            session.close()


def environment(dsn: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"}


def bus_status(dsn: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "bus_status", *args],
        cwd=ROOT,
        env=environment(dsn),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def watching(
    dsn: str, *args: str, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """`bus_status --watch`, ended by Ctrl-C, as it should be."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "bus_status", *args],
        cwd=ROOT,
        env=environment(dsn),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert (process.returncode, said) == (130, "Stopped.\n")
    finally:
        process.kill()
        process.wait()


@contextmanager
def sequencing(dsn: str, connect: Connect) -> Iterator[None]:
    """A worker that closes batches."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "listen_events", "--quiet"],
        cwd=ROOT,
        env=environment(dsn),
        stderr=subprocess.DEVNULL,
    )
    try:
        lead = f"SELECT pg_try_advisory_lock({SEQUENCER_KEY})"
        probe = connect()

        def leads() -> bool:
            (free,) = probe.execute(lead.encode()).fetchone() or (True,)
            if free:
                probe.execute("SELECT pg_advisory_unlock_all()")
            return not free

        wait_until(leads, what="a sequencer")
        yield
    finally:
        process.terminate()
        process.wait(10)


# Who waits


@pytest.fixture
def another_database(dsn: str) -> Iterator[str]:
    name = f"other_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield f"{dsn.rpartition('/')[0]}/{name}"
        finally:
            owner.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in this database", "in another"])
async def test_commits_that_wait_behind_the_recipes_trigger_are_seen(
    dsn: str, another_database: str, elsewhere: bool
) -> None:
    seeded = another_database if elsewhere else dsn
    with psycopg.connect(seeded, autocommit=True) as owner:
        owner.execute(SEED)
    with committers(seeded, SEED_INSERT) as pids:
        seen = await observe(dsn, dsn)
        page = bus_status(dsn).stdout if elsewhere else ""
    waits = seen.between.waits
    assert waits.waited >= 3
    assert waits.most >= 2
    assert waits.others == 1.0
    assert {one.session.pid for one in waits.waiters} <= pids
    database = seeded.rpartition("/")[2]
    assert {one.database for one in waits.waiters} == {database}
    assert waits.holder is None or waits.holder.session.pid in pids
    assert problems_of(seen.status, seen.between) == []  # they are slow, not broken
    advised = advice(seen.status, seen.between, seen.rates, Settings())
    assert advised is not None
    assert advised.code == "waits"
    if elsewhere:
        assert "Waits seen, because others notify too" in page
        assert re.search(rf"busy, open for [0-9.]+ s, database {database}, not ours\n", page)


async def test_our_own_producers_that_wait_are_told_from_others(dsn: str) -> None:
    with committers(dsn, INSERT) as pids:
        seen = await watch(dsn, 1.0)
    assert seen.waits.waited >= 3
    ours = [one.session.pid for one in seen.waits.waiters if one.ours]
    assert set(ours) <= pids
    assert seen.waits.others < 0.5
    assert seen.rings is not None
    assert seen.rings > 10


async def test_commits_that_do_not_meet_are_no_waits(dsn: str) -> None:
    with committers(dsn, INSERT, count=1, pause_s=0.01):
        seen = await observe(dsn, dsn, 0.5)
    assert seen.between.waits.looks >= 1
    assert seen.between.waits.waited == 0
    assert seen.between.waits.waiters == ()


async def test_a_commit_that_does_not_end_and_holds_up_the_others_is_named(
    cluster: Callable[..., EmbeddedPostgres],
) -> None:
    """It waits for a standby that is away, and holds PostgreSQL's commit lock meanwhile."""
    server = cluster()
    dsn = server.dsn()
    local = {"autocommit": True, "options": "-c synchronous_commit=local"}
    with (
        psycopg.connect(dsn, **local) as owner,
        psycopg.connect(dsn, autocommit=True, application_name="the one in front") as first,
        psycopg.connect(dsn, **local) as second,
    ):
        front = first.info.backend_pid
        owner.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        owner.execute("SELECT pg_reload_conf()")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = %s"
        stands = threading.Event()

        def commit_until_one_stands() -> None:
            # Commits wait once the checkpointer, too, has read the settings: nothing tells when.
            while not stands.is_set():
                first.execute(INSERT.encode())

        with ThreadPoolExecutor() as threads:
            committing = [threads.submit(commit_until_one_stands)]
            try:
                wait_until(lambda: owner.execute(waits, ["SyncRep"]).fetchone() == (1,))
                stands.set()
                committing.append(threads.submit(second.execute, INSERT.encode()))
                wait_until(lambda: owner.execute(waits, ["object"]).fetchone() == (1,))
                seen = await observe(dsn, dsn, 1.2)
            finally:
                stands.set()
                owner.execute("SELECT pg_cancel_backend(%s)", [front])
            for one in committing:
                one.result(10)
    (problem,) = problems_of(seen.status, seen.between)
    assert problem.code == "commits_stand"
    assert f"pid {front} (" in problem.message
    assert "the one in front" in problem.message
    assert seen.between.trouble == STANDING  # a question is a notification, and would wait too


# The mode


async def test_whoever_holds_k_is_named_and_is_wrong_where_it_closes_no_batches(
    dsn: str, connect: Connect
) -> None:
    assert (await gather(dsn)).mode == "ringing"
    holder = connect(application_name=BUS_APPLICATION)
    holder.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})".encode())
    status = await gather(dsn)
    assert status.mode == "coalescing"
    assert status.coalescer is not None
    assert status.coalescer.pid == holder.info.backend_pid
    (problem,) = problems_of(status)
    assert problem.code == "silenced"
    assert f"pid {holder.info.backend_pid}" in problem.message

    holder.execute(f"SELECT pg_advisory_lock({SEQUENCER_KEY})".encode())
    status = await gather(dsn)
    assert problems_of(status) == []
    assert status.sequencer == status.coalescer


async def test_a_producer_that_looks_whether_to_ring_does_not_look_like_coalescing(
    dsn: str, connect: Connect
) -> None:
    looks = connect()
    looks.execute(f"SELECT pg_advisory_lock_shared({COALESCING_KEY})".encode())
    assert (await gather(dsn)).mode == "ringing"


# Again and again


@contextmanager
def clients(dsn: str, count: int = 2) -> Iterator[None]:
    """So many clients that commit an event each 20 ms."""
    stop = threading.Event()

    def commit() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            while not stop.wait(0.02):
                session.execute(INSERT)

    threads = [threading.Thread(target=commit) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_the_rates_are_those_of_the_load(dsn: str, connect: Connect) -> None:
    with (
        sequencing(dsn, connect),
        clients(dsn),
        watching(dsn, "--watch", "3", "--json") as process,
    ):
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    passed_s = second["counters"]["at_s"] - first["counters"]["at_s"]
    assert passed_s > 2.9
    rates = second["rates"]
    events = second["head"]["total"] - first["head"]["total"]
    assert events > 10
    assert rates["events"] == pytest.approx(events / passed_s)
    batches = second["head"]["batch"] - first["head"]["batch"]
    assert rates["batches"] == pytest.approx(batches / passed_s)
    assert batches > 0
    # (Each commits once, each batch some times more; sessions report once a second, so that a look
    # has the commits of another second, in which the machine may have been slower.)
    assert 0.5 * rates["events"] < rates["commits"] < 2 * rates["events"] + 6 * rates["batches"]
    # A ring each event, which commits alone, and word of each batch.
    rung = (rates["events"] + rates["batches"]) / rates["notifications"]
    assert 0.4 < rung < 2.5
    (process_there,) = second["processes"]
    assert process_there["answer"]["leads"] is True


def test_without_a_terminal_each_look_is_a_line(dsn: str) -> None:
    with watching(dsn, "--watch", "0.2") as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(3)]
    for line in told:
        assert " ringing, " in line
        assert " events/s, " in line
        assert "0 behind, 0 listeners, waits in 0 of " in line
        assert line.endswith("Fine: no event waits, and no process closes batches now.\n")


def test_on_a_terminal_the_page_is_drawn_in_place(dsn: str) -> None:
    ours, theirs = pty.openpty()
    try:
        with watching(dsn, "--watch", "0.2", stdout=theirs):
            text = ""
            while text.count(CLEAR) < 3:
                text += os.read(ours, 65_536).decode()
        page = text.split(CLEAR)[2]
        assert "Nothing is wrong." in page
        assert "mode          ringing" in page
        assert "a second" in page
    finally:
        os.close(ours)
        os.close(theirs)


def test_it_goes_on_while_the_database_is_away(dsn: str, connect: Connect) -> None:
    name = dsn.rpartition("/")[2]
    open_or_shut = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with (
        psycopg.connect(f"{dsn.rpartition('/')[0]}/postgres", autocommit=True) as owner,
        watching(dsn, "--watch", "0.2") as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert " ringing, " in next(lines)
        owner.execute(SQL(open_or_shut).format(Identifier(name), SQL("false")))
        owner.execute(end, [name])
        away = next(line for line in lines if " ringing, " not in line)
        assert "unreachable: The database does not answer: " in away
        owner.execute(SQL(open_or_shut).format(Identifier(name), SQL("true")))
        assert next(line for line in lines if "unreachable" not in line)


def test_a_pipe_that_ends_ends_it_without_a_complaint(dsn: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "bus_status", "--watch", "0.1"],
        cwd=ROOT,
        env=environment(dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    "args", [("--watch", "0"), ("--watch", "x"), ("--watch", "nan"), ("--trace", "x")]
)
def test_what_makes_no_sense_is_said(dsn: str, args: tuple[str, ...]) -> None:
    done = bus_status(dsn, *args)
    assert done.returncode == 2
    assert f"got '{args[1]}'" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_look_for_a_second_takes_a_second(dsn: str) -> None:
    began = time.monotonic()
    await observe(dsn, dsn, 0.3)
    assert 0.3 <= time.monotonic() - began < 10


# Where each process is


async def test_a_process_that_is_behind_says_so_and_one_that_is_silent_is_said_to_be(
    dsn: str, connect: Connect
) -> None:
    """(Both are made up: what real ones answer is tested in test_trace.)"""
    behind, silent = (connect(application_name=BUS_APPLICATION) for _ in range(2))
    behind.execute(f"LISTEN {ASK_CHANNEL}".encode())
    told = Deliveries()
    told.record(Window(1, 1, 0, 10, None), now_ms=1_000)
    for _ in range(3):
        behind.execute(INSERT)
        behind.execute("SELECT agent_events_append()")

    def answer() -> None:
        (note,) = behind.notifies(timeout=5, stop_after=1)
        text = told.answer(
            note.payload,
            now_ms=3_500,
            backend=behind.info.backend_pid,
            process=77,
            host="web-1",
            leads=False,
            coalescing=False,
            watches=None,
        )
        behind.execute("SELECT pg_notify(%s, %s)", [ANSWER_CHANNEL, text])

    answering = threading.Thread(target=answer)
    answering.start()
    began = time.monotonic()
    seen = await observe(dsn, dsn, 0.1)
    answering.join(10)
    assert time.monotonic() - began >= 1  # it waits for a second for the silent one
    pid = silent.info.backend_pid
    lags = {one.session.pid: (one.lag, one.silent_s) for one in seen.listeners}
    assert lags == {behind.info.backend_pid: (2, 2.5), pid: (None, None)}
    words = [text for _, text in lines(seen) if "agent_events bus" in text]
    assert words[0].endswith("process 77 on web-1, 2 batches behind, at 1, the last 2.5 s ago")
    assert words[1].endswith("does not answer (frozen, or behind a pooler)")


async def test_whoever_opened_a_transaction_just_now_is_counted_and_not_named(
    dsn: str, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    writer.execute(INSERT)
    status = await gather(dsn)
    (one,) = status.writers
    told = dict(lines(Observation(replace(status, writers=(replace(one, open_s=0.2),)))))
    assert told["open writers"] == "1 open for less than 1 s"
    told = dict(lines(Observation(replace(status, writers=(replace(one, open_s=2.0),)))))
    assert told["open writers"].startswith(f"pid {writer.info.backend_pid}, ")
