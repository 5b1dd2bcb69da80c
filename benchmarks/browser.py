"""A Chromium of the benchmark's own: what a page takes there, and how evenly it draws.

It is started here and not by Playwright, which would have every page believe that it is in front:
here a tab behind another one is hidden, gets no frames and slow timers, as it does for people.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.chromium import FLAGS
from benchmarks.cluster import wait_until
from project.processes import end_with_parent

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, CDPSession, Page

START_TIMEOUT_S = 30.0
SLOW_FRAME_MS = 100.0
MIB = 2**20

_WATCH_FRAMES = """
() => {
  const probe = { at: new Float64Array(500_000), frames: 0, long: [], top: [] };
  window.probe = probe;
  let looked = 0;
  const frame = () => {
    const now = performance.now();
    probe.at[probe.frames++] = now;
    if (now - looked > 100) {
      looked = now;
      const row = document.querySelector("#events .row");
      if (row) probe.top.push([performance.timeOrigin + now, Number(row.dataset.id)]);
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) probe.long.push([startTime, duration]);
  }).observe({ type: "longtask" });
}
"""
_BEGIN = "() => Object.assign(window.probe, { frames: 0, long: [], top: [] }) && undefined"
_SEEN = """
() => {
  const { at, frames, long, top } = window.probe;
  return { at: Array.from(at.subarray(0, frames)), long, top, now: performance.now() };
}
"""


@dataclass(frozen=True)
class Heap:
    """What a page holds.

    Attributes:
        mib: of JavaScript, in use.
        nodes: of the document, and of what is kept of it outside.
        listeners: of events.
        private_mib: all of its process: the document, its layout and its pictures too.
    """

    mib: float
    nodes: float
    listeners: float
    private_mib: float


@dataclass(frozen=True)
class Frames:
    """How evenly a page drew, since `begin()`.

    Attributes:
        intervals_ms: from each animation frame to the next.
        long_ms: tasks of more than 50 ms, as the browser reports them.
        top: (ms since 1970, id of the first row) each 100 ms or so.
    """

    intervals_ms: list[float]
    long_ms: list[float]
    top: list[tuple[float, int]]

    @property
    def longest_ms(self) -> float:
        """The longest interval."""
        return max(self.intervals_ms, default=0.0)

    @property
    def p99_ms(self) -> float:
        """Of the intervals."""
        ranked = sorted(self.intervals_ms)
        return ranked[int(len(ranked) * 0.99)] if ranked else 0.0

    @property
    def slow(self) -> int:
        """Intervals of more than 100 ms."""
        return sum(interval > SLOW_FRAME_MS for interval in self.intervals_ms)


class Tab:
    """A page, and the protocol by which it is looked into."""

    def __init__(self, page: Page, cdp: CDPSession, browser: psutil.Process) -> None:
        self.page = page
        self._cdp = cdp
        self._browser = browser
        cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        cdp.send("HeapProfiler.enable")

    def open(self, address: str) -> None:
        """Goes there, and watches its frames."""
        self.page.goto(address)
        self.page.evaluate(_WATCH_FRAMES)

    def begin(self) -> None:
        """Forgets the frames until now."""
        self.page.evaluate(_BEGIN)

    def frames(self) -> Frames:
        """Those since `begin()`; one that is still under way counts."""
        seen: dict[str, Any] = self.page.evaluate(_SEEN)
        at = [*seen["at"], seen["now"]]
        return Frames(
            [later - one for one, later in pairwise(at)],
            [duration for _, duration in seen["long"]],
            [(when, int(row)) for when, row in seen["top"]],
        )

    def heap(self, collect: bool) -> Heap:
        """What it holds; `collect`: without what is garbage. (That stops the page for a moment.)"""
        if collect:
            self._cdp.send("HeapProfiler.collectGarbage")
        found = self._metrics()
        return Heap(
            found["JSHeapUsedSize"] / MIB,
            found["Nodes"],
            found["JSEventListeners"],
            max(map(_private, self._renderers()), default=0) / MIB,
        )

    def main_cpu_s(self) -> float:
        """CPU seconds of the page's main thread: scripts, style, layout, painting."""
        return self._metrics()["TaskDuration"]

    def _metrics(self) -> dict[str, float]:
        got = self._cdp.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in got}

    def cpu_s(self) -> float:
        """CPU seconds of the whole browser."""
        total = 0.0
        for process in [self._browser, *self._browser.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                total += spent.user + spent.system
        return total

    def _renderers(self) -> list[psutil.Process]:
        found = []
        for process in self._browser.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "--type=renderer" in process.cmdline():
                    found.append(process)
        return found


def _private(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.NoSuchProcess:
        return 0


class Chromium:
    """A running browser with one window. Made by `chromium()`."""

    def __init__(self, context: BrowserContext, process: psutil.Process) -> None:
        self.context = context
        self._process = process

    def tab(self) -> Tab:
        """A new one, in front."""
        page = self.context.new_page()
        return Tab(page, self.context.new_cdp_session(page), self._process)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Another tab is in front for as long as the block lasts."""
        front = self.context.new_page()
        front.bring_to_front()
        try:
            yield
        finally:
            front.close()

    def sign_in(self, origin: str, cookie: str) -> None:
        """`cookie`: name=value, as a server has given it."""
        name, value = cookie.split("=", 1)
        self.context.add_cookies([{"name": name, "value": value, "url": origin}])


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser that ends with the block, and its profile with it."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="agent-events-chromium-") as profile:
        command = [
            shutil.which("chromium") or "chromium",
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "--no-first-run",
            "--enable-precise-memory-info",
            "--window-size=1440,900",
            *FLAGS,
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "about:blank",
        ]
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            said = Path(profile, "DevToolsActivePort")
            wait_until(
                lambda: said.exists() and "\n" in said.read_text(), START_TIMEOUT_S, "Chromium"
            )
            port = said.read_text().split()[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.connect_over_cdp(
                    f"http://127.0.0.1:{port}", no_defaults=True
                )
                yield Chromium(browser.contexts[0], psutil.Process(running.pid))
                browser.close()
        finally:
            _end(running)


def _end(running: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(running.pid).children(recursive=True)
    running.terminate()
    try:
        running.wait(10)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)
