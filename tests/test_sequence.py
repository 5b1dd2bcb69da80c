"""What comes with an append is what the log has: however many transactions run meanwhile."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from agent_events.log import AHEAD_SQL, FRESH_BYTES, FRESH_ROWS, ahead_of
from agent_events.wire import Event

TENANTS = [str(uuid.UUID(int=n)) for n in (1, 2, 3)]
WRITERS = 24  # more than the ranges between running transactions that an append looks at one by one
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    VALUES (%s, gen_random_uuid(), 'x', '1') RETURNING id
"""
SEQUENCE = "SELECT n, rows, batch, id FROM agent_events_sequence(%s, 20000, NULL, 10000, 10000000)"
LIVE = "SELECT batch, id, event FROM agent_events_live(%s::uuid[], %s, %s)"
WINDOW = """
    SELECT batch, id, agent_events_json(id, tenant_id, agent_id, event_type, payload, created_at)
      FROM agent_events_window(%s::uuid[], %s, %s) ORDER BY id
"""
Connection = psycopg.Connection[Any]


@pytest.mark.parametrize("limit", [10_000, 7], ids=["whole", "cut"])
def test_with_many_writers_each_batch_holds_what_committed_and_comes_along_as_it_is_read(
    connect: Callable[..., Connection], limit: int
) -> None:
    dice = random.Random(limit)
    reader = connect()
    committed: set[int] = set()
    seen: list[int] = []
    with ExitStack() as stack:
        writers = [stack.enter_context(connect(autocommit=False)) for _ in range(WRITERS)]
        open_ids: dict[int, set[int]] = {}
        for _ in range(60):
            for place in dice.sample(range(WRITERS), 8):
                if place in open_ids and dice.random() < 0.8:
                    ids = open_ids.pop(place)
                    if dice.random() < 0.2:
                        writers[place].rollback()
                    else:
                        writers[place].commit()
                        committed |= ids
                else:
                    row = writers[place].execute(INSERT, [dice.choice(TENANTS)]).fetchone()
                    assert row is not None
                    open_ids.setdefault(place, set()).add(row[0])
            seen += _closed(reader, limit, dice)
            if limit > WRITERS * 60:
                assert set(seen) == committed
        for place, ids in open_ids.items():
            writers[place].commit()
            committed |= ids
    while found := _closed(reader, limit, dice):
        seen += found
    assert len(seen) == len(set(seen))
    assert set(seen) == committed
    read = reader.execute("SELECT batch, id FROM agent_events_page(NULL, 1, 0, 100000)").fetchall()
    assert [row[1] for row in read[:-1]] == seen
    # Later too, when those that ran have committed.
    for n in range(1, read[-1][0]):
        live = reader.execute(LIVE, [TENANTS[:2], n, 1_000_000]).fetchall()
        assert live == reader.execute(WINDOW, [TENANTS[:2], n, n]).fetchall()


def test_what_commits_while_a_batch_is_closed_is_in_that_one_or_the_next(
    dsn: str, connect: Callable[..., Connection]
) -> None:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as writer:
            while not stop.is_set():
                with writer.transaction():
                    writer.execute(INSERT, [TENANTS[0]])
                    writer.execute("SELECT pg_sleep(0.005)")

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    reader = connect()
    seen: list[int] = []
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            rows = reader.execute(SEQUENCE, [10_000]).fetchall()
            seen += [row[3] for row in rows]
            assert not rows or rows[0][1] == len(rows), "it counts what it brings"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    while rows := reader.execute(SEQUENCE, [10_000]).fetchall():
        seen += [row[3] for row in rows]
    assert len(seen) == len(set(seen))
    stored = reader.execute("SELECT id FROM agent_events").fetchall()
    assert set(seen) == {row[0] for row in stored}


def _closed(reader: Connection, limit: int, dice: random.Random) -> list[int]:
    """Appends once; the ids of the batch, which the three ways of reading it agree on."""
    rows = reader.execute(SEQUENCE, [limit]).fetchall()
    if not rows:
        return []
    n, count = rows[0][:2]
    ids = [row[3] for row in rows]
    assert {row[2] for row in rows} == {n}
    assert len(ids) == count
    some = dice.sample(TENANTS, dice.randint(1, 3))
    for tenants in (None, some, [*some, *(str(uuid.uuid4()) for _ in range(100))]):
        live = reader.execute(LIVE, [tenants, n, 1_000_000]).fetchall()
        assert live == reader.execute(WINDOW, [tenants, n, n]).fetchall()
    return ids


def test_what_is_too_many_bytes_is_said_and_not_brought(connect: Callable[..., Connection]) -> None:
    connection = connect()
    for payload in ('"' + "x" * 3_000 + '"', '"' + random.Random(1).randbytes(9_000).hex() + '"'):
        connection.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " VALUES (%s, gen_random_uuid(), 'x', %s)",
            [TENANTS[0], payload],
        )
        rows = connection.execute(
            "SELECT rows, batch, id, event FROM agent_events_sequence(100, 0, NULL, 64, 2000)"
        ).fetchall()
        assert rows == [(1, -1, None, None)]


def test_the_news_of_one_small_batch_comes_with_its_events_and_no_other(
    connect: Callable[..., Connection],
) -> None:
    connection = connect()

    def close(*tenants: str, payload: str = "1") -> int:
        for tenant in tenants:
            connection.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                " VALUES (%s, gen_random_uuid(), 'x', to_jsonb(%s::text))",
                [tenant, payload],
            )
        row = connection.execute("SELECT n FROM agent_events_append()").fetchone()
        assert row is not None
        return int(row[0])

    def ahead(n: int, tenants: list[str] | None) -> tuple[list[int], tuple[Event, ...] | None]:
        args = {"n": n, "limit": 1_000, "tenants": tenants}
        rows, events = ahead_of(connection.execute(AHEAD_SQL, args).fetchall())
        return [row.n for row in rows], events

    def read(n: int, tenants: list[str] | None) -> list[tuple[int, str]]:
        live = connection.execute(LIVE, [tenants, n, 1_000_000]).fetchall()
        return [(id, text) for _, id, text in live]

    first = close(TENANTS[0])
    assert ahead(first, None) == ([first], None)
    small = close(TENANTS[1], TENANTS[0], TENANTS[1])
    for tenants, count in ((None, 3), ([TENANTS[1]], 2), ([TENANTS[2]], 0)):
        ledger, events = ahead(first, tenants)
        assert (ledger, events is not None) == ([first, small], True)
        assert [(event.id, event.json) for event in events or ()] == read(small, tenants)
        assert len(events or ()) == count
    assert ahead(first, []) == ([first, small], None)
    last = close(*TENANTS[:1] * FRESH_ROWS)
    assert ahead(first, None) == ([first, small, last], None)
    assert len(ahead(small, None)[1] or ()) == FRESH_ROWS
    many = close(*TENANTS[:1] * (FRESH_ROWS + 1))
    assert ahead(last, None) == ([last, many], None)
    large = close(TENANTS[0], payload="x" * FRESH_BYTES)
    assert ahead(many, None) == ([many, large], None)
    assert ahead(many, [TENANTS[1]]) == ([many, large], ())
