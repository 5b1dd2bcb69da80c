"""The commands where they cannot go on: a sentence that says what to do, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.conftest import Connect
from tests.support import free_port, wait_until
from tests.support.database import ROOT
from tests.support.django_log import django_on
from tests.support.roles import temporary_role

ID = str(uuid.UUID(int=1))
PUBLISH = ["publish_event", f"--tenant={ID}", f"--agent={ID}", "--type=x"]
CREATE = ["create_tenant", "Acme"]
PRUNE = ["prune_events", "--older-than=7d"]
MEND = ["mend_events"]
STATUS = ["bus_status"]
LISTEN = ["listen_events"]


@pytest.fixture(autouse=True)
def unblocked(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


def refused(*command: str) -> str:
    """What it says instead."""
    with pytest.raises(CommandError) as told:
        call_command(*command)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_database_that_is_away_is_said_in_a_sentence() -> None:
    with django_on(f"postgresql://me:s3cret@127.0.0.1:{free_port()}/x"):
        for command in (PUBLISH, CREATE, PRUNE, MEND):  # (listen_events waits for it)
            told = refused(*command)
            assert told.startswith("The database is away."), command
            assert "refused" in told
            assert "s3cret" not in told


def test_a_database_that_is_not_migrated_is_said_in_a_sentence(dsn: str, connect: Connect) -> None:
    connect().execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with django_on(dsn):
        for command in (PUBLISH, CREATE, PRUNE, MEND, LISTEN):
            told = refused(*command)
            assert told.startswith("The database is not migrated"), command
            assert "manage.py migrate" in told
            assert "does not exist" in told


def test_a_right_that_is_lacking_is_said_in_a_sentence(dsn: str, connect: Connect) -> None:
    with temporary_role(dsn) as role:
        connect().execute(f"ALTER ROLE {role} LOGIN PASSWORD 'x'")
        own = dsn.split("@", 1)[1]
        with django_on(f"postgresql://{role}:x@{own}"):
            for command in (PUBLISH, CREATE, PRUNE, MEND, LISTEN):
                told = refused(*command)
                assert told.startswith("The database role lacks a right"), command
                assert "(permission denied for table agent_event" in told


def test_ctrl_c_ends_in_one_line_and_with_130(dsn: str, connect: Connect, tmp_path: Path) -> None:
    lock = connect(autocommit=False)
    lock.execute(
        "LOCK TABLE agent_events, agent_event_batches, agent_events_tenant IN ACCESS EXCLUSIVE MODE"
    )
    look = connect()
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    # One after the other: some wait for so long and no longer.
    for command in (PUBLISH, CREATE, PRUNE, MEND, STATUS):
        log = tmp_path / command[0]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *command],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
                stdout=out,
                stderr=out,
                # (A shell that runs the tests in its background has them ignore it.)
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            wait_until(lambda: look.execute(waiting).fetchone() != (0,), 30, f"{command} to wait")
            process.send_signal(signal.SIGINT)
            ended = process.wait(30)
        finally:
            process.kill()
            process.wait()
        told = log.read_text().splitlines()
        assert ended == 130, (command, told)
        assert len(told) == 1, (command, told)
        assert told[0].startswith("Stopped."), (command, told)
        wait_until(lambda: look.execute(waiting).fetchone() == (0,), 30, "its session to end")
