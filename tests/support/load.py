"""Load, and clients that follow it whatever happens: what they saw is compared with the log."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
from psycopg.rows import TupleRow
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.server import Server
from tests.support.streams import Socket, event_stream, insert, websocket
from tests.support.waiting import LATE_S, wait_until

GONE = (ConnectionClosed, InvalidHandshake, OSError, TimeoutError, EOFError)


@dataclass
class Load:
    """Threads that write as applications do: some fail, some are late; each comes back.

    Attributes:
        committed: ids whose commit was acknowledged, and when (`time.monotonic()`).
        rolled_back: ids that nobody may see.
    """

    dsn: str
    tenant: str
    writers: int = 3
    pause_s: float = 0.02
    rounds: int | None = None  # each writer's transactions; None: until told to stop
    options: str = ""  # libpq's, such as `-c synchronous_commit=off`
    committed: dict[int, float] = field(default_factory=dict)
    rolled_back: set[int] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _may_write: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _turns: list[threading.Lock] = field(default_factory=list)
    """Each writer's, held for as long as a transaction of its is open."""

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Writes until the end of the block."""
        self._turns = [threading.Lock() for _ in range(self.writers)]
        self._threads = [
            threading.Thread(target=self._run, args=(seed, turn))
            for seed, turn in enumerate(self._turns)
        ]
        self._may_write.set()
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No transaction is open or begins within the block."""
        self._may_write.clear()
        try:
            for turn in self._turns:
                assert turn.acquire(timeout=LATE_S), "a transaction of the load does not end"
                turn.release()
            yield
        finally:
            self._may_write.set()

    def stop(self) -> None:
        """No transaction is begun any more; returns when the last one has ended."""
        self._stop.set()
        self._may_write.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def over(self) -> bool:
        """Has every writer ended?"""
        return not any(thread.is_alive() for thread in self._threads)

    def wait_for_commits(self, count: int) -> None:
        """Waits until so many events more are committed."""
        wanted = len(self.committed) + count
        wait_until(lambda: len(self.committed) >= wanted, 30, f"{count} more commits")

    def _run(self, seed: int, turn: threading.Lock) -> None:
        dice = random.Random(seed)
        done = 0
        while not self._stop.is_set() and done != self.rounds:
            try:
                with psycopg.connect(
                    self.dsn, options=self.options or None, connect_timeout=5
                ) as connection:
                    while not self._stop.is_set() and done != self.rounds:
                        self._may_write.wait()
                        with turn:
                            if not self._may_write.is_set():
                                continue
                            self._transaction(connection, dice)
                        done += 1
                        self._stop.wait(self.pause_s)
            except psycopg.Error:
                self._stop.wait(0.05)  # the server is away

    def _transaction(self, connection: psycopg.Connection[TupleRow], dice: random.Random) -> None:
        ids = {self._insert(connection) for _ in range(dice.randint(1, 4))}
        fate = dice.random()
        if fate < 0.2:
            with connection.transaction(force_rollback=True):
                self.rolled_back.add(self._insert(connection))
        if fate < 0.3:
            # Late: whoever began after it commits before it.
            connection.execute("SELECT pg_sleep(%s)", [dice.random() * 0.3])
        if fate > 0.85:
            connection.rollback()
            self.rolled_back |= ids
        else:
            connection.commit()
            self.committed |= dict.fromkeys(ids, time.monotonic())

    def _insert(self, connection: psycopg.Connection[TupleRow]) -> int:
        return insert(connection, self.tenant, payload=json.dumps({"note": "x" * 50}))


def in_log_order(connection: psycopg.Connection[TupleRow], *tenants: str) -> list[int]:
    """The ids of the tenants' events as the ledger orders them."""
    rows = connection.execute(
        "SELECT id FROM agent_events_window(%s::uuid[], 1, (agent_events_head()).batch)"
        " ORDER BY batch, id",
        [list(tenants)],
    ).fetchall()
    return [row[0] for row in rows]


@dataclass
class Follower:
    """A client that comes back whenever it was cut off, with the cursor of what it has taken.

    Attributes:
        patience: it leaves by itself after so many frames or events; None: never.
        seen: ids in the order of their arrival; `at` says when each came.
    """

    server: Server
    cookies: dict[str, str]
    patience: int | None = None
    seen: list[int] = field(default_factory=list)
    at: dict[int, float] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    cursor: str = "earliest"

    async def follow(self, done: Callable[[list[int]], bool]) -> list[int]:
        """Over WebSocket, until `done` says so of what was seen."""
        while not done(self.seen):
            try:
                async with websocket(
                    self.server, self.cookies, f"cursor={self.cursor}", open_timeout=3
                ) as socket:
                    await self._take_frames(socket, done)
            except GONE:
                # Back when the server is: the loop's condition ends it.
                await asyncio.sleep(0.05)
        return self.seen

    async def _take_frames(self, socket: Socket, done: Callable[[list[int]], bool]) -> None:
        frames, coming = 0, asyncio.create_task(socket.frame())
        try:
            while not done(self.seen) and frames != self.patience:
                # Not cancelled where it takes longer: it may have come, and be about to be told.
                if not (await asyncio.wait({coming}, timeout=0.2))[0]:
                    continue
                # Only now is the frame taken: what is lost with the socket comes again.
                frames += 1
                self._take(coming.result())
                coming = asyncio.create_task(socket.frame())
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    def follow_by_event_source(self, done: Callable[[list[int]], bool]) -> list[int]:
        """The same over Server-Sent Events, in a thread."""
        while not done(self.seen):
            try:
                with event_stream(
                    self.server, self.cookies, last_id=self.cursor, timeout_s=3
                ) as stream:
                    events = 0
                    for name, data in stream.messages():
                        if name == "message":
                            events += 1
                            self._take({"type": "events", "events": [data]})
                        else:
                            self.kinds.add(name)
                        self.cursor = stream.last_id
                        if done(self.seen) or events == self.patience:
                            break
            except (httpx.HTTPError, OSError):
                time.sleep(0.05)
        return self.seen

    def _take(self, frame: dict[str, Any]) -> None:
        self.kinds.add(frame["type"])
        now = time.monotonic()
        for event in frame.get("events", []):
            self.seen.append(event["id"])
            self.at[event["id"]] = now
        self.cursor = frame.get("cursor", self.cursor)
