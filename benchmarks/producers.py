"""A producer in a process of its own: paced evenly, or as fast as whoever watches can take it.

Payloads bear the time just before their INSERT was sent, in ns of the monotonic clock, which all
processes of a machine share. It uses libpq's asynchronous calls directly (some 40 µs of Python a
statement), so that on a small machine the load leaves room for what is measured.
"""

from __future__ import annotations

import multiprocessing as mp
import select
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from benchmarks.cluster import AGENT, TENANT
from project.processes import end_with_parent

SPAWN = mp.get_context("spawn")
JOIN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Order:
    """What to insert.

    Args:
        rate: events a second, evenly; None: as many as `window` lets.
        rows: events a statement (each statement is a transaction).
        seconds: how long.
        window: at most so many events ahead of the slowest counter that it is given.
        connections: how many statements may be under way.
    """

    rate: float | None
    seconds: float
    rows: int = 1
    window: int | None = None
    connections: int = 8


@dataclass(frozen=True)
class Made:
    """What a producer did.

    Args:
        events: how many it inserted at its pace, within `seconds`.
        stored: all that it inserted, its first statement included.
        late_p99_ms: how far behind its pace it was.
    """

    events: int
    stored: int
    seconds: float
    late_p99_ms: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    def kept(self, rate: float) -> bool:
        """Did it keep the pace, within 5 % and some ms?"""
        return self.rate >= 0.95 * rate and self.late_p99_ms < 20


class Producer:
    """The process. `start()`, then `result()`."""

    def __init__(self, dsn: str, order: Order, counts: Any = None) -> None:
        """`counts`: a shared array of how many events each client has had, for `window`."""
        self._end, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_run, args=(dsn, order, counts, theirs), daemon=True)

    def start(self) -> Producer:
        """Returns once it inserts."""
        self._process.start()
        self._receive()
        return self

    def result(self) -> Made:
        """Waits for its end. Raises RuntimeError where an INSERT failed."""
        made: Made = self._receive()
        self._process.join(JOIN_TIMEOUT_S)
        return made

    def _receive(self) -> Any:
        try:
            return self._end.recv()
        except EOFError:
            self._process.join(JOIN_TIMEOUT_S)
            raise RuntimeError("the producer failed: its process said why") from None


def insert(dsn: str, order: Order, counts: Any = None) -> Made:
    """Runs a producer to its end."""
    return Producer(dsn, order, counts).start().result()


def _run(dsn: str, order: Order, counts: Any, report: Connection) -> None:
    end_with_parent()
    opened = [psycopg.connect(dsn, autocommit=True) for _ in range(order.connections)]
    connections = [_prepared(one, order.rows) for one in opened]
    _statement(connections[0], order.rows)  # plans and caches are warm
    _finish(connections[0])
    report.send(None)
    already = (min(counts) if len(counts) else 0) if counts is not None else 0

    def slowest() -> int:
        return min(counts) - already if counts is not None else 0

    report.send(_pace(connections, order, slowest))
    for one in opened:
        one.close()


def _prepared(connection: psycopg.Connection[Any], rows: int) -> PGconn:
    values = ",".join(
        f"($1::uuid, $2::uuid, 'turn_complete', ${number + 3}::jsonb)" for number in range(rows)
    )
    raw = connection.pgconn
    raw.prepare(
        b"make",
        b"INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES "
        + values.encode(),
    )
    raw.nonblocking = 1
    return raw


def _statement(connection: PGconn, rows: int) -> None:
    payload = b'{"tokens": 142, "latency": 820, "sent": %d}' % time.monotonic_ns()
    connection.send_query_prepared(b"make", [TENANT.encode(), AGENT.encode(), *[payload] * rows])
    while connection.flush():
        select.select([], [connection.socket], [])


def _finish(connection: PGconn) -> None:
    while connection.is_busy():
        select.select([connection.socket], [], [])
        connection.consume_input()
    while result := connection.get_result():
        if result.status != ExecStatus.COMMAND_OK:
            raise RuntimeError(f"an INSERT failed: {result.error_message.decode()}")


def _pace(connections: list[PGconn], order: Order, slowest: Callable[[], int]) -> Made:
    interval_s = order.rows / order.rate if order.rate else 0.0
    free = deque(connections)
    busy: dict[int, PGconn] = {}
    late: list[float] = []
    made = 0
    began = due = time.monotonic()
    until = began + order.seconds
    while (now := time.monotonic()) < until or busy:
        wait_s = 0.05
        while free and now < until:
            if order.rate is not None and due > now:
                wait_s = due - now
                break
            if order.window is not None and made + order.rows - slowest() > order.window:
                wait_s = 0.0005
                break
            one = free.popleft()
            _statement(one, order.rows)
            busy[one.socket] = one
            late.append(now - due)
            due += interval_s
            made += order.rows
            now = time.monotonic()
        for socket in select.select(list(busy), [], [], min(wait_s, 0.05))[0]:
            one = busy[socket]
            one.consume_input()
            if not one.is_busy():
                del busy[socket]
                _finish(one)
                free.append(one)
    late.sort()
    behind_ms = late[int(len(late) * 0.99)] * 1_000 if late and order.rate else 0.0
    return Made(made, made + order.rows, time.monotonic() - began, behind_ms)
