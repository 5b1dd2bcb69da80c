"""A day of the live page, compressed: 8 hours of 100 events/s, as fast as 20,000 a second.

2,880,000 prepared frames' events (`benchmarks.player`) go through the page in Chromium in twelve
parts, each with runs, calls and times of its own, from eight hours ago to now. After each part the
page has taken all of it, its garbage is collected, and what is left is looked at: heap, nodes,
listeners, the process's memory. The network is cut in the middle of three parts, and during two
another tab is in front: the page is hidden, has no frames, and timers of a second. Beside it a page
of the usual kind, which makes a row of each event and keeps all, over a part of a part.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from benchmarks import chromium as found
from benchmarks.browser import Chromium, Frames, Heap, Tab, chromium
from benchmarks.cluster import TENANT, cluster, wait_until
from benchmarks.frame import Chart, Part, Row, alone, at_most, number
from benchmarks.page_events import FIRST_ID
from benchmarks.page_seen import checked, opened, top_id
from benchmarks.player import FILL, Play, Player
from benchmarks.servers import Site, make_user, serving

SECONDS, PER_S = 8 * 3_600.0, 100
RATE, PARTS = 20_000, 12
WARM_UP, BESIDE = 40_000, 100_000
"""Events before the first look; events that the naive page gets."""
HIDDEN, CUT = (5, 6), (3, 6, 9)
"""Parts during which the page is hidden; parts in which the network is cut."""
QUICK = 1_000
"""Events of a part, where it is only to be seen that this runs."""
NAIVE_S = 20.0
"""So long the naive page may take for them; what it has taken by then, it has."""
LOOK_S, PATIENCE_S = 0.05, 60.0
MOST_SLOPE_MIB, MOST_NODES = 0.5, 1.1


@dataclass(frozen=True)
class Day:
    """What was seen.

    Attributes:
        heaps: at the beginning and after each part, garbage collected.
        millions: events by then.
        frames: of each part in which the page was seen.
    """

    heaps: list[Heap]
    millions: list[float]
    frames: list[Frames]
    took_s: float
    streams: int
    most_behind: int

    @property
    def slope(self) -> float:
        """MiB of heap a million events, by least squares."""
        return statistics.linear_regression(self.millions, [heap.mib for heap in self.heaps]).slope


def measure(quick: bool, seconds: float = SECONDS) -> Part:
    """The table. Raises RuntimeError where there is no browser, or the page shows what is wrong."""
    if why := found.missing():
        raise RuntimeError(why)
    events = 6_000 if quick else int(seconds * PER_S)
    warm_up = (Play(500, 100),) if quick else (FILL, Play(RATE, WARM_UP))
    beside = 500 if quick else BESIDE
    with cluster() as server, server.database(migrate=True) as log:
        make_user(log)
        with serving(log, debug=True) as site:
            day = through(site, events, warm_up)
            naive, took = beside_it(site, beside)
    return _part(events, beside, day, naive, took)


def through(site: Site, events: int, warm_up: Sequence[Play]) -> Day:
    """The day."""
    part = events // PARTS
    with Player(site.port) as player, chromium() as browser:
        tab = opened(browser, site, f"http://127.0.0.1:{player.port}/?tenant={TENANT}")
        _until_taken(player, 0)
        warm = 0
        for order in warm_up:
            warm += order.events
            player.play(order)
            _until_taken(player, warm)
        heaps, millions = [tab.heap(collect=True)], [0.0]
        frames: list[Frames] = []
        behind, began = 0, time.monotonic()
        for nth in range(PARTS):
            total = warm + (nth + 1) * part
            seen = _one_part(player, browser, tab, nth, part, total, (events - nth * part) * 10.0)
            if seen is not None:
                frames.append(seen)
            behind = max(behind, player.played().most_behind)
            heaps.append(tab.heap(collect=True))
            millions.append((nth + 1) * part / 1e6)
            print(
                f"  {millions[-1]:.2f} million events: heap {heaps[-1].mib:.2f} MiB, "
                f"{heaps[-1].nodes:,.0f} nodes, {heaps[-1].private_mib:.0f} MiB in all",
                file=sys.stderr,
                flush=True,
            )
        took_s = time.monotonic() - began
        newest(tab, player)
        checked(tab.page, FIRST_ID)
        streams = player.played().streams
    return Day(heaps, millions, frames, took_s, streams, behind)


def _one_part(
    player: Player, browser: Chromium, tab: Tab, nth: int, part: int, total: int, ago_ms: float
) -> Frames | None:
    """Plays it until the page has taken it; its frames, if there were any.

    `ago_ms`: how long ago its first event was.
    """
    with browser.hidden() if nth in HIDDEN else nullcontext():
        if nth in HIDDEN:
            state = tab.page.evaluate("() => document.visibilityState")
            if state != "hidden":
                raise RuntimeError(f"behind another tab the page is {state}")
        tab.begin()
        player.play(Play(RATE, part, began_ago_ms=ago_ms, apart_ms=1_000 / PER_S))
        # (A hidden page may take its time to come back: a quick look does not wait for that.)
        if nth in CUT and not (nth in HIDDEN and part < QUICK):
            _until_taken(player, total - part // 2)
            player.cut()
        _until_taken(player, total)
        frames = tab.frames()
    tab.page.bring_to_front()
    return None if nth in HIDDEN else frames


def beside_it(site: Site, events: int) -> tuple[list[Heap], int]:
    """The naive page's heaps, before and after, and how many events it had taken by then."""
    with Player(site.port) as player, chromium() as browser:
        tab = browser.tab()
        tab.open(f"http://127.0.0.1:{player.port}/naive")
        _until_taken(player, 0)
        heaps = [tab.heap(collect=True)]
        player.play(Play(RATE, events))
        deadline = time.monotonic() + NAIVE_S
        while player.played().taken < events and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        taken = player.played().taken
        return [*heaps, tab.heap(collect=True)], taken


def newest(tab: Tab, player: Player) -> None:
    """Waits until the newest event is on top."""
    last = player.newest_id()
    wait_until(lambda: top_id(tab) == last, PATIENCE_S, "the newest event on top")


def _until_taken(player: Player, events: int) -> None:
    def taken() -> bool:
        played = player.played()
        return played.streams > 0 and played.taken >= events

    deadline = time.monotonic() + PATIENCE_S + events / RATE
    while not taken():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the page has not taken {events:,} events: {player.played()}")
        time.sleep(LOOK_S)


def _part(events: int, beside: int, day: Day, naive: Sequence[Heap], taken: int) -> Part:
    first, last = day.heaps[0], day.heaps[-1]
    grown = (naive[1].mib - naive[0].mib) / (taken / 1e6)
    nodes = (naive[1].nodes - naive[0].nodes) / (taken / 1e6)
    seen = [interval for frames in day.frames for interval in frames.intervals_ms]
    longest = max(seen, default=0.0)
    over = sum(frames.slow for frames in day.frames)
    slow = number(day.slope)
    return Part(
        "A day of the live page",
        (__doc__ or "").split("\n", 2)[2].strip(),
        [
            Row("heap at the beginning", "MiB", first.mib),
            Row("heap at the end", "MiB", last.mib),
            Row("heap, the most of all looks", "MiB", max(heap.mib for heap in day.heaps)),
            Row("nodes at the beginning", "nodes", first.nodes),
            Row("nodes at the end", "nodes", last.nodes),
            Row("event listeners at the beginning", "listeners", first.listeners),
            Row("event listeners at the end", "listeners", last.listeners),
            Row("its process's memory at the beginning", "MiB", first.private_mib),
            Row("its process's memory at the end", "MiB", last.private_mib),
            Row("events taken, cuts and looks included", "events/s", events / day.took_s),
        ],
        [
            at_most("a day: heap, by least squares", day.slope, MOST_SLOPE_MIB, "MiB a million"),
            at_most("a day: nodes, end / beginning", last.nodes / first.nodes, MOST_NODES, "x"),
            at_most(
                "a day: event listeners, end / beginning", last.listeners / first.listeners, 1, "x"
            ),
        ],
        charts=[
            Chart(
                f"Heap over a day of {events / 1e6:.2f} million events, garbage collected",
                "MiB",
                {
                    f"{million:.2f} million": {"ours": heap.mib}
                    for million, heap in zip(day.millions, day.heaps, strict=True)
                },
                better="shorter",
            )
        ],
        notes=[
            f"{events:,} events in {day.took_s:.0f} s; the heap grows by {slow} MiB a million. "
            f"The naive page: {number(grown)} MiB of heap and {number(nodes)} nodes a million, "
            f"over its first {taken:,} events.",
            f"The network was cut {day.streams - 1} times ({day.streams} streams in all); the page "
            f"was hidden for {len(HIDDEN)} of {PARTS} parts, and at most {day.most_behind:,} "
            "events behind. At the end the newest event was on top, and rows and gaps added up.",
            f"While it was seen: {len(seen):,} frames, the longest {longest:.0f} ms, {over} of "
            "over 100 ms.",
        ],
        samples={
            "heap, MiB": [heap.mib for heap in day.heaps],
            "nodes": [heap.nodes for heap in day.heaps],
            "listeners": [heap.listeners for heap in day.heaps],
            "process, MiB": [heap.private_mib for heap in day.heaps],
        },
    )


if __name__ == "__main__":
    alone(measure, SECONDS)
