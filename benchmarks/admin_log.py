"""A log of millions of events of forty agents, written by the server itself, for `admin_plans`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

TENANTS, AGENTS = 6, 40
A_TRANSACTION = 1_000
"""Events of one transaction, which becomes a batch of its own."""
RARE = "audit.exported"
"""The type of one event, the oldest: whoever looks for it looks through all there is."""

# Event i is of agent i % 40, whose tenant is always the same; fifty events of an agent are a run.
# (As a replica, so that no trigger rings: nobody listens.)
_FILL = f"""
    DO $$
    DECLARE
        words CONSTANT text := repeat('the quick brown fox jumps over the lazy dog, ', 4);
        first bigint;
    BEGIN
        FOR first IN SELECT generate_series({{first}}, {{last}} - 1, {A_TRANSACTION}) LOOP
            INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
            SELECT lpad(to_hex(1 + agent % {TENANTS}), 32, '0')::uuid,
                   lpad(to_hex(256 + agent), 32, '0')::uuid,
                   CASE WHEN i = 0 THEN '{RARE}' ELSE
                   (ARRAY['turn.started', 'tool.started', 'tool.finished', 'turn_complete',
                          'message', 'tool.started', 'tool.finished', 'handoff', 'error',
                          'run.finished'])[1 + turn % 10] END,
                   jsonb_build_object(
                       'run_id', 'run-' || agent || '-' || turn / 50,
                       'tokens', (i * 37) % 2000,
                       'model', (ARRAY['small', 'large'])[1 + turn % 2],
                       'tool', jsonb_build_object('name', 'search', 'ms', (i * 13) % 900),
                       'summary', left(words, (20 + i * 7 % 160)::integer))
              FROM generate_series(first, least(first + {A_TRANSACTION}, {{last}}) - 1) AS i,
                   LATERAL (SELECT (i % {AGENTS})::integer, (i / {AGENTS})::integer
                   ) AS n(agent, turn);
            COMMIT;
            PERFORM agent_events_append();
            COMMIT;
        END LOOP;
    END $$
"""
A_STEP = 500_000


def fill(dsn: str, rows: int, say: Callable[[str], None]) -> None:
    """Writes events until the log has so many, and closes their batches."""
    began = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        ((there,),) = _rows(
            connection, "SELECT total FROM agent_event_batches ORDER BY n DESC LIMIT 1"
        )
        for first in range(there, rows, A_STEP):
            last = min(first + A_STEP, rows)
            connection.execute(_FILL.format(first=first, last=last).encode())
            say(f"{last:,} events after {time.monotonic() - began:.0f} s")
        connection.execute("VACUUM (ANALYZE) agent_events, agent_event_batches")
        connection.execute("CHECKPOINT")
    say(f"vacuumed after {time.monotonic() - began:.0f} s")


def _rows(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
