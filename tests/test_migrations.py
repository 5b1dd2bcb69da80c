"""Migrations: the way back keeps every event, and models and tables agree."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.problems import problems_of
from agent_events.status import gather
from tests.support import manage
from tests.support.database import ROOT
from tests.support.oracle import Oracle

Connect = Callable[..., psycopg.Connection[Any]]

INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}')
"""
OURS = """
    SELECT p.oid::regprocedure::text FROM pg_proc p
     WHERE p.pronamespace = 'public'::regnamespace AND p.proname ~ '^agent_event'
    UNION ALL SELECT t.tgname FROM pg_trigger t
     WHERE NOT t.tgisinternal AND t.tgname ~ '^agent_event'
    UNION ALL SELECT t.typname FROM pg_type t WHERE t.typname = 'agent_event_entry'
"""


def test_models_and_migrations_agree(dsn: str) -> None:
    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run", dsn=dsn)


def test_the_way_back_keeps_every_event_until_the_tables_go_and_inserts_go_on(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    for _ in range(3):
        connection.execute(INSERT)
        connection.execute("SELECT agent_events_append()")
    installed = connection.execute(OURS).fetchall()
    assert len(installed) > 10
    order = Oracle.load(connection).order

    manage("migrate", "agent_events", "0001", "--verbosity=0", dsn=dsn)
    assert connection.execute(OURS).fetchall() == []
    connection.execute(INSERT)
    with pytest.raises(errors.UndefinedFunction):
        connection.execute("SELECT agent_events_append()")
    assert Oracle.load(connection).order == order

    manage("migrate", "agent_events", "--verbosity=0", dsn=dsn)
    assert sorted(connection.execute(OURS).fetchall()) == sorted(installed)
    assert connection.execute("SELECT n, rows FROM agent_events_append()").fetchall() == [(4, 1)]
    assert Oracle.load(connection).order[:3] == order

    manage("migrate", "agent_events", "zero", "--verbosity=0", dsn=dsn)
    left = connection.execute("SELECT relname FROM pg_class WHERE relname ~ '^agent_event'")
    assert left.fetchall() == []


def test_the_way_back_says_what_it_drops_before_and_while_it_does(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    connection.execute("CREATE TABLE calls (id uuid, tenant_id uuid)")
    connection.execute("SELECT agent_events_attach('calls', tenant => 'tenant_id', agent => 'id')")
    for _ in range(3):
        connection.execute(INSERT)

    plan = manage("migrate", "agent_events", "zero", "--plan", dsn=dsn)
    assert "drop_tables.sql" in plan
    assert connection.execute("SELECT count(*) FROM agent_events").fetchone() == (3,)

    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "agent_events", "zero", "--verbosity=0"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line.partition("agent_events: ")[2] for line in done.stderr.splitlines()]
    assert said == [
        "table calls writes no events any more",
        "batches are closed no more; events stay, and wait for their place",
        "dropped the log with 3 events, and the ledger",
    ]


EARLIER_PAGES = """
    DROP FUNCTION agent_events_read(
        uuid, bigint, bigint, integer, text[], text[], text[], text[], text[], jsonpath);
    DROP FUNCTION agent_events_contains(text, jsonb, text[], jsonpath);
    DROP FUNCTION agent_events_matches(uuid, text, text[], text[], text[], text[]);
    CREATE FUNCTION agent_events_matches(uuid, text, text[], text[]) RETURNS boolean
        LANGUAGE sql RETURN true;
    CREATE FUNCTION agent_events_read(
        uuid, bigint, bigint, integer, text[] DEFAULT NULL, text[] DEFAULT NULL)
        RETURNS SETOF agent_event_entry LANGUAGE plpgsql AS 'BEGIN END';
"""


@pytest.mark.parametrize("way", ["forwards", "back to nothing"])
def test_pages_that_filtered_by_agents_and_types_alone_are_replaced(
    dsn: str, connect: Connect, way: str
) -> None:
    connection = connect()
    installed = connection.execute(OURS).fetchall()
    manage("migrate", "agent_events", "0009", "--verbosity=0", dsn=dsn)
    assert sorted(connection.execute(OURS).fetchall()) == sorted(installed)
    connection.execute(EARLIER_PAGES)
    assert any(p.code == "not_migrated" for p in problems_of(asyncio.run(gather(dsn))))
    if way == "back to nothing":
        manage("migrate", "agent_events", "zero", "--verbosity=0", "--skip-checks", dsn=dsn)
        assert connection.execute(OURS).fetchall() == []
        return
    manage("migrate", "agent_events", "--verbosity=0", "--skip-checks", dsn=dsn)
    assert sorted(connection.execute(OURS).fetchall()) == sorted(installed)
    connection.execute(INSERT)
    connection.execute("SELECT agent_events_append()")
    read = (
        "SELECT id FROM agent_events_read(NULL, 1, 0, 9, texts => %s) WHERE tenant_id IS NOT NULL"
    )
    assert len(connection.execute(read, [["x"]]).fetchall()) == 1
    assert connection.execute(read, [["y"]]).fetchall() == []
    assert len(connection.execute("SELECT FROM agent_events_read(NULL, 1, 0, 9)").fetchall()) == 1


EARLIER_APPEND = """
    DROP FUNCTION agent_events_append(integer);
    CREATE FUNCTION agent_events_append(
        batch_limit integer DEFAULT 10000,
        OUT n bigint, OUT rows bigint, OUT closed_at timestamptz
    ) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, 1, now() WHERE false';
"""


@pytest.mark.parametrize(
    ("column", "statement"),
    [
        ("agent_event_bus.taken_over", "ALTER TABLE agent_event_bus DROP COLUMN taken_over"),
        ("agent_events_append().more", EARLIER_APPEND),
    ],
)
def test_a_database_of_an_earlier_checkout_is_told_and_the_way_back_works(
    dsn: str, connect: Connect, column: str, statement: str
) -> None:
    connection = connect()
    connection.execute(INSERT)
    connection.execute(statement.encode())
    (problem,) = problems_of(asyncio.run(gather(dsn)))
    assert problem.code == "not_migrated"
    assert (
        f"column {column} (made by an earlier checkout: start anew "
        "(make run: delete DATA_DIR, .data by default))" in problem.message
    )
    manage("migrate", "agent_events", "zero", "--verbosity=0", "--skip-checks", dsn=dsn)
    left = connection.execute("SELECT relname FROM pg_class WHERE relname ~ '^agent_event'")
    assert left.fetchall() == []


FORGOTTEN_ROUTER = """
import django
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "agent_events"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
execute_from_command_line(["manage.py", "migrate", "--skip-checks", "--verbosity=0"])
"""


def test_a_database_that_is_no_postgresql_is_refused_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN_ROUTER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        'CommandError: The log needs PostgreSQL, and DATABASES["default"] is sqlite: '
    )
    assert "agent_events.log_router.LogRouter" in done.stderr
    assert 'AGENT_EVENTS = {"DATABASE": ' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_everything_installs_in_a_schema_of_its_own(dsn: str, connect: Connect) -> None:
    connection = connect()
    schema = f'"Bus {uuid.uuid4().hex[:6]}"'
    connection.execute(f"CREATE SCHEMA {schema}")
    elsewhere = f"{dsn}?options=-csearch_path%3D" + schema.replace(" ", "%5C%20").replace(
        '"', "%22"
    )
    manage("migrate", "--verbosity=0", "--skip-checks", dsn=elsewhere)
    connection.execute(
        f"INSERT INTO {schema}.agent_events (tenant_id, agent_id, event_type, payload)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}')"
    )
    appended = connection.execute(f"SELECT n, rows FROM {schema}.agent_events_append()").fetchall()
    assert appended == [(1, 1)]
    read = connection.execute(f"SELECT batch FROM {schema}.agent_events_read(NULL, 1, 0, 9)")
    assert read.fetchall() == [(1,)]
    assert connection.execute("SELECT batch FROM agent_events_head()").fetchall() == [(0,)]
