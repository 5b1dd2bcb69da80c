"""All rows, one after the other, each in a process of its own; then the page. `make bench`."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cluster import ROOT
from benchmarks.frame import Part, end_cleanly
from benchmarks.machine import machine
from benchmarks.report import page, picture

ROWS = (
    "commits",
    "server_cpu",
    "latency",
    "fan_out",
    "replay",
    "memory",
    "source_load",
    "brokers",
    "relay_ends",
    "bulk",
    "posts",
    "page_load",
    "page_day",
)
"""The modules, in the order of the page."""
ROW_TIMEOUT_S = 900.0
ENDED_S = 60.0
KEPT = ROOT / "build" / "benchmarks"
"""Where the raw samples go, and the page where not every row was run."""


def run(name: str, quick: bool, kept: Path) -> tuple[Part | None, str]:
    """Runs one row module: what it measured, or why it did not."""
    if importlib.util.find_spec(f"benchmarks.{name}") is None:
        return None, f"there is no benchmarks/{name}.py"
    result = kept / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(result)]
    if quick:
        command.append("--quick")
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        why = ""
        try:
            _, said = running.communicate(timeout=ROW_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            why = f"it took more than {ROW_TIMEOUT_S:g} s"
            said = _end(running)
        except BaseException:
            _end(running)
            raise
    (kept / f"{name}.log").write_text(said)
    if not why and (running.returncode != 0 or not result.exists()):
        lines = said.strip().splitlines() or [f"exit status {running.returncode}, without a word"]
        why = lines[-1].replace(f"{ROOT}/", "")
    if why:
        return None, why
    return Part.from_json(result.read_text()), ""


def _end(running: subprocess.Popen[str]) -> str:
    """Ends a row, and lets it remove its servers and data; what it has said."""
    running.terminate()
    try:
        return running.communicate(timeout=ENDED_S)[1]
    except subprocess.TimeoutExpired:
        running.kill()
        return running.communicate()[1]


def main() -> int:
    """Exit status 1 where a row failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help=f"some of {','.join(ROWS)}; all if left out")
    parser.add_argument("--quick", action="store_true", help="tiny: only to see that it runs")
    parser.add_argument(
        "--out",
        type=Path,
        help="where the page goes: docs/ after a full run of all rows, else build/",
    )
    options = parser.parse_args()
    rows = [name for name in options.rows.replace(" ", ",").split(",") if name] or list(ROWS)
    if unknown := sorted(set(rows) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    full = set(rows) == set(ROWS) and not options.quick
    out = options.out or (ROOT / "docs" if full else KEPT)
    kept = KEPT if options.out is None else options.out
    for folder in (out, kept):
        folder.mkdir(parents=True, exist_ok=True)

    facts = machine()
    some = "" if full else f" ROWS={','.join(rows)}"
    facts["command"] = f"`make bench{some}`"
    parts: dict[str, Part] = {}
    failed: dict[str, str] = {}
    for name in (name for name in ROWS if name in rows):
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        part, why = run(name, options.quick, kept)
        if part is None:
            failed[name] = why
            print(f"{name} failed: {why}", file=sys.stderr)
        else:
            parts[name] = part
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    (out / "benchmarks.md").write_text(page(parts, failed, facts))
    (out / "benchmarks.svg").write_text(picture(parts))
    print(f"Written: {out / 'benchmarks.md'}, {out / 'benchmarks.svg'}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    end_cleanly()
    sys.exit(main())
