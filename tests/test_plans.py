"""Costs at a million events of 1,000 tenants: append, read, history and the admin touch what they
return, with stale statistics and plans made long ago. Blocks are counted, not time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection as django_connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from psycopg.sql import SQL, Identifier

from agent_events import agents_now, history
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST
from project.embedded import EmbeddedPostgres
from tests.support.django_log import django_on

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

ROWS = 1_000_000
TRANSACTIONS = ROWS // 4
SMALL = 10_000  # batches of two of them; the rest is in batches of 10,000 events
TENANTS = 1_000
TENANT = str(uuid.UUID(int=7))  # has every 1,000th event
RARE = "rare"  # the type of one event, the oldest
STRANGER = str(uuid.UUID(int=TENANTS + 1))  # has none

# One id a loop: a subtransaction that writes takes one. So rows can be given the ids of that many
# transactions in a second, in place of running these.
BURN_IDS = f"""
    CREATE TEMP TABLE burnt (x int) ON COMMIT DROP;
    DO $$ BEGIN
        FOR i IN 1 .. {TRANSACTIONS} LOOP
            BEGIN
                INSERT INTO burnt VALUES (i);
            EXCEPTION WHEN division_by_zero THEN RAISE;
            END;
        END LOOP;
    END $$;
"""
TRANSACTIONS_OF_FOUR = f"""
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, tx)
    SELECT lpad(to_hex(i %% {TENANTS}), 32, '0')::uuid, lpad(to_hex(i %% 97), 32, '0')::uuid,
           CASE i WHEN 0 THEN '{RARE}' ELSE 'x' END, '1', (%s + 1 + i / 4)::text::xid8
      FROM generate_series(0, {ROWS - 1}) AS i
"""
SMALL_BATCHES = f"""
    DO $$ BEGIN
        FOR i IN 1 .. {SMALL} LOOP
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
    """Tables that grew from 7 events, which is all that the statistics know of, to a million."""

    old: Connection  # its plans were made while the tables were empty
    other: Connection
    dsn: str
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
            other.execute("ANALYZE")
            with other.transaction():
                other.execute("SET LOCAL agent_events.quiet = on")
                first = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
                assert first is not None
                other.execute(BURN_IDS)
                other.execute(TRANSACTIONS_OF_FOUR, [first[0]])
            other.execute(SMALL_BATCHES)
            while other.execute("SELECT agent_events_append()").fetchone():
                pass
            other.execute(INSERT, [TENANT, TENANT, 30_000])
            ((head,),) = old.execute("SELECT n FROM agent_events_append()").fetchall()
            assert head == 7 + SMALL + (ROWS - 8 * SMALL) // 10_000 + 1
            yield Grown(old, other, postgres.dsn(name), head)
        admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.mark.parametrize(("rows", "most"), [(1, 60), (100, 300)])
def test_an_append_touches_the_new_rows_only(grown: Grown, rows: int, most: int) -> None:
    grown.other.execute(INSERT, [str(uuid.uuid4()), TENANT, rows])
    touched = buffers(grown.old, "agent_events_append()")
    assert touched < most
    assert buffers(grown.old, "agent_events_append()") < 40


def test_an_append_of_a_late_transaction_touches_its_rows_only(grown: Grown) -> None:
    with psycopg.connect(grown.dsn) as late:
        late.execute(INSERT, [TENANT, TENANT, 10])
        for _ in range(2):
            grown.other.execute(INSERT, [TENANT, TENANT, 1])
            assert buffers(grown.old, "agent_events_append()") < 60
        late.commit()
    assert buffers(grown.old, "agent_events_append()") < 60
    ((rows,),) = grown.old.execute(
        "SELECT total - lag(total) OVER (ORDER BY n) FROM agent_event_batches"
        " ORDER BY n DESC LIMIT 1"
    ).fetchall()
    assert rows == 10


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(
    ("tenants", "most"),
    [
        ("NULL", 300),
        (f"ARRAY['{TENANT}']::uuid[]", 1_000),
        (f"ARRAY['{TENANT}', '{STRANGER}']::uuid[]", 1_200),
        (f"ARRAY['{STRANGER}']::uuid[]", 60),
    ],
)
def test_a_page_of_100_touches_what_it_returns(
    grown: Grown, tenants: str, most: int, back: bool
) -> None:
    call = page(tenants, (SMALL // 2, 0), 100, back=back)
    assert buffers(grown.old, call) < most
    found = len(grown.old.execute(f"SELECT * FROM {call}".encode()).fetchall()) - 1
    # The tenant has one event in 1,000: 40 in half of the small batches, and 7 before these.
    want = 0 if tenants.count("-") == 4 and STRANGER in tenants else 100
    assert found == (47 if back and TENANT in tenants else want)


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


# Through Django


class Touched(NamedTuple):
    """What the statements of a block did: blocks, and the plans that read a whole table."""

    blocks: int
    scans: list[str]


class Looker:
    """Django on `grown`, and what its statements touch."""

    def __init__(self) -> None:
        self.root = Client()
        self.root.force_login(get_user_model().objects.create_superuser("root"))

    def touched(self, block: Callable[[], object]) -> Touched:
        """Runs the block, and then each statement of it about the log once more, explained."""
        with CaptureQueriesContext(django_connection) as queries:
            block()
        found = [q["sql"] for q in queries if "agent_event" in q["sql"]]
        assert found
        blocks, scans = 0, []
        with django_connection.cursor() as cursor:
            for sql in found:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
                plan = cursor.fetchone()[0][0]["Plan"]
                blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                if re.search(r"Seq Scan.{1,99}'agent_event(s|_batches)'", str(plan)):
                    scans.append(sql)
        return Touched(blocks, scans)


@pytest.fixture(scope="module")
def looker(grown: Grown, django_db_blocker: Any) -> Iterator[Looker]:
    with django_db_blocker.unblock(), django_on(grown.dsn):
        yield Looker()


ANY = Filter()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("tenants", "filter", "most"),
    [
        (None, ANY, 500),
        ((TENANT,), ANY, 1_200),
        ((TENANT, STRANGER), ANY, 1_500),
        ((STRANGER,), ANY, 100),
        # A look at 5,000 events; those of a huge transaction cost four blocks each.
        (None, Filter.of(types=[RARE]), 25_000),
        ((TENANT,), Filter.of(types=[RARE]), 25_000),
        (None, Filter.of(not_types=["x"], texts=[RARE], where=["a > 1"]), 25_000),
        ((TENANT,), Filter.of(texts=[RARE]), 25_000),
        ((TENANT, STRANGER), Filter.of(where=["a.b = 1"]), 25_000),
    ],
)
def test_a_page_of_history_touches_what_it_returns_or_stops(
    looker: Looker, tenants: Any, filter: Filter, most: int, newest_first: bool
) -> None:
    for cursor in (EARLIEST, str(history.start_of(SMALL // 2)), LATEST):
        done = looker.touched(
            lambda at=cursor: history.read(  # type: ignore[misc]
                tenants, filter, at, newest_first=newest_first, limit=100
            )
        )
        assert done.blocks < most, cursor
        assert done.scans == []


def test_one_event_and_the_newest_ones_are_found_by_an_index(looker: Looker) -> None:
    done = looker.touched(lambda: history.one(ROWS // 2, (TENANT,)))
    assert done.blocks < 100
    assert done.scans == []
    done = looker.touched(lambda: history.latest([TENANT]))
    assert done.blocks < 1_000
    assert done.scans == []


@pytest.mark.parametrize(
    ("query", "most"),
    [
        ("", 1_500),
        (f"tenant={TENANT}", 1_500),
        (f"tenant={STRANGER}", 200),
        ("since=2020-01-01T00:00", 1_500),
        (f"until=2020-01-01T00:00&tenant={TENANT}", 500),
        ("batch=5000", 500),
        (f"batch={SMALL + 50}", 1_000),
        ("around={middle}", 1_500),
        (f"around={{middle}}&tenant={TENANT}", 2_000),
        (f"before={{middle}}&tenant={TENANT}", 1_500),
        (f"after={{middle}}&tenant={TENANT}", 1_500),
        # Looks at 40,000 events, most of them of one transaction, and at no more.
        (f"type={RARE}", 200_000),
        ("agent=ffff*", 200_000),
        (f"type={RARE}&tenant={STRANGER}", 500),
    ],
)
def test_a_list_of_events_in_the_admin_touches_what_it_shows(
    looker: Looker, query: str, most: int
) -> None:
    query = query.format(middle=history.start_of(SMALL // 2))

    def look() -> None:
        assert looker.root.get(f"/admin/agent_events/agentevent/?{query}").status_code == 200

    done = looker.touched(look)
    assert done.blocks < most
    assert done.scans == []


@pytest.mark.parametrize(
    ("path", "most"),
    [
        # With what its agent did around it: 10 events each way, among some thousands.
        ("agentevent/500000/change/", 5_000),
        ("batch/", 300),
        (f"batch/?before={SMALL // 2}", 300),
        (f"batch/?after={SMALL // 2}", 300),
        ("batch/?until=2100-01-01T00:00", 300),
        (f"batch/{SMALL // 2}/change/", 300),
        ("tenant/", 300),
    ],
)
def test_an_event_and_the_ledger_in_the_admin_are_found_by_an_index(
    looker: Looker, path: str, most: int
) -> None:
    def look() -> None:
        assert looker.root.get(f"/admin/agent_events/{path}").status_code == 200

    done = looker.touched(look)
    assert done.blocks < most
    assert done.scans == []


# At the head


@pytest.mark.parametrize("begun", ["before the head", "after the head"])
def test_200_000_rows_rolled_back_do_not_slow_the_appends_after_them(
    connect: Connect, begun: str
) -> None:
    connection, big = connect(), connect(autocommit=False)
    connection.execute("ALTER TABLE agent_events SET (autovacuum_enabled = off)")

    def append_one() -> int:
        connection.execute(INSERT, [TENANT, TENANT, 1])
        return buffers(connection, "agent_events_append()")

    connection.execute(INSERT, [TENANT, TENANT, 1_000])
    connection.execute("SELECT agent_events_append()")
    usual = append_one()
    big.execute(INSERT, [STRANGER, TENANT, 200_000])
    if begun == "before the head":
        # While it is open its rows are not touched at all.
        assert append_one() <= usual + 20
        assert append_one() <= usual + 20
    big.rollback()
    # Once each row is looked at, and left out of the index; then the index's own pages, until
    # the next event moves the head on.
    assert buffers(connection, "agent_events_append()") < 5_000
    assert buffers(connection, "agent_events_append()") < 1_000
    assert append_one() < 1_000
    for _ in range(3):
        assert append_one() <= usual + 10
    assert buffers(connection, "agent_events_append()") <= 10


def test_a_look_at_agents_touches_what_it_returns(grown: Grown) -> None:
    """Questions to people come from an index of their own, of one tenant and of all."""
    grown.other.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT %s, %s, 'needs_human', jsonb_build_object('run_id', i)"
        "   FROM generate_series(1, 300) AS i",
        [TENANT, TENANT],
    )
    grown.other.execute(INSERT, [TENANT, TENANT, agents_now.MOST_EVENTS + 1])
    ((head,),) = grown.other.execute("SELECT n FROM agent_events_append()").fetchall()
    wanted, most = [TENANT, STRANGER], agents_now.MOST_EVENTS
    looks: list[tuple[str, list[Any], int]] = [
        (agents_now._HUMAN, [wanted, agents_now.MOST_HUMAN, None, None, None, None], 3_000),
        (agents_now._TENANTS, [], 60),
        (agents_now._LOOK, [wanted, head + 1, most, None, None], 6 * most),
    ]
    for query, params, blocks in looks:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}".encode()
        ((found,),) = grown.old.execute(explain, params).fetchall()
        plan = found[0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < blocks
        scans = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
        assert query == agents_now._LOOK or "agent_events_human" in scans
        read = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
        assert "agent_events" not in read


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)
