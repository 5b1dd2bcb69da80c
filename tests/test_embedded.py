"""The embedded PostgreSQL: it starts, whatever was there before."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import agent_events.database
from project import database
from project.embedded import EmbeddedPostgres
from project.postgres_home import EmbeddedPostgresError, shipped_program
from project.processes import is_postgres_in
from tests.support import wait_until
from tests.support.database import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about running as root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="a service of the Linux kernel")

Make = Callable[..., EmbeddedPostgres]

START_IN_A_PROCESS = """
import sys, time
from pathlib import Path
from project.embedded import EmbeddedPostgres
server = EmbeddedPostgres(
    Path(sys.argv[1]), settings={"fsync": "off"}, die_with_parent=sys.argv[2] == "dies"
)
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may pass through, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="agent-events-embedded-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    """`make(data_dir=..., **settings)`: an EmbeddedPostgres that the test leaves to us to end."""
    made: list[EmbeddedPostgres] = []

    def build(data_dir: Path = folder / "data", **settings: str) -> EmbeddedPostgres:
        one = EmbeddedPostgres(
            data_dir, settings={"fsync": "off", **settings}, die_with_parent=True
        )
        made.append(one)
        return one

    yield build
    for one in made:
        one.destroy()


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Path, str], tuple[subprocess.Popen[str], int]]]:
    """`elsewhere(data_dir, "dies" or "stays")`: a process that started the server, and its pid."""
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, fate: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", START_IN_A_PROCESS, str(data_dir), fate],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


def write_pid_file(server: EmbeddedPostgres, pid: int) -> None:
    (server.pgdata / "postmaster.pid").write_text(
        f"{pid}\n{server.pgdata}\n1700000000\n{server.port}\n\n127.0.0.1\n  1234567    12\nready\n"
    )


def test_it_starts_and_says_where(make: Make) -> None:
    server = make()
    dsn = server.start()
    assert server.alive()
    assert server.pid is not None
    assert is_postgres_in(server.pid, server.pgdata)
    assert int(ask(dsn, "SHOW server_version_num")) >= 150000
    assert ask(dsn, "SELECT current_database()") == "agent_events"
    assert ask(dsn, "SHOW server_encoding") == "UTF8"
    assert ask(dsn, "SELECT upper('ü')") == "Ü"
    assert ask(server.dsn("postgres"), "SELECT current_database()") == "postgres"


def test_a_second_start_finds_the_first_server(make: Make) -> None:
    first = make()
    dsn = first.start()
    second = make()
    assert second.start() == dsn
    assert second.pid == first.pid


def test_it_keeps_its_data_and_its_port_over_a_restart(make: Make) -> None:
    server = make()
    dsn = server.start()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    assert server.pid is None
    assert not server.alive()
    assert server.start() == dsn
    assert ask(dsn, "SELECT answer FROM kept") == 42


def test_settings_reach_the_server(make: Make) -> None:
    dsn = make(max_prepared_transactions="7").start()
    assert ask(dsn, "SHOW max_prepared_transactions") == "7"


def test_whoever_has_no_password_stays_out(make: Make) -> None:
    server = make()
    parts = conninfo_to_dict(server.start())
    assert ask(server.dsn(), "SHOW unix_socket_directories") == ""
    assert ask(server.dsn(), "SHOW listen_addresses") == "127.0.0.1"
    for password in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(**{**parts, "password": password})
    mode = (server.data_dir / "postgres.password").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_asking_where_it_is_creates_nothing(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "data")
    assert not server.alive()
    assert server.pid is None
    with pytest.raises(EmbeddedPostgresError, match="No PostgreSQL was ever started"):
        server.dsn()
    assert not (folder / "data").exists()


# After an end that nobody prepared


def test_after_a_kill_of_the_postmaster_committed_rows_are_there(make: Make) -> None:
    server = make()
    dsn = server.start()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        assert server.start() == dsn
    assert ask(dsn, "SELECT answer FROM kept") == 42


def test_a_backend_that_outlives_its_postmaster_is_ended_first(make: Make) -> None:
    server = make()
    dsn = server.start()
    with psycopg.connect(dsn, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)  # it cannot notice that its postmaster has gone
        server.kill()
        assert is_postgres_in(backend, server.pgdata)
        server.start()
        assert not is_postgres_in(backend, server.pgdata)
    assert ask(dsn, "SELECT 1") == 1


def test_a_pid_file_that_names_no_process_is_no_obstacle(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_pid_file(server, ended.pid)
    assert server.pid is None
    server.start()
    assert server.alive()


def test_a_pid_that_another_process_has_now_is_no_obstacle(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    owner = server.pgdata.stat()
    # Of the same user: PostgreSQL itself would take it for its postmaster and refuse to start.
    options = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    other = subprocess.Popen(["sleep", "600"], **options)  # type: ignore[call-overload]
    try:
        write_pid_file(server, other.pid)
        assert server.pid is None
        server.start()
        assert server.alive()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_server_whose_starter_was_killed_is_found(
    make: Make, folder: Path, elsewhere: Callable[[Path, str], tuple[subprocess.Popen[str], int]]
) -> None:
    starter, pid = elsewhere(folder / "data", "stays")
    starter.kill()
    starter.wait()
    server = make()
    server.start()
    assert server.pid == pid
    server.stop()
    assert not is_postgres_in(pid, server.pgdata)


@on_linux
def test_a_server_that_is_to_die_with_its_starter_does(
    make: Make, folder: Path, elsewhere: Callable[[Path, str], tuple[subprocess.Popen[str], int]]
) -> None:
    starter, pid = elsewhere(folder / "data", "dies")
    server = make()
    assert server.pid == pid
    starter.kill()
    wait_until(lambda: server.pid is None, what="the server to end")
    assert server.start()


def test_processes_that_start_it_at_once_share_one_server(
    folder: Path,
    make: Make,
    elsewhere: Callable[[Path, str], tuple[subprocess.Popen[str], int]],
) -> None:
    programs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                START_IN_A_PROCESS.replace("time.sleep(600)", ""),
                str(folder / "data"),
                "stays",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    pids = {program.communicate(timeout=60)[0].strip() for program in programs}
    assert pids == {str(make().pid)}


def test_an_initdb_that_was_killed_is_run_again(make: Make) -> None:
    server = make()
    unfinished = server.pgdata.with_name("data.unfinished")
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    assert server.start()


def test_a_port_that_was_taken_meanwhile_is_exchanged(make: Make) -> None:
    server = make()
    server.start()
    port = server.port
    server.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        dsn = server.start()
    assert server.port != port
    assert ask(dsn, "SELECT 1") == 1


def test_data_of_another_version_is_left_alone(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    (server.pgdata / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match=r"written by PostgreSQL 14.*DATA_DIR"):
        server.start()


def test_a_server_that_does_not_start_says_why(make: Make) -> None:
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        make(shared_buffers="much").start()


# As root, in a folder that is closed to others


@as_root
def test_it_runs_as_an_unprivileged_user(make: Make) -> None:
    server = make()
    server.start()
    assert server.pid is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@as_root
def test_a_closed_folder_stays_closed_and_the_server_moves(make: Make, folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    server = make(closed / "clone" / "data")
    dsn = server.start()
    assert ask(dsn, "SELECT 1") == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    home = server.pgdata.parent
    assert home.parent == Path("/var/tmp")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert make(closed / "clone" / "data").start() == dsn
    server.destroy()
    assert not home.exists()


@as_root
def test_programs_in_a_closed_folder_are_copied(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    programs = shipped_program("postgres").parents[1]
    package = closed / programs.parent.name
    package.mkdir()
    shutil.copy2(programs.parent / "__init__.py", package)
    shutil.copytree(programs, package / programs.name, ignore=shutil.ignore_patterns("include"))
    libraries = programs.parent.with_name(f"{programs.parent.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)
    script = (
        "import sys; from pathlib import Path; from project.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1]), settings={'fsync': 'off'})\n"
        "try: server.start(); print(Path(f'/proc/{server.pid}/exe').resolve())\n"
        "finally: server.destroy()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(closed / "data")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(closed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("/var/tmp/agent-events-")
    assert not Path(done.stdout.strip()).exists()


@as_root
def test_a_copied_data_directory_does_not_share_the_originals_server(
    make: Make, folder: Path
) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    original = make(closed / "one")
    original.start()
    shutil.copytree(closed / "one", closed / "two")
    copy = make(closed / "two")
    copy.start()
    assert copy.pgdata != original.pgdata
    assert copy.pid != original.pid


# Which servers will do


@pytest.mark.parametrize(
    ("dsn", "sentence"),
    [
        ("mysql://root@localhost/x", "must name a PostgreSQL server"),
        ("sqlite:///db.sqlite3", "must name a PostgreSQL server"),
        ("no such thing", "is not understood"),
        ("postgresql://nobody@127.0.0.1:1/x", "does not answer as asked"),
    ],
)
def test_what_is_no_reachable_postgresql_is_named_in_one_sentence(dsn: str, sentence: str) -> None:
    with pytest.raises(database.UnsuitableDatabase, match=sentence) as caught:
        database.require_suitable(dsn)
    assert "\n" not in str(caught.value)


def test_the_embedded_server_will_do(postgres: EmbeddedPostgres) -> None:
    database.require_suitable(postgres.dsn())


def test_an_older_server_is_refused(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No older server is at hand.
    monkeypatch.setattr(agent_events.database, "OLDEST_SERVER", 990000)
    with pytest.raises(database.UnsuitableDatabase, match=r"is PostgreSQL 18; .* or later"):
        database.require_suitable(postgres.dsn())


def test_a_standby_is_refused(make: Make) -> None:
    server = make()
    dsn = server.start()
    server.stop()
    (server.pgdata / "standby.signal").touch()
    server.start()
    with pytest.raises(database.UnsuitableDatabase, match="is a standby"):
        database.require_suitable(dsn)


def test_a_database_url_becomes_djangos_settings() -> None:
    url = "postgres://ann:p%40ss@db.example:6432/events?sslmode=require&connect_timeout=3"
    assert database.django_settings(url) == {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0,
        "NAME": "events",
        "USER": "ann",
        "PASSWORD": "p@ss",
        "HOST": "db.example",
        "PORT": "6432",
        "OPTIONS": {**database.GIVE_UP, "sslmode": "require", "connect_timeout": "3"},
    }
