"""A stream whose client, whose guard or whose database does what it does at the wrong moment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agent_events import metrics, sse
from agent_events.bus import current_bus
from agent_events.consumers import StreamConsumer
from agent_events.credentials import Credentials, Via
from agent_events.errors import NotSignedIn
from agent_events.filters import Filter
from agent_events.guard import MOST_ASKED_AT_ONCE, Guard, current_guard
from agent_events.principals import Principal, Right
from agent_events.seats import Seat
from agent_events.tokens import make_ticket
from tests.conftest import Connect
from tests.support import make_tenant
from tests.support.asgi import Client
from tests.support.django_log import django_on
from tests.support.streams import insert
from tests.support.waiting import until

EVERYBODY = Principal(id="operator", rights=frozenset(Right), everything=True)
Answering = Callable[[Credentials], Awaitable[Principal]]


async def anybody(credentials: Credentials) -> Principal:
    """A superuser, whoever asks."""
    return EVERYBODY


class Door:
    """A PRINCIPAL_RESOLVER that answers as a test says."""

    answer: Answering = staticmethod(anybody)


async def resolve(credentials: Credentials) -> Principal:
    """`Door.answer`, by a dotted path."""
    return await Door.answer(credentials)


@pytest.fixture
def door(dsn: str, settings: Any) -> Iterator[type[Door]]:
    """The log of this process is the test's, and `Door` says who asks."""
    Door.answer = staticmethod(anybody)
    settings.AGENT_EVENTS = {
        "PRINCIPAL_RESOLVER": "tests.test_stream_races.resolve",
        "REVOKE_WITHIN_S": 1.0,
        "HEARTBEAT_S": 60.0,
    }
    with django_on(dsn):
        yield Door


class Slow(Client):
    """A client that takes `takes` messages, and all the others once it `hurries`."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.first = takes
        self.hurries = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's."""
        self.sent.append(message)
        if len(self.sent) > self.first:
            await self.hurries.wait()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What it was sent, read."""
        return [json.loads(one["text"]) for one in self.sent if one["type"] == "websocket.send"]


def serve_socket(client: Client) -> asyncio.Future[None]:
    """A stream over a WebSocket begins."""
    scope = {
        "type": "websocket",
        "path": "/ws/agents/stream",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer x")],
    }
    client.say(type="websocket.connect")
    serve: Callable[..., Coroutine[Any, Any, None]] = StreamConsumer.as_asgi()
    return asyncio.ensure_future(serve(scope, client.receive, client.send))


@asynccontextmanager
async def streaming(client: Client) -> AsyncIterator[None]:
    """A WebSocket's stream for as long as the block lasts; then its client leaves."""
    try:
        async with asyncio.timeout(20):
            serving = serve_socket(client)
            yield
            client.say(type="websocket.disconnect")
            await serving
    finally:
        await current_bus().stop()


def serve_source(client: Client, headers: Sequence[Any] = ()) -> asyncio.Future[None]:
    """A stream of Server-Sent Events begins."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/agents/stream",
        "query_string": b"",
        "headers": headers,
    }
    return asyncio.ensure_future(sse.stream(scope, client.receive, client.send))


def say(client: Client, **frame: Any) -> None:
    """A frame of the client's."""
    client.say(type="websocket.receive", text=json.dumps(frame))


def seats() -> list[Seat]:
    """Those of this process."""
    return [seat for these in current_guard()._seats.values() for seat in these]


async def test_filters_hold_in_the_order_in_which_they_were_sent_however_early(
    dsn: str, door: type[Door], connect: Connect
) -> None:
    tenant, db, known = make_tenant(dsn, "Harbour"), connect(), asyncio.Event()

    async def late(credentials: Credentials) -> Principal:
        await known.wait()
        return EVERYBODY

    door.answer = staticmethod(late)
    client = Slow(takes=1)
    async with streaming(client):
        await client.has_got(1)
        say(client, type="filter", agents=[], types=["first"])
        known.set()
        await client.has_got(2)  # hello, on its way
        say(client, type="filter", agents=[], types=["last"])
        await until(client._said.empty)
        client.hurries.set()
        await until(lambda: any(frame["type"] == "live" for frame in client.frames))
        insert(db, tenant, kind="first")
        wanted = insert(db, tenant, kind="last")
        await until(lambda: any(frame["type"] == "events" for frame in client.frames))
        (events,) = [frame for frame in client.frames if frame["type"] == "events"]
        assert [event["id"] for event in events["events"]] == [wanted]


async def test_a_client_that_reads_nothing_makes_no_answers_pile_up_by_renewing(
    door: type[Door],
) -> None:
    client = Slow(takes=2)
    async with streaming(client):
        await client.has_got(3)
        for n in range(300):
            say(client, type="auth", token=f"token {n}")
        await until(client._said.empty)
        client.hurries.set()
        await until(lambda: any(frame["type"] == "renewed" for frame in client.frames))
        say(client, type="auth", token="another")
        await until(lambda: client.frames[-1]["type"] == "renewed")
    assert sum(frame["type"] == "renewed" for frame in client.frames) <= 2


async def test_a_resolver_that_breaks_at_a_renewal_has_the_client_come_again(
    door: type[Door], caplog: pytest.LogCaptureFixture
) -> None:
    client = Slow(takes=1_000)

    async def broken(credentials: Credentials) -> Principal:
        if credentials.via is Via.FRAME:
            raise ValueError("broken")
        return EVERYBODY

    door.answer = staticmethod(broken)
    async with streaming(client):
        await client.has_got(3)
        say(client, type="auth", token="x")
        await until(lambda: client.sent[-1]["type"] == "websocket.close")
        assert client.frames[-1]["code"] == "try_again"
        assert client.sent[-1]["code"] == 4503
    assert "A stream broke" in caplog.text


async def test_nothing_follows_the_close_where_a_stream_is_stopped_and_errs_at_once(
    door: type[Door],
) -> None:
    client = Slow(takes=2)
    async with streaming(client):
        await client.has_got(3)
        (seat,) = seats()
        seat.stop("revoked")
        client.say(type="websocket.receive", text="nonsense")
        client.hurries.set()
        await until(lambda: client.sent[-1]["type"] == "websocket.close")
    assert [one["type"] for one in client.sent].count("websocket.close") == 1


async def test_a_stuck_stream_that_has_expired_ends_whatever_a_look_finds_afterwards(
    door: type[Door],
) -> None:
    client = Slow(takes=2)
    end = 0.0

    async def sliding(credentials: Credentials) -> Principal:
        nonlocal end
        now = time.time()
        end = end or now + 2.0  # from when it is first asked: the stream has to begin before
        until_s = end if now < end else now + 60
        return Principal(
            id="operator", rights=frozenset(Right), everything=True, expires_at=until_s
        )

    door.answer = staticmethod(sliding)
    try:
        async with asyncio.timeout(20):
            serving = serve_source(client)
            await client.has_got(3)
            (seat,) = seats()
            await until(lambda: seat.stopped is not None)
            # The look that comes in between, at once.
            seat.seen(await sliding(seat.credentials))
            await serving
    finally:
        await current_bus().stop()


@pytest.mark.parametrize("serve", [serve_source, serve_socket])
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(
    serve: Callable[[Client], asyncio.Future[None]], door: type[Door]
) -> None:
    bus = current_bus()
    gone = "http.disconnect" if serve is serve_source else "websocket.disconnect"
    counted = subscribers()
    try:
        async with asyncio.timeout(60):
            keeping = Client()  # the feed lives on, so that only the others' traces differ
            kept = serve(keeping)
            await keeping.has_got(3)
            before = asyncio.all_tasks()
            counted_before = subscribers()
            for turns in range(60):
                for cancel in (False, True):
                    client = Client()
                    serving = serve(client)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if cancel:  # as some servers do
                        serving.cancel()
                    client.say(type=gone)
                    await asyncio.wait([serving])
                    assert serving.cancelled() or serving.exception() is None
            await until(lambda: asyncio.all_tasks() <= before)
            assert len(seats()) == 1
            assert subscribers() == counted_before
            assert StreamConsumer.waiting == 0
            keeping.say(type=gone)
            await asyncio.wait([kept])
        assert seats() == []
        assert bus.feed.watched() == frozenset()
        assert subscribers() == counted
    finally:
        await bus.stop()


def subscribers() -> list[float]:
    """How many streams each door counts."""
    name = "agent_events_subscribers"
    return [
        sample.value
        for metric in metrics.OURS.collect()
        for sample in metric.samples
        if sample.name == name
    ]


def guarded(guard: Guard, secret: str) -> Seat:
    """A stream's seat."""
    return guard.seat(Credentials(Via.HEADER, secret), EVERYBODY, None, Filter())


async def test_an_answer_that_was_on_its_way_says_nothing_about_a_stream_that_began_meanwhile(
    door: type[Door],
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(credentials: Credentials) -> Principal:
        asked.set()
        await answer.wait()
        raise NotSignedIn("Nobody, at the time.")

    door.answer = staticmethod(slow)
    guard = Guard()
    before = guarded(guard, "key")
    async with asyncio.timeout(20):
        await asked.wait()
        meanwhile = guarded(guard, "key")
        answer.set()
        await until(lambda: before.stopped is not None)
        assert meanwhile.stopped is None
    for seat in (before, meanwhile):
        seat.leave()
    await idle()


async def test_an_event_source_that_comes_back_too_soon_is_not_ended_for_good(
    door: type[Door], settings: Any
) -> None:
    settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "STREAMS_PER_PRINCIPAL": 1}
    accept, last_id = (b"accept", b"text/event-stream"), (b"last-event-id", b"latest")
    try:
        async with asyncio.timeout(20):
            first = Client()
            serving = serve_source(first)
            await first.has_got(3)
            statuses = []
            for headers in ([accept, last_id], [accept], [last_id]):
                client = Client()
                await serve_source(client, headers)
                statuses.append(client.sent[0]["status"])
                if client.sent[0]["status"] == 200:
                    assert client.sent[1]["body"] == b": too many streams\nretry: 10000\n\n"
            assert statuses == [200, 429, 429]
            first.say(type="http.disconnect")
            await serving
    finally:
        await current_bus().stop()


async def test_a_renewal_that_comes_after_the_end_leaves_no_timer_behind(door: type[Door]) -> None:
    bus = current_bus()
    try:
        seat = guarded(Guard(), "key")
        subscriber = await bus.subscribe(None, Filter(), "latest")
        task = asyncio.ensure_future(asyncio.Event().wait())
        seat.begin(subscriber, task)
        seat.leave()
        seat.renew(seat.credentials, replace(EVERYBODY, expires_at=time.time() + 600))
        assert seat._timer is None
        task.cancel()
        subscriber.close()
        await idle()
    finally:
        await bus.stop()


async def test_a_slow_resolver_is_asked_about_everybody_in_turn(door: type[Door]) -> None:
    asked: set[str] = set()

    async def silent(credentials: Credentials) -> Principal:
        asked.add(credentials.secret)
        return await asyncio.Future()

    door.answer = staticmethod(silent)
    guard = Guard()
    these = [guarded(guard, f"{n}") for n in range(MOST_ASKED_AT_ONCE)]

    async def first_are_known(credentials: Credentials) -> Principal:
        if int(credentials.secret) >= MOST_ASKED_AT_ONCE:
            return await silent(credentials)
        await asyncio.sleep(0.3)
        return EVERYBODY

    door.answer = staticmethod(first_are_known)
    these += [guarded(guard, f"{n}") for n in range(MOST_ASKED_AT_ONCE, 3 * MOST_ASKED_AT_ONCE)]
    await until(lambda: len(asked) == 2 * MOST_ASKED_AT_ONCE)
    for seat in these:
        seat.leave()
    await idle()


async def test_one_odd_answer_does_not_save_all_others(door: type[Door]) -> None:
    async def odd(credentials: Credentials) -> Principal:
        if credentials.secret == "odd":
            nothing: Any = None
            return Principal(id="operator", rights=frozenset(Right), named=nothing)
        raise NotSignedIn("Nobody.")

    door.answer = staticmethod(odd)
    guard = Guard()
    tenants = ("00000000-0000-0000-0000-000000000001",)
    first = guard.seat(Credentials(Via.HEADER, "odd"), EVERYBODY, tenants, Filter())
    other = guarded(guard, "other")
    await until(lambda: other.stopped is not None)
    assert first.stopped is None
    for seat in (first, other):
        seat.leave()
    await idle()


async def test_tickets_that_cannot_be_looked_up_save_nobody_whom_the_resolver_does_not_know(
    door: type[Door],
) -> None:
    async def nobody(credentials: Credentials) -> Principal:
        raise NotSignedIn("Nobody.")

    door.answer = staticmethod(nobody)
    guard = Guard()
    # Of a key, for which the database would be asked; this test has none for Django.
    ticket = make_ticket(replace(EVERYBODY, id="key:abcdefgh")).text
    seat = guard.seat(Credentials(Via.TICKET, ticket), EVERYBODY, None, Filter())
    other = guarded(guard, "other")
    await until(lambda: other.stopped is not None)
    assert seat.stopped is None
    for one in (seat, other):
        one.leave()
    await idle()


async def idle() -> None:
    """The guard's task has ended, for there is no stream."""
    await until(
        lambda: all(task.get_name() != "agent_events guard" for task in asyncio.all_tasks())
    )
