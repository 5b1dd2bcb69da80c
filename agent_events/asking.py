"""Asking all processes where they are, and hearing their answers and what else is notified.

Each process that listens answers by itself (`deliveries`), so one that does not is frozen, cut off,
or behind a pooler in transaction mode. Whoever asks must listen too: not through such a pooler.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.database import CONNECT, abandon, severed_after
from agent_events.deliveries import ANSWER_CHANNEL, ASK_CHANNEL, Answer
from agent_events.errors import AgentEventsError

ANSWER_S = 1.0
"""A process that has not answered after so long does not answer."""
TIMEOUT_S = 5.0
"""How long the server may take for a statement here."""


LOCK_MS = 500
"""How long a question waits for the commit lock: it is a notification like any other."""
STANDING = "commits that notify wait for one that does not end, and a question would wait too"
POOLED = 'a pooler is in between: AGENT_EVENTS["LISTENER_DSN"] can name a way past it'
"""Why nothing can be heard: a LISTEN would be in a session that is somebody else's in a moment."""


class CannotAsk(AgentEventsError):
    """The processes cannot be asked; the message says why."""


class Hearing:
    """A connection that listens. Made by `hearing`.

    `heard` counts the notifications of each channel; `answers` has the processes' answers, by
    the server's process of their listening connection. `deaf`: nothing can be heard. `trouble`: why
    nobody was asked, in words.
    """

    def __init__(self, connection: AsyncConnection[TupleRow], deaf: bool) -> None:
        self.deaf = deaf
        self.trouble = POOLED if deaf else ""
        self.heard: Counter[str] = Counter()
        self.answers: dict[int, Answer] = {}
        self.statements = 0  # that were run here, each a transaction
        self._connection = connection
        self._nonce = ""

    async def ask(self, batch: int | None = None, tenant: str | None = None) -> None:
        """Asks everybody: where are you, and did you hand over `batch`, with `tenant`'s events?

        Earlier answers are forgotten. `trouble` says where nobody could be asked. Raises
        psycopg.Error.
        """
        if self.deaf:
            return
        self._nonce = secrets.token_hex(8)
        self.answers.clear()
        question = json.dumps({"nonce": self._nonce, "batch": batch, "tenant": tenant})
        try:
            await self.rows("SELECT pg_notify(%s, %s)", (ASK_CHANNEL, question))
        except psycopg.errors.LockNotAvailable:
            self.trouble = STANDING
        else:
            self.trouble = ""

    async def hear(self, for_s: float, until: Collection[int] | None = None) -> None:
        """Hears what comes for `for_s` seconds, or until each backend of `until` has answered."""
        if self.trouble and until is not None:
            return
        end = time.monotonic() + for_s
        while until is None or not self.answers.keys() >= set(until):
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            # (No break: the generator holds the connection until it has ended.)
            async for note in self._connection.notifies(
                timeout=left_s, stop_after=None if until is None else 1
            ):
                self._take(note)

    async def rows(self, query: str, params: Any = ()) -> list[TupleRow]:
        """Runs a statement. Raises psycopg.Error, also where it takes too long."""
        self.statements += 1
        with severed_after(self._connection, TIMEOUT_S, cut=abandon):
            return await (await self._connection.execute(query, params)).fetchall()

    def _take(self, note: psycopg.Notify) -> None:
        self.heard[note.channel] += 1
        if note.channel == ANSWER_CHANNEL:
            answer = Answer.parse(note.payload, self._nonce)
            if answer is not None:
                # Who notified is known; what anybody says of himself is not.
                self.answers.setdefault(note.pid, replace(answer, backend=note.pid))


@asynccontextmanager
async def hearing(dsn: str, channels: Collection[str] = ()) -> AsyncIterator[Hearing]:
    """A connection to `dsn` that listens to the processes' answers, and to `channels`.

    Raises psycopg.Error.
    """
    connection = await AsyncConnection.connect(
        dsn, **CONNECT, application_name="agent_events status"
    )
    async with connection:
        with severed_after(connection, TIMEOUT_S):
            row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
            made = Hearing(connection, deaf=row != (connection.info.backend_pid,))
            if not made.deaf:
                await connection.execute(f"SET lock_timeout = {LOCK_MS}".encode())
                for channel in (ANSWER_CHANNEL, *channels):
                    await connection.execute(f'LISTEN "{channel}"'.encode())
        yield made


async def ask(
    dsn: str,
    expected: Collection[int],
    *,
    batch: int | None = None,
    tenant: str | None = None,
    within_s: float = ANSWER_S,
) -> tuple[Answer, ...]:
    """The answers of all processes that listen, within `within_s` seconds at most.

    `expected`: the backends of their listening connections, so that it need not wait for more.
    Raises psycopg.Error, and CannotAsk.
    """
    async with hearing(dsn) as ear:
        await ear.ask(batch, tenant)
        await ear.hear(within_s, until=expected)
        if ear.trouble:
            raise CannotAsk(ear.trouble)
        return tuple(ear.answers[pid] for pid in sorted(ear.answers))
