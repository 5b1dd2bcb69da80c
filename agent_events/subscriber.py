"""One subscriber: a position, a filter, a bounded queue. It pulls; nothing is pushed into a peer.

Invariants: what `next` returns is exactly the subscriber's events, each once, in log order. The
queue is bounded in events and bytes: past that it is forgotten and the log is read. The log is
read a page at a time and only when the peer asks for more, so a slow peer costs a page.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from agent_events.backoff import Backoff
from agent_events.conf import Settings
from agent_events.errors import WrongDatabase
from agent_events.filters import Filter
from agent_events.log import Page, Resolved
from agent_events.position import Cursor, Verdict, judge
from agent_events.window import Tenants
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

T = TypeVar("T")

DAMAGED_S = 1.0
"""How long a subscriber waits before it reads a ledger again that lacks rows."""


class Kind(Enum):
    """What an update is. The values are the frames' names on the wire."""

    EVENTS = "events"
    HEARTBEAT = "heartbeat"  # nothing came; the cursor may have moved
    CATCHING_UP = "catching_up"  # what follows comes from the log
    LIVE = "live"  # the head was reached
    TRUNCATED = "truncated"  # what the cursor asked for was pruned
    RESET = "reset"  # the cursor is of another history


@dataclass(frozen=True, slots=True)
class Update:
    """What happened next on a stream; `cursor` resumes after it."""

    kind: Kind
    cursor: str
    events: tuple[Event, ...] = ()


class Reader(Protocol):
    """How a subscriber reads the log."""

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        """The next page from a cursor; NoDataFound where `resolve` has another answer."""
        ...

    async def resolve(self, text: str) -> Resolved:
        """What a cursor means here."""
        ...


@dataclass(slots=True)
class Slice:
    """The wanted events of batches `first` to `last`, all of them; `end` is the cursor behind."""

    first: int
    last: int
    end: Cursor
    events: list[Event] = field(default_factory=list)


class Subscriber:
    """Made by `Feed.subscribe`. Use `next` from one task at a time, and `close` at the end."""

    def __init__(
        self,
        tenants: Tenants,
        filter: Filter,
        cursor: Cursor,
        reader: Reader,
        settings: Settings,
        notice: str = "",
    ) -> None:
        self.tenants = tenants
        self.filter = filter
        self._cursor = cursor
        self._reader = reader
        self._settings = settings
        self._queue: deque[Slice] = deque()
        self._waiting = 0  # events in the queue
        self._waiting_bytes = 0
        self._gap = True  # something may be missing before the queue: read the log
        self._reading: asyncio.Task[Page] | None = None  # it outlives a heartbeat
        self._floor: Cursor | None = None  # where its topic had come to when the read began
        self._told: Kind | None = None  # CATCHING_UP or LIVE, whichever was said last
        self._notices: deque[Update] = deque()
        if notice:
            self._notices.append(Update(Kind(notice), str(cursor)))
        self._wake = asyncio.Event()
        self._head: Callable[[], Cursor | None] = lambda: None
        self._leave: Callable[[], None] = lambda: None

    # What the feed calls; never waits.

    def attach(self, head: Callable[[], Cursor | None], leave: Callable[[], None]) -> None:
        """Where its topic has come to, and how to leave it."""
        self._head = head
        self._leave = leave

    def offer(self, first: int, end: Cursor, wanted: list[Event]) -> None:
        """The topic's slice of batches from `first` on, up to the cursor `end`: what it wants."""
        last = end.position.last_batch
        if not wanted and self._queue and not self._queue[-1].events:
            self._queue[-1].last, self._queue[-1].end = last, end
            return
        self._queue.append(Slice(first, last, end, wanted))
        self._waiting += len(wanted)
        self._waiting_bytes += _size(wanted)
        if (
            self._waiting > self._settings.queue_events
            or self._waiting_bytes > self._settings.queue_bytes
        ):
            self.fall_behind()
        elif wanted:
            self._wake.set()

    def fall_behind(self) -> None:
        """Something is missing: forget the queue and read the log."""
        self._queue.clear()
        self._waiting = self._waiting_bytes = 0
        self._gap = True
        self._wake.set()

    # What a door calls.

    @property
    def cursor(self) -> str:
        """Nothing before it will come again; nothing behind it will be missed."""
        if not self._gap and not self._queue and self._reading is None:
            head = self._head()
            if head is not None and head.position > self._cursor.position:
                self._cursor = head
        return str(self._cursor)

    def refilter(self, filter: Filter) -> None:
        """Shows other events from here on. The position stays."""
        self.filter = filter
        self._forget_read()
        self.fall_behind()

    async def next(self, timeout_s: float) -> Update:
        """The next update; a heartbeat where nothing comes within `timeout_s`.

        Waits with backoff while the log cannot be read. Events come as many as there are, a page
        or a queue at most.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._notices:
                        return self._notices.popleft()
                    if self._gap or self._reading is not None:
                        await self._read()
                        continue
                    self._wake.clear()
                    events = self._take()
                    if events:
                        return Update(Kind.EVENTS, str(self._cursor), events)
                    if not self._gap:
                        await self._wake.wait()
        except TimeoutError:
            return Update(Kind.HEARTBEAT, self.cursor)

    def close(self) -> None:
        """Leaves the feed."""
        self._forget_read()
        self._leave()
        self._leave = lambda: None

    def _take(self) -> tuple[Event, ...]:
        """What waits in the queue, by the one rule."""
        events: list[Event] = []
        while self._queue:
            slice_ = self._queue[0]
            position = self._cursor.position
            verdict = judge(position, slice_.first, slice_.last)
            if verdict is Verdict.READ:
                self._gap = True
                break
            self._queue.popleft()
            self._waiting -= len(slice_.events)
            self._waiting_bytes -= _size(slice_.events)
            if verdict is Verdict.DELIVER:
                events += [e for e in slice_.events if e.batch >= position.batch]
                self._cursor = slice_.end
        return tuple(events)

    async def _read(self) -> None:
        """Reads one page of the log into `_notices`."""
        reading = self._reading
        if reading is None:
            # Before the read: a gap that is noticed meanwhile must not be forgotten.
            self._gap = False
            self._floor = self._head()
            reading = self._reading = asyncio.create_task(
                self._retrying(lambda: self._reader.page(self.tenants, self._cursor, self.filter))
            )
        # A wait, which neither a heartbeat nor another filter passes on to the read: thrown away at
        # each heartbeat, a read that takes longer would never end.
        await asyncio.wait({reading})
        if reading is not self._reading:
            return  # of another filter; the gap is noted
        self._reading = None
        try:
            page = reading.result()
        except psycopg.errors.NoDataFound:
            # Pruned under our feet, or another history: what does the cursor mean now?
            self.fall_behind()
            await self._resolve()
            return
        except BaseException:
            self._gap = True
            raise
        floor = self._floor
        if page.at_head and floor is not None and floor.position > page.cursor.position:
            # It lags behind what the source has told (a replica, say): this is not the end.
            page = page._replace(at_head=False)
            if not page.events:
                self._gap = True  # a heartbeat may end the wait
                await asyncio.sleep(DAMAGED_S)
        if not page.at_head:
            self._gap = True
            # With the cursor before the page: a client may be cut off before its events come.
            self._tell(Kind.CATCHING_UP)
        self._cursor = page.cursor
        cursor = str(page.cursor)
        if page.events:
            self._notices.append(Update(Kind.EVENTS, cursor, tuple(page.events)))
        if page.at_head:
            self._tell(Kind.LIVE)

    def _forget_read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _resolve(self) -> None:
        resolved = await self._retrying(lambda: self._reader.resolve(str(self._cursor)))
        if resolved.notice:
            self._cursor = resolved.cursor
            self._notices.append(Update(Kind(resolved.notice), str(self._cursor)))
        else:
            # It has the cursor and not what follows: somebody deletes rows of the ledger.
            await asyncio.sleep(DAMAGED_S)

    def _tell(self, kind: Kind) -> None:
        if self._told is not kind:
            self._told = kind
            self._notices.append(Update(kind, str(self._cursor)))

    async def _retrying(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns, after as many tries as it takes while the database is away."""
        backoff = Backoff()
        while True:
            try:
                return await read()
            except psycopg.errors.NoDataFound:
                raise
            except (psycopg.Error, PoolTimeout, OSError, WrongDatabase) as error:
                wait_s = backoff.next_s()
                logger.debug("Reading the log failed (%s); again in %.1f s", error, wait_s)
                await asyncio.sleep(wait_s)


def _size(events: list[Event]) -> int:
    return sum(len(event.payload_text) for event in events)
