"""Asking the database on Django's connections, from doors that are asynchronous: who is there?

A few threads of their own, and not the one in which Channels runs all that is synchronous: behind a
question that is never answered (a lock, a connection that is half open) everybody would wait there
for as long as TCP does. Here nobody waits longer than a limit, and what is not answered by then is
cut off. A thread and its connection last while somebody waits for a turn: when nobody does, this
holds neither.

Deliberately no ThreadPoolExecutor: Python waits for its threads when it ends, and one that hangs
would keep a process from ending.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from threading import Event, Lock, Thread
from typing import Any, TypeVar

import psycopg
from django.db import OperationalError, connections, reset_queries

from agent_events.database import sever

T = TypeVar("T")

CANCEL_S = 2.0
"""How long the server may take to end a statement that it does not answer."""
CANCELS = 2
"""The first may come just before the statement that it is to end."""
GRACE_S = 0.2
"""A statement that was ended is done within this time; or its connection is cut."""


class Lookups:
    """Up to `most` threads, each with the database connections that its questions open."""

    def __init__(self, most: int, name: str) -> None:
        """`name`: what the threads are called."""
        self._most = most
        self._name = name
        self._lock = Lock()  # of the two below
        self._waiting: deque[_Question] = deque()
        self._threads = 0

    async def run(self, ask: Callable[[], T], limit_s: float) -> T:
        """What `ask` returns, called in one of the threads.

        Raises django.db.OperationalError where that takes longer, its turn included, and whatever
        `ask` raises. What nobody waits for any more is not asked, or runs to its end or the limit.
        """
        question = _Question(ask, limit_s)
        with self._lock:
            if self._threads < self._most:
                Thread(target=self._work, name=self._name, daemon=True).start()
                self._threads += 1
            self._waiting.append(question)
        try:
            done, _ = await asyncio.wait({question.answer}, timeout=limit_s)
        finally:
            if not question.answer.done():
                self._leave(question)
        if not done:
            raise OperationalError(f"the database did not answer within {limit_s:g} s")
        found, error = question.answer.result()
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]  # of `ask`

    def _leave(self, question: "_Question") -> None:
        """Nobody waits for its answer: it gives its turn away."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(question)  # among the first: it is those that leave
            question.drop()

    def _work(self) -> None:
        """A thread: answers until nobody waits."""
        while True:
            with self._lock:
                question = self._waiting.popleft() if self._waiting else None
            if question is None:
                connections.close_all()
                with self._lock:
                    if not self._waiting:
                        self._threads -= 1
                        return
            else:
                question.put()


class _Question:
    """One of them, and its answer: what was found, or what was raised."""

    def __init__(self, ask: Callable[[], Any], limit_s: float) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()
        self._connections: Sequence[Any] = ()  # of the thread, while it asks
        self._asked_all = Event()
        self._timer = self._loop.call_later(limit_s, self._cut)

    def put(self) -> None:
        """Asks, in the thread."""
        answer = self._asked()
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._settle, answer)

    def drop(self) -> None:
        """It will not be put."""
        self._timer.cancel()

    def _asked(self) -> tuple[Any, BaseException | None]:
        self._connections = connections.all()
        found, error = None, None
        try:
            found = self._context.run(self._ask)
        except BaseException as raised:  # it is whoever waits who decides about it
            error = raised
        self._connections = ()
        self._asked_all.set()
        reset_queries()
        for one in connections.all(initialized_only=True):
            if one.errors_occurred:
                one.close()
        return found, error

    def _settle(self, answer: tuple[Any, BaseException | None]) -> None:
        self._timer.cancel()
        if not self.answer.cancelled():
            self.answer.set_result(answer)

    def _cut(self) -> None:
        """A connection that is half open would hold the thread for hours."""
        # Until it is settled: it may just be about to begin, or to connect.
        self._timer = self._loop.call_later(self._limit_s, self._cut)
        if open_ones := [one.connection for one in self._connections]:
            # In another thread, for it asks the server, over a connection of its own.
            self._loop.run_in_executor(None, self._cut_off, open_ones)

    def _cut_off(self, connections: Sequence[Any]) -> None:
        # Psycopg's; other databases have limits of their own.
        ours = [one for one in connections if hasattr(one, "pgconn")]
        for _ in range(CANCELS):
            for one in ours:
                with suppress(psycopg.Error, OSError):
                    one.cancel_safe(timeout=CANCEL_S)
            if self._asked_all.wait(GRACE_S):
                return
        for one in ours:
            sever(one)
