"""A real server process, as a deployment would run it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import httpx

from tests.support.database import ROOT
from tests.support.waiting import wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


_reserved: deque[socket.socket] = deque()
MOST_RESERVED = 100  # of the newest: each is an open file


def free_port() -> int:
    """A TCP port that nothing listens on at 127.0.0.1, and that is given to nobody else.

    A server takes seconds to come up, or is away for a while: meanwhile tests beside this one ask
    for ports of their own. So the port stays bound here, to be shared with a server that allows it
    (SO_REUSEADDR), as they all do; who connects is refused until one listens.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _reserved.append(probe)
    while len(_reserved) > MOST_RESERVED:
        _reserved.popleft().close()
    return int(probe.getsockname()[1])


class Program:
    """A program on a database, as a process of its own, from `start()` to `stop()` or `kill()`.

    Attributes:
        process: the running process, None while stopped.
        env: its environment from the next start on.
    """

    def __init__(
        self,
        dsn: str,
        log_file: Path,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        """`env`: environment variables on top of DATABASE_URL and DJANGO_DEBUG=1."""
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1", **(env or {})}
        self._command = list(command)
        self._log_file = log_file
        self._cwd = cwd
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start the process, and wait for nothing."""
        self._output = self._log_file.open("ab")
        self.process = subprocess.Popen(
            self._command, cwd=self._cwd, env=self.env, stdout=self._output, stderr=self._output
        )
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int | None:
        """End it by SIGTERM (SIGKILL after 20 s); return its exit code, None if none ran."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int | None:
        """End it by SIGKILL: it can clean up nothing."""
        return self._end(signal.SIGKILL)

    def log(self) -> str:
        """All that it has printed, over all of its restarts."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def _end(self, number: signal.Signals) -> int | None:
        if self.process is None:
            return None
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a test may have frozen it
            process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if self._output is not None:
                self._output.close()


class Server(Program):
    """`python -m daphne` on a database.

    Attributes:
        port: stays the same over restarts.
    """

    def __init__(
        self,
        dsn: str,
        log_file: Path,
        *,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        args: Sequence[str] = (),
        command: Sequence[str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        """Args:
        env: environment variables on top of DATABASE_URL and DJANGO_DEBUG=1.
        args: more arguments for Daphne.
        command: what to run instead of Daphne; `{port}` in it is replaced.
        cwd: where to run it.
        """
        self.port = port or free_port()
        daphne = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", *args]
        found = [
            part.replace("{port}", str(self.port))
            for part in command or [*daphne, "project.asgi:application"]
        ]
        super().__init__(dsn, log_file, found, env=env, cwd=cwd)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """`ws://127.0.0.1:PORT`, without a slash at the end."""
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start the process and wait until it answers."""
        super().start()
        wait_until(self._answers, START_TIMEOUT_S, f"{self.url} to answer")
        return self

    def restart(self) -> Self:
        """Stop and start again, on the same port."""
        self.stop()
        return self.start()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended by itself:\n{self.log()}")
        try:
            return httpx.get(f"{self.url}/accounts/login/", timeout=5).status_code < 600
        except httpx.TransportError:
            return False


def login(
    server: Server, username: str, password: str | None = None, *, path: str = "/accounts/login/"
) -> dict[str, str]:
    """Sign in over HTTP, as a browser does, and return the cookies (`sessionid`, `csrftoken`).

    Args:
        password: the same as `username` if left out, as `make_user` does.
        path: where the sign-in page is.
    """
    with httpx.Client(base_url=server.url, timeout=10) as client:
        page = client.get(path)
        page.raise_for_status()
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token is not None, f"no CSRF token in the sign-in page:\n{page.text[:500]}"
        answer = client.post(
            path,
            data={
                "csrfmiddlewaretoken": token[1],
                "username": username,
                "password": password or username,
            },
            headers={"Referer": f"{server.url}{path}"},
        )
        assert answer.status_code == 302, f"could not sign in as {username}: {answer.status_code}"
        return dict(client.cookies)


def cookie_header(cookies: Mapping[str, str]) -> str:
    """The cookies as the value of a `Cookie` header, for WebSocket clients."""
    return "; ".join(f"{name}={value}" for name, value in cookies.items())
