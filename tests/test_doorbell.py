"""The doorbell: who hears what of an INSERT, and that it never fails one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

TENANT, OTHER = "3b241101-e2bb-4255-8caf-4136c566a962", str(uuid.UUID(int=2))
AGENT = str(uuid.UUID(int=0xA9E7))
CHANNEL = f"agent_event_{TENANT}"
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES (%s, %s, %s, %s)
"""
INSERT_MANY = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'x', '1' FROM generate_series(1, %s)
"""


class Ear:
    """Listens to the doorbell, one tenant's channel, and a channel that marks the end."""

    def __init__(self, connect: Connect) -> None:
        self.connection = connect()
        self.other = connect()
        for channel in ("agent_events", CHANNEL, "enough"):
            self.connection.execute(f'LISTEN "{channel}"')

    def heard(self) -> list[tuple[str, str]]:
        """(channel, body) of all that was committed before this call, in order."""
        self.other.execute("NOTIFY enough")  # notifications come in the order of the commits
        notes = []
        for note in self.connection.notifies(timeout=10):
            if note.channel == "enough":
                return notes
            notes.append((note.channel, note.payload))
        raise AssertionError(f"the end never came; heard {notes}")

    def bodies(self) -> list[Any]:
        """What the tenant's channel said, parsed."""
        return [json.loads(body) for channel, body in self.heard() if channel == CHANNEL]


@pytest.fixture
def ear(connect: Connect) -> Ear:
    return Ear(connect)


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


def test_agent_events_listen_listens_for_any_client(connect: Connect) -> None:
    listener, producer = connect(), connect()
    row = listener.execute("SELECT agent_events_listen(%s)", [TENANT]).fetchone()
    assert row == (CHANNEL,)
    producer.execute(INSERT, [TENANT, AGENT, "x", "1"])
    (note,) = listener.notifies(timeout=10, stop_after=1)
    assert note.channel == CHANNEL
    with pytest.raises(errors.NullValueNotAllowed, match="expected the id of a tenant"):
        listener.execute("SELECT agent_events_listen(NULL)")
