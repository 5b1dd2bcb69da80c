"""Following one event: its row, its batch, and what each process says of it.

Looks by primary keys, and one bisection of the ledger. What it means: `journey`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.asking import CannotAsk, ask
from agent_events.database import CONNECT, severed_after
from agent_events.deliveries import Answer
from agent_events.errors import in_a_line
from agent_events.facts import Broker, Interval, Status
from agent_events.journey import Gap, Journey, Step, Stored, step_of
from agent_events.log import CREATED_SQL, MS_SQL
from agent_events.position import Cursor, Position
from agent_events.status import TIMEOUT_S, gather
from agent_events.watching import listeners

AGAIN_S = 0.5
"""A process that is behind is asked again after so long: the batch may be of this moment."""

_EVENT = f"""
    SELECT e.tenant_id::text, e.agent_id::text, e.event_type, {CREATED_SQL},
           e.tx::text::bigint, e.tx >= pg_snapshot_xmax(pg_current_snapshot()),
           coalesce(pg_visible_in_snapshot(e.tx, pruned.seen), false),
           CASE WHEN pg_visible_in_snapshot(e.tx, head.seen)
                     AND NOT coalesce(pg_visible_in_snapshot(e.tx, pruned.seen), false)
                THEN agent_events_batch_of(e.tx, pruned.oldest, head.n) END
      FROM agent_events AS e
     CROSS JOIN (SELECT oldest, (SELECT seen FROM agent_event_batches WHERE n = oldest - 1)
                   FROM agent_event_bus) AS pruned
      LEFT JOIN (SELECT n, seen FROM agent_event_batches ORDER BY n DESC LIMIT 1) AS head ON true
     WHERE e.id = %s
"""
_CLOSED = f"SELECT closed_at, {MS_SQL.format('closed_at')} FROM agent_event_batches WHERE n = %s"
_AROUND = f"""
    SELECT id, {CREATED_SQL} FROM agent_events WHERE id {{}} %s ORDER BY id {{}} LIMIT 1
"""
_GAP = """
    SELECT CASE WHEN has_sequence_privilege(s.name, 'SELECT')
                THEN pg_sequence_last_value(s.name::regclass) END,
           (SELECT oldest > 1 FROM agent_event_bus)
      FROM pg_get_serial_sequence('agent_events', 'id') AS s (name)
"""


async def trace(
    dsn: str,
    listener_dsn: str,
    id: int,
    *,
    leases: Sequence[str] = (),
    look: Callable[[str], Awaitable[Broker | None]] | None = None,
) -> Journey:
    """Follows the event `id`. `listener_dsn` is where to listen for the processes' answers.

    `leases`: as for `gather`. `look` says what the broker has of a tenant's shard; it
    raises nothing. Never raises psycopg.Error for a database that is away: `status` says so then.
    """
    status = await gather(dsn, leases=leases)
    if status.setup is None or not status.setup.readable:
        return Journey(id, status)
    try:
        async with await AsyncConnection.connect(
            dsn, **CONNECT, application_name="agent_events status"
        ) as connection:
            with severed_after(connection, TIMEOUT_S):
                journey = await _look(connection, id, status)
    except (psycopg.OperationalError, OSError) as error:
        return Journey(id, Status(unreachable=" ".join(str(error).split())))
    if journey.batch is None:
        return journey
    return await _ask(listener_dsn, journey, look)


async def _look(connection: AsyncConnection[TupleRow], id: int, status: Status) -> Journey:
    async def one(query: str, *params: Any) -> TupleRow | None:
        return await (await connection.execute(query.encode(), params)).fetchone()

    found = await one(_EVENT, id)
    if found is None:
        before = await one(_AROUND.format("<", "DESC"), id)
        after = await one(_AROUND.format(">", "ASC"), id)
        last, pruned = await one(_GAP) or (None, False)
        gap = Gap(
            last,
            before[0] if before else None,
            after[0] if after else None,
            (before[1] if before else "", after[1] if after else ""),
            bool(pruned),
        )
        return Journey(id, status, gap=gap)
    *stored, pruned, batch = found
    journey = Journey(id, status, Stored(*stored), pruned=pruned, batch=batch)
    closed = await one(_CLOSED, batch) if batch is not None else None
    if batch is None or closed is None:
        return journey
    closed_at, closed_at_ms = closed
    cursor = Cursor(Position(batch, id), closed_at_ms)
    return replace(journey, closed_at=closed_at, closed_at_ms=closed_at_ms, cursor=str(cursor))


async def _ask(
    listener_dsn: str, journey: Journey, look: Callable[[str], Awaitable[Broker | None]] | None
) -> Journey:
    """Each process that listens, and the broker; twice where one of them is behind, which it may
    be for a moment."""
    status, stored, batch = journey.status, journey.stored, journey.batch
    assert stored is not None
    assert batch is not None
    assert status.counters is not None
    looked_at = time.monotonic()
    expected = [session.pid for session in status.listeners]
    for last_time in (False, True):
        answers: tuple[Answer, ...] | None = None
        trouble = ""
        try:
            answers = await ask(listener_dsn, expected, batch=batch, tenant=stored.tenant)
        except (CannotAsk, psycopg.Error, OSError) as error:
            trouble = in_a_line(error)
        clock_ms = int((status.counters.at_s + time.monotonic() - looked_at) * 1_000)
        found = listeners(status, Interval(answers=answers), status)
        if look is not None:
            journey = replace(journey, broker=await look(stored.tenant))
        behind = any(step_of(one, batch) is Step.BEHIND for one in found)
        behind = behind or (journey.broker is not None and not journey.published)
        if last_time or not behind:
            break
        await asyncio.sleep(AGAIN_S)
    return replace(
        journey,
        listeners=found,
        clock_ms=clock_ms,
        trouble=trouble,
    )
