"""`manage.py bus_status`: what is wrong is found, said in words, and told by the exit status."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import Connection

from agent_events.facts import BOUND, Setup, Status
from agent_events.problems import problems_of
from agent_events.status import gather
from project.embedded import EmbeddedPostgres
from tests.support import Server, free_port, login, make_tenant, make_user, wait_until
from tests.support.database import ROOT
from tests.support.roles import temporary_role
from tests.support.streams import event_stream

Connect = Callable[..., Connection[Any]]
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT gen_random_uuid(), gen_random_uuid(), 'x', '{}' FROM generate_series(1, %s)
"""
APPEND = "SELECT n, rows FROM agent_events_append()"


def codes(status: Status) -> list[str]:
    return [problem.code for problem in problems_of(status)]


def words(status: Status, code: str) -> str:
    (problem,) = (problem for problem in problems_of(status) if problem.code == code)
    return f"{problem.message} {problem.hint}"


def as_role(dsn: str, role: str) -> str:
    return f"{dsn}?options={quote(f'-c role={role}')}"


def run(dsn: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`manage.py bus_status`, as a script would call it."""
    return subprocess.run(
        [sys.executable, "manage.py", "bus_status", *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# What is seen


async def test_a_fresh_database_is_well_and_its_first_events_wait(
    dsn: str, connect: Connect
) -> None:
    fresh = await gather(dsn)
    assert problems_of(fresh) == []
    assert fresh.setup is not None
    assert fresh.head is not None
    assert (fresh.head.batch, fresh.head.total, fresh.behind, fresh.oldest_batch) == (0, 0, 0, 1)
    assert (fresh.sequencer, fresh.listeners, fresh.writers, fresh.prepared) == (None, (), (), ())
    assert fresh.ledger_bytes > 0
    assert fresh.log_bytes > 0

    producer = connect()
    producer.execute(INSERT, [3])
    waiting = await gather(dsn, after=0)
    assert (waiting.behind, waiting.behind_more) == (3, False)
    assert 0 <= waiting.waits_s < 5
    assert waiting.late_s == 0
    assert producer.execute(APPEND).fetchall() == [(1, 3)]
    closed = await gather(dsn, after=0)
    assert closed.head is not None
    assert (closed.head.batch, closed.head.total, closed.behind) == (1, 3, 0)
    assert 0 < closed.late_s < 5
    assert (await gather(dsn, after=1)).late_s == 0


async def test_late_transactions_count_as_behind_and_open_ones_do_not(
    dsn: str, connect: Connect
) -> None:
    early, late = connect(autocommit=False), connect(autocommit=False)
    early.execute(INSERT, [2])
    late.execute(INSERT, [4])
    other = connect()
    other.execute(INSERT, [1])
    other.execute(APPEND)  # its head has seen both of them run
    early.commit()
    other.execute(INSERT, [1])
    status = await gather(dsn)
    assert status.behind == 2 + 1
    assert [one.pid for one in status.writers] == [late.info.backend_pid]
    assert status.writers[0].open_s is not None
    late.rollback()
    status = await gather(dsn)
    assert (status.behind, status.writers) == (3, ())


async def test_what_waits_is_counted_up_to_a_bound(dsn: str, connect: Connect) -> None:
    connect().execute(INSERT, [BOUND + 5])
    status = await gather(dsn)
    assert (status.behind, status.behind_more) == (BOUND, True)


async def test_no_look_reads_a_table_whole(dsn: str, connect: Connect) -> None:
    reader = connect()
    reader.execute(INSERT, [20_000])
    while reader.execute(APPEND).fetchone():
        pass
    reader.execute("SELECT pg_stat_force_next_flush()")
    scans = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname ~ '^agent_event_?'"
    before = reader.execute(scans).fetchall()
    for _ in range(3):
        await gather(dsn)
    ends = "SELECT FROM pg_stat_activity WHERE application_name = 'agent_events status'"
    wait_until(lambda: not reader.execute(ends).fetchall(), what="its statistics to be written")
    changed = set(reader.execute(scans).fetchall()) - set(before)
    assert {name for name, _ in changed} <= {"agent_event_bus"}  # of one row


async def test_events_whose_transaction_was_long_do_not_look_old_once_closed_batches_go_on(
    dsn: str, connect: Connect
) -> None:
    long, other = connect(autocommit=False), connect()
    long.execute(INSERT, [1])
    long.execute("UPDATE agent_events SET created_at = now() - interval '1 hour'")
    other.execute(INSERT, [1])
    other.execute(APPEND)
    long.commit()
    assert (await gather(dsn)).waits_s < 5
    other.execute("UPDATE agent_event_batches SET closed_at = closed_at - interval '1 hour'")
    assert (await gather(dsn)).waits_s > 3_000
    # Somebody closes a batch while it looks again.

    async def append_a_moment_later() -> None:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(other.execute, APPEND)

    status, _ = await asyncio.gather(gather(dsn, patience_s=3.0), append_a_moment_later())
    assert (status.behind, codes(status)) == (0, [])


# What is wrong


async def test_events_that_wait_for_nobody_are_a_problem(dsn: str, connect: Connect) -> None:
    producer = connect()
    producer.execute("UPDATE agent_event_batches SET closed_at = closed_at - interval '9 s'")
    producer.execute(INSERT, [1])
    producer.execute("UPDATE agent_events SET created_at = created_at - interval '8 s'")
    status = await gather(dsn)
    assert codes(status) == ["nobody_sequences"]
    told = words(status, "nobody_sequences")
    assert re.search(r"1 committed event in no batch yet, for (8|9|[1-3]\d) s", told)

    # Somebody has the lock, and does nothing with it.
    stuck = connect(application_name="agent_events bus")
    stuck.execute(
        "SELECT pg_advisory_lock("
        "hashtextextended('agent_events sequencer', 'agent_events'::regclass::oid::bigint))"
    )
    status = await gather(dsn)
    assert codes(status) == ["behind"]
    assert f"pid {stuck.info.backend_pid} (user" in words(status, "behind")


async def test_a_forgotten_transaction_that_wrote_events_is_named(
    dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_events.problems.OPEN_S", 0.0)
    reads = connect(autocommit=False, application_name="only reads")
    reads.execute("SELECT FROM agent_events")
    forgotten = connect(autocommit=False, application_name="nightly import")
    forgotten.execute(INSERT, [1])
    status = await gather(dsn)
    assert codes(status) == ["long_transaction"]
    told = words(status, "long_transaction")
    assert f"pid {forgotten.info.backend_pid}" in told
    assert "nightly import" in told
    assert "only reads" not in told
    forgotten.rollback()
    assert codes(await gather(dsn)) == []


async def test_a_forgotten_prepared_transaction_is_named(
    dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_events.problems.OPEN_S", 0.0)
    gid = f"order {uuid.uuid4()}"
    producer = connect()
    producer.execute("BEGIN")
    producer.execute("SET LOCAL agent_events.quiet = on")
    producer.execute(INSERT, [1])
    producer.execute(f"PREPARE TRANSACTION '{gid}'")
    status = await gather(dsn)
    assert codes(status) == ["prepared_transaction"]
    assert gid in words(status, "prepared_transaction")
    producer.execute(f"ROLLBACK PREPARED '{gid}'")
    assert codes(await gather(dsn)) == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("DELETE FROM agent_event_batches", "ledger_empty"),
        ("UPDATE agent_event_batches SET seen = '999999999999:999999999999:'", "ledger_copied"),
        (
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, tx) VALUES"
            " (gen_random_uuid(), gen_random_uuid(), 'x', '{}', '999999999999')",
            "rows_ahead",
        ),
        (
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}', now() + interval '1 hour');"
            "UPDATE agent_event_batches SET seen = pg_snapshot("
            "pg_current_xact_id()::text || ':' || (pg_current_xact_id()::text::bigint + 1) || ':')",
            "ledger_overtaken",
        ),
        ("DROP FUNCTION agent_events_append(integer)", "not_migrated"),
        ("DROP TABLE agent_events", "not_migrated"),
        ("DELETE FROM django_migrations WHERE app = 'agent_events'", "not_migrated"),
        ("ALTER TABLE agent_events DISABLE TRIGGER ALL", "no_trigger"),
        ("DROP TRIGGER agent_events_ring ON agent_events", "no_trigger"),
        ("ALTER TABLE agent_events ALTER COLUMN id SET CACHE 9", "sequence_cache"),
    ],
)
async def test_a_broken_database_is_told(
    dsn: str, connect: Connect, broken: str, expected: str
) -> None:
    connect().execute(broken.encode())
    assert codes(await gather(dsn)) == [expected]


@pytest.mark.parametrize(
    "broken",
    [
        "ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring",
        "DROP TRIGGER agent_events_ring ON agent_events",
        "ALTER TABLE agent_events ALTER COLUMN id SET CACHE 9",
    ],
)
async def test_the_statement_that_is_told_mends_it(dsn: str, connect: Connect, broken: str) -> None:
    connect().execute(broken.encode())
    (problem,) = problems_of(await gather(dsn))
    connect().execute(problem.hint.encode())
    assert problems_of(await gather(dsn)) == []


async def test_a_role_that_sees_or_may_too_little_is_told(dsn: str, connect: Connect) -> None:
    admin = connect()
    with temporary_role(dsn) as role:
        status = await gather(as_role(dsn, role))
        assert codes(status) == ["rights_lacking"]
        hint = words(status, "rights_lacking")
        for right in ("SELECT ON agent_events", "INSERT ON agent_event_batches"):
            assert f"GRANT {right} TO" in hint

        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        admin.execute(f"GRANT INSERT ON agent_event_batches TO {role}")
        status = await gather(as_role(dsn, role))
        assert codes(status) == []
        assert not status.sees_sessions

        admin.execute("ALTER TABLE agent_events ENABLE ROW LEVEL SECURITY")
        status = await gather(as_role(dsn, role))
        assert codes(status) == ["rows_hidden"]
        assert "BYPASSRLS" in words(status, "rows_hidden")
        assert codes(await gather(dsn)) == []  # a superuser sees all


async def test_a_role_that_may_not_use_the_schema_is_told_so_and_not_to_migrate(
    dsn: str, connect: Connect
) -> None:
    admin = connect()
    admin.execute("REVOKE USAGE ON SCHEMA public FROM public")
    with temporary_role(dsn) as role:
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        admin.execute(f"GRANT INSERT ON agent_event_batches TO {role}")
        status = await gather(as_role(dsn, role))
        assert codes(status) == ["rights_lacking"]
        assert "lacks USAGE ON SCHEMA public." in words(status, "rights_lacking")
        assert "GRANT USAGE ON SCHEMA public TO" in words(status, "rights_lacking")
        admin.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        assert codes(await gather(as_role(dsn, role))) == []


def test_what_needs_another_server_is_told_too() -> None:
    old = Setup(140011, False, (), False, (), "O", 1)
    assert codes(Status(setup=old)) == ["old_server"]
    assert "PostgreSQL 14" in words(Status(setup=old), "old_server")
    well = Setup(180004, False, (), False, (), "O", 1)
    full = Status(setup=well, queue_usage=0.51)
    assert "queue_filling" in codes(full)
    assert "51% full" in words(full, "queue_filling")
    assert "queue_filling" not in codes(Status(setup=well, queue_usage=0.5))


async def test_a_standby_is_told_and_its_events_are_not_said_to_wait(
    cluster: Callable[..., EmbeddedPostgres],
) -> None:
    server = cluster()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("UPDATE agent_event_batches SET closed_at = now() - interval '1 h'")
        connection.execute(INSERT, [1])
        connection.execute("UPDATE agent_events SET created_at = now() - interval '1 h'")
    server.stop()
    (server.pgdata / "standby.signal").touch()
    status = await gather(server.start())
    assert codes(status) == ["standby"]
    assert status.behind == 1


async def test_who_fills_the_notification_queue_is_named(
    cluster: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another database's listener in a transaction: the queue is one for the whole cluster."""
    server = cluster(max_notify_queue_pages="64")
    with (
        psycopg.connect(server.dsn("postgres"), application_name="asleep") as listener,
        psycopg.connect(server.dsn(), autocommit=True) as producer,
    ):
        listener.execute("LISTEN anything")
        listener.commit()
        listener.execute("SELECT 1")
        usage = "SELECT pg_notification_queue_usage()"
        while producer.execute(usage).fetchone()[0] <= 0.5:  # type: ignore[index]
            producer.execute(
                "SELECT count(pg_notify('anything', repeat('x', 7000) || i))"
                "  FROM generate_series(1, 20) AS i"
            )
        monkeypatch.setattr("agent_events.status._SUSPECTS", suspects_of_the_first_second())
        status = await gather(server.dsn())
        assert codes(status) == ["queue_filling"]
        assert f"pid {listener.info.backend_pid} (" in words(status, "queue_filling")
        assert "asleep" in words(status, "queue_filling")


def suspects_of_the_first_second() -> str:
    from agent_events import status

    assert "interval '10 seconds'" in status._SUSPECTS
    return status._SUSPECTS.replace("10 seconds", "0 seconds")


async def test_a_database_that_hangs_is_away_within_the_limit(dsn: str, connect: Connect) -> None:
    locked = connect(autocommit=False)
    locked.execute("LOCK TABLE agent_event_batches")
    began = time.monotonic()
    status = await gather(dsn, timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert codes(status) == ["unreachable"]


# The command


@pytest.fixture
def watched(dsn: str, server: Callable[..., Server]) -> Server:
    """A web process with a subscriber: it listens, and closes batches."""
    tenant = make_tenant(dsn, "Acme")
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    with event_stream(running, login(running, "ann")) as stream:
        for name, _ in stream.messages():
            if name == "live":
                break
    return running


def test_the_command_tells_who_sequences_and_exits_with_0(
    dsn: str, watched: Server, connect: Connect
) -> None:
    connect().execute(INSERT, [3])
    head = "SELECT total FROM agent_events_head()"
    wait_until(lambda: connect().execute(head).fetchone() == (3,), what="the batch")
    done = run(dsn)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "Nothing is wrong." in done.stdout
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert "batch" in told["head"]
    assert ", 3 events, closed" in told["head"]
    assert told["behind"] == "0 events"
    assert told["sequencer"].startswith("pid ")
    assert "agent_events bus" in told["sequencer"]
    assert watched.process is not None
    where = f"process {watched.process.pid} on {socket.gethostname()}, at the head"
    assert told["listeners"] == f"{told['sequencer']}; {where}"
    assert told["mode"] == "ringing: each commit says when to look"
    assert re.search(r"nobody waits \(\d+ looks\)", told["commit"])
    assert "Fine: each commit rings, and none waits for another." in done.stdout


def test_as_json_it_is_one_object_with_everything(dsn: str, connect: Connect) -> None:
    connect().execute("ALTER TABLE agent_events DISABLE TRIGGER ALL")
    done = run(dsn, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(Status.__dataclass_fields__) < set(told)
    assert told["head"]["batch"] == 0
    (problem,) = told["problems"]
    assert (problem["code"], problem["part"]) == ("no_trigger", "doorbell")
    assert "ENABLE TRIGGER" in problem["hint"]


def test_what_is_wrong_comes_first_and_exits_with_1(dsn: str, connect: Connect) -> None:
    connect().execute("DELETE FROM agent_event_batches")
    done = run(dsn)
    assert done.returncode == 1
    assert done.stdout.startswith("ledger_empty: The ledger (agent_event_batches) is empty")


def test_a_database_that_is_away_is_told_with_what_to_do_and_exits_with_2() -> None:
    dsn = f"postgresql://me:s3cret@127.0.0.1:{free_port()}/x"
    done = run(dsn)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("unreachable: The database does not answer: ")
    assert "Committed events are safe" in done.stdout
    assert done.stdout.count("\n") == 2
    as_json = run(dsn, "--json")
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["problems"][0]["code"] == "unreachable"
    assert "s3cret" not in done.stdout + as_json.stdout


def test_a_database_without_tables_exits_with_2(dsn: str, connect: Connect) -> None:
    connect().execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = run(dsn)
    assert done.returncode == 2
    assert "manage.py migrate" in done.stdout
    assert "server        PostgreSQL" in done.stdout
