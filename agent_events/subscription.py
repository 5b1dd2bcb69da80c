"""`subscribe`: the log as an async iterator, for code of your own in any process.

Owns one bus for each event loop that subscribes, from its first subscription to the end of its
last: a log, a feed and a source, without a Channels layer. (Where the process serves streams from
the same loop, theirs is used.) Promises each event once and in order, whatever happens to the
database meanwhile; that nothing is left behind, however the iteration ends; and that a wait given
up (a timeout around `anext`) loses nothing. It trusts its caller: access is a matter of the doors.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from uuid import UUID

import psycopg

from agent_events import metrics
from agent_events.backoff import Backoff
from agent_events.bus import Bus, current_bus
from agent_events.conf import Settings, get_settings
from agent_events.errors import InvalidQuery
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST, Cursor
from agent_events.subscriber import Kind, Subscriber, Update
from agent_events.tasks import OfLoop
from agent_events.window import Tenants
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

ALL = "all"
Names = str | UUID | Iterable[str | UUID]
OnNotice = Callable[[str, str], None]


def subscribe(
    tenants: Names,
    *,
    agents: Names = (),
    types: str | Iterable[str] = (),
    not_agents: Names = (),
    not_types: str | Iterable[str] = (),
    texts: str | Iterable[str] = (),
    where: str | Iterable[str] = (),
    cursor: str = LATEST,
    on_notice: OnNotice | None = None,
) -> "Subscription":
    """The events of these tenants as they come, in the log's order, each once: `async for`.

    `tenants`: one id, several, or `"all"`. `agents`, `types`: only events of these; each entry
    exact or with a trailing `*`; left out: any. `not_agents`, `not_types`: none of these. `texts`,
    `where`: each has to occur, or to hold, in the payload (docs/filters.md). `cursor`: an event's
    `.cursor`, to go on right after it; `"earliest"`; `"latest"`, from when the subscription begins:
    at `async with`, or at the first event asked for. `on_notice(kind, cursor)`: called where
    events are missing, with
    `"truncated"` (those asked for were pruned) or `"reset"` (the cursor is of another history),
    and the cursor to go on from; what it raises ends the iteration. Left out: logged as a warning.

    It waits for a database that is away, and goes on by itself. Raises InvalidQuery, InvalidFilter
    and InvalidCursor at once; psycopg.Error or WrongDatabase, when it begins, for a database that
    is not the log's.
    """
    filter = filter_of(agents, types, not_agents, not_types, texts, where)
    return Subscription(Wanted(tenants, filter, cursor), on_notice)


def filter_of(*entries: Names) -> Filter:
    """The filter of these entries, in the order of `Filter.of`. Raises InvalidFilter."""
    return Filter.of(*map(_list, entries))


class Wanted:
    """What a subscription asks for, checked: `tenants`, `filter`, `cursor`."""

    def __init__(self, tenants: Names, filter: Filter, cursor: str) -> None:
        self.tenants = _tenants(tenants)
        self.filter = filter
        self.cursor = cursor
        if cursor not in (EARLIEST, LATEST):
            Cursor.parse(cursor)


class Hand:
    """Events that came and were not handed out yet, and the cursor behind what was."""

    def __init__(self, cursor: str, on_notice: OnNotice | None) -> None:
        self._waiting: deque[Event] = deque()
        self._behind = self._cursor = cursor
        self._on_notice = on_notice or _warn

    @property
    def cursor(self) -> str:
        """Where to go on later: nothing before it comes again, nothing behind it is missed."""
        return self._cursor

    def _take(self, update: Update) -> None:
        self._behind = update.cursor
        if update.kind is Kind.EVENTS:
            self._waiting.extend(update.events)
            metrics.PYTHON.delivered(len(update.events))
            return
        self._cursor = update.cursor
        if update.kind in (Kind.TRUNCATED, Kind.RESET):
            self._on_notice(update.kind.value, update.cursor)

    def _give(self) -> Event:
        event = self._waiting.popleft()
        self._cursor = event.cursor if self._waiting else self._behind
        return event


class Subscription(Hand):
    """What `subscribe` returns: an async iterator of events, and an async context manager.

    `async with` begins at its start and has closed everything at its end. Without it a loop that
    is left early closes a moment later. For one task at a time; `aclose` may come from another.
    """

    def __init__(self, wanted: Wanted, on_notice: OnNotice | None) -> None:
        super().__init__(wanted.cursor, on_notice)
        self._updates = Updates(wanted)

    async def __aenter__(self) -> "Subscription":
        await self._updates.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            update = await self._updates.next()
            if update is None:
                raise StopAsyncIteration
            self._take(update)
        return self._give()

    async def aclose(self) -> None:
        """Ends it, from any task of its event loop; nothing of it is left when this returns."""
        self._waiting.clear()
        await self._updates.close()

    def __del__(self) -> None:
        if updates := getattr(self, "_updates", None):
            updates.abandon()


class Updates:
    """A subscriber's updates, from a bus that it shares. Belongs to the loop that first asks."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bus: Bus | None = None
        self._subscriber: Subscriber | None = None
        self._asking: asyncio.Timeout | None = None
        self._closed = False

    async def begin(self) -> None:
        """Finds its place in the log. Waits while the database is away."""
        if self._subscriber is not None or self._closed:
            return
        if self._bus is None:
            self._loop, self._bus = asyncio.get_running_loop(), _bus_of_this_loop()
        backoff = Backoff()
        while not self._closed:
            try:
                subscriber = await self._bus.subscribe(
                    self._wanted.tenants, self._wanted.filter, self._wanted.cursor
                )
            except (psycopg.OperationalError, OSError) as error:
                wait_s = backoff.next_s()
                logger.warning("A subscription waits for the database: %s", error)
                await asyncio.sleep(wait_s)
            except Exception:
                self.leave()
                raise
            else:
                self._subscriber = subscriber
                metrics.PYTHON.opened()
                if self._closed:  # meanwhile, by another task
                    self._end(subscriber)
                return

    async def next(self) -> Update | None:
        """What happens next, a heartbeat at least; None once it is closed."""
        if self._closed:
            return None
        if self._asking is not None:
            raise RuntimeError("Another task waits for this subscription's next event already.")
        try:
            async with asyncio.timeout(None) as self._asking:
                await self.begin()
                if self._subscriber is None or self._closed:
                    return None
                return await self._subscriber.next(get_settings().heartbeat_s)
        except TimeoutError:
            if self._closed:
                return None
            raise
        finally:
            self._asking = None

    def leave(self) -> None:
        """Gives its subscriber and its share in the bus back."""
        if self._closed:
            return
        self._closed = True
        if self._asking is not None:
            self._asking.reschedule(asyncio.get_running_loop().time())
        if self._subscriber is not None:
            self._end(self._subscriber)
        if isinstance(self._bus, _OwnBus):
            self._bus.leave()

    def _end(self, subscriber: Subscriber) -> None:
        metrics.PYTHON.closed()
        subscriber.close()

    async def close(self) -> None:
        """Leaves, and waits until what it was the last to use has ended."""
        self.leave()
        if isinstance(self._bus, _OwnBus):
            await self._bus.ended()

    def abandon(self) -> None:
        """Leaves a moment later; from any thread, and too late too."""
        if self._loop is not None and not self._closed:
            with suppress(RuntimeError):  # that loop is closed, and all of it with it
                self._loop.call_soon_threadsafe(self.leave)


class _OwnBus(Bus):
    """The bus of a loop's subscriptions: its source hands windows straight to its feed.

    Deliberately no Channels layer: the in-memory one is of the process, and a process may have
    several event loops.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._users = 0
        self._unused = asyncio.Event()
        # A task, for whatever ends it (the end of its event loop, too) closes everything.
        self._keeper = asyncio.create_task(self._until_unused(), name="agent_events subscriptions")

    async def start(self) -> None:
        async with self._starting:
            if self._tasks:
                return
            source = self._source = self._made_source(self._settings)
            await self.log.open()
            self._feed_directly(source)

    def join(self) -> None:
        """One subscription more."""
        self._users += 1

    def leave(self) -> None:
        """One less; without any it ends, and the next one makes another."""
        self._users -= 1
        if not self._users:
            self._forget()
            self._unused.set()

    async def ended(self) -> None:
        """Returns at once while others use it, else when all is closed."""
        if self._unused.is_set():
            await asyncio.wait({self._keeper})

    async def _until_unused(self) -> None:
        try:
            await self._unused.wait()
        finally:
            self._forget()
            await self.stop()

    def _forget(self) -> None:
        _own.forget(self, self._keeper.get_loop())


_own: OfLoop[_OwnBus] = OfLoop()


def _bus_of_this_loop() -> Bus:
    bus = current_bus()
    if bus.source_state() is not None:
        return bus  # this process serves streams, and keeps it
    own = _own.get(lambda: _OwnBus(get_settings()))
    own.join()
    return own


def _warn(kind: str, cursor: str) -> None:
    why = "were pruned" if kind == Kind.TRUNCATED.value else "are of another history of the log"
    logger.warning(
        "A subscription missed events, which %s (%s); it goes on from %s.", why, kind, cursor
    )


def _list(given: Names) -> list[str]:
    return [str(one) for one in ([given] if isinstance(given, str | UUID) else given)]


def _tenants(given: Names | None) -> Tenants:
    if given == ALL:
        return None
    # None is a forgotten variable more often than a wish to see everybody's events.
    ids = [] if given is None else _list(given)
    try:
        found = tuple(sorted({str(UUID(one)) for one in ids}))
    except ValueError:
        found = ()
    if not found:
        raise InvalidQuery(
            f"tenants is {str(given)[:80]!r}, expected the id of a tenant (a UUID), several, or "
            f"{ALL!r}."
        )
    return found
