"""What a worker is given, and what came of it in the broker: a producer, and a reader."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from agent_events.brokers import Inlet, Outlet, inlet_of, outlet_of
from agent_events.brokers.assembly import Assembly
from agent_events.conf import Settings
from benchmarks.cluster import AGENT, PAYLOAD

ROWS = 200
"""Events a statement."""
LOOK_S = 0.02
READ_S = 0.2
TIMEOUT_S = 60.0
MANY = f"""
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(g %% %(tenants)s), 12, '0'))::uuid,
           '{AGENT}', 'turn_complete', '{PAYLOAD}'
      FROM generate_series(%(first)s, %(first)s + {ROWS} - 1) AS g
"""
"""(The shards of these tenants are as even as they can be: a UUID's end decides.)"""


class Inserting:
    """A producer in a thread: PostgreSQL makes the rows, so that it costs next to nothing here.

    Attributes:
        made: how many events it has inserted.
    """

    def __init__(self, dsn: str, tenants: int, rate: float) -> None:
        self.made = 0
        self._dsn = dsn
        self._tenants = tenants
        self._interval_s = ROWS / rate
        self._ended = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """From now on it inserts."""
        self._thread.start()

    def end(self) -> None:
        """Returns once nothing more comes. Raises RuntimeError where an INSERT failed."""
        self._ended.set()
        self._thread.join(TIMEOUT_S)
        if self._failed is not None:
            raise RuntimeError(f"an INSERT failed: {self._failed}")

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                due = time.monotonic()
                while not self._ended.wait(max(0.0, due - time.monotonic())):
                    asked = {"first": self.made, "tenants": self._tenants}
                    connection.execute(MANY.encode(), asked)
                    self.made += ROWS
                    due += self._interval_s
        except Exception as error:
            self._failed = error


@contextmanager
def inserting(dsn: str, tenants: int, rate: float) -> Iterator[Inserting]:
    """A producer that inserts `rate` events a second, of so many tenants by turns."""
    producer = Inserting(dsn, tenants, rate)
    producer.start()
    try:
        yield producer
    finally:
        producer.end()


class Reader:
    """What is in the broker: its newest marks, and, read when asked to, every event."""

    def __init__(self, outlet: Outlet, inlet: Inlet, shards: int, ledger: Any) -> None:
        """`ledger`: a connection to the log."""
        self._outlet = outlet
        self._inlet = inlet
        self._shards = shards
        self._ledger = ledger
        self._assembly = Assembly()
        self._came_to = -1
        self._count = 0

    async def begin(self) -> None:
        """Returns once it follows the broker. Raises TimeoutError."""
        shards = frozenset(range(self._shards))
        await self._inlet.watch(shards, None)
        self._assembly.watch(shards, None)
        async with asyncio.timeout(TIMEOUT_S):
            while self._came_to < 0:
                await self._read()

    async def head(self) -> tuple[int, int]:
        """The ledger's last batch, and how many events the log has up to it."""
        found = await self._ledger.execute("SELECT batch, total FROM agent_events_head()")
        batch, total = await found.fetchone()
        return batch, total

    async def has(self, events: int, timeout_s: float) -> bool:
        """Within this time, have the ledger and all newest marks come to so many events?"""
        until = time.monotonic() + timeout_s
        while True:
            batch, total = await self.head()
            if total >= events and await self._marked(batch):
                return True
            if time.monotonic() > until:
                return False
            await asyncio.sleep(LOOK_S)

    async def _marked(self, batch: int) -> bool:
        marks = [await self._outlet.last(shard) for shard in range(self._shards)]
        return all(mark is not None and mark.last >= batch for mark in marks)

    async def read_to(self, batch: int) -> int:
        """Reads up to a batch: how many events that were, whole batches only.

        Raises TimeoutError.
        """
        before = self._count
        async with asyncio.timeout(TIMEOUT_S):
            while self._came_to < batch:
                await self._read()
        return self._count - before

    async def _read(self) -> None:
        for parcel in await self._inlet.next(READ_S):
            window = self._assembly.take(parcel)
            if window is not None:
                self._came_to = max(self._came_to, window.last)
                self._count += len(window.events)


@asynccontextmanager
async def reading(dsn: str, settings: Settings) -> AsyncIterator[Reader]:
    """A reader of the broker that these settings name, in place."""
    outlet, inlet = outlet_of(settings), inlet_of(settings)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as ledger:
        try:
            await outlet.open()
            await inlet.open()
            reader = Reader(outlet, inlet, settings.broker_shards, ledger)
            await reader.begin()
            yield reader
        finally:
            await inlet.close()
            await outlet.close()
