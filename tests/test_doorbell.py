"""The doorbell: who hears what of an INSERT, and that it never fails one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.database import COALESCING_KEY
from tests.support.ear import Ear, channel_of
from tests.support.roles import temporary_role

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

TENANT, OTHER = "3b241101-e2bb-4255-8caf-4136c566a962", str(uuid.UUID(int=2))
AGENT = str(uuid.UUID(int=0xA9E7))
CHANNEL = channel_of(TENANT)
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES (%s, %s, %s, %s)
"""
INSERT_MANY = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'x', '1' FROM generate_series(1, %s)
"""


@pytest.fixture
def ear(connect: Connect) -> Ear:
    return Ear(connect, TENANT)


def test_an_insert_rings_and_tells_the_tenants_channel(connect: Connect, ear: Ear) -> None:
    payload = {"tokens": 142, "latency": 820, "text": 'quote " and é and \n'}
    row = (
        connect()
        .execute(f"{INSERT} RETURNING id", [TENANT, AGENT, 'a"b\\é', json.dumps(payload)])
        .fetchone()
    )
    assert row is not None
    (bell, told) = ear.heard()
    assert bell == ("agent_events", "")
    assert told[0] == CHANNEL
    want = {"id": row[0], "agentId": AGENT, "type": 'a"b\\é', "payload": payload}
    assert json.loads(told[1]) == want
    assert list(json.loads(told[1])) == ["id", "agentId", "type", "payload"]


def test_another_tenants_event_is_heard_on_the_doorbell_only(connect: Connect, ear: Ear) -> None:
    connect().execute(INSERT, [OTHER, AGENT, "x", "1"])
    assert ear.heard() == [("agent_events", "")]


def test_a_body_leaves_its_payload_out_from_8000_bytes_on(connect: Connect, ear: Ear) -> None:
    connection = connect()
    id_ = 0
    for letter in ("x", "é", "語", "🦊"):
        for size in range(7_990, 8_011):
            id_ += 1
            bare = len(f'{{"id":{id_},"agentId":"{AGENT}","type":"x","payload":""}}')
            wide, rest = divmod(size - bare, len(letter.encode()))
            text = letter * wide + "x" * rest
            payload = json.dumps(text, ensure_ascii=False)
            connection.execute(INSERT, [TENANT, AGENT, "x", payload])
            ((_, body),) = [note for note in ear.heard() if note[0] == CHANNEL]
            want = {"id": id_, "agentId": AGENT, "type": "x"}
            if size < 8_000:
                assert len(body.encode()) == size
                want["payload"] = text
            assert json.loads(body) == want, (letter, size)


def test_a_type_of_200_characters_that_json_spells_out_still_fits(
    connect: Connect, ear: Ear
) -> None:
    event_type = "\x01" * 200
    connect().execute(INSERT, [TENANT, AGENT, event_type, json.dumps("x" * 9_000)])
    (told,) = ear.bodies()
    assert told["type"] == event_type
    assert "payload" not in told


def test_100_rows_in_a_statement_are_told_one_by_one_in_order_and_101_are_counted(
    connect: Connect, ear: Ear
) -> None:
    connection = connect()
    connection.execute(INSERT_MANY, [TENANT, AGENT, 100])
    told = ear.bodies()
    assert [event["id"] for event in told] == list(range(1, 101))
    connection.execute(INSERT_MANY, [TENANT, AGENT, 101])
    assert ear.heard() == [("agent_events", ""), (CHANNEL, '{"batch":null,"count":101}')]


def test_rows_are_counted_for_each_tenant(connect: Connect, ear: Ear) -> None:
    connect().execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT CASE WHEN g <= 2 THEN %s ELSE %s END::uuid, %s, 'x', '1'"
        "   FROM generate_series(1, 200) AS g",
        [TENANT, OTHER, AGENT],
    )
    assert [event["id"] for event in ear.bodies()] == [1, 2]


def test_after_100_notifications_a_transaction_rings_the_doorbell_only(
    connect: Connect, ear: Ear
) -> None:
    connection = connect()
    with connection.transaction():
        for _ in range(130):
            connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    heard = ear.heard()
    assert [channel for channel, _ in heard].count(CHANNEL) == 100
    assert [channel for channel, _ in heard].count("agent_events") == 1
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert len(ear.bodies()) == 1


def test_one_statement_for_a_thousand_tenants_notifies_100_times_at_most(
    connect: Connect, ear: Ear
) -> None:
    connection = connect()
    ids = [str(uuid.UUID(int=n)) for n in range(1, 1_001)]
    for id_ in ids:
        ear.connection.execute(f'LISTEN "agent_event_{id_}"')
    connection.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT id, id, 'x', '1' FROM unnest(%s::uuid[]) AS t(id)",
        [ids],
    )
    assert len(ear.heard()) == 101


def test_what_a_savepoint_undid_is_not_told_and_not_counted(connect: Connect, ear: Ear) -> None:
    connection = connect()
    with connection.transaction():
        with connection.transaction(force_rollback=True):
            for _ in range(100):
                connection.execute(INSERT, [TENANT, AGENT, "undone", "1"])
        connection.execute(INSERT, [TENANT, AGENT, "kept", "1"])
    assert [event["type"] for event in ear.bodies()] == ["kept"]


def test_a_quiet_transaction_is_silent_and_only_that_one(connect: Connect, ear: Ear) -> None:
    connection = connect()
    with connection.transaction():
        connection.execute("SET LOCAL agent_events.quiet = on")
        connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert ear.heard() == []
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert len(ear.heard()) == 2


def test_a_statement_that_inserts_nothing_rings_nothing(connect: Connect, ear: Ear) -> None:
    connection = connect()
    connection.execute(INSERT_MANY, [TENANT, AGENT, 0])
    connection.execute("INSERT INTO agent_events SELECT * FROM agent_events")
    connection.execute("UPDATE agent_events SET event_type = 'y'")
    assert ear.heard() == []


def test_bodies_can_be_turned_off(connect: Connect, ear: Ear) -> None:
    connection = connect()
    connection.execute("UPDATE agent_event_bus SET bodies = false")
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    connection.execute(INSERT_MANY, [TENANT, AGENT, 200])
    assert ear.heard() == [("agent_events", "")] * 2


def test_an_emptied_settings_table_fails_no_insert(connect: Connect, ear: Ear) -> None:
    connection = connect()
    connection.execute("DELETE FROM agent_event_bus")
    connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert ear.heard() == [("agent_events", "")]


def test_a_producer_that_spoils_the_counter_spoils_no_insert(connect: Connect, ear: Ear) -> None:
    connection = connect()
    for value in ("", "many", "99999999999", "-5", "999", "100"):
        with connection.transaction():
            connection.execute("SELECT set_config('agent_events.rung', %s, true)", [value])
            connection.execute(INSERT, [TENANT, AGENT, "x", "1"])
        assert ear.heard()[0] == ("agent_events", ""), value


def test_while_somebody_holds_k_no_commit_rings_and_the_holder_need_not_say_goodbye(
    connect: Connect, ear: Ear
) -> None:
    holder, producer = connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})")
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    producer.execute(INSERT_MANY, [TENANT, AGENT, 200])
    with producer.cursor().copy(
        "COPY agent_events (tenant_id, agent_id, event_type, payload) FROM STDIN"
    ) as copy:
        copy.write_row([TENANT, AGENT, "x", "1"])
    holder.execute(INSERT, [TENANT, AGENT, "its own", "1"])
    assert [channel for channel, _ in ear.heard()] == ["agent_events", CHANNEL]  # its own alone
    holder.close()
    ear.other.execute(
        "SELECT pg_advisory_lock(k), pg_advisory_unlock(k)"  # waits until it has gone
        f"  FROM (SELECT {COALESCING_KEY} AS k) AS key"
    )
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert len(ear.heard()) == 2


def test_whoever_only_looks_whether_k_is_held_silences_nobody(connect: Connect, ear: Ear) -> None:
    looks = connect()
    looks.execute(f"SELECT pg_advisory_lock_shared({COALESCING_KEY})")
    connect().execute(INSERT, [TENANT, AGENT, "x", "1"])
    assert len(ear.heard()) == 2


def test_each_statement_looks_for_itself_and_leaves_no_lock_behind(
    connect: Connect, ear: Ear
) -> None:
    holder, producer = connect(), connect()
    with producer.transaction():
        producer.execute(INSERT, [TENANT, AGENT, "heard", "1"])
        # Free to be taken, though the producer is in its transaction still.
        row = holder.execute(f"SELECT pg_try_advisory_lock({COALESCING_KEY})").fetchone()
        assert row == (True,)
        producer.execute(INSERT, [TENANT, AGENT, "not heard", "1"])
        holder.execute(f"SELECT pg_advisory_unlock({COALESCING_KEY})")
        producer.execute(INSERT, [TENANT, AGENT, "heard again", "1"])
        held = producer.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchone()
        assert held == (0,)
    assert [event["type"] for event in ear.bodies()] == ["heard", "heard again"]


@pytest.mark.parametrize("coalescing", [False, True], ids=["ringing", "coalescing"])
def test_a_role_that_may_insert_and_nothing_else_inserts_whoever_holds_k(
    dsn: str, connect: Connect, ear: Ear, coalescing: bool
) -> None:
    owner, producer, holder = connect(), connect(), connect()
    with temporary_role(dsn) as role:
        owner.execute(
            f"GRANT INSERT (tenant_id, agent_id, event_type, payload) ON agent_events TO {role}"
        )
        if coalescing:
            holder.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})")
        producer.execute(f"SET ROLE {role}")
        producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
        with pytest.raises(errors.InsufficientPrivilege):
            producer.execute("SELECT FROM agent_event_bus")
        assert len(ear.heard()) == (0 if coalescing else 2)
        producer.close()


def test_prepare_transaction_works_quietly_or_while_k_is_held_and_not_otherwise(
    connect: Connect, ear: Ear
) -> None:
    producer, holder = connect(), connect()
    producer.execute("BEGIN")
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    with pytest.raises(errors.FeatureNotSupported, match="NOTIFY"):
        producer.execute("PREPARE TRANSACTION 'loud'")
    for name, before in (("quiet", "SET LOCAL agent_events.quiet = on"), ("held", "SELECT 1")):
        if name == "held":
            holder.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})")
        producer.execute("BEGIN")
        producer.execute(before)
        producer.execute(INSERT, [TENANT, AGENT, name, "1"])
        producer.execute(f"PREPARE TRANSACTION '{name}'")
        producer.execute(f"COMMIT PREPARED '{name}'")
    assert ear.heard() == []
    rows = producer.execute("SELECT event_type FROM agent_events ORDER BY id").fetchall()
    assert rows == [("quiet",), ("held",)]


def test_a_batch_is_told_to_the_bus_and_counted_for_each_of_its_tenants(
    connect: Connect, ear: Ear
) -> None:
    sequencer = connect()
    ear.connection.execute("LISTEN agent_events_batch")
    ear.connection.execute(f'LISTEN "{channel_of(OTHER)}"')
    for tenant, events in ((TENANT, 2), (OTHER, 150)):
        with sequencer.transaction():
            sequencer.execute("SET LOCAL agent_events.quiet = on")
            sequencer.execute(INSERT_MANY, [tenant, AGENT, events])
    tell = "SELECT agent_events_tell(a.n) FROM agent_events_append() AS a"
    assert sequencer.execute(tell).fetchall() == [(True,)]
    first, *tenants = ear.heard()
    assert first == ("agent_events_batch", "1")
    assert {channel: json.loads(body) for channel, body in tenants} == {
        CHANNEL: {"batch": 1, "count": 2},
        channel_of(OTHER): {"batch": 1, "count": 150},
    }
    sequencer.execute("UPDATE agent_event_bus SET bodies = false")
    sequencer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    sequencer.execute(tell)
    assert ear.heard() == [("agent_events", ""), ("agent_events_batch", "2")]


def test_agent_events_listen_listens_for_any_client(connect: Connect) -> None:
    listener, producer = connect(), connect()
    row = listener.execute("SELECT agent_events_listen(%s)", [TENANT]).fetchone()
    assert row == (CHANNEL,)
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    (note,) = listener.notifies(timeout=10, stop_after=1)
    assert note.channel == CHANNEL
    with pytest.raises(errors.NullValueNotAllowed, match="expected the id of a tenant"):
        listener.execute("SELECT agent_events_listen(NULL)")
