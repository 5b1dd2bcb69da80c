"""What the pictures of the README show: a quarter of an hour of agents, and what comes after it.

The same story each time, up to the clock: it is told until somebody is needed and something has
failed, and the past of it is written with times of the past, which no producer does.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from project.simulation import (
    SimulatedEvent,
    tenant_agents,
    tenant_id,
    tenant_name,
    tenant_story,
)

SEED = 11
TENANTS, AGENTS = 3, 6
PAST = timedelta(minutes=15)
PAST_EVENTS = 900
"""About one each second: agents think."""
A_BATCH = 6
LIVE_EVERY_S = 0.4
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)
    VALUES (%s, %s, %s, %s, coalesce(%s, now()))
"""
CLOSED = """
    UPDATE agent_event_batches SET closed_at = %s
     WHERE n = (SELECT max(n) FROM agent_event_batches)
"""
FAILED = ("error", "tool.failed", "run.failed")

Told = tuple[uuid.UUID, SimulatedEvent]


class Story:
    """The events of all tenants, in order."""

    def __init__(self) -> None:
        self._rng = random.Random(SEED)
        names = [tenant_name(number) for number in range(TENANTS)]
        self._tenants = [tenant_id(name) for name in names]
        self._told = [tenant_story(name, tenant_agents(name, AGENTS, SEED), SEED) for name in names]

    def past(self) -> list[Told]:
        """PAST_EVENTS, and on until two wait for a person and one has failed."""
        told = [next(self) for _ in range(PAST_EVENTS)]
        last = {event.agent_id: event.event_type for _, event in told}
        while not _is_worth_a_look(last):
            tenant, event = next(self)
            told.append((tenant, event))
            last[event.agent_id] = event.event_type
        return told

    def __iter__(self) -> Iterator[Told]:
        return self

    def __next__(self) -> Told:
        # The first tenant is the busiest.
        number = min(self._rng.randrange(TENANTS), self._rng.randrange(TENANTS))
        event = next(self._told[number])
        # The machine that takes the pictures may have no font for it.
        if text := event.payload.get("text"):
            event.payload["text"] = text.replace("🙂", "").rstrip()
        return self._tenants[number], event


def write_past(connection: psycopg.Connection[Any], story: Story) -> None:
    """Writes what has been, ending now, a batch after the other, each closed at its time."""
    told = story.past()
    rng = random.Random(SEED)
    # Busier in the middle and at the end: a flat histogram says nothing.
    steps = [rng.expovariate(0.5 + 2.0 * (place % 450 > 220)) for place in range(len(told))]
    scale = PAST.total_seconds() / sum(steps)
    at = datetime.now(UTC) - PAST
    rows = []
    for (tenant, event), step in zip(told, steps, strict=True):
        at += timedelta(seconds=step * scale)
        rows.append((tenant, event.agent_id, event.event_type, json.dumps(event.payload), at))
    for start in range(0, len(rows), A_BATCH):
        batch = rows[start : start + A_BATCH]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(INSERT, batch)
        connection.execute("SELECT agent_events_append()")
        connection.execute(CLOSED, [batch[-1][-1]])


class Live:
    """What comes after it, one event each LIVE_EVERY_S, for as long as the block lasts."""

    def __init__(self, dsn: str, story: Story) -> None:
        self._dsn = dsn
        self._story = story
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="live story", daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ended.wait(LIVE_EVERY_S):
                tenant, event = next(self._story)
                values = (tenant, event.agent_id, event.event_type, json.dumps(event.payload), None)
                connection.execute(INSERT, values)


def _is_worth_a_look(last: dict[uuid.UUID, str]) -> bool:
    """By the last event of each agent."""
    kinds = list(last.values())
    return kinds.count("needs_human") >= 2 and any(kind in FAILED for kind in kinds)
