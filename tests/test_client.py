"""client.js in Chromium against a real server: each event once, in order, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.conftest import MakeWorld
from tests.support import wait_until
from tests.support.keys import make_key
from tests.support.proxy import Proxy
from tests.support.stream_client import LATE_S, StreamClient, World, both
from tests.support.tokens import make_token
from tests.test_renewal import EXPIRING_S, TOKEN_S, writing


@pytest.fixture
def proxy(world: World) -> Iterator[Proxy]:
    """Between the page and the server."""
    with Proxy("127.0.0.1", world.server.port).running() as running:
        yield running


def through(world: World, proxy: Proxy) -> Page:
    """A signed-in page on the far side of the proxy."""
    return world.tab(f"http://127.0.0.1:{proxy.port}")


# Each event once, in order


@both
def test_each_event_comes_once_in_order_over_a_kill_and_a_restart_of_the_server(
    world: World, transport: str
) -> None:
    client = world.open(transport=transport)
    made = world.insert(20)
    assert client.until_count(20) == made
    world.server.kill()
    client.until_state("reconnecting")
    made += world.insert(30)
    world.server.start()
    made += world.insert(20)
    assert client.until_count(70) == made
    client.until_state("live")
    assert [notice["kind"] for notice in client.notices] == ["caughtUp"]
    # A position was never passed over, nor gone back to.
    assert client.holes == 0


@both
def test_what_was_missed_is_counted_and_said(world: World, proxy: Proxy, transport: str) -> None:
    page = through(world, proxy)
    client = world.open(page=page, transport=transport, silenceMs=1000)
    other = world.open("other", transport=transport)
    proxy.freeze()
    client.until_state("reconnecting", 15)
    made = world.insert(41)
    other.until_count(41)  # they are in the log
    assert client.until_count(41) == made
    notice = client.until_notice("caughtUp")
    assert (notice["missed"], len(client.notices)) == (41, 1)
    assert notice["awayMs"] > 0
    assert all(batch["missed"] for batch in client.batches)
    assert not any(batch["missed"] for batch in other.batches)


@both
def test_the_interval_of_a_batch_can_be_read_again(world: World, transport: str) -> None:
    client = world.open(transport=transport)
    made = world.insert(30)
    client.until_count(30)
    first, last = client.batches[0], client.batches[-1]
    again = world.page.evaluate(
        """async ([cursor, until]) => {
            const query = new URLSearchParams({ cursor, until, order: "asc", limit: 1000 });
            const answer = await (await fetch(`/api/agents/events?${query}`)).json();
            return answer.events.map((event) => event.id);
        }""",
        [first["after"], last["cursor"]],
    )
    assert again == made
    assert sum(batch["count"] for batch in client.batches) == 30


@both
def test_it_goes_on_at_a_cursor_and_begins_at_the_log_s_beginning(
    world: World, transport: str
) -> None:
    made = world.insert(10)
    client = world.open(transport=transport, cursor="earliest")
    assert client.until_count(10) == made
    cursor = client.reads("cursor")
    client.reads("close()")
    assert client.state["name"] == "closed"
    made = world.insert(10)
    again = world.open("again", transport=transport, cursor=cursor)
    assert again.until_count(10) == made


@both
def test_what_was_asked_for_comes_and_nothing_else(world: World, transport: str) -> None:
    client = world.open(transport=transport, types=["tool.*", "error"], tenants=[world.tenant])
    for kind in ("message", "tool.called", "turn_complete", "error"):
        world.insert(kind=kind)
    tool, error = client.until_count(2)
    assert tool < error
    # Its place moves on with what it does not want, too.
    before = client.reads("cursor")
    world.insert(kind="message")
    wait_until(lambda: client.reads("cursor") > before, LATE_S, "a later place")


def test_an_event_of_any_size_comes_whole(make_world: MakeWorld) -> None:
    world = make_world(INLINE_PAYLOAD_BYTES=10_000_000)
    text = "ä" * 900_000
    for transport in ("websocket", "sse"):
        client = world.open(transport, transport=transport)
        (made,) = world.insert(payload=f'{{"text": "{text}"}}')
        assert client.until_count(1) == [made]
        assert client.batches[0]["characters"] > 900_000


def test_a_handler_that_throws_does_not_stop_it(world: World) -> None:
    world.page.evaluate("window.addEventListener('error', (event) => event.preventDefault())")
    client = world.open()
    world.page.evaluate(
        """client.stream.addEventListener("events", () => { throw new Error("a mistake"); })"""
    )
    made = world.insert(3)
    assert client.until_count(3) == made
    made += world.insert(3)
    assert client.until_count(6) == made


# Which way they come


def test_where_no_websocket_can_be_opened_events_come_all_the_same_and_nothing_is_said(
    world: World, proxy: Proxy
) -> None:
    proxy.refused = b"GET /ws/"
    client = world.open(page=through(world, proxy))
    assert client.transport == "sse"
    assert client.states == ["live"]
    made = world.insert(5)
    assert client.until_count(5) == made


def test_a_websocket_that_is_never_answered_is_not_waited_for(world: World, proxy: Proxy) -> None:
    proxy.unanswered = b"GET /ws/"
    client = world.open(page=through(world, proxy))
    assert client.transport == "sse"
    assert client.states == ["live"]


def test_a_restart_of_the_server_does_not_leave_a_page_without_its_websocket(world: World) -> None:
    client = world.open()
    for _ in range(2):
        world.server.kill()
        client.until_state("reconnecting")
        world.server.start()
        client.until_state("live")
    wait_until(lambda: client.transport in ("websocket", "sse"), LATE_S, "a transport")
    made = world.insert(3)
    assert client.until_count(3) == made


def test_responses_that_end_as_planned_are_no_interruption(make_world: MakeWorld) -> None:
    world = make_world(SSE_RECYCLE_S=0.5)
    answers: list[int] = []
    world.page.on("response", lambda response: answers.append(response.status))
    client = world.open(transport="sse")
    with writing(world.dsn, world.tenant):
        wait_until(lambda: (client.state, len(answers) > 4)[1], LATE_S, "some more responses")
    world.check(client)
    assert set(answers) == {200}
    assert client.states == ["live"]
    assert client.notices == []


# How it ends, and what cannot be mended


@both
def test_who_signed_out_is_told_so_once_and_nothing_is_tried_again(
    world: World, transport: str
) -> None:
    client = world.open(transport=transport)
    world.database.execute("DELETE FROM django_session")
    state = client.until_state("signedOut")
    assert state["status"] == 401
    assert "sign in" in state["reason"]
    assert "reconnecting" not in client.states


@both
def test_who_may_not_see_it_any_more_is_told_so(world: World, transport: str) -> None:
    client = world.open(transport=transport)
    world.database.execute("DELETE FROM agent_events_membership WHERE user_id = %s", [world.user])
    state = client.until_state("stopped")
    assert state["status"] == 404
    assert "not yours" in state["reason"]
    assert "reconnecting" not in client.states


@both
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"cursor": "nonsense"}, 400),
        ({"token": "ae_00000000_wrong"}, 401),
        ({"tenants": ["00000000-0000-4000-8000-000000000000"]}, 404),
    ],
    ids=["400", "401", "404"],
)
def test_what_is_refused_is_told_apart_with_the_server_s_words(
    world: World, transport: str, options: dict[str, Any], status: int
) -> None:
    client = StreamClient(world.page, transport=transport, **options)
    state = client.until_state("signedOut" if status == 401 else "stopped")
    assert state["status"] == status
    assert len(state["reason"]) > 10
    assert client.states == [state["name"]]


@both
def test_a_key_without_the_right_is_told_which_right_is_lacking(
    world: World, transport: str
) -> None:
    key = make_key(world.dsn, world.tenant, subscribe=False)
    client = StreamClient(world.page, transport=transport, token=key)
    state = client.until_state("stopped")
    assert (state["status"], "subscribe" in state["reason"]) == (403, True)


@both
def test_too_many_streams_are_tried_again_later(make_world: MakeWorld, transport: str) -> None:
    world = make_world(STREAMS_PER_PRINCIPAL=1)
    first = world.open("first", transport=transport)
    client = StreamClient(world.page, transport=transport)
    state = client.until_state("reconnecting")
    assert state["status"] == 429
    assert state["retryAt"] - state["since"] > 5_000
    first.reads("close()")
    wait_until(lambda: (client.reads("wake()"), client.state["name"] == "live")[1], LATE_S, "live")


@both
def test_what_was_pruned_and_a_log_put_back_are_told_apart(world: World, transport: str) -> None:
    early = world.open("early", transport=transport, cursor="earliest")
    for count in (1, 2, 3):
        world.insert()
        early.until_count(count)
    first, _, third = (batch["cursor"] for batch in early.batches)
    early.reads("close()")
    for _ in range(2):
        world.database.execute("SELECT agent_events_prune(clock_timestamp(), 1)")
    gap = world.open("gap", transport=transport, cursor=first)
    assert (gap.until_count(1), [notice["kind"] for notice in gap.notices]) == ([3], ["gap"])
    assert first < gap.notices[0]["cursor"] <= gap.batches[0]["after"]
    # As after a restore: the same numbers, other batches.
    world.database.execute(
        "UPDATE agent_event_batches SET closed_at = closed_at + '1 ms'::interval"
    )
    reset = world.open("reset", transport=transport, cursor=third)
    gap.until_notice("reset")
    reset.until_notice("reset")
    made = world.insert()
    assert reset.until_count(2) == [3, *made]


@both
def test_a_connection_that_went_silent_is_found_and_replaced(
    world: World, proxy: Proxy, transport: str
) -> None:
    client = world.open(page=through(world, proxy), transport=transport, silenceMs=2000)
    proxy.freeze()
    made = world.insert(3)
    assert client.until_count(3) == made
    assert client.states[:2] == ["live", "reconnecting"]


def test_a_page_that_wakes_up_does_not_wait_for_its_next_try(world: World) -> None:
    world.page.clock.install()
    client = world.open()
    world.server.kill()
    client.until_state("reconnecting")
    # From here on its timers stand still: nothing but the waking up makes it try.
    world.page.clock.pause_at(world.page.evaluate("Date.now() + 60_000"))
    world.server.start()
    tried = client.state["since"]
    assert client.state["name"] == "reconnecting"
    client.reads("wake()")
    client.until_state("live")
    assert client.state["since"] >= tried


def test_it_gives_the_connection_up_and_goes_on_where_it_was(world: World) -> None:
    client = world.open()
    made = world.insert(2)
    client.until_count(2)
    client.reads("pause()")
    made += world.insert(2)
    assert client.transport is None
    client.reads("resume()")
    assert client.until_count(4) == made


# Who asks


@both
def test_a_stream_outlives_its_tokens_without_losing_or_repeating_an_event(
    make_world: MakeWorld, transport: str
) -> None:
    world = make_world(EXPIRING_S=EXPIRING_S)
    world.page.context.clear_cookies()
    key = make_key(world.dsn, world.tenant)
    asked: list[str] = []

    def fresh() -> str:
        return make_token(key, world.tenant, TOKEN_S)

    world.page.expose_function("fresh", fresh)
    world.page.on("request", lambda request: asked.append(request.url))
    world.page.on("websocket", lambda socket: asked.append(socket.url))
    client = world.open(transport=transport, tokenFrom="fresh")
    with writing(world.dsn, world.tenant):
        wait_until(lambda: _age(client) > 3 * TOKEN_S, LATE_S, "three tokens' time")
    world.check(client)
    assert client.states == ["live"]
    assert not any("aet." in url for url in asked)


def _age(client: StreamClient) -> float:
    found: float = client.page.evaluate("(Date.now() - client.states[0].since) / 1000")
    return found


@both
def test_a_token_that_expired_while_the_computer_slept_is_replaced(
    make_world: MakeWorld, transport: str
) -> None:
    world = make_world()
    key = make_key(world.dsn, world.tenant)
    lives = iter([2.0])
    # The first one ends without a warning that anybody heeds: none is given in time.
    world.page.expose_function("fresh", lambda: make_token(key, world.tenant, next(lives, 60.0)))
    client = world.open(transport=transport, tokenFrom="fresh")
    made = world.insert(2)
    assert client.until_count(2) == made
    wait_until(lambda: _age(client) > 4, 10, "the end of the first token")
    made += world.insert(2)
    assert client.until_count(4) == made
    assert client.state["name"] == "live"


def test_nobody_gives_a_token_any_more(world: World) -> None:
    world.page.evaluate("window.none = () => null")
    client = StreamClient(world.page, tokenFrom="none")
    assert client.until_state("signedOut")["status"] == 401


# A loop


@both
def test_a_loop_that_is_slow_slows_the_server_and_gets_everything(
    make_world: MakeWorld, transport: str
) -> None:
    world = make_world(ACK_WINDOW_BYTES=20_000, ACK_TIMEOUT_S=2.0)
    world.page.evaluate(
        """async (transport) => {
            const { AgentEvents } = await import("/static/agent_events/client.js");
            window.seen = [];
            window.stream = new AgentEvents({ transport });
            window.permits = 0;
            (async () => {
                for await (const batch of stream) {
                    seen.push(...batch.events.map((event) => event.id));
                    while (!permits) await new Promise((resolve) => setTimeout(resolve, 10));
                    permits -= 1;
                }
                window.left = true;
            })();
        }""",
        transport,
    )
    wait_until(lambda: world.page.evaluate("stream.state.name") == "live", LATE_S, "live")
    made: list[int] = []
    for _ in range(60):
        made += world.insert(payload=f'{{"text": "{"x" * 3000}"}}')
    # It has one, and a window is on its way; then the server waits.
    wait_until(lambda: world.page.evaluate("seen.length"), LATE_S, "the first batch")
    assert world.page.evaluate("seen.length") < 60
    world.page.evaluate("permits = 1e9")
    wait_until(lambda: len(world.page.evaluate("seen")) >= 60, LATE_S, "all")
    assert world.page.evaluate("seen") == made
    world.page.evaluate("stream.close()")
    wait_until(lambda: world.page.evaluate("window.left"), LATE_S, "the loop's end")


def test_a_loop_that_is_left_closes_the_stream_and_one_that_was_refused_throws(
    world: World,
) -> None:
    world.insert(3)
    told = world.page.evaluate(
        """async () => {
            const { AgentEvents } = await import("/static/agent_events/client.js");
            const stream = new AgentEvents({ cursor: "earliest" });
            for await (const batch of stream) break;
            const refused = new AgentEvents({ cursor: "nonsense" });
            try {
                for await (const batch of refused) break;
            } catch (error) {
                return [stream.state.name, error.message, error.cause.status];
            }
        }"""
    )
    assert (told[0], told[2]) == ("closed", 400)
    assert "nonsense" in told[1]
