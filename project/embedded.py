"""An embedded PostgreSQL: its own server process in a folder of its own, on 127.0.0.1.

What it promises:

* `start()` may be called at any time, by any process, and ends with a running server: one that is
  running already is used, whatever a `kill -9` left behind is cleared away first.
* A server counts as ours when a connection to it says that its data directory is ours. A process
  id in a file proves nothing: ids are used again.
* It listens on TCP at 127.0.0.1 only, asks for a generated password, and has no Unix socket (whose
  path may have no more than 107 bytes, less than many a home directory).

Files in the data directory: `postgres/` (or `postgres.location`, see postgres_home),
`postgres.password` (0600), `postgres.port`, `postgres.log`, `postgres.lock`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from project.cluster import USER, create_cluster
from project.postgres_home import (
    EmbeddedPostgresError,
    account_for,
    find_home,
    find_programs,
    make_data_dir,
    remove_home,
)
from project.processes import all_processes, end_with_parent, free_port, is_postgres_in

DATABASE = "agent_events"
START_TIMEOUT_S = 60.0  # crash recovery after a kill -9 is part of a start
STOP_TIMEOUT_S = 30.0
LEFTOVER_GRACE_S = 5.0  # orphaned backends notice their postmaster's death by themselves
POLL_S = 0.05

DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory.

    Args:
        data_dir: folder for everything the server keeps; created by `start()`.
        settings: server settings on top of `DEFAULT_SETTINGS`, in force from the next boot on.
        die_with_parent: the kernel ends the server when the thread that started it ends (Linux
            only). Without it, a server outlives its starter and is found by the next one.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self.die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None

    # What it says about itself

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's own data folder."""
        return find_home(self.data_dir) / "data"

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster, or None if none runs on our data."""
        recorded = self._pid_file()
        if not recorded or not recorded[0].isdigit():
            return None
        pid = int(recorded[0])
        return pid if is_postgres_in(pid, self.pgdata) else None

    @property
    def port(self) -> int | None:
        """The TCP port, from the running server if there is one, else of the last start."""
        recorded = self._pid_file()
        if len(recorded) > 3 and recorded[3].isdigit():
            return int(recorded[3])
        try:
            return int((self.data_dir / "postgres.port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def dsn(self, dbname: str = DATABASE) -> str:
        """A libpq URL, password included, for a database of this server.

        Raises:
            EmbeddedPostgresError: the server was never started.
        """
        password = self._password_file
        if self.port is None or not password.exists():
            raise EmbeddedPostgresError(f"No PostgreSQL was ever started in {self.data_dir}.")
        secret = quote(password.read_text().strip())
        return f"postgresql://{USER}:{secret}@127.0.0.1:{self.port}/{quote(dbname)}"

    def alive(self) -> bool:
        """Whether a connection succeeds and the server at its other end runs on our data."""
        try:
            with psycopg.connect(self.dsn("postgres"), connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except (psycopg.Error, EmbeddedPostgresError):
            return False
        return row is not None and os.path.realpath(row[0]) == os.path.realpath(self.pgdata)

    # What it does

    def start(self) -> str:
        """Make sure that the server runs and has the database; return its DSN.

        Raises:
            EmbeddedPostgresError: it does not start; the message carries the end of its log.
        """
        make_data_dir(self.data_dir)
        with self._start_lock():
            if not self._adopt():
                create_cluster(
                    self.pgdata, self._password_file, sync=self.settings.get("fsync") != "off"
                )
                self._clear_leftovers()
                self._boot()
            self._ensure_database()
        return self.dsn()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, whoever started it, and wait until it is gone.

        Args:
            mode: `smart`, `fast` or `immediate`, as in the PostgreSQL manual. A server that has
                not ended after 30 seconds is ended harder.
        """
        for stop_signal in (STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            if self._signal(stop_signal):
                return
        raise EmbeddedPostgresError(f"PostgreSQL (process {self.pid}) does not end.")

    def kill(self) -> None:
        """`kill -9` the postmaster, as a test of what comes after."""
        self._signal(signal.SIGKILL)

    def destroy(self) -> None:
        """Stop the server and delete all of its files."""
        if not self.data_dir.exists():
            return
        self.stop("immediate")
        remove_home(self.data_dir)
        shutil.rmtree(self.data_dir)

    # Starting, step by step

    def _adopt(self) -> bool:
        """Whether a server already runs on our data; one that starts or stops is waited for."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while (pid := self.pid) is not None:
            if self.alive():
                return True
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL (process {pid}) runs on {self.pgdata} but answers nobody: "
                    f"see {self.log_file}, end it with 'kill -QUIT {pid}' and try again."
                )
            time.sleep(POLL_S)
        return False

    def _clear_leftovers(self) -> None:
        """Remove what a killed postmaster left: its backends, then its pid file.

        PostgreSQL takes any live process with the recorded id for its postmaster (a zombie too),
        and a surviving backend would write to files that the new server believes to be its own.
        """
        pgdata = self.pgdata
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        while orphans := [p for p in all_processes() if is_postgres_in(p, pgdata)]:
            if time.monotonic() > deadline:
                for pid in orphans:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        (pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _boot(self) -> None:
        """Start the postmaster and wait until it answers; another port if ours was taken."""
        pgdata = self.pgdata
        account = account_for(pgdata)
        programs = find_programs(pgdata.parent, account)
        for _ in range(3):
            port = free_port(self.port)
            (self.data_dir / "postgres.port").write_text(f"{port}\n")
            command = [str(programs / "postgres"), "-D", str(pgdata), "-p", str(port)]
            for name, value in self.settings.items():
                command += ["-c", f"{name}={value}"]
            if self.log_file.exists():
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
            with self.log_file.open("wb") as log:
                if self._process is not None:
                    self._process.wait(STOP_TIMEOUT_S)  # reaps one that was killed
                # A session of its own: Ctrl-C in the terminal is for the program that owns us,
                # which stops the server last.
                self._process = subprocess.Popen(
                    command,
                    cwd=pgdata.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=end_with_parent if self.die_with_parent else None,
                    **account.popen_options(),
                )
            if self._answers():
                return
            if "could not bind" not in self.log_file.read_text(errors="replace"):
                break
        tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-8:])
        raise EmbeddedPostgresError(f"PostgreSQL does not start in {self.data_dir}:\n{tail}")

    def _answers(self) -> bool:
        """Wait for the process just started: whether it answers (True) or has ended (False)."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.alive():
                return True
            time.sleep(POLL_S)
        return False

    def _ensure_database(self) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
            if known.fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    # Small parts

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self.data_dir / "postgres.log"

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "postgres.password"

    def _pid_file(self) -> list[str]:
        """Lines of postmaster.pid: process id, data folder, start time, port, ..."""
        if not (self.data_dir / "postgres.port").exists():
            return []  # never started; asking must not create anything
        try:
            return (self.pgdata / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return []

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the postmaster, if one runs; whether it is gone in time."""
        if (pid := self.pid) is None:
            if self._process is not None:
                self._process.poll()  # reaps one that somebody else ended
            return True
        os.kill(pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.pid == pid and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._process is not None and self._process.pid == pid:
            # Reaps it: its pid file goes a moment before itself.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        return self.pid is None

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        """Two processes that start the same server take turns: the second adopts it."""
        with (self.data_dir / "postgres.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
