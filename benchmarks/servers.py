"""Server processes on loopback, as a deployment runs them: Daphne or Uvicorn, DEBUG off."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import psutil
import psycopg

from agent_events.database import SEQUENCER_KEY
from benchmarks.cluster import ROOT, environment
from project.processes import end_with_parent, free_port

OURS = "project.asgi:application"
USUAL = "benchmarks.usual:application"
SERVERS = ("daphne", "uvicorn")
START_TIMEOUT_S = 30.0
USER = "benchmark"
SECRET = "only on loopback, for minutes"


@dataclass(frozen=True)
class Site:
    """A server that answers at 127.0.0.1; `cookie` is that of a signed-in superuser."""

    pid: int
    port: int
    cookie: str = ""

    def get(self, path: str) -> tuple[int, str]:
        """GET a short page: its status and text."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """CPU seconds that the process has used."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


def make_user(dsn: str) -> None:
    """The superuser as whom the clients sign in."""
    subprocess.run(
        [
            *(sys.executable, "manage.py", "createsuperuser"),
            *("--noinput", f"--username={USER}", "--email="),
        ],
        cwd=ROOT,
        env={**environment(dsn), "DJANGO_SUPERUSER_PASSWORD": SECRET},
        check=True,
        stdout=subprocess.DEVNULL,
    )


@contextmanager
def serving(
    dsn: str,
    server: str = "daphne",
    application: str = OURS,
    settings: Mapping[str, Any] | None = None,
    signed_in: bool = True,
    debug: bool = False,
) -> Iterator[Site]:
    """A server process on the database for as long as the block lasts, with its bus started.

    Args:
        server: one of SERVERS.
        settings: keys of AGENT_EVENTS.
        signed_in: as the user of `make_user`.
        debug: it serves the page's scripts too.

    Raises:
        RuntimeError: it does not start; the message has what it printed.
    """
    port = free_port(None)
    command = {
        "daphne": ["-b", "127.0.0.1", "-p", str(port), "-v", "0", application],
        "uvicorn": [
            *("--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            *("--log-level", "warning", application),
        ],
    }[server]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", server, *command],
            cwd=ROOT,
            env={**environment(dsn, **(settings or {})), "DJANGO_DEBUG": str(int(debug))},
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(Site(process.pid, port)):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"{server} does not start: {output.read().decode()}")
                time.sleep(0.05)
            yield Site(process.pid, port, _sign_in(port) if signed_in else "")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def leads(dsn: str, site: Site) -> bool:
    """Does this server's process close the batches?"""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            f"""
            SELECT a.client_port FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)
             WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock'
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND (l.classid::bigint << 32 | l.objid::bigint) = {SEQUENCER_KEY}
            """
        ).fetchall()
    ports = {c.laddr.port for c in psutil.Process(site.pid).net_connections("tcp")}
    return any(row[0] in ports for row in rows)


def _answers(site: Site) -> bool:
    try:
        return site.get("/readyz")[0] == 200  # which starts the bus
    except OSError:
        return False


def _sign_in(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/accounts/login/")
    answer = connection.getresponse()
    answer.read()
    csrf = _cookies(answer.headers.get_all("Set-Cookie", []))["csrftoken"]
    form = {"csrfmiddlewaretoken": csrf, "username": USER, "password": SECRET}
    connection.request(
        "POST",
        "/accounts/login/",
        urlencode(form),
        {"Cookie": f"csrftoken={csrf}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 302:
        raise RuntimeError(f"could not sign in: HTTP {answer.status}, expected 302")
    return f"sessionid={_cookies(answer.headers.get_all('Set-Cookie', []))['sessionid']}"


def _cookies(lines: list[str]) -> dict[str, str]:
    pairs = (line.split(";")[0].split("=", 1) for line in lines)
    return dict(pairs)
