"""`subscribe_sync`: the same for code that does not `await`: scripts, workers, notebooks.

The event loop runs in a thread of its own, from the first event asked for to the end. The thread
fetches when it is asked and not before: what waits is the subscriber's bounded queue.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

from django.utils.asyncio import async_unsafe

from agent_events.position import LATEST
from agent_events.subscription import Hand, Names, OnNotice, Updates, Wanted, filter_of
from agent_events.wire import Event

T = TypeVar("T")

_IN_ASYNC_CODE = "subscribe_sync would stop this event loop. Use subscribe and async for."
END_S = 10.0
"""How long the end of a loop waits for its thread to close its connections."""


def subscribe_sync(
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
) -> "SyncSubscription":
    """`subscribe` for `for`: the same arguments, events, order and errors.

    Waits for the next event for as long as it takes; Ctrl-C, `break` and an exception end it.
    Begin it after a fork, not before. Besides what `subscribe` raises: SynchronousOnlyOperation
    where an event loop runs in this thread.
    """
    filter = filter_of(agents, types, not_agents, not_types, texts, where)
    return SyncSubscription(Wanted(tenants, filter, cursor), on_notice)


class SyncSubscription(Hand):
    """What `subscribe_sync` returns: an iterator of events, and a context manager.

    `with` begins at its start and has closed everything at its end. For one thread at a time;
    `close` may come from another.
    """

    def __init__(self, wanted: Wanted, on_notice: OnNotice | None) -> None:
        super().__init__(wanted.cursor, on_notice)
        self._updates = Updates(wanted)
        self._thread: _LoopThread | None = None
        self._closed = False

    def __enter__(self) -> "SyncSubscription":
        self._run(self._updates.begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> "SyncSubscription":
        return self

    def __next__(self) -> Event:
        while not self._waiting:
            update = None if self._closed else self._run(self._updates.next)
            if update is None:
                raise StopIteration
            self._take(update)
        return self._give()

    def close(self) -> None:
        """Ends it, from any thread; nothing of it is left when this returns."""
        self._closed = True
        self._waiting.clear()
        if self._thread is not None:
            self._thread.end()

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        thread = self._loop_thread()
        try:
            return thread.run(work())
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    @async_unsafe(_IN_ASYNC_CODE)
    def _loop_thread(self) -> "_LoopThread":
        if self._thread is None:
            self._thread = _LoopThread(self._updates)
        return self._thread


class _LoopThread:
    """A thread with an event loop, which ends with this object, and before the program does."""

    def __init__(self, updates: Updates) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_work, args=(self._loop,), name="agent_events subscription", daemon=True
        )
        self._thread.start()
        self.end = weakref.finalize(self, _end, self._loop, self._thread, updates)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns or raises, run there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _work(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # at its end it cancels what is left
        runner.get_loop().run_forever()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, updates: Updates) -> None:
    if loop.is_closed():
        return

    async def close() -> None:
        await updates.close()
        loop.call_soon(loop.stop)

    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:  # the garbage collector runs in any
        thread.join(END_S)
