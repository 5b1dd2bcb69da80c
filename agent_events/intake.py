"""What is posted, on its way into the log: requests that come together share a commit.

No timer makes anybody wait: a connection that is free takes whatever waits at that moment, in one
statement, and while it is busy the next ones gather. So a quiet server commits each request at
once, and a busy one as many together as come in the time of a commit.

One for each event loop, with a few connections of its own, opened when needed and closed after a
while without work. Nothing is answered before its commit. Whoever leaves undoes nothing: what
waits here is written, or the process ends before. Requests are independent: one that cannot be
written fails alone, for then each of those that shared its statement gets one of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.conf import Settings, get_settings
from agent_events.database import CONNECT, abandon, log_dsn, severed_after
from agent_events.errors import AgentEventsError, InvalidEvent, TryAgain
from agent_events.seldom import Seldom
from agent_events.tasks import OfLoop
from agent_events.writing import (
    FIRST_REFUSED_SQL,
    MOST_TRIES,
    EventRow,
    Raced,
    Written,
    settled,
    statement,
)

APPLICATION = "agent_events posts"
"""The name of these connections in pg_stat_activity."""
MOST_WAITING = 4_096
"""Requests that wait at most; whoever comes then is told to come back."""
MOST_WAITING_BYTES = 67_108_864
"""Characters of payloads among them."""
MOST_TOGETHER = 1_000
"""Events in a statement that requests share; one request alone may bring more."""
MOST_TOGETHER_BYTES = 4_194_304
"""Characters of payloads in it, likewise."""
LOCK_TIMEOUT_S = 1.0
"""So long a statement waits for a transaction that has the same key and is not finished; and so
long all of those together that are then written one by one."""
LEAST_LOCK_TIMEOUT_S = 0.02
IDLE_S = 30.0
"""A connection without work is closed after this time."""
# Classes of SQLSTATE. What the payload is to blame for: data exception, program limit exceeded.
_NO_JSON = ("22", "54")
# What the event is to blame for: a constraint, or a trigger of the database's own, refuses it.
_REFUSED = (*_NO_JSON, "23", "P0")
# After these it is not known what the server did last: connection exception, operator intervention.
_CUT = ("", "08", "57")

_not_stored = Seldom("What was posted could not be stored: %s").warn
_intakes: OfLoop["Intake"] = OfLoop()


def current_intake() -> "Intake":
    """The intake of the running event loop."""
    return _intakes.get(lambda: Intake(log_dsn(), get_settings()))


@dataclass(eq=False, slots=True)
class _Post:
    rows: Sequence[EventRow]
    size: int
    answer: asyncio.Future[list[Written]]

    def give(self, result: list[Written]) -> None:
        if not self.answer.done():  # whoever asked may have gone
            self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Intake:
    """The requests that wait, and the connections that take them."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._dsn = dsn
        self._settings = settings
        self._waiting: deque[_Post] = deque()
        self._waiting_bytes = 0
        self._came = asyncio.Event()
        self._idle = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def write(self, rows: Sequence[EventRow]) -> list[Written]:
        """Writes the events of one request, all or none; returns once they are committed.

        Raises InvalidEvent and KeyReused for this request, TryAgain where too many wait or the
        database is away.
        """
        size = sum(len(row.payload) for row in rows)
        full = len(self._waiting) >= MOST_WAITING
        if full or (self._waiting and self._waiting_bytes + size > MOST_WAITING_BYTES):
            raise TryAgain(
                f"{len(self._waiting):,} requests wait for the database already, which is as many "
                "as may. Nothing was stored: send it again."
            )
        post = _Post(rows, size, asyncio.get_running_loop().create_future())
        self._waiting.append(post)
        self._waiting_bytes += size
        self._came.set()
        self._call_a_worker()
        return await post.answer

    def _call_a_worker(self) -> None:
        if not self._idle and len(self._workers) < self._settings.post_connections:
            worker = asyncio.create_task(self._work(), name="agent_events posts")
            self._workers.add(worker)
            worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if self._waiting and not worker.cancelled():  # it came while the last one was leaving
            self._call_a_worker()

    async def _work(self) -> None:
        """Takes what waits, over one connection, until nothing comes for a while."""
        connection: AsyncConnection[TupleRow] | None = None
        try:
            while await self._has_work():
                posts = self._take()
                if self._waiting:  # more than one statement takes
                    self._call_a_worker()
                try:
                    if connection is None or connection.closed:
                        connection = await self._connect()
                    await self._write(connection, posts)
                except Exception as error:
                    self._fail(posts, error)
                    if connection is not None and not isinstance(error, AgentEventsError):
                        await connection.close()
        finally:
            if connection is not None:
                await connection.close()

    async def _has_work(self) -> bool:
        """Waits for work; False where none comes for IDLE_S."""
        self._idle += 1
        try:
            async with asyncio.timeout(IDLE_S):
                while not self._waiting:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            return False
        finally:
            self._idle -= 1
        return True

    def _take(self) -> list[_Post]:
        posts: list[_Post] = []
        events = size = 0
        while self._waiting and len(posts) < self._settings.shared_posts:
            following = self._waiting[0]
            events += len(following.rows)
            size += following.size
            if posts and (events > MOST_TOGETHER or size > MOST_TOGETHER_BYTES):
                break
            posts.append(self._waiting.popleft())
            self._waiting_bytes -= following.size
        return posts

    async def _connect(self) -> AsyncConnection[TupleRow]:
        try:
            return await AsyncConnection.connect(
                self._dsn, **{**CONNECT, "application_name": APPLICATION}
            )
        except psycopg.Error as error:
            _not_stored(error)
            raise TryAgain(
                "The database is away. Nothing was stored: send it again in a moment."
            ) from error

    async def _write(self, connection: AsyncConnection[TupleRow], posts: list[_Post]) -> None:
        # Those without keys wait for nobody's keys.
        keyed = [post for post in posts if _has_keys(post)]
        for group in ([post for post in posts if not _has_keys(post)], keyed):
            if group:
                await self._write_group(connection, group)

    async def _write_group(self, connection: AsyncConnection[TupleRow], posts: list[_Post]) -> None:
        while len(posts) > 1:
            try:
                refused = await self._write_together(connection, posts, LOCK_TIMEOUT_S)
            except TryAgain:
                break
            except psycopg.Error as error:
                if not _is_refusal(error):
                    raise
                break
            if not refused:
                return
            posts = [post for post in posts if post not in refused]
        # One of them cannot be written, and it is not known which: the others must not suffer.
        give_up_at = time.monotonic() + LOCK_TIMEOUT_S
        for post in posts:
            left_s = give_up_at - time.monotonic()
            try:
                await self._write_together(connection, [post], max(left_s, LEAST_LOCK_TIMEOUT_S))
            except TryAgain as error:
                post.fail(error)
            except psycopg.Error as error:
                if not _is_refusal(error):
                    raise
                post.fail(await self._found_fault(connection, post.rows, error))

    async def _write_together(
        self, connection: AsyncConnection[TupleRow], posts: list[_Post], lock_timeout_s: float
    ) -> set[_Post]:
        """Writes and answers them all; or answers those that are refused, alone, and returns them.

        Raises TryAgain where a key is being written by a transaction that does not finish.
        """
        rows = [row for post in posts for row in post.rows]
        query, columns, keyed = statement(rows)
        if not keyed:
            found = await self._execute(connection, query, columns)
            _answer(posts, _split(posts, found))
            return set()
        lock_timeout = f"SET LOCAL lock_timeout = '{lock_timeout_s * 1_000:.0f}ms'"
        for _ in range(MOST_TRIES):
            try:
                with severed_after(connection, self._settings.query_timeout_s, abandon):
                    async with connection.transaction() as transaction:
                        await connection.execute(lock_timeout.encode())
                        found = await (await connection.execute(query, columns)).fetchall()
                        results = _split(posts, found)
                        if not all(isinstance(result, list) for result in results):
                            raise psycopg.Rollback(transaction)
            except Raced:
                continue  # whoever had the key has finished: a new statement sees it
            except psycopg.errors.LockNotAvailable:
                break
            return _answer(posts, results)
        raise TryAgain(
            "Another transaction is writing an event with the same key, and has not finished. "
            "Nothing was stored: send it again with the same key."
        )

    async def _execute(
        self, connection: AsyncConnection[TupleRow], query: str, params: Sequence[Any]
    ) -> list[TupleRow]:
        with severed_after(connection, self._settings.query_timeout_s, abandon):
            return await (await connection.execute(query, params)).fetchall()

    async def _found_fault(
        self, connection: AsyncConnection[TupleRow], rows: Sequence[EventRow], error: psycopg.Error
    ) -> InvalidEvent:
        """Which event PostgreSQL refuses: only it can tell, so it is asked, half by half."""
        why = f"PostgreSQL does not take it: {error.diag.message_primary}."
        if (error.sqlstate or "")[:2] not in _NO_JSON and len(rows) > 1:
            return InvalidEvent(f"One of the events: {why}")
        first, last = 0, len(rows)
        while last - first > 1:
            middle = (first + last) // 2
            payloads = [row.payload for row in rows[first:middle]]
            try:
                await self._execute(connection, FIRST_REFUSED_SQL, [payloads])
            except psycopg.Error as found:
                if not _is_refusal(found):
                    raise
                last = middle
            else:
                first = middle
        return InvalidEvent(f"Event {first}: {why}", place=first, field="payload")

    def _fail(self, posts: Sequence[_Post], error: Exception) -> None:
        if not isinstance(error, AgentEventsError):
            _not_stored(error)
            known = isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] not in _CUT
            told: Exception = TryAgain(_NOT_STORED if known else _UNKNOWN)
            told.__cause__ = error
            error = told
        for post in posts:
            post.fail(error)


_NOT_STORED = (
    "The database did not store it, for a reason of its own that the server's log has. Nothing "
    "was stored: send it again in a moment."
)
_UNKNOWN = (
    "The connection to the database was lost: the events may or may not be stored. Send them "
    "again; with the same Idempotency-Key or eventKey nothing is stored twice."
)


def _has_keys(post: _Post) -> bool:
    return any(row.key is not None for row in post.rows)


def _split(posts: Sequence[_Post], found: Sequence[TupleRow]) -> list[list[Written] | InvalidEvent]:
    """What became of each request, or why it cannot be. Raises Raced, TryAgain."""
    if len(found) != sum(len(post.rows) for post in posts):
        raise TryAgain(
            "The database did not store each of the events: one of its own triggers leaves some "
            "out. It is not known which."
        )
    results: list[list[Written] | InvalidEvent] = []
    at = 0
    for post in posts:
        end = at + len(post.rows)
        try:
            results.append(settled(post.rows, found[at:end]))
        except InvalidEvent as error:  # KeyReused
            results.append(error)
        at = end
    return results


def _answer(posts: Sequence[_Post], results: Sequence[list[Written] | InvalidEvent]) -> set[_Post]:
    """Answers those who are refused, and returns them; where nobody is, answers all."""
    refused = set()
    for post, result in zip(posts, results, strict=True):
        if isinstance(result, InvalidEvent):
            post.fail(result)
            refused.add(post)
    if not refused:
        for post, result in zip(posts, results, strict=True):
            assert isinstance(result, list)
            post.give(result)
    return refused


def _is_refusal(error: psycopg.Error) -> bool:
    return (error.sqlstate or "")[:2] in _REFUSED
