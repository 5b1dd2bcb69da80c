"""The live page in Chromium while 20,000 events a second come in.

Twice. Through everything: a producer copies a busy tenant's events into PostgreSQL, 200 rows a
statement, a Daphne process streams them, and the page of that tenant is open in Chromium, all on
this machine. And the page alone: a process plays prepared frames of the same form at the same rate
(`benchmarks.player`), no more than the page acknowledges. Beside it, for some seconds, on the same
frames: a page of the usual kind, which makes a row of each event as it comes and keeps all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import psycopg

from benchmarks import chromium as found
from benchmarks.browser import Tab, chromium
from benchmarks.cluster import TENANT, Cluster, cluster
from benchmarks.frame import Chart, Part, alone, at_least, at_most, number
from benchmarks.page_events import FIRST_ID
from benchmarks.page_producer import PageProducer
from benchmarks.page_seen import (
    MORE_S,
    Case,
    behind,
    came,
    checked,
    opened,
    sampled,
    top_id,
    until,
)
from benchmarks.player import FILL, Play, Player
from benchmarks.servers import Site, make_user, serving

RATE, SECONDS, BESIDE_S = 20_000, 60.0, 10.0
WARM_UP_S = 4.0
"""What runs often is compiled."""
MOST_FRAME_MS, MOST_GROWTH_MIB, LEAST_RATE = 100.0, 4.0, 0.95

_COUNT = """
(() => {
  const { WebSocket: Plain } = window;
  window.heard = 0;
  window.WebSocket = class extends Plain {
    constructor(...how) {
      super(...how);
      this.addEventListener("message", ({ data }) => {
        for (let at = 0; (at = data.indexOf(',"tenantId":"', at)) >= 0; at += 13) window.heard += 1;
      });
    }
  };
})();
"""
"""Counts the events that come, without reading them."""


@dataclass(frozen=True)
class Load:
    """So many events a second for so long, after what warms it up."""

    rate: int
    seconds: float
    warm_up: Sequence[Play]


def measure(quick: bool, seconds: float = SECONDS) -> Part:
    """The table. Raises RuntimeError where there is no browser, or an event was lost."""
    if why := found.missing():
        raise RuntimeError(why)
    rate, beside_s = (2_000, 0.5) if quick else (RATE, min(BESIDE_S, seconds))
    seconds = 1.0 if quick else seconds
    warm_up = (Play(500, 100),) if quick else (FILL, Play(rate, int(rate * WARM_UP_S)))
    load, beside = Load(rate, seconds, warm_up), Load(rate, beside_s, warm_up[:1])
    with ExitStack() as stack:
        server = stack.enter_context(cluster())
        log = stack.enter_context(server.database(migrate=True))
        make_user(log)
        site = stack.enter_context(serving(log, debug=True))
        whole = through_everything(server, log, site, load)
        ours = played(site, "ours", load)
        sides = {name: played(site, name, beside) for name in ("ours", "naive page")}
    return _part(rate, seconds, beside_s, whole, ours, sides)


def through_everything(server: Cluster, dsn: str, site: Site, load: Load) -> Case:
    """Producer, PostgreSQL, server and page. Raises RuntimeError where an event was lost."""
    origin = f"http://127.0.0.1:{site.port}"
    with chromium() as browser, PageProducer(dsn) as producer:
        browser.context.add_init_script(_COUNT)
        tab = opened(browser, site, f"{origin}/?tenant={TENANT}")
        before = 0
        for order in load.warm_up:
            producer.write(order.rate, order.events / order.rate)
            before += producer.written(MORE_S).events
        until(lambda: _heard(tab) >= before, "the page to have what warmed it up")
        server.settle()
        heaps = [tab.heap(collect=True)]
        tab.begin()
        spent = {
            "PostgreSQL": server.cpu_s,
            "server": site.cpu_s,
            "Chromium": tab.cpu_s,
            "main": tab.main_cpu_s,
        }
        first = {name: cpu_s() for name, cpu_s in spent.items()}
        began = time.monotonic()
        producer.write(load.rate, load.seconds)
        heaps += sampled(tab, began + load.seconds)
        written = producer.written(MORE_S)
        total = before + written.events
        kept_up = came(lambda: _heard(tab) >= total)
        took_s, heard = time.monotonic() - began, _heard(tab)
        cores = {name: (cpu_s() - first[name]) / took_s for name, cpu_s in spent.items()}
        cores["producer"] = written.cpu_s / took_s
        first_id = _last_id(dsn) - written.events  # right before it
        if kept_up:
            until(lambda: top_id(tab) == _last_id(dsn), "the newest event to be shown")
        frames = tab.frames()
        heaps.append(tab.heap(collect=True))
        if _count(dsn) != total or (kept_up and _heard(tab) != total):
            raise RuntimeError(f"of {total:,} events {_heard(tab):,} came to the page")
        rows, left_out = checked(tab.page)
        adding_up = (
            f"{rows:,} rows and gaps of {left_out:,} events add up to all between the newest and "
            "the oldest that it shows."
        )
    return Case(
        (heard - before) / took_s,
        frames,
        heaps,
        cores.pop("main"),
        cores,
        [
            f"Through PostgreSQL {number(written.rate)} events/s were inserted of {load.rate:,} "
            f"offered; {behind(frames, written, first_id)}",
            f"Every event came to the page, once; at the end the newest was on top. {adding_up}"
            if kept_up
            else f"{MORE_S:g} s later {total - heard:,} events had not come. {adding_up}",
        ],
    )


def played(site: Site, kind: str, load: Load) -> Case:
    """The page alone, or the naive one, on prepared frames."""
    with Player(site.port) as player, chromium() as browser:
        origin = f"http://127.0.0.1:{player.port}"
        if kind == "ours":
            tab = opened(browser, site, f"{origin}/?tenant={TENANT}")
        else:
            tab = browser.tab()
            tab.open(f"{origin}/naive")
        until(lambda: player.played().streams > 0, "the page to connect")
        warm = 0
        for order in load.warm_up:
            warm += order.events
            player.play(order)
            until(partial(_has_taken, player, warm), "the page to have what warmed it up")
        heaps = [tab.heap(collect=True)]
        tab.begin()
        cpu_s, main_s, began = tab.cpu_s(), tab.main_cpu_s(), time.monotonic()
        events = int(load.rate * load.seconds)
        player.play(Play(load.rate, events))
        heaps += sampled(tab, began + load.seconds)
        # The naive page is not waited for: what it has taken by then, it has.
        if kind == "ours":
            came(partial(_has_taken, player, warm + events))
        took_s, state = time.monotonic() - began, player.played()
        cores = {"Chromium": (tab.cpu_s() - cpu_s) / took_s}
        main = (tab.main_cpu_s() - main_s) / took_s
        frames = tab.frames()
        heaps.append(tab.heap(collect=True))
        late_ms = state.most_behind / load.rate * 1_000
        notes = [
            f"{'The page alone' if kind == 'ours' else 'The naive page'} was at most "
            f"{late_ms:,.0f} ms behind ({state.most_behind:,} events)."
        ]
        if kind == "ours":
            checked(tab.page, FIRST_ID)
    return Case((state.taken - warm) / took_s, frames, heaps, main, cores, notes)


def _has_taken(player: Player, events: int) -> bool:
    return player.played().taken >= events


def _heard(tab: Tab) -> int:
    return int(tab.page.evaluate("() => window.heard"))


def _last_id(dsn: str) -> int:
    return _one(dsn, "SELECT max(id) FROM agent_events")


def _count(dsn: str) -> int:
    return _one(dsn, "SELECT count(*) FROM agent_events")


def _one(dsn: str, query: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _part(
    rate: int, seconds: float, beside_s: float, whole: Case, ours: Case, sides: dict[str, Case]
) -> Part:
    side, naive = sides["ours"], {"naive page": sides["naive page"]}
    cases = {
        f"through PostgreSQL, {seconds:g} s": whole,
        f"the page alone, {seconds:g} s": ours,
    }
    return Part(
        f"The live page at {rate:,} events a second",
        (__doc__ or "").split("\n", 2)[2].strip(),
        [
            *[row for name, case in cases.items() for row in case.rows(name)],
            *side.rows(f"beside a naive page, {beside_s:g} s", naive),
        ],
        [
            aim
            for name, case in cases.items()
            for aim in (
                at_least(f"{name}: taken", case.taken_s, LEAST_RATE * rate, "events/s"),
                at_most(f"{name}: longest frame", case.frames.longest_ms, MOST_FRAME_MS, "ms"),
                at_most(
                    f"{name}: heap, after less before",
                    case.heaps[-1].mib - case.heaps[0].mib,
                    MOST_GROWTH_MIB,
                    "MiB",
                ),
            )
        ],
        charts=[
            Chart(
                f"Longest frame of {beside_s:g} s at {rate:,} events/s",
                "ms",
                {"Chromium": {name: case.frames.longest_ms for name, case in sides.items()}},
                better="shorter",
                log=True,
            )
        ],
        notes=[
            *whole.notes,
            *[case.told(name) for name, case in cases.items()],
            *ours.notes,
            *sides["naive page"].notes,
            sides["naive page"].told(f"the naive page, {beside_s:g} s"),
            "Between, the heap is looked at without collecting it, which would stop the page.",
        ],
        samples={
            f"{name}: heap, MiB": [heap.mib for heap in case.heaps] for name, case in cases.items()
        },
    )


if __name__ == "__main__":
    alone(measure, SECONDS)
