"""Tokens and tickets over HTTP: who gets one, what for, and what one is told otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import psycopg
import pytest

from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.keys import make_key
from tests.support.streams import insert

Connect = Callable[..., psycopg.Connection[Any]]
TOKENS, TICKETS, EVENTS = "/api/agents/tokens", "/api/agents/tickets", "/api/agents/events"
ANN = "11111111-1111-4111-8111-111111111111"
BOB = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def tenant(dsn: str) -> str:
    return make_tenant(dsn, "Harbour Support")


@pytest.fixture
def running(server: Callable[..., Server]) -> Server:
    return server()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def post(server: Server, path: str, key: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, headers=bearer(key), json=body, timeout=10)


def test_a_token_shows_its_agents_and_types_and_nothing_else(
    dsn: str, tenant: str, running: Server, connect: Connect
) -> None:
    producer, key = connect(), make_key(dsn, tenant, publish=False)
    shown = insert(producer, tenant, agent=ANN, kind="tool.started")
    hidden = [
        insert(producer, tenant, agent=BOB, kind="tool.started"),
        insert(producer, tenant, agent=ANN, kind="message"),
    ]
    producer.execute("SELECT agent_events_append()")
    made = post(running, TOKENS, key, agents=[ANN], types=["tool.*"], minutes=5)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert made.headers["x-content-type-options"] == "nosniff"
    answer = made.json()
    assert set(answer) == {"token", "expiresAt", "tenant", "agents", "types"}
    assert (answer["tenant"], answer["agents"], answer["types"]) == (tenant, [ANN], ["tool.*"])
    ends = datetime.fromisoformat(answer["expiresAt"]).timestamp()
    assert 280 < ends - time.time() <= 300
    with httpx.Client(base_url=running.url, headers=bearer(answer["token"])) as holder:
        assert [event["id"] for event in holder.get(EVENTS).json()["events"]] == [shown]
        assert holder.get(f"{EVENTS}/{shown}").status_code == 200
        assert [holder.get(f"{EVENTS}/{id_}").status_code for id_ in hidden] == [404, 404]
        beyond = holder.get(EVENTS, params={"agent": BOB})
        assert beyond.status_code == 403
        assert ANN in beyond.json()["detail"]
        published = holder.post(EVENTS, json={"agentId": ANN, "type": "x", "payload": {}})
        assert published.status_code == 403
        assert "'publish'" in published.json()["detail"]


def test_a_token_makes_no_token_but_a_ticket_which_works_once(
    dsn: str, tenant: str, running: Server
) -> None:
    token = post(running, TOKENS, make_key(dsn, tenant)).json()["token"]
    again = post(running, TOKENS, token)
    assert again.status_code == 403
    assert "cannot make tokens" in again.json()["detail"]
    # What they may do is asked before whose it is, and before what they want.
    foreign = make_tenant(dsn, "Somebody else")
    for body in ({"tenant": foreign}, {"tenant": "no-uuid"}, {"minutes": -1}, {"nothing": 1}):
        assert post(running, TOKENS, token, **body).status_code == 403, body
    made = post(running, TICKETS, token)
    assert made.status_code == 201
    assert set(made.json()) == {"ticket", "expiresInS"}
    assert 0 < made.json()["expiresInS"] <= 30
    url = f"{running.url}/api/agents/stream"
    with httpx.stream("GET", url, params={"ticket": made.json()["ticket"]}) as first:
        assert first.status_code == 200
    second = httpx.get(url, params={"ticket": made.json()["ticket"]})
    assert second.status_code == 401
    assert "used already" in second.json()["detail"]


def test_who_may_not_see_gets_none(dsn: str, tenant: str, running: Server) -> None:
    foreign = make_tenant(dsn, "Somebody else")
    key, writer = make_key(dsn, tenant), make_key(dsn, tenant, subscribe=False)
    for path in (TOKENS, TICKETS):
        nobody = httpx.post(running.url + path)
        assert (nobody.status_code, nobody.headers["retry-after"]) == (401, "5")
        assert nobody.headers["www-authenticate"] == "Bearer"
        lacking = post(running, path, writer)
        assert lacking.status_code == 403
        assert "'subscribe'" in lacking.json()["detail"]
        wrong = httpx.get(running.url + path, headers=bearer(key))
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    for other in (foreign, "no-uuid"):
        assert post(running, TOKENS, key, tenant=other).status_code == 404


def test_a_signed_in_member_gets_them_from_this_sites_pages_alone(
    dsn: str, tenant: str, running: Server
) -> None:
    make_user(dsn, "ann", tenants=[tenant])
    cookies = login(running, "ann")
    port = running.port
    for path in (TOKENS, TICKETS):
        for headers, status in (
            ({"Origin": running.url}, 201),
            ({"Sec-Fetch-Site": "same-origin"}, 201),
            ({"Referer": f"{running.url}/somewhere?x=1"}, 201),
            ({}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://127.0.0.1:{port + 1}"}, 403),
            ({"Origin": f"http://127.0.0.1.evil.example:{port}"}, 403),
            ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
            ({"Referer": "https://evil.example/"}, 403),
        ):
            answer = httpx.post(running.url + path, cookies=cookies, headers=headers)
            assert answer.status_code == status, (path, headers, answer.text)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[" * 5_000, 422, None),
        (b"[]", 422, None),
        (b'{"minutes": 0}', 422, "minutes"),
        (b'{"minutes": 61}', 422, "minutes"),
        (b'{"minutes": "5"}', 422, "minutes"),
        (b'{"minutes": 1.5}', 422, "minutes"),
        (b'{"agents": "x"}', 422, "agents"),
        (b'{"agents": [5]}', 422, "agents"),
        (b'{"tenants": []}', 422, "tenants"),
        (b'{"types": ["a\\u0000b"]}', 400, None),
        (b'{"tenant": "' + b"x" * 9_000 + b'"}', 413, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wish_that_makes_no_sense_is_refused_in_words(
    wishes: tuple[Server, str], body: bytes, status: int, field: str | None
) -> None:
    server, key = wishes
    answer = httpx.post(server.url + TOKENS, headers=bearer(key), content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert (said["status"], said.get("field")) == (status, field)
    assert said["detail"]


def test_somebody_who_asks_without_end_is_told_when_to_come_back(
    dsn: str, tenant: str, running: Server
) -> None:
    key = make_key(dsn, tenant)
    with (
        httpx.Client(base_url=running.url, headers=bearer(key), timeout=30) as client,
        ThreadPoolExecutor(16) as many,
    ):
        # Many at once: one after the other they may be too slow for the limit.
        def refusals() -> list[httpx.Response]:
            answers = many.map(lambda _: client.post(TICKETS), range(60))
            return [one for one in answers if one.status_code != 201]

        refused = wait_until(refusals, 30, "a refusal")[0]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "more than 20" in refused.json()["detail"]
    assert post(running, TICKETS, make_key(dsn, tenant)).status_code == 201


@pytest.fixture(scope="module")
def wishes(postgres: Any, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server and a key, for all the bodies."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE test_wishes TEMPLATE "{template_database}"'.encode())
        dsn = postgres.dsn("test_wishes")
        running = Server(dsn, tmp_path_factory.mktemp("grants") / "server.log")
        try:
            yield running.start(), make_key(dsn, make_tenant(dsn, "Wishes"))
            assert "Traceback" not in running.log()
        finally:
            running.stop()
            admin.execute("DROP DATABASE test_wishes WITH (FORCE)")
