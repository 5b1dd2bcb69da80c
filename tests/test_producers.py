"""Producers: a plain INSERT from anywhere works, and a bad one writes nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.sql import load
from tests.support.roles import temporary_role

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

TENANT, AGENT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES (%s, %s, %s, %s)
"""


def count(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM agent_events").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def producer(dsn: str, connect: Connect) -> Iterator[Connection]:
    """A connection of a role that may do nothing but insert the four columns."""
    with temporary_role(dsn) as role:
        owner, connection = connect(), connect()
        owner.execute(
            f"GRANT INSERT (tenant_id, agent_id, event_type, payload) ON agent_events TO {role}"
        )
        connection.execute(f"SET ROLE {role}")
        yield connection
        connection.close()


def role_of(connection: Connection) -> str:
    row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    return str(row[0])


def test_a_role_with_nothing_but_insert_on_four_columns_publishes(
    connect: Connect, producer: Connection
) -> None:
    producer.execute(INSERT, [TENANT, AGENT, "turn_complete", '{"tokens":142,"latency":820}'])
    stored = (
        connect()
        .execute(
            "SELECT tenant_id::text, agent_id::text, event_type, payload, created_at <= now(),"
            " pg_visible_in_snapshot(tx, pg_current_snapshot()) FROM agent_events"
        )
        .fetchall()
    )
    payload = {"tokens": 142, "latency": 820}
    assert stored == [(TENANT, AGENT, "turn_complete", payload, True, True)]
    with pytest.raises(errors.InsufficientPrivilege):
        producer.execute("SELECT payload FROM agent_events")


def test_it_needs_select_on_id_to_learn_the_new_id(connect: Connect, producer: Connection) -> None:
    values = [TENANT, AGENT, "x", "1"]
    with pytest.raises(errors.InsufficientPrivilege):
        producer.execute(f"{INSERT} RETURNING id", values)
    connect().execute(f"GRANT SELECT (id) ON agent_events TO {role_of(producer)}")
    row = producer.execute(f"{INSERT} RETURNING id", values).fetchone()
    assert row is not None
    assert connect().execute("SELECT id FROM agent_events").fetchall() == [row]


def test_it_cannot_forge_what_the_database_fills_in(connect: Connect, producer: Connection) -> None:
    for column, value in (("id", "7"), ("tx", "'7'"), ("created_at", "'2020-01-01'")):
        with pytest.raises(errors.InsufficientPrivilege):
            producer.execute(
                f"INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, {column})"
                f" VALUES (%s, %s, 'x', '1', {value})",
                [TENANT, AGENT],
            )
    assert count(connect()) == 0


def test_no_way_around_the_grant_leads_to_tx_or_id(connect: Connect, producer: Connection) -> None:
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    before = connect().execute("SELECT id, tx FROM agent_events").fetchall()
    row = f"'{TENANT}', '{AGENT}', 'x', '1'"
    columns = "tenant_id, agent_id, event_type, payload"
    for statement in (
        f"INSERT INTO agent_events VALUES (9, {row}, now(), '9')",
        f"INSERT INTO agent_events ({columns}, id) OVERRIDING SYSTEM VALUE VALUES ({row}, 9)",
        f"INSERT INTO agent_events ({columns}) VALUES ({row}) RETURNING tx",
        f"INSERT INTO agent_events ({columns}) VALUES ({row})"
        " ON CONFLICT (id) DO UPDATE SET tx = '9'",
        f"MERGE INTO agent_events AS e USING (SELECT 1) AS s ON false"
        f" WHEN NOT MATCHED THEN INSERT ({columns}, tx) VALUES ({row}, '9')",
        f"COPY agent_events ({columns}, tx) FROM STDIN",
        "COPY agent_events FROM STDIN",
        "SELECT nextval(pg_get_serial_sequence('agent_events', 'id'))",
        "SELECT setval(pg_get_serial_sequence('agent_events', 'id'), 1)",
        "ALTER TABLE agent_events ALTER tx SET DEFAULT '9'",
        "ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring",
        "CREATE TRIGGER mine BEFORE INSERT ON agent_events FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE mine AS ON INSERT TO agent_events DO INSTEAD NOTHING",
        "CREATE TABLE mine () INHERITS (agent_events)",
        "SET session_replication_role = replica",
        "UPDATE agent_event_bus SET bodies = false",
        "INSERT INTO agent_event_batches VALUES (9, '1:1:', 0, now())",
        "DELETE FROM agent_event_batches",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            producer.execute(statement)
    assert connect().execute("SELECT id, tx FROM agent_events").fetchall() == before


def test_a_forged_tx_ahead_of_the_cluster_neither_repeats_nor_stops_the_rest(
    connect: Connect,
) -> None:
    forger, connection = connect(), connect()  # the owner may, and whoever got the whole table

    def append() -> list[tuple[int, int]]:
        return connection.execute("SELECT n, rows FROM agent_events_append()").fetchall()

    def read() -> list[int]:
        page = connection.execute("SELECT id FROM agent_events_read(NULL, 1, 0, 100)")
        return [id_ for (id_,) in page.fetchall()]

    ids = []
    for ahead in (0, 10, 2**40):
        row = forger.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, tx)"
            " VALUES (%s, %s, 'forged', '1',"
            " (pg_current_xact_id()::text::bigint + %s)::text::xid8) RETURNING id",
            [TENANT, AGENT, ahead],
        ).fetchone()
        assert row is not None
        ids.append(row[0])
    for n in range(1, 30):
        connection.execute(INSERT, [TENANT, AGENT, "honest", "1"])
        ((batch, rows),) = append()
        assert batch == n
        assert rows in (1, 2, 3)
        assert append() == []
    found = read()
    assert len(found) == len(set(found)) == 29 + 2  # and the far one in no batch
    assert set(ids) - set(found) == {ids[2]}


def test_it_may_neither_change_nor_delete_what_is_written(producer: Connection) -> None:
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    for statement in (
        "UPDATE agent_events SET event_type = 'y'",
        "DELETE FROM agent_events",
        "TRUNCATE agent_events",
        "SELECT agent_events_append()",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            producer.execute(statement)


def test_where_nobody_may_call_functions_by_default_producers_still_publish(
    connect: Connect, producer: Connection
) -> None:
    owner = connect()
    owner.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    for name in ("drop_functions", "append", "read", "pages", "ring"):
        owner.execute(load(name, "public"))
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert count(owner) == 1


def test_copy_publishes_too(connect: Connect, producer: Connection) -> None:
    with producer.cursor().copy(
        "COPY agent_events (tenant_id, agent_id, event_type, payload) FROM STDIN"
    ) as copy:
        for n in range(250):
            copy.write_row([TENANT, AGENT, "copied", json.dumps({"n": n})])
    connection = connect()
    row = connection.execute("SELECT rows FROM agent_events_append()").fetchone()
    assert row == (250,)
    read = connection.execute(
        "SELECT payload->'n' FROM agent_events_read(%s, 1, 0, 1000)", [TENANT]
    )
    assert [n for (n,) in read.fetchall()] == list(range(250))


def test_any_json_is_a_payload(connect: Connect, producer: Connection) -> None:
    payloads = ["1", "null", '""', "[]", json.dumps("x" * 5_000_000)]
    for payload in payloads:
        producer.execute(INSERT, [TENANT, AGENT, "x", payload])
    connection = connect()
    connection.execute("SELECT agent_events_append()")
    rows = connection.execute(
        "SELECT payload::text FROM agent_events_read(%s, 1, 0, 10)", [TENANT]
    ).fetchall()
    assert [payload for (payload,) in rows] == payloads


def test_event_types_of_1_and_of_200_characters_are_fine(
    connect: Connect, producer: Connection
) -> None:
    for event_type in ("x", "é" * 200):
        producer.execute(INSERT, [TENANT, AGENT, event_type, "1"])
    assert count(connect()) == 2


BAD = [
    ([TENANT, AGENT, "x", '{"a":"\\u0000"}'], errors.UntranslatableCharacter, "u0000"),
    ([TENANT, AGENT, "x", '{"a":NaN}'], errors.InvalidTextRepresentation, "NaN"),
    ([TENANT, AGENT, "x", '{"a":Infinity}'], errors.InvalidTextRepresentation, "Infinity"),
    ([TENANT, AGENT, "x", "{"], errors.InvalidTextRepresentation, "json"),
    ([TENANT, AGENT, "x", ""], errors.InvalidTextRepresentation, "json"),
    ([TENANT, AGENT, "x", None], errors.NotNullViolation, "payload"),
    ([TENANT, AGENT, "", "1"], errors.CheckViolation, "event_type_length"),
    ([TENANT, AGENT, "x" * 201, "1"], errors.CheckViolation, "event_type_length"),
    ([TENANT, AGENT, None, "1"], errors.NotNullViolation, "event_type"),
    (["me", AGENT, "x", "1"], errors.InvalidTextRepresentation, "uuid"),
    ([TENANT, "x" * 36, "x", "1"], errors.InvalidTextRepresentation, "uuid"),
    ([None, AGENT, "x", "1"], errors.NotNullViolation, "tenant_id"),
]


def test_a_bad_event_is_a_clear_error_and_nothing_is_written(
    connect: Connect, producer: Connection
) -> None:
    for values, error, says in BAD:
        with pytest.raises(error, match=says):
            producer.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                " VALUES (%s, %s, 'good', '1'), (%s, %s, %s, %s)",
                [TENANT, AGENT, *values],
            )
    connection = connect()
    assert count(connection) == 0
    assert connection.execute("SELECT * FROM agent_events_append()").fetchall() == []


def test_a_prepared_transaction_publishes_when_it_is_quiet(connect: Connect) -> None:
    connection = connect()
    name = f"producer-{uuid.uuid4()}"
    connection.execute("BEGIN")
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    with pytest.raises(errors.FeatureNotSupported, match="NOTIFY"):
        connection.execute(f"PREPARE TRANSACTION '{name}'")
    connection.rollback()
    connection.execute("BEGIN")
    connection.execute("SET LOCAL agent_events.quiet = on")
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    connection.execute(f"PREPARE TRANSACTION '{name}'")
    assert connection.execute("SELECT * FROM agent_events_append()").fetchall() == []
    connection.execute(f"COMMIT PREPARED '{name}'")
    assert connection.execute("SELECT rows FROM agent_events_append()").fetchall() == [(1,)]
