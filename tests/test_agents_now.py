"""`GET /api/agents/now`: what each agent is at, out of one bounded look that all who ask share."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from agent_events import agents_now
from agent_events.filters import Filter
from agent_events.wire import Inline
from tests.support import Server, manage
from tests.support.database import make_tenant
from tests.support.django_log import django_on
from tests.support.keys import make_key

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

ANN, BOB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
INLINE = Inline(65_536, "/api/agents/events/")
INSERT = (
    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES (%s, %s, %s, %s)"
)


class Log:
    """A log with one tenant that the test writes to, and looks at as the door does."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tenant = str(uuid.uuid4())

    def write(self, kind: str, agent: str = ANN, **payload: Any) -> None:
        self.connection.execute(INSERT, [self.tenant, agent, kind, json.dumps(payload)])

    def flood(self, n: int, kind: str = "message", agent: str = BOB) -> None:
        self.connection.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " SELECT %s, %s, %s, '{}' FROM generate_series(1, %s)",
            [self.tenant, agent, kind, n],
        )

    def close(self) -> None:
        self.connection.execute("SELECT agent_events_append()")

    def look(self, tenants: Any = "own", only: Filter | None = None) -> dict[str, Any]:
        self.close()
        wanted = (self.tenant,) if tenants == "own" else tenants
        seen = agents_now.look(wanted, only or Filter(), INLINE).json()
        found: dict[str, Any] = json.loads("{" + seen)
        return found

    def agent(self, agent: str = ANN) -> dict[str, Any]:
        (found,) = [one for one in self.look()["agents"] if one["agentId"] == agent]
        return found  # type: ignore[no-any-return]


@pytest.fixture
def log(dsn: str, connect: Connect, django_db_blocker: Any) -> Iterator[Log]:
    with django_db_blocker.unblock(), django_on(dsn):
        yield Log(connect())


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_an_agent_comes_with_the_last_of_each_kind_and_what_it_has_open(log: Log) -> None:
    log.write("run.started", run_id="r1")
    log.write("turn.started", run_id="r1", step=1)
    log.write("tool.started", run_id="r1", tool_call_id="c1", tool="search")
    log.write("tool.started", run_id="r1", tool_call_id="c2", tool="mail")
    log.write("tool.finished", run_id="r1", tool_call_id="c2", tool="mail")
    log.write("something.else")
    found = log.agent()["events"]
    assert kinds(found) == [
        "run.started",
        "turn.started",
        "tool.started",  # c1: it is still open
        "tool.finished",
        "something.else",
    ]
    assert found[2]["payload"]["tool_call_id"] == "c1"


def test_what_a_finished_run_left_open_is_open_no_more(log: Log) -> None:
    log.write("run.started", run_id="r1")
    log.write("tool.started", run_id="r1", tool_call_id="c1")
    log.write("run.started", run_id="r2")
    log.write("run.failed", run_id="r1", error={"message": "broken"})
    log.write("tool.started", run_id="r2", tool_call_id="c2")
    found = [(one["type"], one["payload"].get("run_id")) for one in log.agent()["events"]]
    assert found == [("run.started", "r2"), ("run.failed", "r1"), ("tool.started", "r2")]


def test_events_and_errors_are_counted_by_the_minute(log: Log) -> None:
    for kind in ("message", "error", "tool.failed", "message"):
        log.write(kind)
    minutes = log.agent()["minutes"]
    assert abs(minutes[-1][0] - time.time() / 60) < 2
    assert [sum(column) for column in zip(*minutes, strict=True)][1:] == [4, 2]


def test_a_question_to_a_person_is_found_however_old_it_is(log: Log) -> None:
    log.write("needs_human", run_id="old", question="May I?")
    log.flood(agents_now.MOST_EVENTS + 100)
    found = log.look()
    assert found["lookedAt"] == agents_now.MOST_EVENTS
    assert [one["agentId"] for one in found["agents"]] == [BOB]
    (question,) = found["human"]
    assert (question["agentId"], question["payload"]["question"]) == (ANN, "May I?")
    assert log.look(None)["human"] == [question]


def test_a_question_of_a_run_that_has_ended_is_nobodys_any_more(log: Log) -> None:
    log.write("escalation", run_id="ended")
    log.write("run.finished", run_id="ended")
    log.write("escalation", run_id="goes on")
    log.write("human.answered", run_id="answered")
    log.flood(agents_now.MOST_EVENTS)
    found = [(one["type"], one["payload"]["run_id"]) for one in log.look()["human"]]
    assert found == [("escalation", "goes on"), ("human.answered", "answered")]


def test_since_says_how_far_the_look_reached(log: Log) -> None:
    log.write("message")
    assert (log.look()["since"], log.look()["lookedAt"]) == (0, 1)
    log.close()
    log.flood(agents_now.MOST_EVENTS)
    found = log.look()
    assert abs(found["since"] / 1000 - time.time()) < 60
    assert found["lookedAt"] == agents_now.MOST_EVENTS


def test_what_no_batch_has_yet_is_not_in_the_log(log: Log, connect: Connect) -> None:
    log.write("message")
    with connect(autocommit=False) as late:
        late.execute(INSERT, [log.tenant, BOB, "needs_human", "{}"])
        assert log.look()["human"] == []
    assert kinds(log.look()["human"]) == ["needs_human"]


def test_a_large_payload_has_its_address_in_its_place(log: Log) -> None:
    noise = "".join(str(uuid.uuid4()) for _ in range(400))
    log.write("message", text=noise)
    log.write("needs_human", question=noise)
    found = log.look()
    for event in (*found["agents"][0]["events"], *found["human"]):
        assert event["payload"] is None
        assert event["payloadHref"] == f"/api/agents/events/{event['id']}"


def test_whoever_may_see_some_agents_sees_these(log: Log) -> None:
    log.write("needs_human", agent=ANN)
    log.flood(300, "needs_human", BOB)
    found = log.look(only=Filter(agents=(ANN,)))
    assert [one["agentId"] for one in found["agents"]] == [ANN]
    assert [one["agentId"] for one in found["human"]] == [ANN]
    assert log.look(only=Filter(types=("message",)))["human"] == []


def test_payloads_of_any_shape_are_taken(log: Log) -> None:
    for payload in (
        "1",
        "null",
        "[]",
        '"x"',
        '{"run_id": {"a": 1}}',
        '{"run_id": 7, "tool_call_id": null}',
    ):
        for kind in ("run.started", "run.failed", "needs_human", "tool.started"):
            log.connection.execute(INSERT, [log.tenant, ANN, kind, payload])
    log.connection.execute(
        INSERT, [log.tenant, ANN, "run.finished", json.dumps({"run_id": "ü" * 99_999})]
    )
    assert log.agent()["events"]


# The door.


@contextmanager
def listening(server: Server, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20
    ) as client:
        yield client


def test_all_who_ask_at_once_share_one_look(
    dsn: str, server: Callable[..., Server], connect: Connect
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    producer = connect()
    producer.execute(INSERT, [tenant, ANN, "message", "{}"])
    producer.execute("SELECT agent_events_append()")
    running = server()
    with listening(running, make_key(dsn, tenant)) as client:
        assert client.get("/api/agents/now").status_code == 200
        before = looks(producer)
        began = time.monotonic()
        with ThreadPoolExecutor(40) as viewers:
            answers = list(viewers.map(lambda _: client.get("/api/agents/now"), range(200)))
        took = time.monotonic() - began
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["lookedAt"] for answer in answers} == {1}
        assert looks(producer) - before <= took / 1.0 + 2


def looks(connection: Connection) -> int:
    """How many looks were made: each asks the index once for a tenant's questions."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(
        "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes"
        " WHERE indexrelname = 'agent_events_human'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_door_refuses_as_the_others_do_and_says_the_time(
    dsn: str, server: Callable[..., Server], connect: Connect
) -> None:
    tenant, foreign = make_tenant(dsn, "Own"), make_tenant(dsn, "Foreign")
    connect().execute(INSERT, [foreign, ANN, "needs_human", "{}"])
    running = server()
    with listening(running, make_key(dsn, tenant)) as client:
        asked_ms = int(time.time() * 1000)
        answer = client.get("/api/agents/now")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert asked_ms <= answer.json()["time"] <= time.time() * 1000 + 1
        assert answer.json()["human"] == []
        assert client.head("/api/agents/now").content == b""
        for response, status in (
            (client.get(f"/api/agents/now?tenant={foreign}"), 404),
            (client.post("/api/agents/now"), 405),
            (client.get("/api/agents/now", headers={"Authorization": "Bearer no"}), 401),
        ):
            assert response.status_code == status
            assert response.headers["content-type"] == "application/problem+json"


def test_a_question_costs_a_producer_one_entry_of_an_index_and_others_none(
    log: Log,
) -> None:
    """Counted: the index grows by what it holds, and by nothing else."""
    log.flood(10_000, "message")
    log.flood(100, "needs_human")
    log.flood(10, "run.finished")
    log.connection.execute("ANALYZE agent_events")
    entries = dict(
        log.connection.execute(
            "SELECT relname, reltuples::bigint FROM pg_class WHERE relname IN"
            " ('agent_events_human', 'agent_events_run_end')"
        ).fetchall()
    )
    assert entries == {"agent_events_human": 100, "agent_events_run_end": 10}


def test_an_index_that_was_left_half_built_is_built_anew(dsn: str, connect: Connect) -> None:
    connection = connect()
    manage("migrate", "agent_events", "0009", "--verbosity=0", "--skip-checks", dsn=dsn)
    with connect(autocommit=False) as other:
        other.execute(INSERT, [str(uuid.uuid4()), ANN, "message", "{}"])
        connection.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute(
                "CREATE INDEX CONCURRENTLY agent_events_human ON agent_events (tenant_id, tx, id)"
            )
    manage("migrate", "agent_events", "--verbosity=0", "--skip-checks", dsn=dsn)
    ((valid, definition),) = connection.execute(
        "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indexrelid = 'agent_events_human'::regclass"
    ).fetchall()
    assert valid
    assert "WHERE" in definition
