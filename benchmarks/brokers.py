"""What many web processes cost the database: PostgreSQL alone, beside NATS and Redis.

Daphne processes, each with some WebSocket subscribers of one tenant, and a producer that commits
single rows at a fixed rate. Ours, in the first column: PostgreSQL alone, where each web process
listens and reads for itself. Beside it: one `manage.py listen_events` that publishes to NATS
JetStream, or to Redis Streams, from which the web processes read. One of the three runs at a time,
on one database; the number of its processes grows in between.

Statements are those of the product's sessions, as PostgreSQL logs them, in a while of its own
before the rest is measured. CPU is that of all of PostgreSQL's processes, the producer's commits
included. Delays are from just before the INSERT is sent to when
a client has read the frame; a client of each web process notes them. All that was committed must
come to every subscriber, once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from benchmarks.broker_load import ALONE, KINDS, Between, between, cpu_s, listening
from benchmarks.clients import Audience, Target
from benchmarks.cluster import TENANT, Cluster, cluster
from benchmarks.frame import Chart, Part, Row, alone, at_most, number
from benchmarks.producers import Order, Producer
from benchmarks.servers import Site, make_user, serving
from benchmarks.statements import RELOAD_S, statements_per_s

PROCESSES = (1, 4, 16)
SUBSCRIBERS = 3
"""Of each web process."""
RATE = 50
"""Commits a second: two cores carry that for sixteen processes, in each of the three ways."""
SECONDS, SETTLE_S, REPEATS = 8.0, 1.5, 3
COUNT_S = 2.0
CONNECTIONS = 4
DRAIN_TIMEOUT_S = 60.0

STATEMENTS, CPU, SESSIONS = "statements", "PostgreSQL's CPU", "sessions that LISTEN"
DELIVERIES, P50, P99 = "deliveries", "p50", "p99"
WEB, WORKER, BROKER = "web processes' CPU", "the worker's CPU", "the broker's CPU"
UNITS = {
    STATEMENTS: "statements/s",
    CPU: "ms a second",
    SESSIONS: "sessions",
    DELIVERIES: "deliveries/s",
    P50: "ms",
    P99: "ms",
}
"""What is in the table; the rest is told below it."""

Figures = dict[str, float]
"""By the names above. CPU in ms a second."""


@dataclass(frozen=True)
class Counters:
    """What has been counted by now: CPU in s, the rest in numbers."""

    at: float
    delivered: int
    spent: Figures


class Deployment:
    """Web processes, their subscribers, and what is between them and the log."""

    def __init__(self, server: Cluster, dsn: str, way: Between, stack: ExitStack) -> None:
        """`stack`: ends what is started here."""
        self._server = server
        self._dsn = dsn
        self._way = way
        self._stack = stack
        self._sites: list[Site] = []
        self._audiences: list[Audience] = []

    def grow(self, processes: int) -> None:
        """Starts more web processes, until there are so many, each with its subscribers."""
        settings = self._way.settings
        more = []
        while len(self._sites) < processes:
            first = not self._sites
            made = serving(self._dsn, settings=settings, signed_in=first)
            site = self._stack.enter_context(made)
            site = site if first else replace(site, cookie=self._sites[0].cookie)
            self._sites.append(site)
            more.append(Target(site, f"/ws/agents/stream?tenant={TENANT}"))
        audience = Audience(more, SUBSCRIBERS * len(more), measuring=len(more))
        self._audiences.append(self._stack.enter_context(audience))

    def run(self, seconds: float, settle_s: float, count_s: float) -> tuple[Figures, str]:
        """Inserts at the rate; what was measured in the midst of it, and what went wrong.

        Raises RuntimeError, TimeoutError where not everything came to everyone, once.
        """
        expected = [max(one.counts) for one in self._audiences]
        for audience in self._audiences:
            audience.delays()  # forget what came before
        order = Order(RATE, seconds + count_s + 3 * settle_s + RELOAD_S, connections=CONNECTIONS)
        producer = Producer(self._dsn, order).start()
        time.sleep(settle_s)
        statements = statements_per_s(self._server, count_s)
        time.sleep(settle_s)
        before = self._counters()
        time.sleep(seconds)
        after = self._counters()
        made = producer.result()
        for audience, had in zip(self._audiences, expected, strict=True):
            audience.caught_up(had + made.stored, DRAIN_TIMEOUT_S)
            if max(audience.counts) > had + made.stored:
                raise RuntimeError("a subscriber had events twice")
        figures = {STATEMENTS: statements, **_between(before, after)}
        delays = self._delays_ms(before.at, after.at)
        figures[P50] = delays[len(delays) // 2]
        figures[P99] = delays[int(len(delays) * 0.99)]
        figures[SESSIONS] = listening(self._dsn)
        behind = f"the producer made {made.rate:,.0f} commits/s, {made.late_p99_ms:.0f} ms late"
        return figures, "" if made.kept(RATE) else behind

    def _counters(self) -> Counters:
        spent = {
            CPU: self._server.cpu_s(),
            WEB: cpu_s(site.pid for site in self._sites),
            WORKER: cpu_s(self._way.workers),
            BROKER: cpu_s(self._way.broker),
        }
        delivered = sum(sum(one.counts) for one in self._audiences)
        return Counters(time.monotonic(), delivered, spent)

    def _delays_ms(self, since: float, until: float) -> list[float]:
        """What was sent in between took so long, ranked."""
        noted = [one.delays() for one in self._audiences]
        return sorted(
            delay / 1e6
            for sent, delays in noted
            for at, delay in zip(sent, delays, strict=True)
            if since * 1e9 <= at < until * 1e9
        )


@contextmanager
def deployed(server: Cluster, dsn: str, kind: str) -> Iterator[Deployment]:
    """One of KINDS, still without a web process."""
    with between(kind, dsn) as way, ExitStack() as stack:
        yield Deployment(server, dsn, way, stack)


def measure(quick: bool) -> Part:
    """A row for each number of processes and each figure."""
    processes, kinds = (PROCESSES[:1], KINDS[:2]) if quick else (PROCESSES, KINDS)
    seconds, count_s, settle_s = (1.0, 1.0, 0.1) if quick else (SECONDS, COUNT_S, SETTLE_S)
    repeats = 1 if quick else REPEATS
    taken: dict[tuple[str, int], list[Figures]] = {}
    notes = []
    with cluster() as server, server.database(migrate=True) as dsn:
        make_user(dsn)
        for turn in range(repeats):
            for kind in kinds if turn % 2 == 0 else kinds[::-1]:
                with deployed(server, dsn, kind) as deployment:
                    for count in processes:
                        deployment.grow(count)
                        figures, wrong = deployment.run(seconds, settle_s, count_s)
                        taken.setdefault((kind, count), []).append(figures)
                        if wrong:
                            notes.append(f"{kind}, {_processes(count)}, turn {turn + 1}: {wrong}.")
                        told = ", ".join(f"{name} {number(figures[name])}" for name in UNITS)
                        print(f"  {kind}, {count}: {told}", file=sys.stderr, flush=True)
    return _part(taken, processes, notes, repeats, seconds)


def _between(before: Counters, after: Counters) -> Figures:
    """What happened in each second between the two."""
    seconds = after.at - before.at
    spent = {
        name: (after.spent[name] - before.spent[name]) / seconds * 1_000 for name in after.spent
    }
    return {
        **spent,
        DELIVERIES: (after.delivered - before.delivered) / seconds,
    }


def _part(
    taken: Mapping[tuple[str, int], list[Figures]],
    processes: Sequence[int],
    notes: list[str],
    repeats: int,
    seconds: float,
) -> Part:
    middle = {
        case: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        for case, runs in taken.items()
    }
    kinds = list(dict.fromkeys(kind for kind, _ in taken))
    rows = [
        Row(
            f"{_processes(count)}: {name}",
            unit,
            middle[ALONE, count][name],
            {kind: middle[kind, count][name] for kind in kinds if kind != ALONE},
        )
        for count in processes
        for name, unit in UNITS.items()
    ]
    most = processes[-1]
    aims = [
        at_most(
            f"statements with {kind}, {_processes(most)}",
            middle[kind, most][STATEMENTS] / middle[kind, processes[0]][STATEMENTS],
            1.5,
            "x those with one",
        )
        for kind in kinds
        if kind != ALONE and len(processes) > 1
    ]
    notes = [
        "CPU of the rest, in ms a second: "
        + "; ".join(
            f"{kind}, {_processes(most)}: "
            + ", ".join(f"{name} {number(middle[kind, most][name])}" for name in names)
            for kind in kinds
            for names in [(WEB,) if kind == ALONE else (WEB, WORKER, BROKER)]
        )
        + ".",
        *notes,
    ]
    bars = {
        _processes(count): {
            "ours" if kind == ALONE else kind: middle[kind, count][STATEMENTS] for kind in kinds
        }
        for count in processes
    }
    return Part(
        "Many web processes, without a broker and with one",
        f"{(__doc__ or '').split(chr(10) * 2, 1)[1].strip()}\n\n{RATE} commits a second, "
        f"{SUBSCRIBERS} subscribers a process. Turns: {repeats}, of {seconds:g} s each.",
        rows,
        aims,
        [Chart("Statements a second on PostgreSQL", "statements/s", bars, better="shorter")],
        notes,
        {
            f"{kind}, {count}: {name}": [one[name] for one in runs]
            for (kind, count), runs in taken.items()
            for name in runs[0]
        },
    )


def _processes(count: int) -> str:
    return "1 web process" if count == 1 else f"{count} web processes"


if __name__ == "__main__":
    alone(measure)
