"""Taking over a table of the published recipe: nothing is rewritten, nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier

from agent_events.sql import load
from project.embedded import EmbeddedPostgres
from tests.support import manage
from tests.support.database import ROOT
from tests.support.roles import temporary_role

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

SEED = """
    CREATE TABLE agent_events (
        id         BIGSERIAL PRIMARY KEY,
        tenant_id  UUID NOT NULL,
        agent_id   UUID NOT NULL,
        event_type TEXT NOT NULL,
        payload    JSONB NOT NULL,
        created_at TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE FUNCTION notify_agent_event() RETURNS trigger AS $$
    BEGIN
        PERFORM pg_notify('agent_event_' || NEW.tenant_id, json_build_object(
            'id', NEW.id, 'agentId', NEW.agent_id,
            'type', NEW.event_type, 'payload', NEW.payload)::text);
        RETURN NEW;
    END
    $$ LANGUAGE plpgsql;
    CREATE TRIGGER trg_notify_agent_event AFTER INSERT ON agent_events
        FOR EACH ROW EXECUTE FUNCTION notify_agent_event();
"""
TENANT = str(uuid.UUID(int=3))
INSERT = f"""
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    VALUES ('{TENANT}', gen_random_uuid(), 'turn_complete', '{{"tokens": 142, "latency": 820}}')
"""
# Ids in another order than that of the rows in the table, and with gaps.
FILL = """
    INSERT INTO agent_events (id, tenant_id, agent_id, event_type, payload)
    SELECT (i * 7919) %% 1000003, lpad(to_hex(i %% 5), 32, '0')::uuid, gen_random_uuid(), 'old',
           to_jsonb(i)
      FROM generate_series(1, %s) AS i
"""


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with nothing in it, in place of a migrated one."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        yield postgres.dsn(name)
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def take_over(connection: Connection) -> None:
    """What migrations 0001 and 0002 run."""
    with connection.transaction():
        for name in ("take_over", "tables", "append", "read", "pages", "ring"):
            connection.execute(load(name, "public"))


def one(connection: Connection, query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def pages(connection: Connection, tenant: str | None, max_rows: int) -> Iterator[tuple[int, int]]:
    """(batch, id) of the whole log, page by page."""
    batch, id_ = 1, 0
    while True:
        page = connection.execute(
            "SELECT batch, id FROM agent_events_read(%s, %s, %s, %s)",
            [tenant, batch, id_, max_rows],
        ).fetchall()
        yield from page
        if len(page) < max_rows:
            return
        batch, id_ = page[-1]


def test_a_seeds_table_becomes_the_log_without_being_rewritten(dsn: str, connect: Connect) -> None:
    owner = connect()
    owner.execute(SEED)
    owner.execute("CREATE INDEX mine ON agent_events (tenant_id, created_at DESC)")
    owner.execute("ALTER TABLE agent_events ADD COLUMN vertical text NOT NULL DEFAULT 'legal'")
    owner.execute("ALTER TABLE agent_events DISABLE TRIGGER USER")
    owner.execute(FILL, [100_000])
    owner.execute("ALTER TABLE agent_events ENABLE TRIGGER USER")
    ids = [id_ for (id_,) in owner.execute("SELECT id FROM agent_events ORDER BY id").fetchall()]
    file = one(owner, "SELECT pg_relation_filenode('agent_events')")
    with temporary_role(dsn) as role:
        owner.execute(f"GRANT INSERT ON agent_events TO {role}")
        owner.execute(f"GRANT SELECT (id) ON agent_events TO {role}")
        owner.execute(f"GRANT USAGE ON SEQUENCE agent_events_id_seq TO {role}")
        producer = connect()
        producer.execute(f"SET ROLE {role}")
        producer.execute(INSERT, prepare=True)  # id 1, which FILL left free
        ids = sorted([1, *ids])

        manage("migrate", "agent_events", "--skip-checks", "--verbosity=0", dsn=dsn)

        assert one(owner, "SELECT pg_relation_filenode('agent_events')") == file
        assert one(owner, "SELECT count(DISTINCT tx) FROM agent_events") == 1
        assert owner.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'agent_events'::regclass"
            " UNION ALL SELECT proname FROM pg_proc WHERE proname = 'notify_agent_event'"
        ).fetchall() == [("agent_events_ring",)]
        assert {name for name, _ in indexes(owner)} == {
            "agent_events_human",
            "agent_events_pkey",
            "agent_events_run_end",
            "agent_events_tenant_tx_id",
            "agent_events_tx_id",
            "mine",
        }
        sequences = (
            "SELECT relname FROM pg_class WHERE relkind = 'S' AND relname ~ '^agent_events_id'"
        )
        assert owner.execute(sequences).fetchall() == [("agent_events_id_seq",)]

        # Everything that it held is the first batch, in the order of the ids.
        appended = "SELECT n, rows FROM agent_events_append()"
        assert owner.execute(appended).fetchall() == [(1, 100_001)]
        assert owner.execute(appended).fetchall() == []
        assert list(pages(owner, None, 20_000)) == [(1, id_) for id_ in ids]
        mine = [id_ for _, id_ in pages(owner, TENANT, 7_000)]
        assert len(mine) == 20_001
        assert mine == sorted(mine)

        # Producers, and listeners on the old channel, notice nothing.
        ear = connect()
        ear.execute(f'LISTEN "agent_event_{TENANT}"')
        top = one(producer, f"{INSERT} RETURNING id")
        producer.execute(INSERT, prepare=True)
        assert top == max(ids) + 1
        assert one(producer, "SELECT nextval('agent_events_id_seq')") == max(ids) + 3
        notes = [note.payload for note in ear.notifies(timeout=10, stop_after=2)]
        assert f'"id":{max(ids) + 2},' in notes[1]
        assert owner.execute(appended).fetchall() == [(2, 2)]
        live = owner.execute("SELECT batch, id FROM agent_events_read(%s, 2, 0, 10)", [TENANT])
        assert live.fetchall() == [(2, top), (2, top + 1)]
        owner.execute(f"REVOKE USAGE ON SEQUENCE agent_events_id_seq FROM {role}")
        assert one(producer, f"{INSERT} RETURNING id") == top + 3

        # The way back keeps the table; the way there again goes too.
        manage("migrate", "agent_events", "zero", "--verbosity=0", dsn=dsn)
        assert one(owner, "SELECT count(*) FROM agent_events") == len(ids) + 3
        assert "tx" not in columns(owner)
        manage("migrate", "agent_events", "--skip-checks", "--verbosity=0", dsn=dsn)
        assert one(owner, "SELECT pg_relation_filenode('agent_events')") == file
        assert owner.execute(appended).fetchall() == [(1, len(ids) + 3)]
        assert one(producer, f"{INSERT} RETURNING id") == top + 4


def indexes(connection: Connection) -> list[tuple[str, int]]:
    """Name and file of each index of the log: the file changes when it is built again."""
    return connection.execute(
        "SELECT indexrelid::regclass::text, pg_relation_filenode(indexrelid)::bigint"
        "  FROM pg_index WHERE indrelid = 'agent_events'::regclass ORDER BY 1"
    ).fetchall()


def columns(connection: Connection) -> list[str]:
    return [
        c.name for c in connection.execute("SELECT * FROM agent_events LIMIT 0").description or ()
    ]


SPOILT = {
    "another type": (
        "ALTER TABLE agent_events ALTER COLUMN payload TYPE json",
        "Column payload is json, expected jsonb",
    ),
    "a shorter text": (
        "ALTER TABLE agent_events ALTER COLUMN event_type TYPE varchar(50)",
        "Column event_type is character varying(50), expected text",
    ),
    "ids of 4 bytes": (
        "ALTER TABLE agent_events ALTER COLUMN id TYPE integer",
        "Column id is integer, expected bigint",
    ),
    "a time without its zone": (
        "ALTER TABLE agent_events ALTER COLUMN created_at TYPE timestamp",
        "Column created_at is timestamp without time zone, expected timestamptz",
    ),
    "no time": (
        "ALTER TABLE agent_events DROP COLUMN created_at",
        "There is no column created_at, expected timestamptz",
    ),
    "null": (
        "ALTER TABLE agent_events ALTER COLUMN agent_id DROP NOT NULL;"
        " INSERT INTO agent_events (tenant_id, event_type, payload)"
        " VALUES (gen_random_uuid(), 'x', '1')",
        "Column agent_id may be NULL, expected NOT NULL",
    ),
    "no key": (
        "ALTER TABLE agent_events DROP CONSTRAINT agent_events_pkey",
        "The primary key is not (id)",
    ),
    "a column that must be given": (
        'ALTER TABLE agent_events ADD COLUMN "Run" text; UPDATE agent_events SET "Run" = 1;'
        ' ALTER TABLE agent_events ALTER COLUMN "Run" SET NOT NULL',
        'Column "Run" must be given with each event',
    ),
    "ids that fall": (
        "ALTER SEQUENCE agent_events_id_seq INCREMENT BY -1 MINVALUE -9",
        "The ids fall",
    ),
    "ids of its own": (
        "ALTER TABLE agent_events ALTER COLUMN id SET DEFAULT extract(epoch FROM now())::bigint",
        "Column id is made by",
    ),
    "an index in the way": (
        "CREATE INDEX agent_events_tx_id ON agent_events (tenant_id)",
        "agent_events_tx_id is in the way",
    ),
    "tx of another cluster": (
        "ALTER TABLE agent_events ADD COLUMN tx xid8 NOT NULL DEFAULT pg_current_xact_id();"
        " UPDATE agent_events SET tx = '99999999'",
        "Column tx comes from another cluster",
    ),
}


@pytest.fixture
def seed(connect: Connect) -> Connection:
    """A seed's table with a few rows, and a connection of its owner."""
    connection = connect()
    connection.execute(SEED)
    connection.execute(FILL, [50])
    return connection


@pytest.mark.parametrize("name", SPOILT)
def test_a_table_that_cannot_become_the_log_is_refused_with_the_change_to_paste(
    seed: Connection, name: str
) -> None:
    spoil, says = SPOILT[name]
    seed.execute(spoil)
    before = columns(seed)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="nothing was changed") as refused:
        take_over(seed)
    detail = str(refused.value.diag.message_detail)
    assert detail.startswith(says)
    assert "\n" not in detail, "one thing was wrong"
    assert columns(seed) == before

    change = re.search(r"(?:ALTER|DELETE|DROP) .*;", detail)
    assert change is not None
    seed.execute(change[0])
    take_over(seed)
    seed.execute(INSERT)
    assert one(seed, "SELECT rows FROM agent_events_append()") == one(
        seed, "SELECT count(*) FROM agent_events"
    )


def test_everything_that_is_wrong_is_said_at_once(seed: Connection) -> None:
    seed.execute("ALTER TABLE agent_events ADD COLUMN tx int, ALTER COLUMN payload TYPE text")
    seed.execute("ALTER TABLE agent_events ALTER COLUMN tenant_id DROP NOT NULL")
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as refused:
        take_over(seed)
    detail = str(refused.value.diag.message_detail)
    assert [line.split(",")[0] for line in detail.splitlines()] == [
        "Column tenant_id may be NULL",
        "Column payload is text",
        "Column tx is in the way",
    ]


def test_migrate_refuses_in_words_and_leaves_everything_as_it_was(
    dsn: str, seed: Connection, connect: Connect
) -> None:
    seed.execute("ALTER TABLE agent_events ALTER COLUMN payload TYPE json")
    with pytest.raises(AssertionError) as failed:
        manage("migrate", "agent_events", "--skip-checks", dsn=dsn)
    assert "Column payload is json, expected jsonb. ALTER TABLE" in str(failed.value)
    assert "tx" not in columns(seed)
    connect().execute(INSERT)


def test_whoever_cannot_change_the_table_is_told_whose_it_is(dsn: str, seed: Connection) -> None:
    with temporary_role(dsn) as role:
        seed.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        seed.execute(f"SET ROLE {role}")
        with pytest.raises(errors.InsufficientPrivilege, match="and it is agent_events's; nothing"):
            take_over(seed)
        seed.execute("RESET ROLE")


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE VIEW agent_events AS SELECT 1 AS id",
        "CREATE TABLE agent_events (id bigint PRIMARY KEY) PARTITION BY RANGE (id)",
    ],
)
def test_what_is_no_plain_table_is_refused(connect: Connect, ddl: str) -> None:
    connection = connect()
    connection.execute(ddl)
    with pytest.raises(errors.WrongObjectType, match="is no plain table; nothing was changed"):
        take_over(connection)


def test_it_does_not_wait_for_an_open_transaction_and_says_whose_it_is(
    seed: Connection, connect: Connect
) -> None:
    other = connect(autocommit=False)
    other.execute(INSERT)
    seed.execute("SET lock_timeout = '100ms'")
    with pytest.raises(errors.LockNotAvailable, match="in use by an open transaction") as refused:
        take_over(seed)
    assert f"In use by: {other.info.backend_pid} (" in str(refused.value.diag.message_detail)
    other.commit()
    take_over(seed)
    assert one(seed, "SHOW lock_timeout") == "100ms"


def test_old_types_that_are_too_long_stay_and_new_ones_are_refused(
    dsn: str, seed: Connection
) -> None:
    seed.execute("UPDATE agent_events SET event_type = repeat('x', 300) WHERE id < 200000")
    told = subprocess.run(
        [sys.executable, "manage.py", "migrate", "agent_events", "--skip-checks"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "whose type has more than 200 characters" in told.stdout + told.stderr
    seed.execute("SELECT agent_events_append()")
    assert one(seed, "SELECT max(length(event_type)) FROM agent_events_read(NULL, 1, 0, 99)") == 300
    with pytest.raises(errors.CheckViolation):
        seed.execute(INSERT.replace("turn_complete", "x" * 201))
    seed.execute(INSERT)


def test_the_slow_part_can_be_done_ahead_and_nothing_is_done_twice(seed: Connection) -> None:
    from tests.test_docs import blocks_of, statements

    (ahead,) = blocks_of(ROOT / "docs" / "take_over.md", "sql")
    for statement in statements(ahead):
        seed.execute(statement.encode())
    seed.execute(INSERT)
    made = indexes(seed)
    assert len(made) == 3
    take_over(seed)
    assert indexes(seed) == made
    assert one(seed, "SELECT count(DISTINCT tx) FROM agent_events") == 2
    assert one(seed, "SELECT rows FROM agent_events_append()") == 51


def test_what_others_use_stays(seed: Connection) -> None:
    """The function where it serves another table, triggers under other names, ids in steps."""
    seed.execute("CREATE TABLE other (id bigint, tenant_id uuid)")
    seed.execute(
        "CREATE TRIGGER theirs AFTER INSERT ON other FOR EACH ROW"
        " EXECUTE FUNCTION notify_agent_event();"
        "CREATE TRIGGER suppress BEFORE UPDATE ON agent_events FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger();"
        "ALTER SEQUENCE agent_events_id_seq INCREMENT BY 50;"
        "SELECT setval('agent_events_id_seq', 5000000)"
    )
    warned: list[str] = []
    seed.add_notice_handler(lambda notice: warned.append(str(notice.message_primary)))
    take_over(seed)
    assert one(seed, "SELECT count(*) FROM pg_proc WHERE proname = 'notify_agent_event'") == 1
    assert [text for text in warned if text.startswith("agent_events: the function")]
    assert "agent_events: triggers of yours stay on public.agent_events: suppress" in warned
    assert one(seed, f"{INSERT} RETURNING id") == 5_000_050


def test_a_log_of_identity_already_or_of_ids_given_by_hand_is_taken_over_too(
    connect: Connect,
) -> None:
    connection = connect()
    connection.execute(SEED.replace("BIGSERIAL", "bigint GENERATED ALWAYS AS IDENTITY (CACHE 20)"))
    connection.execute(INSERT)
    with connection.transaction(force_rollback=True):
        take_over(connection)
        assert one(connection, f"{INSERT} RETURNING id") == 21  # 2 to 20 were in a cache
        sequence = "seqrelid = 'agent_events_id_seq'::regclass"
        assert one(connection, f"SELECT seqcache FROM pg_sequence WHERE {sequence}") == 1
    connection.execute("ALTER TABLE agent_events ALTER COLUMN id DROP IDENTITY")
    connection.execute(FILL, [10])
    take_over(connection)
    top = one(connection, "SELECT max(id) FROM agent_events")
    assert one(connection, f"{INSERT} RETURNING id") == top + 1


def test_a_fresh_log_is_dropped_by_the_way_back(connect: Connect) -> None:
    connection = connect()
    take_over(connection)
    connection.execute(load("drop_functions", "public"))
    connection.execute(load("drop_tables", "public"))
    assert one(connection, "SELECT to_regclass('agent_events')") is None


def test_a_table_of_that_name_in_another_schema_is_left_alone(connect: Connect) -> None:
    connection = connect()
    connection.execute("CREATE SCHEMA theirs; SET search_path = theirs")
    connection.execute(SEED)
    connection.execute("SET search_path = public, theirs")
    take_over(connection)
    assert one(connection, "SELECT count(*) FROM public.agent_events") == 0
    assert (
        one(connection, "SELECT count(*) FROM pg_trigger WHERE tgname = 'trg_notify_agent_event'")
        == 1
    )
