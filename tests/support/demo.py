"""`make run`, for tests: a real run on a data directory and a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from project.embedded import EmbeddedPostgres
from tests.support.database import ROOT
from tests.support.waiting import wait_until

START_TIMEOUT_S = 60.0
PARTS = ("make", "demo", "web server", "simulator", "postgres")


class DemoRun:
    """One `make run` at a time on `data_dir` and `port`; what it prints is in `output()`."""

    def __init__(self, data_dir: Path, port: int, log_name: str = "run.log", **env: str) -> None:
        self.data_dir = data_dir
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        # A make that runs the tests would make this one a part of itself.
        outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        self.env = {**outside, "DATA_DIR": str(data_dir), "PORT": str(port), **env}
        self.log_file = data_dir.parent / log_name
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> DemoRun:
        """Call make, with the environment that runs the tests as the one it has set up."""
        make = ["make", "--silent", f"BIN={Path(sys.executable).parent}"]
        ready = [f"--old-file=.venv/{name}.stamp" for name in ("demo", "demo-brokers")]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*make, *ready, "run"],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches all of it and nothing else
            )
        return self

    def start(self) -> DemoRun:
        """Run it and wait until it says where to look."""
        self.run()
        wait_until(self._is_up, START_TIMEOUT_S, "make run to come up")
        return self

    def interrupt(self) -> int:
        """Press Ctrl-C: every process of the terminal's foreground group gets it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30)

    def wait(self) -> int:
        """Wait for its own end; return its exit code."""
        assert self.process is not None
        return self.process.wait(60)

    def output(self) -> str:
        """What it has printed since its last start."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def part(self, name: str) -> psutil.Process:
        """The process of one of `PARTS`."""
        assert self.process is not None
        make = psutil.Process(self.process.pid)
        if name == "make":
            return make
        demo = next(child for child in make.children() if "project.demo" in child.cmdline())
        if name == "demo":
            return demo
        word = {"web server": "daphne", "simulator": "simulate_agents", "postgres": "-D"}[name]
        return next(child for child in demo.children() if word in child.cmdline())

    def postgres(self) -> EmbeddedPostgres:
        """The embedded server of its data directory, running or not."""
        return EmbeddedPostgres(self.data_dir)

    def clean_up(self) -> None:
        """End what may be left, and delete the server's files."""
        if self.process is not None and self.process.poll() is None:
            self.interrupt()
        self.postgres().destroy()

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"make run ended by itself:\n{self.output()}")
        return "Ctrl-C stops everything" in self.output()
