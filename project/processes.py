"""Questions about processes and ports, put to the operating system."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

import psutil


def all_processes() -> list[int]:
    """The ids of all processes that we can see."""
    return psutil.pids()


def is_postgres_in(pid: int, pgdata: Path) -> bool:
    """Whether the process is a PostgreSQL process of this data folder (they all work in it)."""
    try:
        process = psutil.Process(pid)
        return (
            process.name() == "postgres"
            and process.status() != psutil.STATUS_ZOMBIE
            and os.path.realpath(process.cwd()) == os.path.realpath(pgdata)
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def free_port(preferred: int | None) -> int:
    """A TCP port free on 127.0.0.1: the preferred one if it is."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("No TCP port is free on 127.0.0.1.")


# Loaded here, not in the forked child, where loading could deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In the forked child: ask the kernel for a fast shutdown when the parent is gone."""
    _on_parents_end(signal.SIGINT)


def die_with_parent() -> None:
    """Likewise, for SIGKILL: the end of what keeps nothing, frozen or not."""
    _on_parents_end(signal.SIGKILL)


def _on_parents_end(number: signal.Signals) -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
