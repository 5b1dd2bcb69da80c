"""Writing events from Python. Any other language writes the same plain INSERT."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections

from agent_events.conf import get_settings
from agent_events.errors import InvalidEvent

# One statement for the lot; ids rise in the order given.
_INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT e.tenant_id, e.agent_id, e.event_type, e.payload::jsonb
      FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
           WITH ORDINALITY AS e(tenant_id, agent_id, event_type, payload, place)
     ORDER BY e.place
    RETURNING id
"""
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written; `payload` is anything that JSON can say."""

    tenant_id: UUID | str
    agent_id: UUID | str
    event_type: str
    payload: Any


def publish(tenant_id: UUID | str, agent_id: UUID | str, event_type: str, payload: Any) -> int:
    """Writes one event as part of the caller's transaction; returns its id.

    Nobody sees it before that transaction commits, and nobody ever does if it rolls back.
    `event_type`: 1 to 200 characters. Raises InvalidEvent before anything is written.
    """
    return publish_many([NewEvent(tenant_id, agent_id, event_type, payload)])[0]


async def apublish(
    tenant_id: UUID | str, agent_id: UUID | str, event_type: str, payload: Any
) -> int:
    """`publish` for async code."""
    return await sync_to_async(publish)(tenant_id, agent_id, event_type, payload)


def publish_many(events: Iterable[NewEvent]) -> list[int]:
    """Writes all events in one statement, or none; returns their ids in the order given.

    Joins the caller's transaction. Raises InvalidEvent, which names the place in the list.
    """
    rows = [_checked(place, event) for place, event in enumerate(events)]
    if not rows:
        return []
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])
        return [row[0] for row in cursor.fetchall()]


def _checked(place: int, event: NewEvent) -> tuple[str, str, str, str]:
    def refuse(what: str) -> InvalidEvent:
        return InvalidEvent(f"Event {place}: {what}")

    ids = []
    for name in ("tenant_id", "agent_id"):
        value = getattr(event, name)
        try:
            ids.append(str(value if isinstance(value, UUID) else UUID(value)))
        except (ValueError, AttributeError, TypeError) as error:
            raise refuse(f"{name} is {value!r}, expected a UUID.") from error
    kind: Any = event.event_type  # a caller without a type checker may send anything
    if not isinstance(kind, str) or not 1 <= len(kind) <= 200 or "\x00" in kind:
        raise refuse("event_type must be text of 1 to 200 characters, without U+0000.")
    try:
        kind.encode()
    except UnicodeEncodeError as error:
        raise refuse("event_type contains half of a surrogate pair.") from error
    try:
        payload = json.dumps(
            event.payload, cls=DjangoJSONEncoder, allow_nan=False, ensure_ascii=False
        )
        payload.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refuse(f"the payload is not JSON ({error}).") from error
    if _ESCAPED_NUL.search(payload):
        raise refuse("the payload contains U+0000, which PostgreSQL cannot store in text.")
    return ids[0], ids[1], kind, payload
