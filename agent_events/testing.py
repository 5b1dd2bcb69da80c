"""For the tests of projects that publish: what was published, and batches on demand.

`capture_events` works within Django's `TestCase`, which never commits: it reads the rows that the
test's own transaction has written. Streams and history need commits: `TransactionTestCase`, and
`sequence()`. PostgreSQL only, like the log itself.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.transaction import TransactionManagementError

from agent_events.conf import get_settings

# What is there to be seen, whatever is committed: finished transactions, and one's own.
_MARK = """
    SELECT pg_current_snapshot()::text, pg_current_xact_id_if_assigned()::text,
           ARRAY(SELECT id FROM agent_events WHERE tx = pg_current_xact_id_if_assigned())
"""
# A snapshot says nothing of the transaction that took it: its rows are told by their ids.
_SINCE = """
    SELECT id, tenant_id, agent_id, event_type, payload::text, created_at
      FROM agent_events
     WHERE tx >= pg_snapshot_xmin(%(seen)s::pg_snapshot)
       AND CASE WHEN tx = %(own)s::xid8 THEN id <> ALL (%(ids)s::bigint[])
                ELSE NOT pg_visible_in_snapshot(tx, %(seen)s::pg_snapshot) END
     ORDER BY id
"""
_APPEND = "SELECT n, rows FROM agent_events_append(%s)"
_HEAD = "SELECT batch FROM agent_events_head()"


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event as it stands in the table; it has no place in the log yet."""

    id: int
    tenant_id: UUID
    agent_id: UUID
    type: str
    payload: Any
    created_at: datetime


class PublishedEvents(Sequence[PublishedEvent]):
    """The events written since the block began: read at each look within it, kept after it."""

    def __init__(self) -> None:
        self._alias = get_settings().database
        ((self._seen, self._own, self._ids),) = self._rows(_MARK)
        self._kept: list[PublishedEvent] | None = None

    @overload
    def __getitem__(self, place: int) -> PublishedEvent: ...
    @overload
    def __getitem__(self, place: slice) -> list[PublishedEvent]: ...
    def __getitem__(self, place: int | slice) -> PublishedEvent | list[PublishedEvent]:
        return self._events()[place]

    def __len__(self) -> int:
        return len(self._events())

    def __iter__(self) -> Iterator[PublishedEvent]:
        return iter(self._events())

    def __repr__(self) -> str:
        return repr(self._events())

    def _keep(self) -> None:
        self._kept = self._events()

    def _events(self) -> list[PublishedEvent]:
        if self._kept is not None:
            return self._kept
        rows = self._rows(_SINCE, {"seen": self._seen, "own": self._own, "ids": self._ids})
        return [
            PublishedEvent(id, tenant, agent, kind, json.loads(payload), created_at)
            for id, tenant, agent, kind, payload, created_at in rows
        ]

    def _rows(self, query: str, params: Any = None) -> list[Any]:
        with connections[self._alias].cursor() as cursor:
            cursor.execute(query, params)
            rows: list[Any] = cursor.fetchall()
            return rows


class capture_events:  # it reads as a verb, like Django's and pytest's own
    """`with capture_events() as events:` the events written in the block, in the order of ids.

    By `publish` and its kin, by attached tables, by plain SQL: whatever Django's connection to the
    log sees now and did not see when the block began. What was rolled back, to a savepoint or as a
    whole, is not there. Within the block each look reads anew; after it the list stays as it is.
    Where the block raises, it is not read again.

    In async code `async with`, and look after the block.
    """

    def __enter__(self) -> PublishedEvents:
        self._events = PublishedEvents()
        return self._events

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._events._keep()

    async def __aenter__(self) -> PublishedEvents:
        return await sync_to_async(self.__enter__)()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await sync_to_async(self.__exit__)(kind)


def sequence() -> int:
    """Gives every committed event its place in the log; returns how many got theirs.

    Until no more is new, as a running bus would do within moments: history, `subscribe` and the
    streams have them from here on. Raises TransactionManagementError within a transaction, hence
    in every `TestCase`: what is not committed has no place.
    """
    settings = get_settings()
    connection = connections[settings.database]
    if connection.in_atomic_block:
        raise TransactionManagementError(
            "sequence() gives committed events their place, and this transaction is open. Use "
            "TransactionTestCase (pytest: django_db(transaction=True)), outside of atomic(); or "
            "capture_events(), which needs no commit."
        )
    total = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_HEAD)
            before = cursor.fetchone()
            cursor.execute(_APPEND, [settings.batch_limit])
            appended = cursor.fetchone()
            if appended is not None:
                total += appended[1]
                continue
            # Nothing is new, or somebody else closed that batch first: then look again.
            cursor.execute(_HEAD)
            if cursor.fetchone() == before:
                return total
