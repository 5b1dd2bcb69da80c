"""Writing events from Python. Any other language writes the same plain INSERT."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, transaction

from agent_events.conf import get_settings
from agent_events.errors import InvalidEvent, TryAgain
from agent_events.json_text import ESCAPED_NUL
from agent_events.writing import (
    MOST_TRIES,
    EventRow,
    Raced,
    Written,
    checked_key,
    settled,
    statement,
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written; `payload` is anything that JSON can say.

    `key`: whatever comes with a key that the tenant has used before is not written again.
    """

    tenant_id: UUID | str
    agent_id: UUID | str
    event_type: str
    payload: Any
    key: str | None = None


def publish(
    tenant_id: UUID | str,
    agent_id: UUID | str,
    event_type: str,
    payload: Any,
    *,
    key: str | None = None,
) -> int:
    """Writes one event as part of the caller's transaction; returns its id.

    Nobody sees it before that transaction commits, and nobody ever does if it rolls back.
    `event_type`: 1 to 200 characters. `key`, of 1 to 255 characters: where the tenant has an event
    with this key, nothing is written, and that one's id returned. Raises InvalidEvent before
    anything is written, and KeyReused for a key that came with another event.
    """
    return publish_many([NewEvent(tenant_id, agent_id, event_type, payload, key)])[0]


async def apublish(
    tenant_id: UUID | str,
    agent_id: UUID | str,
    event_type: str,
    payload: Any,
    *,
    key: str | None = None,
) -> int:
    """`publish` for async code."""
    return await sync_to_async(publish)(tenant_id, agent_id, event_type, payload, key=key)


def publish_many(events: Iterable[NewEvent]) -> list[int]:
    """Writes all events in one statement, or none; returns their ids in the order given.

    Joins the caller's transaction. Raises InvalidEvent and KeyReused, which name the place in the
    list.
    """
    rows = [_checked(place, event) for place, event in enumerate(events)]
    if not rows:
        return []
    sql, columns, keyed = statement(rows)
    if not keyed:
        return [one.id for one in settled(rows, _execute(sql, columns))]
    for _ in range(MOST_TRIES):
        try:
            return [one.id for one in _write_keyed(rows, sql, columns)]
        except Raced:
            continue  # whoever had the key has finished: a new statement sees it
    raise TryAgain(f"Others took one of these keys {MOST_TRIES} times in a row. Publish again.")


def _write_keyed(rows: list[EventRow], sql: str, columns: list[list[Any]]) -> list[Written]:
    # (A savepoint within the caller's transaction: what is not settled leaves nothing behind.)
    with transaction.atomic(using=get_settings().database):
        return settled(rows, _execute(sql, columns))


def _execute(sql: str, columns: list[list[Any]]) -> list[Any]:
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(sql, columns)
        found: list[Any] = cursor.fetchall()
        return found


def _checked(place: int, event: NewEvent) -> EventRow:
    def refuse(what: str, field: str) -> InvalidEvent:
        return InvalidEvent(f"Event {place}: {what}", place=place, field=field)

    ids = []
    for name in ("tenant_id", "agent_id"):
        value = getattr(event, name)
        try:
            ids.append(str(value if isinstance(value, UUID) else UUID(value)))
        except (ValueError, AttributeError, TypeError) as error:
            raise refuse(f"{name} is {value!r}, expected a UUID.", name) from error
    kind: Any = event.event_type  # a caller without a type checker may send anything
    if not isinstance(kind, str) or not 1 <= len(kind) <= 200 or "\x00" in kind:
        raise refuse(
            "event_type must be text of 1 to 200 characters, without U+0000.", "event_type"
        )
    try:
        kind.encode()
    except UnicodeEncodeError as error:
        raise refuse("event_type contains half of a surrogate pair.", "event_type") from error
    try:
        payload = json.dumps(
            event.payload, cls=DjangoJSONEncoder, allow_nan=False, ensure_ascii=False
        )
        payload.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refuse(f"the payload is not JSON ({error}).", "payload") from error
    if ESCAPED_NUL.search(payload):
        raise refuse(
            "the payload contains U+0000, which PostgreSQL cannot store in text.", "payload"
        )
    if event.key is not None:
        try:
            checked_key(event.key)
        except InvalidEvent as error:
            raise refuse(str(error), "key") from error
    return EventRow(ids[0], ids[1], kind, payload, event.key)
