"""What was taken away stops live streams, within five seconds, and says why; others go on."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed

from agent_events import sse
from agent_events.bus import current_bus
from agent_events.consumers import StreamConsumer
from agent_events.credentials import Credentials, Via
from agent_events.errors import NotSignedIn
from agent_events.filters import Filter
from agent_events.guard import Guard
from agent_events.principals import Principal, Right
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.asgi import Client
from tests.support.django_log import django_on
from tests.support.keys import make_key, revoke_key
from tests.support.streams import insert, websocket
from tests.support.tokens import make_ticket, make_token, token_settings
from tests.support.waiting import until

WITHIN_S = 5.0
LATE_S = 10.0  # for what takes 1 s, on a machine that may be busy; without an end it is 20 s
TOKEN_S = 9.0
PATH = "/api/agents/stream"


@dataclass
class End:
    """How a stream ended: the word, and when."""

    reason: str = ""
    at: float = 0.0
    close: int | None = None


async def follow_socket(server: Server, ready: Callable[[], None], **how: Any) -> End:
    """A WebSocket's whole life."""
    end = End()
    async with websocket(server, how.pop("cookies", {}), how.pop("query", ""), **how) as socket:
        await socket.until("live")
        ready()
        try:
            while True:
                frame = await socket.frame()
                if frame["type"] == "error":
                    end = End(frame["code"], time.time())
                    assert frame["message"]
        except ConnectionClosed:
            end.close = socket.connection.close_code
            return end


async def follow_source(server: Server, ready: Callable[[], None], **how: Any) -> End:
    """A response of Server-Sent Events, from its first to its last."""
    headers = {"Accept": "text/event-stream"}
    if token := how.get("token"):
        headers["Authorization"] = f"Bearer {token}"
    end, name = End(), ""
    async with (
        httpx.AsyncClient(cookies=how.get("cookies"), timeout=30) as client,
        client.stream(
            "GET", f"{server.url}{PATH}?{how.get('query', '')}", headers=headers
        ) as response,
    ):
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
                if name == "live":
                    ready()
            elif name == "stopped" and line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))
                assert {"message", "cursor"} <= told.keys()
                end = End(told["reason"], time.time())
    return end


async def test_whatever_is_taken_away_stops_its_streams_within_five_seconds_and_no_others(
    dsn: str, connect: Connect, server: Callable[..., Server], report: Callable[[str, object], None]
) -> None:
    running, db = server(env=token_settings(EXPIRING_S=2.0)), connect()
    tenant = make_tenant(dsn, "Harbour")
    people = ("member", "leaver", "inactive")
    users = {name: make_user(dsn, name, tenants=[tenant]) for name in people}
    users["root"] = make_user(dsn, "root", superuser=True, tenants=[tenant])
    cookies = {name: login(running, name) for name in users}
    keys = {
        name: make_key(dsn, tenant)
        for name in ("revoked", "deleted", "lacking", "issuer", "ticket", "other")
    }
    issued = make_token(keys["issuer"], tenant, 600)

    def ticket() -> str:
        return f"ticket={make_ticket(keys['ticket'], tenant)}"

    cases: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "a revoked key": ("revoked", lambda: {"token": keys["revoked"]}),
        "a deleted key": ("revoked", lambda: {"token": keys["deleted"]}),
        "a key without the right": ("right_lacking", lambda: {"token": keys["lacking"]}),
        "an ended membership": ("not_yours", lambda: {"cookies": cookies["leaver"]}),
        "a signed-out session": ("signed_out", lambda: {"cookies": cookies["member"]}),
        "a deactivated user": ("signed_out", lambda: {"cookies": cookies["inactive"]}),
        "no superuser any more": ("not_yours", lambda: {"cookies": cookies["root"]}),
        "an expired token": ("expired", lambda: {"token": short}),  # the last to begin
        "a token of a revoked key": ("revoked", lambda: {"token": issued}),
        "a ticket of a revoked key": ("revoked", lambda: {"query": ticket()}),
    }
    followers: dict[str, asyncio.Task[End]] = {}
    doors = {"WebSocket": follow_socket, "SSE": follow_source}

    async def follow(case: str) -> None:
        """By both doors, until they are live."""
        readiness = []
        for door, opened in doors.items():
            readiness.append(live := asyncio.Event())
            coming = opened(running, live.set, **cases[case][1]())
            followers[f"{case}, {door}"] = asyncio.create_task(coming)
        for live in readiness:
            await live.wait()

    async with websocket(running, {}, token=keys["other"]) as bystander:
        async with asyncio.timeout(60):
            await bystander.until("live")
            await asyncio.gather(*(follow(case) for case in cases if case != "an expired token"))
            begin = time.time()
            short = make_token(keys["other"], tenant, TOKEN_S)
            await follow("an expired token")
        taken_at = time.time()
        assert taken_at < begin + TOKEN_S, "the machine is too slow for this test"
        for name in ("revoked", "issuer", "ticket"):
            revoke_key(dsn, keys[name])
        for prefix, change in (
            ("deleted", "DELETE FROM agent_event_api_keys WHERE prefix = %s"),
            (
                "lacking",
                "UPDATE agent_event_api_keys SET may_subscribe = false, may_publish = true"
                " WHERE prefix = %s",
            ),
        ):
            db.execute(change, [keys[prefix].split("_")[1]])
        db.execute("DELETE FROM agent_events_membership WHERE user_id = %s", [users["leaver"]])
        db.execute("UPDATE auth_user SET is_active = false WHERE id = %s", [users["inactive"]])
        db.execute("UPDATE auth_user SET is_superuser = false WHERE id = %s", [users["root"]])
        sign_out(running, cookies["member"])
        async with asyncio.timeout(30):
            ends = dict(zip(followers, await asyncio.gather(*followers.values()), strict=True))
        made = insert(db, tenant)
        assert [event["id"] for event in await bystander.events(1)] == [made]
    for name, end in ends.items():
        case, door = name.rsplit(", ", 1)
        since = begin + TOKEN_S if case == "an expired token" else taken_at
        assert end.reason == cases[case][0], name
        assert end.at - since < WITHIN_S, f"{name}: {end.at - since:.1f} s"
        if door == "WebSocket":
            closes = {"not_yours": 4404, "right_lacking": 4403}
            assert end.close == closes.get(end.reason, 4401), name
    slowest = max(
        end.at - taken_at for name, end in ends.items() if not name.startswith("an expired")
    )
    report("what was taken away stops its streams", f"{slowest:.1f} s, of 5 allowed")


def sign_out(server: Server, cookies: dict[str, str]) -> None:
    """Over HTTP, as a browser does."""
    with httpx.Client(base_url=server.url, cookies=cookies) as client:
        page = client.get("/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token is not None
        answer = client.post(
            "/accounts/logout/",
            data={"csrfmiddlewaretoken": token[1]},
            headers={"Referer": f"{server.url}/"},
        )
        assert answer.status_code < 400


async def test_a_lookup_that_hangs_is_cut_off_and_what_was_revoked_bites_once_it_can_be_asked(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    running, db, locker = server(env=token_settings(REVOKE_WITHIN_S=1.0)), connect(), connect()
    tenant = make_tenant(dsn, "Harbour")
    key = make_key(dsn, tenant)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(60), websocket(running, {}, token=key) as socket:
        await socket.until("live")
        with locker.transaction():
            locker.execute("LOCK TABLE agent_event_api_keys")
            for _ in range(3):  # looks, each of which is ended before the next
                await asyncio.to_thread(
                    wait_until, lambda: db.execute(waiting).fetchone() == (1,), 20
                )
                await asyncio.to_thread(
                    wait_until, lambda: db.execute(waiting).fetchone() == (0,), 20
                )
            made = insert(db, tenant)
            assert [event["id"] for event in await socket.events(1)] == [made], "it goes on"
            assert running.log().count("Who is streaming cannot be looked up") == 1
            locker.execute("UPDATE agent_event_api_keys SET revoked_at = now()")
        assert (await socket.until("error"))["code"] == "revoked"


# What a real server's buffers and a quick database would hide: in this process.


class Door:
    """A PRINCIPAL_RESOLVER that can be told to know nobody, or not to answer."""

    knows = True
    away: Exception | None = None
    asked = 0

    @classmethod
    async def resolve(cls, credentials: Credentials) -> Principal:
        """A superuser, or whatever it was told."""
        cls.asked += 1
        if cls.away is not None:
            raise cls.away
        if not cls.knows:
            raise NotSignedIn("Nobody.")
        return Principal(id="operator", rights=frozenset(Right), everything=True)


async def resolve(credentials: Credentials) -> Principal:
    """`Door.resolve`, by a dotted path."""
    return await Door.resolve(credentials)


@pytest.fixture
def door(dsn: str, settings: Any) -> Iterator[type[Door]]:
    """The log of this process is the test's, and `Door` says who asks."""
    Door.knows, Door.away, Door.asked = True, None, 0
    settings.AGENT_EVENTS = {
        "PRINCIPAL_RESOLVER": "tests.test_revocation.resolve",
        "REVOKE_WITHIN_S": 1.0,
        "HEARTBEAT_S": 60.0,
    }
    with django_on(dsn):
        yield Door


HTTP = {"type": "http", "method": "GET", "path": PATH, "query_string": b"", "headers": []}
SOCKET = {
    "type": "websocket",
    "path": "/ws/agents/stream",
    "query_string": b"",
    "headers": [(b"authorization", b"Bearer x")],
}


async def serve_source(client: Client) -> None:
    """A stream of Server-Sent Events."""
    await sse.stream(dict(HTTP), client.receive, client.send)


async def serve_socket(client: Client) -> None:
    """A stream over a WebSocket."""
    client.say(type="websocket.connect")
    await StreamConsumer.as_asgi()(dict(SOCKET), client.receive, client.send)


@pytest.mark.parametrize("serve", [serve_source, serve_socket])
async def test_a_client_that_reads_nothing_is_stopped_all_the_same(
    serve: Callable[[Client], Awaitable[None]], door: type[Door], connect: Connect
) -> None:
    client = Client(takes=2)  # the beginning, and no more
    bus = current_bus()
    try:
        async with asyncio.timeout(20):
            serving = asyncio.ensure_future(serve(client))
            await client.has_got(3)
            door.knows = False
            began = time.monotonic()
            await serving
        assert time.monotonic() - began < LATE_S
        assert bus.feed.watched() == frozenset(), "it has left the feed"
    finally:
        await bus.stop()


async def test_a_stream_whose_log_does_not_answer_is_stopped_and_told_why(
    door: type[Door], connect: Connect
) -> None:
    client = Client(takes=1_000)
    bus = current_bus()
    blocker = connect(autocommit=False)
    try:
        async with asyncio.timeout(20):
            serving = asyncio.ensure_future(serve_source(client))
            await client.has_got(3)
            blocker.execute("LOCK TABLE agent_event_batches, agent_events")
            bus.feed.interrupt()  # everybody reads the log
            door.knows = False
            began = time.monotonic()
            await serving
        assert time.monotonic() - began < LATE_S
        assert b'event: stopped\ndata: {"reason":"revoked"' in client.sent[-2]["body"]
        assert client.sent[-1] == {
            "type": "http.response.body",
            "body": b"",
            "more_body": False,
        }
    finally:
        blocker.rollback()
        await bus.stop()


async def test_while_nobody_can_be_asked_streams_go_on_and_the_log_says_so_once(
    door: type[Door], connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(takes=1_000)
    bus = current_bus()
    try:
        async with asyncio.timeout(20):
            serving = asyncio.ensure_future(serve_source(client))
            await client.has_got(3)
            door.away = psycopg.OperationalError("the database is away")
            asked = door.asked
            await until(lambda: door.asked >= asked + 3)
            assert not serving.done()
            assert caplog.text.count("Who is streaming cannot be looked up") == 1
            door.away, door.knows = None, False
            await serving
    finally:
        await bus.stop()


async def test_equal_credentials_are_asked_once_and_nobody_where_there_is_no_stream(
    door: type[Door],
) -> None:
    guard = Guard()
    everybody = Principal(id="operator", rights=frozenset(Right), everything=True)
    seats = [
        guard.seat(Credentials(Via.HEADER, f"key {n % 3}"), everybody, None, Filter())
        for n in range(60)
    ]
    await until(lambda: door.asked >= 3)
    for seat in seats:
        seat.leave()
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "agent_events guard"]
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert door.asked == 3
