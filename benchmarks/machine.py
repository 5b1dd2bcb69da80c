"""What the figures depend on: the machine, the versions, the day."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from project.postgres_home import shipped_program

PACKAGES = ("django", "channels", "daphne", "uvicorn", "psycopg")
FLUSHES = 200


def machine() -> dict[str, str]:
    """Name and value of each, in words."""
    postgres = subprocess.run(
        [shipped_program("postgres"), "--version"], capture_output=True, text=True, check=True
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPU": f"{os.cpu_count()} cores, {_cpu_model()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{_disk()}; {flush_ms():.2g} ms to write and flush 8 KiB",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "PostgreSQL": postgres.stdout.split()[-1],
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def flush_ms() -> float:
    """Milliseconds, the median, to append 8 KiB to a file and have it on the disk."""
    times = []
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        for _ in range(FLUSHES):
            began = time.perf_counter()
            os.write(file.fileno(), bytes(8192))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1_000)
    return statistics.median(times)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown model"
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _disk() -> str:
    """What the kernel tells of the disk that has /var/tmp, where PostgreSQL's files are."""
    device = os.stat("/var/tmp").st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for folder in (place, place.parent):  # a partition's parent is its disk
        turning = folder / "queue" / "rotational"
        if not turning.exists():
            continue
        if folder.name.startswith(("vd", "xvd")):
            return "virtual"  # and what it says of itself is not what lies below
        return "turning" if turning.read_text().strip() == "1" else "solid state"
    return "of a kind that the kernel does not tell"
