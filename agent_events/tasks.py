"""Asyncio tasks: ending them so that they end, and one for all who ask the same."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

AGAIN_S = 0.5


class OfLoop(Generic[T]):
    """One of a kind for each event loop, for as long as that is there."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self, make: Callable[[], T]) -> T:
        """That of the running event loop; made where there is none yet."""
        loop = asyncio.get_running_loop()
        if loop not in self._found:
            self._found[loop] = make()
        return self._found[loop]

    def forget(self, one: T, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` has none any more, if this is the one that it had."""
        if self._found.get(loop) is one:
            del self._found[loop]


class SharedLook(Generic[T]):
    """One look at a time in each event loop, shared by all who ask while it lasts or is fresh."""

    def __init__(
        self,
        name: str,
        look: Callable[[], Coroutine[Any, Any, T]],
        *,
        fresh_s: float,
        limit_s: float,
    ) -> None:
        """`look` raises nothing; it serves for `fresh_s` seconds, and is waited for `limit_s`."""
        self._name = name
        self._look = look
        self.fresh_s = fresh_s
        self.limit_s = limit_s
        self._last: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[tuple[T, float]]]
        self._last = WeakKeyDictionary()

    async def answer(self) -> T | None:
        """The last look while it is fresh, or a new one; None where that takes too long."""
        loop = asyncio.get_running_loop()
        task = self._last.get(loop)
        if task is None or (task.done() and time.monotonic() - task.result()[1] >= self.fresh_s):
            task = self._last[loop] = asyncio.create_task(self._timed(), name=self._name)
        # Not cancelled at the limit: whoever asks next finds the look where this one left it.
        done, _ = await asyncio.wait({task}, timeout=self.limit_s)
        return task.result()[0] if done else None

    async def _timed(self) -> tuple[T, float]:
        return await self._look(), time.monotonic()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks until each of them has ended, however.

    Until, for one cancellation may be lost: before Python 3.12 `asyncio.wait_for`, with which
    psycopg waits, swallows one that comes just as the wait is over. What they raise is nobody's.
    """
    tasks = list(tasks)
    running = {task for task in tasks if not task.done()}
    for task in running:
        if not task.cancelling():  # else it is closing its connection: leave it the time
            task.cancel()
    while running:
        _, running = await asyncio.wait(running, timeout=AGAIN_S)
        for task in running:
            task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asked for, or asyncio would say that nobody did
