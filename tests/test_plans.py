"""Costs: append and read touch what they return, with stale statistics and plans made long ago."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from project.embedded import EmbeddedPostgres

Connection = psycopg.Connection[Any]

ROWS = 120_000
TENANTS = 50
TENANT = str(uuid.UUID(int=7))  # has every 50th event
STRANGER = str(uuid.UUID(int=TENANTS + 1))  # has none

# One id a loop: a subtransaction that writes takes one. So rows can be given the ids of that many
# transactions in a second, in place of running these.
BURN_IDS = f"""
    CREATE TEMP TABLE burnt (x int) ON COMMIT DROP;
    DO $$ BEGIN
        FOR i IN 1 .. {ROWS} LOOP
            BEGIN
                INSERT INTO burnt VALUES (i);
            EXCEPTION WHEN division_by_zero THEN RAISE;
            END;
        END LOOP;
    END $$;
"""
ONE_ROW_TRANSACTIONS = f"""
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, tx)
    SELECT lpad(to_hex(i %% {TENANTS}), 32, '0')::uuid, gen_random_uuid(), 'x', '1',
           (%s + i)::text::xid8
      FROM generate_series(1, {ROWS}) AS i
"""
SMALL_BATCHES = """
    DO $$ BEGIN
        FOR i IN 1 .. 3000 LOOP
            PERFORM agent_events_append(10);
            COMMIT;
        END LOOP;
    END $$;
"""
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'x', '1' FROM generate_series(1, %s)
"""


class Grown(NamedTuple):
    """Tables that grew from nothing to 150,000 events without an ANALYZE."""

    old: Connection  # its plans were made while the tables were empty
    other: Connection
    head: int


def buffers(connection: Connection, call: str) -> int:
    """Blocks of shared memory that a call touches, those of the statements inside it too."""
    row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}")
    plan = row.fetchall()[0][0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def page(tenants: str, position: tuple[int, int], rows: int, *, back: bool = False) -> str:
    name = "agent_events_page_back" if back else "agent_events_page"
    return f"{name}({tenants}, {position[0]}, {position[1]}, {rows})"


@pytest.fixture(scope="module")
def grown(postgres: EmbeddedPostgres, template_database: str) -> Iterator[Grown]:
    name = f"grown_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(
                Identifier(name), Identifier(template_database)
            )
        )
        with (
            psycopg.connect(postgres.dsn(name), autocommit=True) as old,
            psycopg.connect(postgres.dsn(name), autocommit=True) as other,
        ):
            for table in ("agent_events", "agent_event_batches"):
                other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            for n in range(1, 8):
                other.execute(INSERT, [TENANT, TENANT, 1])
                old.execute("SELECT agent_events_append()")
                for tenants in ("NULL", f"ARRAY['{TENANT}', '{STRANGER}']::uuid[]"):
                    for rows in (1, 10):
                        old.execute("SELECT * FROM " + page(tenants, (1, 0), rows))
                        old.execute("SELECT * FROM " + page(tenants, (n + 1, 0), rows, back=True))
            with other.transaction():
                other.execute("SET LOCAL agent_events.quiet = on")
                first = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
                assert first is not None
                other.execute(BURN_IDS)
                other.execute(ONE_ROW_TRANSACTIONS, [first[0]])
            other.execute(SMALL_BATCHES)
            while other.execute("SELECT agent_events_append()").fetchone():
                pass
            other.execute(INSERT, [TENANT, TENANT, 30_000])
            ((head,),) = old.execute("SELECT n FROM agent_events_append()").fetchall()
            assert head == 7 + 3_000 + (ROWS - 30_000) // 10_000 + 1
            yield Grown(old, other, head)
        admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.mark.parametrize(("rows", "most"), [(1, 60), (100, 300)])
def test_an_append_touches_the_new_rows_only(grown: Grown, rows: int, most: int) -> None:
    grown.other.execute(INSERT, [str(uuid.uuid4()), TENANT, rows])
    touched = buffers(grown.old, "agent_events_append()")
    assert touched < most
    assert buffers(grown.old, "agent_events_append()") < 40


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(
    ("tenants", "most"),
    [
        ("NULL", 800),
        (f"ARRAY['{TENANT}']::uuid[]", 1_600),
        (f"ARRAY['{TENANT}', '{STRANGER}']::uuid[]", 2_400),
        (f"ARRAY['{STRANGER}']::uuid[]", 500),
    ],
)
def test_a_page_of_100_touches_what_it_returns(
    grown: Grown, tenants: str, most: int, back: bool
) -> None:
    touched = buffers(grown.old, page(tenants, (1_500, 0), 100, back=back))
    assert touched < most


@pytest.mark.parametrize("tenants", ["NULL", f"ARRAY['{TENANT}']::uuid[]"])
def test_a_page_inside_a_batch_of_many_transactions_reads_no_other_rows(
    grown: Grown, tenants: str
) -> None:
    many = grown.head - 3
    ((id_,),) = grown.old.execute(
        "SELECT max(id) - 5000 FROM agent_events_window(NULL, %s, %s)", [many, many]
    ).fetchall()
    # The batch's ids are looked through in the index: some 10,000 entries with their visibility.
    touched = buffers(grown.old, page(tenants, (many, id_), 50))
    assert touched < 11_000


@pytest.mark.parametrize("tenants", ["NULL", f"ARRAY['{TENANT}']::uuid[]"])
@pytest.mark.parametrize("back", [False, True])
def test_a_page_of_a_huge_transaction_starts_where_it_begins(
    grown: Grown, tenants: str, back: bool
) -> None:
    ((id_,),) = grown.old.execute("SELECT max(id) - 15000 FROM agent_events").fetchall()
    touched = buffers(grown.old, page(tenants, (grown.head, id_), 100, back=back))
    assert touched < 1_000
