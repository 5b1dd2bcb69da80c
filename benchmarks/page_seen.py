"""What is seen of a page under load, as rows and words; and whether what it shows adds up."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.browser import Chromium, Frames, Heap, Tab
from benchmarks.cluster import wait_until
from benchmarks.frame import Row
from benchmarks.page_producer import Written
from benchmarks.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

SAMPLE_S = 5.0
MORE_S = 60.0
"""So long after the last event has gone out it may take to be shown."""
LIVE_TIMEOUT_MS = 30_000

_SHOWN = """
() => Array.from(document.querySelector("#events").children, (child) =>
  child.dataset.id ? { id: Number(child.dataset.id) } : { kind: child.dataset.notice, text: child.textContent })
"""  # noqa: E501


@dataclass(frozen=True)
class Case:
    """What was seen of a page under load.

    Attributes:
        taken_s: events a second that it took.
        heaps: before, between (with garbage), and after.
        main: how many cores its main thread kept busy: 1 is all that it can have.
        cores: likewise each part of it all, by name.
    """

    taken_s: float
    frames: Frames
    heaps: list[Heap]
    main: float
    cores: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def rows(self, what: str, beside: dict[str, Case] | None = None) -> list[Row]:
        """Its part of the table."""
        others = beside or {}

        def row(name: str, unit: str, of: Callable[[Case], float]) -> Row:
            figures = {other: of(case) for other, case in others.items()}
            return Row(f"{what}: {name}", unit, of(self), figures)

        return [
            row("events the page took", "events/s", lambda case: case.taken_s),
            row("from frame to frame, p99", "ms", lambda case: case.frames.p99_ms),
            row("from frame to frame, most", "ms", lambda case: case.frames.longest_ms),
            row("its main thread's CPU", "ms a second", lambda case: case.main * 1_000),
            row("heap before, garbage collected", "MiB", lambda case: case.heaps[0].mib),
            row("heap after, garbage collected", "MiB", lambda case: case.heaps[-1].mib),
            row("its process's memory after", "MiB", lambda case: case.heaps[-1].private_mib),
            row("nodes after", "nodes", lambda case: case.heaps[-1].nodes),
            row("event listeners after", "listeners", lambda case: case.heaps[-1].listeners),
        ]

    def told(self, what: str) -> str:
        """What no row has."""
        frames, used = self.frames, sum(self.cores.values())
        each = ", ".join(f"{name} {busy:.2f}" for name, busy in self.cores.items())
        long = frames.long_ms
        return (
            f"{what}: {len(frames.intervals_ms):,} frames, {frames.slow} of over 100 ms; "
            f"{len(long)} tasks of over 50 ms"
            f"{f', the longest {max(long):.0f} ms' if long else ''}. "
            f"Busy cores, of {os.cpu_count()}: {each}; together {used:.2f}; "
            f"the page's main thread {self.main:.2f}, of 1 that it may have."
        )


def checked(page: Page, first_id: int = 1) -> tuple[int, int]:
    """How many rows the page shows, and events in its gaps.

    Args:
        first_id: older rows, of another story, do not count.

    Raises RuntimeError where they do not add up: ids are given without a gap, so from the newest
    row to the oldest each id is a row or counted in the gap in its place.
    """
    rows = left_out = gap = 0
    last: int | None = None
    for shown in page.evaluate(_SHOWN):
        if "id" not in shown:
            if shown["kind"] == "gap":
                gap += _first_number(shown["text"])
            continue
        if shown["id"] < first_id:
            break
        if last is not None and last - shown["id"] - 1 != gap:
            raise RuntimeError(f"between {last} and {shown['id']} the page says {gap} are left out")
        last, rows, left_out, gap = shown["id"], rows + 1, left_out + gap, 0
    if not rows:
        raise RuntimeError("the page shows nothing")
    return rows, left_out


def _first_number(text: str) -> int:
    """Of "1,200 events not shown, 3 errors": 1200."""
    found = re.search(r"\d[\d,.\u202f]*", text)
    return int(re.sub(r"\D", "", found[0])) if found else 0


def behind(frames: Frames, written: Written, before: int) -> str:
    """How far behind the log its first row was, in words; `before`: the last id before them."""
    late_ms, most = 0.0, 0
    for at_ms, event_id in frames.top:
        shown = event_id - before
        if (there := written.by(at_ms)) > shown >= 0:
            most = max(most, there - shown)
            late_ms = max(late_ms, at_ms - written.when(shown + 1))
    return f"the page's first row was at most {late_ms:,.0f} ms behind ({most:,} events)."


def opened(browser: Chromium, site: Site, address: str) -> Tab:
    """The live page, live."""
    browser.sign_in(address, site.cookie)
    tab = browser.tab()
    tab.open(address)
    tab.page.locator('#state[data-state="live"]').wait_for(timeout=LIVE_TIMEOUT_MS)
    return tab


def top_id(tab: Tab) -> int:
    """The id of the first row."""
    return int(tab.page.locator("#events > .row").first.get_attribute("data-id") or 0)


def sampled(tab: Tab, until: float) -> list[Heap]:
    """The heap each SAMPLE_S, garbage and all: to collect it would stop the page."""
    heaps = []
    while (left := until - time.monotonic()) > SAMPLE_S:
        time.sleep(SAMPLE_S)
        heaps.append(tab.heap(collect=False))
        print(f"  {left:.0f} s left, heap {heaps[-1].mib:.1f} MiB", file=sys.stderr, flush=True)
    time.sleep(max(0.0, until - time.monotonic()))
    return heaps


def came(true: Callable[[], bool]) -> bool:
    """Waits for it; False where it does not come, which is a figure and no mistake."""
    try:
        until(true, "every event")
    except TimeoutError:
        return False
    return True


def until(true: Callable[[], bool], what: str) -> None:
    wait_until(true, MORE_S, what)
