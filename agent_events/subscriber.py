"""One subscriber: a position, a filter, a bounded queue. It pulls; nothing is pushed into a peer.

Invariants: what `next` returns is exactly the subscriber's events, each once, in log order. The
queue is bounded in events and bytes: past that it is forgotten and the log is read. The log is
read a page at a time and only when the peer asks for more, so a slow peer costs a page.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from agent_events import metrics
from agent_events.backoff import Backoff
from agent_events.conf import Settings
from agent_events.errors import WrongDatabase
from agent_events.filters import Filter
from agent_events.log import Page, Resolved
from agent_events.position import Cursor, Verdict, judge
from agent_events.stretch import Stretch
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
    EXPIRING = "expiring"  # whoever opened it must come with something newer
    RENEWED = "renewed"  # they have
    STOPPED = "stopped"  # it may not go on


class Update(NamedTuple):
    """What happened next on a stream; `cursor` resumes after it."""

    kind: Kind
    cursor: str
    stretch: Stretch | None = None

    @property
    def events(self) -> Sequence[Event]:
        """Its events, where it is of the kind EVENTS."""
        return self.stretch.events if self.stretch else ()


class Reader(Protocol):
    """How a subscriber reads the log."""

    interrupted: bool
    """Has nothing come for long? Then the end of the log is not live."""

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        """The next page from a cursor; NoDataFound where `resolve` has another answer."""
        ...

    async def resolve(self, text: str) -> Resolved:
        """What a cursor means here."""
        ...


class Slice(NamedTuple):
    """The wanted events from one cursor to another, both at a batch's start: all of them."""

    start: Cursor
    end: Cursor
    stretch: Stretch | None


class Place(Protocol):
    """Where a subscriber is one of many: its topic."""

    head: Cursor | None

    def leave(self, subscriber: "Subscriber") -> None:
        """It wants nothing more."""
        ...


class Subscriber:
    """Made by `Feed.subscribe`. Use `next` from one task at a time, and `close` at the end."""

    # Thousands of them wait for most of their lives: what is empty then is no object.
    __slots__ = (
        "__weakref__",
        "_cursor",
        "_floor",
        "_gap",
        "_hurry",
        "_loop",
        "_notices",
        "_place",
        "_queue",
        "_reader",
        "_reading",
        "_settings",
        "_told",
        "_waiting",
        "_waiting_size",
        "_wake",
        "filter",
        "tenants",
    )

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
        self._loop = asyncio.get_running_loop()
        self._queue: list[Slice] = []
        self._waiting = 0  # events in the queue
        self._waiting_size = 0
        self._gap = True  # something may be missing before the queue: read the log
        self._reading: asyncio.Task[Page] | None = None  # it outlives a heartbeat
        self._floor: Cursor | None = None  # where its topic had come to when the read began
        self._told: Kind | None = None  # CATCHING_UP or LIVE, whichever was said last
        self._notices: list[Update] = []
        if notice:
            self._notices.append(Update(Kind(notice), str(cursor)))
        self._wake: asyncio.Future[None] | None = None  # while it waits for the feed
        self._hurry: asyncio.Future[None] | None = None  # while it waits for a read
        self._place: Place | None = None

    # What the feed calls; never waits.

    def attach(self, place: Place) -> None:
        """Where it is from now on, until it leaves."""
        self._place = place

    def offer(self, slice_: Slice) -> None:
        """The topic's next slice: what it wants of it."""
        queue, stretch = self._queue, slice_.stretch
        if stretch is None:
            if queue and queue[-1].stretch is None:
                slice_ = slice_._replace(start=queue.pop().start)
            queue.append(slice_)
            return
        queue.append(slice_)
        self._waiting += len(stretch.events)
        self._waiting_size += stretch.size
        if (
            self._waiting > self._settings.queue_events
            or self._waiting_size > self._settings.queue_bytes
        ):
            metrics.QUEUE_OVERFLOWS.inc()
            self.fall_behind()
        else:
            self._rouse()

    def fall_behind(self) -> None:
        """Something is missing: forget the queue and read the log."""
        self._forget_queue()
        self._gap = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _forget_queue(self) -> None:
        self._queue.clear()
        self._waiting = self._waiting_size = 0

    # What a door calls.

    @property
    def cursor(self) -> str:
        """Nothing before it will come again; nothing behind it will be missed."""
        if self.caught_up:
            head = self._head
            if head is not None and head.position > self._cursor.position:
                self._cursor = head
        return str(self._cursor)

    @property
    def caught_up(self) -> bool:
        """Has it returned, or ready, all that its feed has come to?"""
        return not self._gap and not self._queue and self._reading is None

    def refilter(self, filter: Filter) -> None:
        """Shows other events from here on. The position stays."""
        self.filter = filter
        self._forget_read()
        self.fall_behind()

    def tell(self, kind: Kind) -> None:
        """`next` returns this, as soon as it has returned what it has ready.

        Once, where it has not yet returned the same: a client that reads nothing must not make
        them pile up.
        """
        if any(notice.kind is kind for notice in self._notices):
            return
        self._notices.append(Update(kind, str(self._cursor)))
        self._rouse()
        if self._hurry is not None and not self._hurry.done():
            self._hurry.set_result(None)

    async def next(self, timeout_s: float) -> Update:
        """The next update; a heartbeat where nothing comes within `timeout_s`.

        Waits with backoff while the log cannot be read. Events come as many as there are, a page
        or a queue at most.
        """
        end_at = self._loop.time() + timeout_s
        while True:
            update = self._at_hand()
            if update is not None:
                return update
            left_s = end_at - self._loop.time()
            if left_s <= 0:
                return Update(Kind.HEARTBEAT, self.cursor)
            if self._gap or self._reading is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._read()
            else:
                await self._roused(left_s)

    def close(self) -> None:
        """Leaves the feed."""
        self._forget_read()
        if self._place is not None:
            self._place.leave(self)
            self._place = None

    @property
    def _head(self) -> Cursor | None:
        """Where its topic has come to."""
        return self._place.head if self._place is not None else None

    def _at_hand(self) -> Update | None:
        """What can be said without waiting."""
        if self._notices:
            return self._notices.pop(0)
        if self._gap or self._reading is not None:
            return None
        stretch = self._take()
        return Update(Kind.EVENTS, stretch.cursor, stretch) if stretch is not None else None

    async def _roused(self, timeout_s: float) -> None:
        """Waits for the feed's next word, or so long."""
        # For each window and subscriber: a future and a timer cost half of an asyncio.timeout.
        self._wake = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._rouse)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def _take(self) -> Stretch | None:
        """What waits in the queue, by the one rule."""
        parts: list[Stretch] = []
        for slice_ in self._queue:
            position, start = self._cursor.position, slice_.start
            verdict = judge(position, start.position.batch, slice_.end.position.last_batch)
            strange = start.position == position and start != self._cursor
            if verdict is Verdict.READ or strange:  # strange: of another log, or its copy
                self._gap = True
                break
            if verdict is Verdict.DELIVER:
                stretch = slice_.stretch
                if stretch is not None and start.position.batch < position.batch:
                    stretch = stretch.since(position.batch)
                if stretch is not None:
                    parts.append(stretch)
                self._cursor = slice_.end
        self._forget_queue()
        return Stretch.join(parts) if parts else None

    async def _read(self) -> None:
        """Reads one page of the log into `_notices`."""
        reading = self._reading
        if reading is None:
            # Before the read: a gap that is noticed meanwhile must not be forgotten.
            self._gap = False
            self._floor = self._head
            reading = self._reading = asyncio.create_task(
                self._retrying(lambda: self._reader.page(self.tenants, self._cursor, self.filter))
            )
        # A wait, which neither a heartbeat nor another filter passes on to the read: thrown away at
        # each heartbeat, a read that takes longer would never end.
        hurry = self._hurry = self._loop.create_future()
        both: set[asyncio.Future[Any]] = {reading, hurry}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hurry = None
        if reading is not self._reading or not reading.done():
            return  # of another filter, and the gap is noted; or there is something to tell
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
            if page.stretch is None:
                self._gap = True  # a heartbeat may end the wait
                await asyncio.sleep(DAMAGED_S)
        if not page.at_head:
            self._gap = True
        live = page.at_head and not self._reader.interrupted
        if not live:
            # With the cursor before the page: a client may be cut off before its events come.
            self._once(Kind.CATCHING_UP)
        self._cursor = page.cursor
        if page.stretch is not None:
            self._notices.append(Update(Kind.EVENTS, page.stretch.cursor, page.stretch))
        if live:
            self._once(Kind.LIVE)

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

    def _once(self, kind: Kind) -> None:
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
