"""`make run`: one command, a page that moves, and nothing left to stumble over."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from django.contrib.auth import authenticate, get_user_model
from django.test import RequestFactory

from agent_events.database import BUS_APPLICATION, PUBLISHER_APPLICATION
from project import demo, environment
from project.demo_data import create_demo_tenants, create_demo_users
from project.redis_server import RedisServer
from project.secret_key import generated_secret_key
from tests.support import free_port, login, wait_until
from tests.support.database import ROOT
from tests.support.demo import PARTS, DemoRun
from tests.support.streams import event_stream, insert

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

MakeRun = Callable[..., DemoRun]


@contextmanager
def own_folder() -> Iterator[MakeRun]:
    """`build(**env)`: a DemoRun that is not started yet; all of them are on the same data."""
    folder = Path(tempfile.mkdtemp(prefix="agent-events-run-"))
    folder.chmod(0o711)
    made: list[DemoRun] = []

    def build(**env: str) -> DemoRun:
        one = DemoRun(folder / "data", free_port(), f"{len(made)}.log", **env)
        made.append(one)
        return one

    try:
        yield build
    finally:
        for one in made:
            one.clean_up()
        shutil.rmtree(folder)


@pytest.fixture
def make_run() -> Iterator[MakeRun]:
    """`make_run(**env)`: a run of the test's own."""
    with own_folder() as build:
        yield build


@pytest.fixture(scope="module")
def make_run_beside() -> Iterator[MakeRun]:
    """`make_run_beside()`: one more run on the data of `running`."""
    with own_folder() as build:
        yield build


@pytest.fixture(scope="module")
def running(make_run_beside: MakeRun) -> DemoRun:
    """A run that is up, for tests that leave it so."""
    return make_run_beside().start()


def count_events(run: DemoRun) -> int:
    with psycopg.connect(run.postgres().dsn()) as connection:
        row = connection.execute("SELECT count(*) FROM agent_events").fetchone()
    assert row is not None
    return int(row[0])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def error_lines(run: DemoRun) -> list[str]:
    """What it said, without make's own word on the exit code."""
    return [line for line in run.output().splitlines() if not line.startswith("make: ***")]


def test_make_run_shows_a_page_that_moves(running: DemoRun) -> None:
    before = count_events(running)
    wait_until(lambda: count_events(running) > before, what="simulated events")
    for name in ("demo", "admin"):
        page = httpx.get(f"{running.url}/", cookies=login(running, name))  # type: ignore[arg-type]
        assert page.status_code == 200
        assert "Harbour Support" in page.text
    assert httpx.get(f"{running.url}/static/agent_events/base.css").status_code == 200


def test_the_insert_that_make_run_prints_works(running: DemoRun) -> None:
    statement = running.output().split("Try there", 1)[1].split(";", 1)[0]
    with psycopg.connect(running.postgres().dsn()) as connection:
        assert connection.execute(statement.encode()).rowcount == 1


@pytest.mark.timeout(300)  # six starts, each of several processes
def test_whatever_part_is_killed_the_next_run_starts_and_ctrl_c_stops_all_of_it(
    make_run: MakeRun,
) -> None:
    run = make_run().start()
    for name in PARTS:
        processes = {part: run.part(part) for part in PARTS}
        events = count_events(run)
        processes[name].kill()
        run.wait()
        run.start()  # at once, whatever of the last one is still on its way out
        assert count_events(run) >= events, f"events were lost when {name} was killed"
        _, left = psutil.wait_procs(list(processes.values()), timeout=10)
        assert not left, f"killing {name} left {left}"

    processes = {part: run.part(part) for part in PARTS}
    run.interrupt()
    assert [part for part, process in processes.items() if process.is_running()] == []
    assert not is_listening(run.port)
    assert not run.postgres().alive()


def test_a_taken_port_is_one_line_before_anything_starts(make_run: MakeRun) -> None:
    run = make_run()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it is reserved for us
        squatter.bind(("127.0.0.1", run.port))
        squatter.listen()
        run.run()
        assert run.wait() != 0
    (line,) = error_lines(run)
    assert line.startswith(f"make run: port {run.port} is taken: stop what uses it, or try ")
    assert not run.postgres().alive()
    assert not (run.data_dir / "postgres").exists()


def test_a_second_run_on_the_same_data_says_so_in_one_line(
    running: DemoRun, make_run_beside: MakeRun
) -> None:
    second = make_run_beside().run()
    assert second.wait() != 0
    (line,) = error_lines(second)
    assert f"already running on {running.data_dir} (process {running.part('demo').pid})" in line
    assert httpx.get(f"{running.url}/accounts/login/").status_code == 200


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PORT": "many"}, "PORT must be a number from 1 to 65535"),
        ({"DATABASE_URL": "mysql://localhost/x"}, "must name a PostgreSQL server"),
        ({"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "does not answer as asked"),
        ({"BROKER": "kafka"}, "BROKER must be nats or redis, not 'kafka'"),
        (
            {"BROKER": "nats", "AGENT_EVENTS_BROKER_URL": "nats://me:s3cret@127.0.0.1"},
            "BROKER=nats starts a broker, and AGENT_EVENTS_BROKER_URL names another one",
        ),
        (
            {"AGENT_EVENTS_BROKER_URL": "kafka://me:s3cret@127.0.0.1"},
            "AGENT_EVENTS_BROKER_URL must be an address such as",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(make_run: MakeRun, env: dict[str, str], words: str) -> None:
    run = make_run(**env)
    run.run()
    assert run.wait() != 0
    (line,) = error_lines(run)[-1:]
    assert words in line
    assert "Traceback" not in run.output()
    assert "s3cret" not in run.output()


def test_with_a_database_url_nothing_embedded_starts(make_run: MakeRun, dsn: str) -> None:
    run = make_run(DATABASE_URL=dsn).start()
    assert run.postgres().port is None
    assert dsn not in run.output()  # its password stays off the screen
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(
            lambda: connection.execute("SELECT 1 FROM agent_events LIMIT 1").fetchone(),
            what="simulated events",
        )


# With a broker


def processes_of(run: DemoRun) -> dict[str, psutil.Process]:
    """All that a run with a broker consists of."""
    found = {part: run.part(part) for part in PARTS}
    for child in found["demo"].children():
        if "listen_events" in child.cmdline():
            found["worker"] = child
        if child.name() in ("nats-server", "redis-server"):
            found["broker"] = child
    return found


def sessions(run: DemoRun, application: str) -> int:
    """How many connections bear this name at the run's database."""
    with psycopg.connect(run.postgres().dsn()) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [application]
        ).fetchone()
    assert row is not None
    return int(row[0])


def an_insert_comes_over_the_stream(run: DemoRun, dsn: str) -> None:
    """As the page would see it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT id::text FROM agent_events_tenant ORDER BY name LIMIT 1"
        ).fetchone()
        assert row is not None
        with event_stream(run, login(run, "demo"), f"tenant={row[0]}") as stream:  # type: ignore[arg-type]
            messages = stream.messages()
            assert next(messages)[0] == "hello"
            event = insert(connection, row[0], kind="test.came")
            came = next(data for name, data in messages if name == "message" and _is(data, event))
    assert came["type"] == "test.came"


def _is(data: dict[str, Any], event: int) -> bool:
    return int(data["id"]) == event


@pytest.mark.parametrize("name", environment.BROKERS)
def test_with_a_broker_a_worker_fills_it_and_the_page_moves_by_it(
    make_run: MakeRun, name: str
) -> None:
    run = make_run(BROKER=name).start()
    assert f"\n  Broker     {name}://127.0.0.1:" in run.output()
    processes = processes_of(run)
    assert processes["broker"].name() == f"{name}-server"
    an_insert_comes_over_the_stream(run, run.postgres().dsn())
    # One process listens to PostgreSQL, and publishes: the web server does neither.
    assert (sessions(run, BUS_APPLICATION), sessions(run, PUBLISHER_APPLICATION)) == (1, 1)
    run.interrupt()
    assert [part for part, process in processes.items() if process.is_running()] == []


@pytest.mark.timeout(180)  # three starts
def test_whatever_part_of_a_run_with_a_broker_is_killed_the_rest_ends(make_run: MakeRun) -> None:
    run = make_run(BROKER="nats")
    for name in ("worker", "broker", "demo"):
        run.start()
        processes = processes_of(run)
        processes[name].kill()
        assert run.wait() != 0
        assert name == "demo" or f"the {name} has ended" in run.output()
        _, left = psutil.wait_procs(list(processes.values()), timeout=10)
        assert not [one for one in left if one != processes["postgres"]], f"killing {name}: {left}"


def test_a_broker_of_ones_own_gets_a_worker_and_its_password_stays_off_the_screen(
    make_run: MakeRun,
) -> None:
    with RedisServer(password="s3cret") as own:
        run = make_run(AGENT_EVENTS_BROKER_URL=own.url).start()
        assert "broker" not in processes_of(run)
        an_insert_comes_over_the_stream(run, run.postgres().dsn())
        assert sessions(run, BUS_APPLICATION) == 1
        run.interrupt()
        assert "yours, AGENT_EVENTS_BROKER_URL" in run.output()
        assert "s3cret" not in run.output()
        assert own.running


@pytest.mark.parametrize(
    ("env", "extras"),
    [
        ({}, "[demo]"),
        ({"BROKER": "nats"}, "[demo,demo-brokers]"),
        ({"BROKER": "redis"}, "[demo,demo-brokers]"),
        ({"AGENT_EVENTS_BROKER_URL": "nats://me:pa$(ss@h"}, "[demo,demo-brokers]"),
        ({"BROKER": "kafka"}, "[demo]"),  # is refused, and need not be waited for
    ],
)
def test_a_new_clone_installs_what_its_run_takes_and_no_more(
    tmp_path: Path, env: dict[str, str], extras: str
) -> None:
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    would_do = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path / 'none'}", "run"],
        cwd=ROOT,
        env={**outside, **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line for line in would_do.splitlines() if f"--editable '.{extras}'" in line]
    assert would_do.count("--editable") == 1


def test_the_demos_table_is_bounded(
    dsn: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "EVENTS_KEPT", 10)
    connection = connect()
    for n in range(1, 26):
        connection.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) "
            "VALUES (gen_random_uuid(), gen_random_uuid(), 'message', to_jsonb(%s::int))",
            [n],
        )
        connection.execute("SELECT * FROM agent_events_append()")
    demo._prune(dsn)
    kept = connection.execute("SELECT payload FROM agent_events ORDER BY id").fetchall()
    assert kept == [(n,) for n in range(16, 26)]
    # The log says where it begins now: a cursor from before is `truncated`, not `reset`.
    assert connection.execute("SELECT oldest FROM agent_event_bus").fetchone() == (16,)


# Who signs in to a demo


@pytest.fixture
def demo_users(db: None, settings: Any) -> None:
    """The demo's users, in a project that runs under DEBUG."""
    settings.DEBUG = True
    settings.AUTHENTICATION_BACKENDS = ["project.demo_sign_in.DemoSignIn"]
    assert create_demo_users(create_demo_tenants(2)) == ["demo", "admin"]


def sign_in(name: str, password: str, address: str = "127.0.0.1") -> Any:
    request = RequestFactory().post("/accounts/login/", REMOTE_ADDR=address)
    return authenticate(request, username=name, password=password)


def test_demo_users_sign_in_on_this_machine(demo_users: None) -> None:
    assert sign_in("demo", "demo").agent_events_memberships.count() == 2
    assert sign_in("admin", "admin", "::1").is_superuser
    assert sign_in("demo", "wrong") is None


def test_demo_users_do_not_sign_in_from_elsewhere(demo_users: None) -> None:
    assert sign_in("demo", "demo", "192.0.2.7") is None


def test_demo_users_do_not_sign_in_without_debug(demo_users: None, settings: Any) -> None:
    settings.DEBUG = False
    assert sign_in("admin", "admin") is None


def test_no_demo_password_is_in_the_database(demo_users: None) -> None:
    assert not any(user.has_usable_password() for user in get_user_model().objects.all())


def test_somebodys_own_admin_is_left_alone(db: None, settings: Any) -> None:
    settings.DEBUG = True
    settings.AUTHENTICATION_BACKENDS = ["project.demo_sign_in.DemoSignIn"]
    get_user_model().objects.create_user("admin", password="a long and private one")
    assert create_demo_users([]) == ["demo"]
    assert sign_in("admin", "admin") is None


def test_the_generated_secret_key_stays_and_is_private(tmp_path: Path) -> None:
    key = generated_secret_key(tmp_path / "data")
    assert len(key) > 50
    assert generated_secret_key(tmp_path / "data") == key
    assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o077 == 0
