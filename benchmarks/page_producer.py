"""A producer of a busy tenant's events, in a process of its own: COPY at an even pace."""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psycopg

from benchmarks.page_events import PageEvents
from benchmarks.producers import SPAWN
from project.processes import end_with_parent

ROWS = 200
"""A COPY, where it keeps its pace."""
MOST_ROWS = 2_000
"""A COPY that makes up for lost time."""
COPY = "COPY agent_events (tenant_id, agent_id, event_type, payload) FROM STDIN"
ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Written:
    """What was committed when: (ms since 1970, events by then), in order; the CPU that it took."""

    commits: list[tuple[float, int]]
    seconds: float
    cpu_s: float

    @property
    def events(self) -> int:
        """All of them."""
        return self.commits[-1][1] if self.commits else 0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    def by(self, at_ms: float) -> int:
        """Events that were committed by then."""
        place = bisect_right(self.commits, at_ms, key=lambda commit: commit[0])
        return self.commits[place - 1][1] if place else 0

    def when(self, events: int) -> float:
        """When so many were there, in ms since 1970."""
        place = bisect_right(self.commits, events - 1, key=lambda commit: commit[1])
        return self.commits[min(place, len(self.commits) - 1)][0]


class PageProducer:
    """The process. `write()` begins; `written()` waits for the end."""

    def __init__(self, dsn: str) -> None:
        self._end, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_run, args=(dsn, theirs), daemon=True)

    def __enter__(self) -> PageProducer:
        self._process.start()
        self._receive(ANSWER_TIMEOUT_S)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.join()

    def write(self, rate: float, seconds: float) -> None:
        """So many events a second for so long; it goes on where the last order ended."""
        self._end.send((rate, seconds))

    def written(self, timeout_s: float) -> Written:
        """What came of the order. Raises RuntimeError where it failed, TimeoutError."""
        made: Written = self._receive(timeout_s)
        return made

    def _receive(self, timeout_s: float) -> Any:
        if not self._end.poll(timeout_s):
            raise TimeoutError(f"the producer has not ended within {timeout_s:g} s")
        try:
            return self._end.recv()
        except EOFError:
            raise RuntimeError("the producer failed: its process said why") from None


def _run(dsn: str, orders: Connection) -> None:
    end_with_parent()
    events = PageEvents()
    made = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        orders.send(None)
        while True:
            rate, seconds = orders.recv()
            written = _pace(connection, events, made, rate, seconds)
            made += written.events
            orders.send(written)


def _pace(
    connection: psycopg.Connection[Any], events: PageEvents, first: int, rate: float, seconds: float
) -> Written:
    commits: list[tuple[float, int]] = []
    done, total = 0, int(rate * seconds)
    spent_s, began = time.process_time(), time.monotonic()
    while done < total:
        due = min(total, int((time.monotonic() - began) * rate))
        if due - done < ROWS and due < total:
            time.sleep((done + ROWS - due) / rate)
            continue
        rows = min(due - done, MOST_ROWS)
        text = "".join(events.copied(number) for number in range(first + done, first + done + rows))
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.write(text)
        done += rows
        commits.append((time.time() * 1_000, done))
    return Written(commits, time.monotonic() - began, time.process_time() - spent_s)
