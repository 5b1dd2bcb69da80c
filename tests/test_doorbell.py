"""The doorbell: who hears what of an INSERT, and that it never fails one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support.roles import temporary_role

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


HOSTILE = """
    CREATE SCHEMA hostile;
    CREATE TABLE hostile.agent_events (LIKE public.agent_events);
    CREATE TABLE hostile.agent_event_bus (bodies boolean);
    CREATE FUNCTION hostile.boom(text) RETURNS text LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''hostile''; END';
    CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE sql
        AS 'SELECT hostile.boom($1)::void';
    CREATE FUNCTION hostile.agent_events_bodies() RETURNS boolean LANGUAGE sql
        AS 'SELECT hostile.boom('''')::boolean';
    CREATE FUNCTION hostile.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql
        AS 'SELECT hostile.boom('''')::float8';
    CREATE FUNCTION hostile.current_setting(text, boolean) RETURNS text LANGUAGE sql
        AS 'SELECT hostile.boom($1)';
    CREATE FUNCTION hostile.bad_concat(text, uuid) RETURNS text LANGUAGE sql
        AS 'SELECT hostile.boom($1)';
    CREATE OPERATOR hostile.|| (LEFTARG = text, RIGHTARG = uuid, FUNCTION = hostile.bad_concat);
    CREATE FUNCTION hostile.bad_equal(text, text) RETURNS boolean LANGUAGE sql
        AS 'SELECT hostile.boom($1)::boolean';
    CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.bad_equal);
    CREATE FUNCTION hostile.bad_xid(xid8, xid8) RETURNS boolean LANGUAGE sql
        AS 'SELECT hostile.boom('''')::boolean';
    CREATE OPERATOR hostile.< (LEFTARG = xid8, RIGHTARG = xid8, FUNCTION = hostile.bad_xid);
    CREATE OPERATOR hostile.>= (LEFTARG = xid8, RIGHTARG = xid8, FUNCTION = hostile.bad_xid);
    CREATE FUNCTION hostile.pg_snapshot_xmax(pg_snapshot) RETURNS xid8 LANGUAGE sql
        AS 'SELECT hostile.boom('''')::xid8';
    GRANT ALL ON SCHEMA hostile TO PUBLIC;
"""


def test_a_hostile_search_path_changes_nothing(connect: Connect, ear: Ear, dsn: str) -> None:
    connection = connect()
    connection.execute(HOSTILE)
    connection.execute("SET search_path = hostile, pg_catalog, public")
    with pytest.raises(errors.RaiseException, match="hostile"):  # the trap works
        connection.execute("SELECT 'a'::text = 'b'::text")
    with temporary_role(dsn) as role:
        connection.execute(
            "GRANT INSERT (tenant_id, agent_id, event_type, payload)"
            f" ON public.agent_events TO {role}"
        )
        connection.execute(f"SET ROLE {role}")
        connection.execute(
            "INSERT INTO public.agent_events (tenant_id, agent_id, event_type, payload)"
            " VALUES (%s, %s, 'x', '1')",
            [TENANT, AGENT],
        )
        connection.execute("RESET ROLE")
    assert len(ear.bodies()) == 1
    assert len(connection.execute("SELECT public.agent_events_append()").fetchall()) == 1
    for call in ("agent_events_read(%s, 1, 0, 9, '{*}', '{x}')", "agent_events_read(%s, 1, 0, 9)"):
        rows = connection.execute(f"SELECT id FROM public.{call}", [TENANT]).fetchall()
        assert rows[0] == (1,)
    back = "SELECT id FROM public.agent_events_read_back(%s, 2, 0, 9)"
    assert connection.execute(back, [TENANT]).fetchall() == [(1,)]
    assert connection.execute("SELECT batch FROM public.agent_events_head()").fetchall() == [(1,)]
