"""The process's feed: takes windows, hands each subscriber its slice.

Owns the topics (one for each set of tenants that someone here watches) and shares identical reads
of the log. Never waits: `take` only fills bounded queues. Whatever the way from the source lost,
repeated or reordered is noticed here from the batch numbers (the one rule), and mended by each
subscriber from the log.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from agent_events import metrics
from agent_events.conf import Settings
from agent_events.filters import Filter
from agent_events.log import Log, Page, Resolved, pool_size
from agent_events.position import Cursor, Position, Verdict, judge
from agent_events.stretch import Stretch
from agent_events.subscriber import Slice, Subscriber
from agent_events.tasks import end
from agent_events.window import Tenants, Window
from agent_events.wire import Event

T = TypeVar("T")


class Topic:
    """The subscribers of one set of tenants, and how far the windows for it have come."""

    def __init__(self, tenants: Tenants, end: Callable[[], None]) -> None:
        self.tenants = tenants
        self.subscribers: dict[Subscriber, None] = {}  # a set, in the order in which they came
        self.head: Cursor | None = None  # None: no unbroken chain of windows
        self._since = Cursor(Position(1), 0)  # the end of the last slice handed out
        self._end = end

    def leave(self, subscriber: Subscriber) -> None:
        """One subscriber less; without any it ends."""
        self.subscribers.pop(subscriber, None)
        if not self.subscribers:
            self._end()

    def take(self, window: Window) -> None:
        """Hands the window's slice on, or has the subscribers read the log."""
        if self.head is None or window.restarted:
            self._begin(window)
            return
        verdict = judge(self.head.position, window.first, window.last)
        same_history = (
            self.head.position.batch != window.first or self.head.closed_at_ms == window.before_ms
        )
        # (An older one of a later time is of another history: the time rises with the number.)
        if (
            verdict is Verdict.DROP
            and same_history
            and window.closed_at_ms <= self.head.closed_at_ms
        ):
            return
        if (
            verdict is not Verdict.DELIVER
            or not same_history
            or not window.has_all_of(self.tenants)
        ):
            self._begin(window)
            return
        fresh_from = self.head.position.batch
        self.head = window.end
        events = window.events_of(self.tenants)
        if fresh_from > window.first:
            events = [event for event in events if event.batch >= fresh_from]
        if events:
            self._hand_on(events, window.end)
            self._since = window.end

    def _hand_on(self, events: Sequence[Event], end: Cursor) -> None:
        """Once for each filter: thousands of subscribers share a few."""
        slices: dict[Filter, Slice] = {}
        names: list[tuple[str, str]] = []
        for subscriber in self.subscribers:
            filter = subscriber.filter
            if filter not in slices:
                wanted = events
                if filter:
                    names = names or [(event.agent_id, event.type) for event in events]
                    named = zip(events, names, strict=True)
                    wanted = [
                        event
                        for event, name in named
                        if filter.names(*name) and filter.content(event)
                    ]
                stretch = Stretch(wanted, str(end)) if wanted else None
                slices[filter] = Slice(self._since, end, stretch)
            subscriber.offer(slices[filter])

    def _begin(self, window: Window) -> None:
        """A chain begins behind this window; everything up to its end is read from the log."""
        self.head = window.end
        self._since = self.head
        self.interrupt()

    def interrupt(self) -> None:
        """Something may be missing: everybody reads the log."""
        for subscriber in self.subscribers:
            subscriber.fall_behind()


class Feed:
    """All subscribers of this process."""

    def __init__(self, log: Log, settings: Settings) -> None:
        self._log = log
        self._settings = settings
        self._topics: dict[Tenants, Topic] = {}
        self._reads: dict[object, asyncio.Task[Any]] = {}
        self.interrupted = False  # nothing came for long: who reads the log is not live
        # One connection of the log's pool stays free for the source: everybody waits for that.
        self._turns = asyncio.Semaphore(pool_size(settings) - 1)

    def watched(self) -> frozenset[str] | None:
        """The tenants that someone here watches; None where someone watches all."""
        if None in self._topics:
            return None
        return frozenset(tenant for topic in self._topics if topic for tenant in topic)

    def take(self, window: Window) -> None:
        """A window from the source, by whatever way. Never raises, never waits."""
        metrics.handed_over(window)
        self.interrupted = False
        self._reads.clear()
        for topic in self._topics.values():
            topic.take(window)

    def interrupt(self) -> None:
        """No word from the source for long: everybody looks into the log."""
        self.interrupted = True
        self._reads.clear()
        for topic in self._topics.values():
            topic.head = None
            topic.interrupt()

    async def subscribe(
        self, tenants: Tenants, filter: Filter, cursor: str, settings: Settings | None = None
    ) -> Subscriber:
        """A new subscriber from `cursor` on (as a client sent it, or `earliest` or `latest`).

        `settings`: for a queue of its own size. Raises InvalidCursor, psycopg.Error. Whoever calls
        closes it.
        """
        async with self._turns:
            resolved = await self._log.resolve(cursor)
        subscriber = Subscriber(
            tenants, filter, resolved.cursor, self, settings or self._settings, resolved.notice
        )
        topic = self._topics.get(tenants)
        if topic is None:
            topic = self._topics[tenants] = Topic(tenants, lambda: self._end(tenants))
        topic.subscribers[subscriber] = None
        subscriber.attach(topic)
        return subscriber

    def _end(self, tenants: Tenants) -> None:
        del self._topics[tenants]

    async def close(self) -> None:
        """Ends the reads in progress: nobody waits for them any more."""
        await end(self._reads.values())

    # Reading, shared: a restart brings everybody back with the same cursor. Who asks after a window
    # came is never given a read that began before it: it would say "the head" and stop short.

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        """`Log.page`, one query for all who ask the same at the same time."""
        return await self._share(
            ("page", tenants, cursor, filter),
            lambda: self._log.page(tenants, cursor, filter),
        )

    async def resolve(self, text: str) -> Resolved:
        """`Log.resolve`, likewise."""
        return await self._share(("resolve", text), lambda: self._log.resolve(text))

    async def _share(self, key: object, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(self._in_turn(read))
            task.add_done_callback(lambda done: self._forget(key, done))
        # Shielded: a subscriber that leaves must not take the read away from the others.
        return await asyncio.shield(task)

    async def _in_turn(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns:
            return await read()

    def _forget(self, key: object, done: asyncio.Task[Any]) -> None:
        if self._reads.get(key) is done:
            del self._reads[key]
        if not done.cancelled():
            done.exception()  # whoever asked may have left: its failure is nobody's then
