"""Where one worker ends: events a second that it carries from PostgreSQL to NATS and to Redis.

One `manage.py listen_events` closes the batches, reads them, and publishes to the broker, with the
product's defaults. A producer inserts rows of many tenants, 200 a statement, at an even rate. A
rate is carried where every event was in the broker, once, and its newest mark was at the ledger's
head half a second after the producer's end. (Of a batch of more than 10,000 events, or 8 MiB, the
broker learns only that it was: its readers go to the log.) The figure is the highest rate that was
carried, of rates 1.25 apart, found by halving; each is tried twice before it counts as one that is
not, for a shared machine stalls at times. The same with two workers, which share two shards; one of
them closes the batches, each reads all of them.

The producer, PostgreSQL, the broker and the workers share the cores of this machine. What 1,000
events cost the workers in CPU does not depend on how many those are.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from agent_events.conf import Settings
from benchmarks.broker_load import NATS, REDIS, Between, between, cpu_s
from benchmarks.cluster import Cluster, cluster
from benchmarks.frame import Chart, Part, Row, alone, number
from benchmarks.relay_watch import Reader, inserting, reading

BROKERS = (NATS, REDIS)
TENANTS = (4, 1_000)
WORKERS = (1, 2)
RATES = tuple(100 * round(40 * 1.25**step) for step in range(14))
"""4,000 to 72,800 events/s."""
SECONDS, SETTLE_S, REPEATS = 2.0, 1.0, 3
TRIES = 2
EVENLY = 0.95
"""Of a rate, the least that the producer has to make of it."""
BEHIND_S = 0.5
"""So far may the broker's newest mark be behind when the producer has ended."""
DRAIN_TIMEOUT_S = 60.0
KEPT = {"BROKER_MESSAGES": 2_000_000, "BROKER_BYTES": 2 << 30}
"""The reader comes when the producer has ended, and is to find everything."""

CARRIED, WORKERS_CPU = "carried", "the workers' CPU"
POSTGRES, BROKER, LOAD = "PostgreSQL", "the broker", "the producer"
UNITS = {CARRIED: "events/s", WORKERS_CPU: "ms per 1,000 events"}

Case = tuple[str, int, int]
"""The broker, tenants, workers."""
Figures = dict[str, float]
"""By the names above; CPU in ms per 1,000 events."""


@dataclass
class Stretch:
    """A broker and workers in place."""

    server: Cluster
    dsn: str
    way: Between
    quick: bool
    """Whatever a rate came to counts as carried: how fast the machine is says nothing then."""

    async def highest(
        self, tenants: int, rates: Sequence[int], seconds: float, settle_s: float
    ) -> Figures:
        """The highest of these rates that is carried, and what it cost.

        Raises RuntimeError where none is, TimeoutError.
        """
        best: Figures | None = None
        low, high = 0, len(rates)
        async with self._reader() as reader:
            while low < high:
                at = (low + high) // 2
                for _ in range(TRIES):
                    figures, why = await self._probe(reader, tenants, rates[at], seconds, settle_s)
                    print(f"    {rates[at]:,}/s: {why or 'carried'}", file=sys.stderr, flush=True)
                    if figures is not None:
                        break
                if figures is None:
                    high = at
                else:
                    best, low = figures, at + 1
        if best is None:
            raise RuntimeError(f"not even {rates[0]:,} events/s were carried: {why}")
        return best

    async def _probe(
        self, reader: Reader, tenants: int, rate: int, seconds: float, settle_s: float
    ) -> tuple[Figures | None, str]:
        """What a rate cost; nothing, and why, where it was not carried."""
        before = (await reader.head())[1]
        with inserting(self.dsn, tenants, rate) as producer:
            await asyncio.sleep(settle_s)
            began, made, spent = time.monotonic(), producer.made, self._spent()
            await asyncio.sleep(seconds)
            took_s, events = time.monotonic() - began, producer.made - made
            now = self._spent()
            producer.end()
            late = not await reader.has(before + producer.made, BEHIND_S)
            if late and not await reader.has(before + producer.made, DRAIN_TIMEOUT_S):
                raise TimeoutError(f"the broker was {DRAIN_TIMEOUT_S:g} s behind")
        head = (await reader.head())[0]
        carried = await reader.read_to(head)
        if events < (1 if self.quick else EVENLY * rate * took_s):
            return None, f"the producer made {events / took_s:,.0f}"
        if carried != producer.made:
            return None, f"{carried:,} of {producer.made:,} events were in the broker"
        if late and not self.quick:
            return None, f"the broker was more than {BEHIND_S:g} s behind"
        cpu = {name: (now[name] - spent[name]) * 1e6 / events for name in now}
        return {CARRIED: events / took_s, **cpu}, ""

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Reader]:
        names = {key.lower(): value for key, value in self.way.settings.items()}
        async with reading(self.dsn, Settings(**names)) as reader:
            yield reader

    def _spent(self) -> Figures:
        """CPU in s."""
        return {
            WORKERS_CPU: cpu_s(self.way.workers),
            POSTGRES: self.server.cpu_s(),
            BROKER: cpu_s(self.way.broker),
            LOAD: time.process_time(),
        }


def measure(quick: bool) -> Part:
    """Two rows for each broker, number of tenants, and number of workers."""
    few = 1 if quick else None
    tenants, workers, rates = TENANTS[:few], WORKERS[:few], RATES[:few]
    seconds, settle_s, repeats = (1.0, 0.1, 1) if quick else (SECONDS, SETTLE_S, REPEATS)
    taken: dict[Case, list[Figures]] = {}
    layouts = [(kind, count) for count in workers for kind in BROKERS]
    with cluster() as server:
        for turn in range(repeats):
            for kind, count in layouts if turn % 2 == 0 else reversed(layouts):
                with (
                    server.database(migrate=True) as dsn,
                    between(kind, dsn, count, **KEPT) as way,
                ):
                    for many in tenants:
                        stretch = Stretch(server, dsn, way, quick)
                        figures = asyncio.run(stretch.highest(many, rates, seconds, settle_s))
                        taken.setdefault((kind, many, count), []).append(figures)
                        told = ", ".join(f"{name} {number(figures[name])}" for name in figures)
                        print(f"  {kind}, {many}, {count}: {told}", file=sys.stderr, flush=True)
    return _part(taken, repeats, seconds)


def _part(taken: Mapping[Case, list[Figures]], repeats: int, seconds: float) -> Part:
    middle = {
        case: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        for case, runs in taken.items()
    }
    cases = sorted(middle, key=lambda case: (case[1], BROKERS.index(case[0]), case[2]))
    rows = []
    bars: dict[str, dict[str, float]] = {}
    for case in cases:
        kind, tenants, workers = case
        for name, unit in UNITS.items():
            beside = {} if workers == 1 else {"1 worker": middle[kind, tenants, 1][name]}
            rows.append(Row(f"{_title(case)}: {name}", unit, middle[case][name], beside))
        group = bars.setdefault(f"{tenants:,} tenants, {_workers(workers)}", {})
        group[kind] = middle[case][CARRIED]
    return Part(
        "Where a worker ends",
        f"{(__doc__ or '').split(chr(10) * 2, 1)[1].strip()}\n\nTurns: {repeats}; "
        f"{seconds:g} s for each rate, behind {SETTLE_S:g} s that do not count.",
        rows,
        [],
        [Chart("Carried from PostgreSQL to a broker", "events/s", bars)],
        [_busy(case, middle[case]) for case in cases],
        {
            f"{_title(case)}: {name}": [one[name] for one in runs]
            for case, runs in taken.items()
            for name in runs[0]
        },
    )


def _busy(case: Case, figures: Figures) -> str:
    """What kept the cores busy: where all of them are, it is the machine that ends."""
    names = {WORKERS_CPU: "workers", POSTGRES: POSTGRES, BROKER: BROKER, LOAD: LOAD}
    cores = {told: figures[name] * figures[CARRIED] / 1e6 for name, told in names.items()}
    told = ", ".join(f"{name} {used:.2f}" for name, used in cores.items())
    return (
        f"{_title(case)}: busy cores, of {psutil.cpu_count()}: {told}; together "
        f"{sum(cores.values()):.2f}."
    )


def _title(case: Case) -> str:
    kind, tenants, workers = case
    return f"{kind}, {tenants:,} tenants, {_workers(workers)}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


if __name__ == "__main__":
    alone(measure)
