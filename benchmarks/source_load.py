"""How many statements a source sends to PostgreSQL: idle, and while it coalesces.

Every statement of a subscriber's process is counted in the server's log (`log_statement = all` for
its sessions alone): polls, appends, reads, and what a transaction begins and ends with.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.cluster import Cluster, cluster
from benchmarks.frame import Part, Row, alone, at_most
from benchmarks.load import pgbench
from benchmarks.statements import statements_since
from benchmarks.subscriber import subscriber

IDLE_S, BUSY_S, SETTLE_S = 20.0, 10.0, 2.0
RATE, CONNECTIONS = 5_000, 16
LOG_ALL = {"PGOPTIONS": "-c log_statement=all"}


def measure(quick: bool) -> Part:
    """A row for each of the two."""
    idle_s, busy_s = (0.5, 0.5) if quick else (IDLE_S, BUSY_S)
    with cluster() as server, server.database(migrate=True) as dsn:
        idle, idle_ms = _idle(server, dsn, idle_s)
        busy, per_s = _busy(server, dsn, busy_s)
    return Part(
        "Load on the database of one source",
        "Statements that a process with one subscriber sends to PostgreSQL, all of its connections "
        f"together, counted in the server's log: {idle_s:g} s in which nothing is inserted, and "
        f"{busy_s:g} s of single-row commits, {RATE:,} a second asked for, which it coalesces.",
        [
            Row("idle", "statements/s", idle),
            Row(f"coalescing {per_s:,.0f} commits/s", "statements/s", busy),
        ],
        [
            at_most("statements of an idle source", idle, 2, "statements/s"),
            at_most("statements of a coalescing source", busy, 220, "statements/s"),
        ],
        notes=[f"PostgreSQL's CPU, all of it, with one idle source: {idle_ms:.1f} ms a second."],
    )


def _idle(server: Cluster, dsn: str, seconds: float) -> tuple[float, float]:
    """Statements a second, and milliseconds of the server's CPU a second."""
    with subscriber(dsn, env=LOG_ALL):
        time.sleep(min(SETTLE_S, seconds))
        before, cpu_s = server.log_size(), server.cpu_s()
        time.sleep(seconds)
        count = statements_since(server, before)
        return count / seconds, (server.cpu_s() - cpu_s) / seconds * 1_000


def _busy(server: Cluster, dsn: str, seconds: float) -> tuple[float, float]:
    """Statements a second, and the commits a second that went on meanwhile."""
    with subscriber(dsn, env=LOG_ALL, MODE="coalesce") as watching:
        count = partial(statements_since, server, server.log_size())
        load = pgbench(server, dsn, CONNECTIONS, seconds, rate=RATE, count=count)
        watching.expect(load.written)
    return load.counted / seconds, load.per_s


if __name__ == "__main__":
    alone(measure)
