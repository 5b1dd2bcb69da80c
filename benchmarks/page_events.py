"""What agents of a busy tenant say, without an end: any event by its number, in a microsecond.

A part of the simulator's story is told over and over, each time with runs and tool calls of its
own: whoever remembers something for each of them has to forget it again, as in a real day.
"""

from __future__ import annotations

import json
import time
from itertools import islice

from agent_events.position import Cursor, Position
from agent_events.wire import Event
from benchmarks.cluster import TENANT
from project.simulation import SimulatedEvent, tenant_agents, tenant_story

AGENTS, PART = 40, 20_000
SEED = 7
FIRST_BATCH, FIRST_ID = 1_000_000, 1_000_000_000
"""Behind whatever a fresh log has."""
SPREAD = 0x9E3779B1
"""Odd: it makes another number of 32 bits of each."""


class PageEvents:
    """The events, from number 0 on."""

    def __init__(self, agents: int = AGENTS, part: int = PART) -> None:
        """Args:
        agents: how many there are.
        part: so many events are made up, and told again with other runs.
        """
        told = tenant_story("benchmark", tenant_agents("benchmark", agents, SEED), SEED)
        self._part = [_Line(event) for event in islice(told, part)]

    def json(self, number: int, event_id: int, created_at: str) -> str:
        """The event as it is on the wire."""
        line, run = self._at(number)
        return (
            f'{{"id":{event_id},"tenantId":"{TENANT}",{line.head}'
            f'{run.join(line.payload)},"createdAt":"{created_at}"}}'
        )

    def copied(self, number: int) -> str:
        """The event as a line of `COPY agent_events (tenant_id, agent_id, event_type, payload)`."""
        line, run = self._at(number)
        return f"{TENANT}\t{line.columns}\t{run.join(line.copied)}\n"

    def _at(self, number: int) -> tuple[_Line, str]:
        """Its line, and the first 8 digits of its run's id this time."""
        again, place = divmod(number, len(self._part))
        line = self._part[place]
        return line, f"{(line.run ^ again * SPREAD) & 0xFFFFFFFF:08x}"


class _Line:
    """An event of the part, cut where its run is named."""

    __slots__ = ("columns", "copied", "head", "payload", "run")

    def __init__(self, event: SimulatedEvent) -> None:
        name = event.payload["run_id"][:8]
        text = json.dumps(event.payload, ensure_ascii=False)
        self.run = int(name, 16)
        self.head = f'"agentId":"{event.agent_id}","type":{json.dumps(event.event_type)},"payload":'
        self.payload = text.split(name)
        self.columns = f"{event.agent_id}\t{event.event_type}"
        self.copied = text.replace("\\", "\\\\").split(name)


class Tape:
    """A log of these events, as a server without a database reads it: batches of a fixed size.

    An event's number tells its id, its batch and its cursor, and the other way round.
    """

    def __init__(self, events: PageEvents, batch: int) -> None:
        """`batch`: events in each."""
        self._events = events
        self._batch = batch

    def read(self, first: int, end: int, created_ms: float, step_ms: float) -> list[Event]:
        """Events number `first` up to `end` (without it).

        Args:
            created_ms: when the first one was created, in ms since 1970.
            step_ms: how long after each the next one was.
        """
        found = []
        for number in range(first, end):
            at_us = int((created_ms + (number - first) * step_ms) * 1_000)
            event_id = FIRST_ID + number
            text = self._events.json(number, event_id, _rfc3339(at_us))
            found.append(Event(self._batch_of(number), at_us // 1_000, event_id, text))
        return found

    def cursor(self, number: int, closed_at_ms: int) -> str:
        """The cursor right before this event."""
        if number == 0:
            return str(Cursor(Position(FIRST_BATCH), closed_at_ms))
        position = Position(self._batch_of(number - 1), FIRST_ID + number - 1)
        return str(Cursor(position, closed_at_ms))

    def number(self, cursor: str) -> int:
        """The event right after this cursor; the first one, if the cursor is not of this log."""
        batch, after_id = Cursor.parse(cursor).position
        if batch < FIRST_BATCH:
            return 0
        if after_id:
            return after_id - FIRST_ID + 1
        return (batch - FIRST_BATCH) * self._batch

    def _batch_of(self, number: int) -> int:
        return FIRST_BATCH + number // self._batch


_SECONDS: dict[int, str] = {}


def _rfc3339(at_us: int) -> str:
    """In UTC with microseconds. (Made once a second: `strftime` costs more than all the rest.)"""
    second, rest = divmod(at_us, 1_000_000)
    text = _SECONDS.get(second)
    if text is None:
        _SECONDS.clear()
        text = _SECONDS[second] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{text}.{rest:06d}Z"
