"""Many events at once: one statement of 100,000 rows, and `publish_many` of 10,000.

The statement is an `INSERT ... SELECT` into the product's table while a process closes batches,
beside the same into a bare table, and into the product's table without its trigger. `publish_many`
is timed beside `bulk_create` of a model with the same columns and a bare table: objects are made,
checked and written, ids come back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from benchmarks.cluster import AGENT, BARE_TABLE, PAYLOAD, TENANT, Cluster, cluster, environment
from benchmarks.frame import Part, Row, alone, at_most, medians, take_turns
from benchmarks.server_cpu import BARE, NO_TRIGGER, NOBODY
from benchmarks.subscriber import subscriber

ROWS, PUBLISHED, REPEATS = 100_000, 10_000, 7
INSERT_MANY = f"""
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT '{TENANT}', '{AGENT}', 'turn_complete', '{PAYLOAD}' FROM generate_series(1, %s)
"""
UNTRIGGERED = "ours without trigger"
PUBLISH, CREATE = "ours", "bulk_create"


def measure(quick: bool) -> Part:
    """A row for each of the two."""
    rows, published, repeats = (1_000, 100, 1) if quick else (ROWS, PUBLISHED, REPEATS)
    with (
        cluster() as server,
        server.database(BARE_TABLE.replace("agent_events", "bare_events"), migrate=True) as ours,
        server.database(NO_TRIGGER, migrate=True) as indexes,
        server.database(BARE_TABLE) as bare,
        subscriber(ours, tenant=NOBODY),
    ):
        statements = take_turns(
            {
                "ours": partial(_insert_ms, server, ours, rows),
                BARE: partial(_insert_ms, server, bare, rows),
                UNTRIGGERED: partial(_insert_ms, server, indexes, rows),
            },
            repeats,
        )
        publish, create = _in_python(ours)
        calls = take_turns(
            {
                PUBLISH: partial(_timed_ms, server, publish, published),
                CREATE: partial(_timed_ms, server, create, published),
            },
            repeats,
        )
    one, many = medians(statements), medians(calls)
    statement, call = f"one statement of {rows:,} rows", f"publish_many of {published:,}"
    return Part(
        "Many at once",
        "One `INSERT ... SELECT` into the product's table while a process closes batches, into a "
        "bare table, and into the product's table without its trigger. `publish_many` beside "
        "`bulk_create` of a model with a bare table of the same columns: from Python values to "
        f"the ids, committed. Turns: {repeats}.",
        [
            Row(statement, "ms", one["ours"], {BARE: one[BARE], UNTRIGGERED: one[UNTRIGGERED]}),
            Row(call, "ms", many[PUBLISH], {CREATE: many[CREATE]}),
        ],
        [
            at_most(statement, one["ours"] / one[BARE], 2, "x the bare table"),
            at_most(call, many[PUBLISH] / many[CREATE], 1, "x bulk_create"),
        ],
        samples={**statements, **{f"{name}, {published:,}": v for name, v in calls.items()}},
    )


def _insert_ms(server: Cluster, dsn: str, rows: int) -> float:
    with psycopg.connect(dsn, autocommit=True) as producer:
        return _timed_ms(
            server, lambda count: producer.execute(INSERT_MANY.encode(), [count]), rows
        )


def _timed_ms(server: Cluster, write: Callable[[int], object], count: int) -> float:
    server.settle()
    began = time.perf_counter()
    write(count)
    return (time.perf_counter() - began) * 1_000


def _in_python(dsn: str) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """`publish_many` and `bulk_create`, each of so many events."""
    os.environ.update(environment(dsn))
    import django

    django.setup()
    from django.db import models

    from agent_events import NewEvent, publish_many

    class Bare(models.Model):
        id = models.BigAutoField(primary_key=True)
        tenant_id = models.UUIDField()
        agent_id = models.UUIDField()
        event_type = models.TextField()
        payload = models.JSONField()
        created_at = models.DateTimeField(auto_now_add=True)

        class Meta:
            app_label = "benchmarks"
            db_table = "bare_events"
            managed = False

        def __str__(self) -> str:
            return f"{self.event_type} #{self.pk}"

    rows: Any = Bare._default_manager
    payload = {"tokens": 142, "latency": 820}

    def publish(count: int) -> list[int]:
        return publish_many(
            [NewEvent(TENANT, AGENT, "turn_complete", payload) for _ in range(count)]
        )

    def create(count: int) -> list[Bare]:
        made: list[Bare] = rows.bulk_create(
            [
                Bare(tenant_id=TENANT, agent_id=AGENT, event_type="turn_complete", payload=payload)
                for _ in range(count)
            ]
        )
        return made

    return publish, create


if __name__ == "__main__":
    alone(measure)
