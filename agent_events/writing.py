"""The statements that write events, and what became of each event. Pure.

An event may bear a key, which is known for its tenant: whatever comes with a known key is not
written again. The key and its event are written by one statement, so that there is never one
without the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent_events.errors import InvalidEvent, KeyReused

MOST_KEY_CHARS = 255
"""A longer one might not fit into the index of the keys."""
MOST_TRIES = 5
"""So often a statement is repeated that met one with the same key that was not finished."""

PLAIN_SQL = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT e.tenant_id, e.agent_id, e.event_type, e.payload::jsonb
      FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
           WITH ORDINALITY AS e(tenant_id, agent_id, event_type, payload, place)
     ORDER BY e.place
    RETURNING id
"""
"""Events without keys: one statement for the lot; ids rise in the order given."""

# The ids are drawn first, in the order given, for the keys are taken in their own order: two lists
# with the same keys in another order would wait for each other. Where another transaction that is
# not finished has the key, ON CONFLICT waits for it; what that wrote this statement cannot see, so
# it says 'raced', and a new one will find it. `beyond` is a key that must not be known.
KEYED_SQL = """
WITH given AS MATERIALIZED (
    SELECT e.tenant_id, e.agent_id, e.event_type, e.payload::jsonb AS payload, e.key, e.beyond,
           e.place,
           CASE WHEN e.key IS NULL THEN e.place
                ELSE min(e.place) OVER (PARTITION BY e.tenant_id, e.key) END AS first
      FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[])
           WITH ORDINALITY AS e(tenant_id, agent_id, event_type, payload, key, beyond, place)
), known AS MATERIALIZED (
    SELECT g.place, k.event_id AS id
      FROM given AS g JOIN agent_event_keys AS k ON k.tenant_id = g.tenant_id AND k.key = g.key
), numbered AS MATERIALIZED (
    SELECT o.*, nextval((SELECT pg_get_serial_sequence('agent_events', 'id')::regclass)) AS id
      FROM (SELECT g.* FROM given AS g
             WHERE g.place = g.first AND g.place NOT IN (SELECT k.place FROM known AS k)
             ORDER BY g.place) AS o
), claimed AS (
    INSERT INTO agent_event_keys (tenant_id, key, event_id)
    SELECT n.tenant_id, n.key, n.id FROM numbered AS n
     WHERE n.key IS NOT NULL ORDER BY n.tenant_id, n.key
    ON CONFLICT DO NOTHING
    RETURNING event_id
), written AS (
    INSERT INTO agent_events (id, tenant_id, agent_id, event_type, payload)
    SELECT n.id, n.tenant_id, n.agent_id, n.event_type, n.payload FROM numbered AS n
     WHERE n.key IS NULL OR n.id IN (SELECT c.event_id FROM claimed AS c)
     ORDER BY n.place
)
SELECT coalesce(k.id, n.id),
       CASE WHEN k.id IS NULL AND g.key IS NOT NULL AND c.event_id IS NULL THEN 'raced'
            WHEN (f.agent_id, f.event_type, f.payload) <> (g.agent_id, g.event_type, g.payload)
              OR (e.agent_id, e.event_type, e.payload) <> (g.agent_id, g.event_type, g.payload)
              OR g.beyond IS NOT NULL AND (
                     EXISTS (SELECT FROM agent_event_keys AS b
                              WHERE b.tenant_id = g.tenant_id AND b.key = g.beyond)
                  OR EXISTS (SELECT FROM given AS b
                              WHERE b.tenant_id = g.tenant_id AND b.key = g.beyond))
                THEN 'differs'
            WHEN k.id IS NULL AND g.place = g.first THEN 'new'
            ELSE 'known' END
  FROM given AS g
  JOIN given AS f ON f.place = g.first
  LEFT JOIN known AS k ON k.place = g.place
  LEFT JOIN agent_events AS e ON e.id = k.id
  LEFT JOIN numbered AS n ON n.place = g.first
  LEFT JOIN claimed AS c ON c.event_id = n.id
 ORDER BY g.place
"""
"""Events of which some have keys: their ids, and what became of each. Only to be committed where
`settled` raises nothing."""

FIRST_REFUSED_SQL = """
    SELECT count(e.payload::jsonb) FROM unnest(%s::text[]) AS e(payload)
"""
"""Fails where PostgreSQL takes one of these payloads for no JSON."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as PostgreSQL takes it.

    `key`: of the event, or made from that of the request that brought it (`of_request`).
    `beyond`: a key that must not be known: it would be of a longer request with the same key.
    `key_field`: what a refusal of the key names.
    """

    tenant_id: str
    agent_id: str
    event_type: str
    payload: str
    key: str | None = None
    of_request: bool = False
    beyond: str | None = None
    key_field: str = "eventKey"


class Written(NamedTuple):
    """Its id, and whether it was there before."""

    id: int
    known: bool


class Raced(Exception):
    """Another transaction wrote one of the keys meanwhile: roll back, and do it again."""


def statement(rows: Sequence[EventRow]) -> tuple[str, list[list[Any]], bool]:
    """What writes these: the SQL, its parameters, and whether it is about keys."""
    columns: list[list[Any]] = [
        [row.tenant_id for row in rows],
        [row.agent_id for row in rows],
        [row.event_type for row in rows],
        [row.payload for row in rows],
    ]
    if all(row.key is None for row in rows):
        return PLAIN_SQL, columns, False
    columns += [[row.key for row in rows], [row.beyond for row in rows]]
    return KEYED_SQL, columns, True


def settled(rows: Sequence[EventRow], found: Sequence[Sequence[Any]]) -> list[Written]:
    """What became of the events of one request, from the rows that `statement` returned for them.

    Raises KeyReused, and Raced: then nothing of it may be committed.
    """
    if found and len(found[0]) == 1:  # no keys
        return [Written(id, False) for (id,) in found]
    if any(state == "raced" for _, state in found):
        raise Raced
    for place, (row, (_, state)) in enumerate(zip(rows, found, strict=True)):
        if state == "differs":
            raise _reused(place, row)
    # One request is written whole or not at all: where a part is known, that was another one.
    covered = [n for n, row in enumerate(rows) if row.of_request]
    if len({found[place][1] for place in covered}) > 1:
        new = next(place for place in covered if found[place][1] == "new")
        raise _reused(new, rows[new])
    return [Written(id, state == "known") for id, state in found]


def _reused(place: int, row: EventRow) -> KeyReused:
    if row.of_request:
        return KeyReused(
            f"Event {place}: this Idempotency-Key came with other events before. Repeat a request "
            "as it was, or take a new key for a new one.",
            place=place,
            field="Idempotency-Key",
        )
    return KeyReused(
        f"Event {place}: its key came with another event before (another agent, type or payload). "
        "Repeat an event as it was, or take a new key for a new one.",
        place=place,
        field=row.key_field,
    )


def checked_key(key: object) -> str:
    """The key, if it can be one. Raises InvalidEvent."""
    if (
        not isinstance(key, str)
        or not 1 <= len(key) <= MOST_KEY_CHARS
        or "\x00" in key
        or any("\ud800" <= char <= "\udfff" for char in key)
    ):
        raise InvalidEvent(
            f"the key must be text of 1 to {MOST_KEY_CHARS} characters, without U+0000.",
            field="eventKey",
        )
    return key
