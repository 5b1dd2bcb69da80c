"""Publishing over HTTP: its refusals and limits, and requests that come together."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from project.embedded import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.support import Server, login, make_tenant, make_user, manage, wait_until
from tests.support.watch import bus_settings

AGENT = "0f6f7f0e-54a2-4a55-8f1c-0e4cf5a3b111"


@pytest.fixture(scope="module")
def dsn(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    with fresh_database(postgres, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def shared(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all tests that need no other. With one connection, what comes together waits
    together."""
    log = tmp_path_factory.mktemp("posts") / "server.log"
    one = Server(dsn, log, env=bus_settings(POST_CONNECTIONS=1))
    yield one.start()
    one.stop()


@pytest.fixture
def running(shared: Server, dsn: str) -> Server:
    """That server, with no events and no keys in its database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE agent_events, agent_event_keys")
    return shared


@pytest.fixture
def tenant(dsn: str) -> str:
    return make_tenant(dsn, f"Harbour {uuid.uuid4()}")


def key_of(dsn: str, tenant: str, scope: str = "publish") -> str:
    printed = manage(
        "create_api_key", f"--tenant={tenant}", f"--scope={scope}", "--name=k", dsn=dsn
    )
    return next(word for word in printed.split() if word.startswith("ae_"))


def client_of(server: Server, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=20)


@pytest.fixture
def client(running: Server, dsn: str, tenant: str) -> Iterator[httpx.Client]:
    with client_of(running, key_of(dsn, tenant)) as client:
        yield client


def event(**fields: Any) -> dict[str, Any]:
    return {"agentId": AGENT, "type": "message", "payload": {"n": 1}, **fields}


def post(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Content-Type": "application/json", **named}
    return client.post("/api/agents/events", content=content, headers=named)


def rows(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(
        "SELECT id, tenant_id::text, agent_id::text, event_type, payload::text"
        " FROM agent_events ORDER BY id"
    ).fetchall()


def test_one_event_and_a_list_are_answered_with_their_ids_in_order(
    client: httpx.Client, connect: Callable[..., Any], tenant: str
) -> None:
    one = post(client, event(payload={"price": 1}))
    many = post(client, [event(payload=n, tenantId=tenant) for n in range(1000)])
    assert (one.status_code, many.status_code) == (201, 201)
    assert many.json()["duplicates"] == []
    stored = rows(connect())
    assert [row[0] for row in stored] == one.json()["ids"] + many.json()["ids"]
    assert [row[4] for row in stored[1:]] == [str(n) for n in range(1000)]
    assert {row[1:4] for row in stored} == {(tenant, AGENT, "message")}


def test_numbers_are_stored_as_they_were_written(
    client: httpx.Client, connect: Callable[..., Any]
) -> None:
    payload = "[1.50,12345678901234567890.10,1e400]"
    body = f'{{"agentId":"{AGENT}","type":"a","payload":{payload}}}'
    assert post(client, body.encode()).status_code == 201
    ((*_, payload),) = rows(connect())
    assert payload.startswith("[1.50, 12345678901234567890.10, 1000000")


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("agentId", {"agentId": "x"}),
    ("agentId", {"agentId": None}),
    ("type", {"type": ""}),
    ("type", {"type": "x" * 201}),
    ("type", {"type": "a\x00b"}),
    ("type", {"type": 7}),
    ("payload", {"payload": "a\x00b"}),
    ("payload", {"payload": {"a\x00": 1}}),
    ("extra", {"extra": 1}),
    ("eventKey", {"eventKey": ""}),
    ("eventKey", {"eventKey": "x" * 256}),
    ("tenantId", {"tenantId": "x"}),
]
NOT_TAKEN = [
    b'"\\ud800"',
    b"1e200000",
    b"1e-20000",
    b"1" * 140_000,
    b"0." + b"1" * 20_000,
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
]
NO_JSON = [b"", b"{", b"nonsense", b"\xff", b'{"a":"\xff"}', b"[1,]"]
OTHER_TYPES = [
    {"Content_Type": "text/plain"},
    {"Content_Type": "application/json; charset=latin-1"},
    {"Content_Encoding": "gzip"},
    {"Content_Type": "application/cloudevents+avro"},
]


def test_a_refusal_names_the_place_and_the_field_and_nothing_is_stored(
    client: httpx.Client, connect: Callable[..., Any]
) -> None:
    for field, bad in REFUSED:
        answer = post(client, [event(), event(), event(**bad)])
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["place"], answer.json()["field"]) == (2, field)
    start = b'[{"agentId":"%s","type":"a","payload":' % AGENT.encode()
    for payload in NOT_TAKEN:
        answer = post(client, start + b"1}," + start[1:] + payload + b"}]")
        assert answer.status_code in (400, 422), answer.text
    for body in NO_JSON:
        assert post(client, body).status_code in (400, 422)
    for headers in OTHER_TYPES:
        assert post(client, event(), **headers).status_code == 415
    answer = post(client, [])
    assert (answer.status_code, "empty" in answer.json()["detail"]) == (422, True)
    assert not rows(connect())


def test_limits_are_named_where_they_are_passed(
    server: Callable[..., Server], dsn: str, tenant: str
) -> None:
    limits = {"POST_BYTES": 2_000, "POST_EVENTS": 3, "POST_PAYLOAD_BYTES": 500, "POST_RATE": 5.0}
    with client_of(server(env=bus_settings(**limits)), key_of(dsn, tenant)) as client:
        for status, limit, body in [
            (413, "POST_BYTES", [event(payload="x" * 3_000)]),
            (413, "POST_EVENTS", [event()] * 4),
            (413, "POST_PAYLOAD_BYTES", event(payload="x" * 600)),
        ]:
            answer = post(client, body)
            assert answer.status_code == status, answer.text
            assert limit in answer.json()["detail"]
        answers = [post(client, [event()] * 3) for _ in range(4)]
        assert answers[0].status_code == 201
        assert answers[-1].status_code == 429
        assert "POST_RATE" in answers[-1].json()["detail"]
        assert int(answers[-1].headers["retry-after"]) >= 1


def test_who_may_not_is_told_why(running: Server, dsn: str, tenant: str) -> None:
    other = make_tenant(dsn, "Other")
    assert httpx.post(f"{running.url}/api/agents/events", json=event()).status_code == 401
    with client_of(running, key_of(dsn, tenant, "subscribe")) as client:
        answer = post(client, event())
        assert (answer.status_code, "publish" in answer.json()["detail"]) == (403, True)
    with client_of(running, key_of(dsn, tenant)) as client:
        for foreign in (other, str(uuid.uuid4())):
            answer = post(client, [event(), event(tenantId=foreign)])
            assert (answer.status_code, answer.json()["place"]) == (404, 1)


BAD = (7, 40)  # they come with a key that was used for another event


def test_a_bad_request_harms_none_of_those_that_came_with_it(
    running: Server, dsn: str, tenant: str, connect: Callable[..., Any]
) -> None:
    key = key_of(dsn, tenant)
    watcher = connect()
    with client_of(running, key) as client:
        assert post(client, event(payload="another", eventKey="used")).status_code == 201

    def send(n: int) -> httpx.Response:
        body = event(payload={"n": n})
        if n in BAD:
            body = event(payload={"n": n}, eventKey="used")
        with client_of(running, key) as client:
            return post(client, body)

    # While this holds the table, whatever comes gathers.
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE agent_events IN SHARE ROW EXCLUSIVE MODE")
    with ThreadPoolExecutor(64) as pool:
        first = pool.submit(send, 1000)
        wait_until(lambda: waits(watcher), 10, "the first request to wait for the table")
        others = [pool.submit(send, n) for n in range(60)]
        holder.rollback()
        answers = [one.result() for one in [first, *others]]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert [answer.json()["field"] for answer in refused] == ["eventKey"] * len(BAD)
    ids = [answer.json()["ids"][0] for answer in answers if answer.status_code == 201]
    ((commits, stored),) = watcher.execute(
        "SELECT count(DISTINCT tx::text), count(*) FROM agent_events WHERE payload <> '\"another\"'"
    ).fetchall()
    assert stored == len(set(ids)) == 61 - len(BAD)
    assert commits <= 61 - len(BAD)


def test_requests_that_come_together_share_a_commit(
    running: Server, dsn: str, tenant: str, connect: Callable[..., Any]
) -> None:
    key = key_of(dsn, tenant)
    watcher = connect()
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE agent_events IN SHARE ROW EXCLUSIVE MODE")
    arrived = threading.Barrier(21)

    def send(n: int) -> int:
        with client_of(running, key) as client:
            client.get("/healthz")
            arrived.wait(20)
            return post(client, event(payload=n)).status_code

    with ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(send, n) for n in range(20)]
        arrived.wait(20)
        wait_until(lambda: waits(watcher), 10, "the first request to wait for the table")
        holder.rollback()
        assert {one.result() for one in sent} == {201}
    ((commits,),) = watcher.execute("SELECT count(DISTINCT tx::text) FROM agent_events").fetchall()
    assert commits < 20


def test_a_key_that_an_open_transaction_holds_stops_nobody_without_it_for_long(
    running: Server, dsn: str, tenant: str, connect: Callable[..., Any]
) -> None:
    key = key_of(dsn, tenant)
    watcher = connect()
    holder = connect(autocommit=False)
    holder.execute(
        "INSERT INTO agent_event_keys (tenant_id, key, event_id) VALUES (%s, 'held', 1)", [tenant]
    )

    def send(_: int) -> httpx.Response:
        with client_of(running, key) as client:
            return post(client, event(eventKey="held"))

    with ThreadPoolExecutor(30) as pool, client_of(running, key) as client:
        held = [pool.submit(send, n) for n in range(30)]
        wait_until(lambda: waits(watcher), 10, "a request to wait for the key")
        assert post(client, event()).status_code == 201  # (in time: the client waits 20 s)
        answers = [one.result() for one in held]
    assert {answer.status_code for answer in answers} == {503}
    assert len(rows(watcher)) == 1


def waits(watcher: psycopg.Connection[Any]) -> bool:
    """Does a connection of the posts wait for a lock?"""
    return watcher.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'agent_events posts' AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    ).fetchone() == (1,)


def test_after_a_lost_connection_the_same_request_is_stored_once(
    running: Server, dsn: str, tenant: str, connect: Callable[..., Any]
) -> None:
    watcher = connect()
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE agent_events IN SHARE ROW EXCLUSIVE MODE")
    named = {"Idempotency_Key": str(uuid.uuid4())}
    with client_of(running, key_of(dsn, tenant)) as client, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(post, client, event(), **named)
        wait_until(lambda: waits(watcher), 10, "the request to wait for the table")
        watcher.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'agent_events posts' AND datname = current_database()"
        )
        answer = sent.result()
        assert (answer.status_code, "may or may not" in answer.json()["detail"]) == (503, True)
        assert int(answer.headers["retry-after"]) >= 1
        holder.rollback()
        again = [post(client, event(), **named) for _ in range(2)]
    assert [one.status_code for one in again] == [201, 200]
    assert again[0].json()["ids"] == again[1].json()["ids"]
    assert len(rows(watcher)) == 1


def test_a_cookie_publishes_from_a_page_of_this_site_alone(
    running: Server, dsn: str, tenant: str, connect: Callable[..., Any]
) -> None:
    make_user(dsn, "root", superuser=True)
    with httpx.Client(base_url=running.url, cookies=login(running, "root")) as client:
        body = event(tenantId=tenant)
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("", 403),
            (running.url, 201),
        ):
            headers = {"Origin": origin} if origin else {}
            assert post(client, body, **headers).status_code == status, origin
    assert len(rows(connect())) == 1
