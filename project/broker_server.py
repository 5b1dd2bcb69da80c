"""A broker's server on loopback, for tests, benchmarks and a try: what NATS and Redis share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from project.processes import die_with_parent, free_port

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 2.0
POLL_S = 0.02


class BrokerServerError(RuntimeError):
    """The server is not there, does not start, or does not run; the message says which."""


class BrokerServer(ABC):
    """One server, on 127.0.0.1, that ends with the thread that started it (on Linux)."""

    name: str
    """What it is called: of a folder, and in messages."""

    def __init__(self, port: int | None) -> None:
        """`port`: where it listens; None: a free port, the same at every start."""
        self._wanted_port = port
        self._port = port
        self._folder = Path(tempfile.mkdtemp(prefix=f"agent-events-{self.name}-"))
        self._delete = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The TCP port. Raises BrokerServerError where it was never started."""
        if self._port is None:
            raise BrokerServerError(f"This {self.name} server was never started: call start().")
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, password included."""

    @property
    def running(self) -> bool:
        """Is there a process, frozen or not?"""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Starts it unless it runs; returns its address once it answers.

        Raises BrokerServerError: the message has the end of what it printed.
        """
        if self.running:
            return self.url
        program = self._program()
        for _ in range(3):
            self._port = free_port(self._port)
            if self._wanted_port not in (None, self._port):
                taken = self._wanted_port
                raise BrokerServerError(f"Port {taken} of 127.0.0.1 is taken: stop what uses it.")
            if self._boot(program):
                return self.url
            if self.running:
                self._end(signal.SIGKILL)
            if "in use" not in self._said():
                break
        raise BrokerServerError(f"{program} does not start:\n{self._said()}")

    def stop(self) -> None:
        """Stops it, also while frozen, and waits until it is gone."""
        if self.running:
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`, as a test of what comes after."""
        if self.running:
            self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stays connected and answers nobody (SIGSTOP), until `thaw`."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        # The signal is sent, and each of its threads stops at its own time.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """It goes on where it was frozen (SIGCONT)."""
        self._signal(signal.SIGCONT)

    @abstractmethod
    def wipe(self) -> None:
        """Deletes all that it holds."""

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

    @staticmethod
    @abstractmethod
    def _program() -> str:
        """The path of the program. Raises BrokerServerError where there is none."""

    @abstractmethod
    def _command(self, program: str) -> tuple[list[str], bytes]:
        """What to run, and what to say to its standard input: a command line shows passwords."""

    @abstractmethod
    def _answers(self) -> bool:
        """Does it, by now?"""

    def _boot(self, program: str) -> bool:
        """Starts the process and waits for it: does it answer (True), or has it ended (False)?"""
        self._folder.mkdir(exist_ok=True)
        command, said = self._command(program)
        with self._log_file.open("wb") as log:
            process = self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        assert process.stdin is not None
        process.stdin.write(said)
        process.stdin.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(POLL_S)
        return False

    @property
    def _log_file(self) -> Path:
        return self._folder / f"{self.name}.log"

    def _said(self) -> str:
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-8:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise BrokerServerError(f"This {self.name} server does not run: call start() first.")
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
