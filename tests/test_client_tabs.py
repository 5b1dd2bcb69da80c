"""Tabs of a browser share a connection of client.js: each gets everything, once, in order."""

from __future__ import annotations

from typing import Any

from tests.support import wait_until
from tests.support.stream_client import LATE_S, StreamClient, World, both
from tests.test_renewal import writing

BLOCK = "(ms) => setTimeout(() => { const end = Date.now() + ms; while (Date.now() < end); })"
SHARED: dict[str, Any] = {"share": True, "shareKey": "ann"}


def connections(tabs: list[StreamClient]) -> int:
    """How many of them have a connection of their own."""
    return sum(tab.transport is not None for tab in tabs)


def test_seven_tabs_share_a_connection_where_a_browser_has_six_and_get_everything(
    world: World,
) -> None:
    asked: list[str] = []
    world.page.context.on("request", lambda request: asked.append(request.url))
    tabs = [world.open(f"tab{n}", world.tab(), transport="sse", **SHARED) for n in range(7)]
    made = world.insert(40)
    for tab in tabs:
        assert tab.until_count(40) == made
    assert connections(tabs) == 1
    assert sum("/api/agents/stream" in url for url in asked) == 1
    # The browser has room for other requests.
    assert tabs[-1].page.evaluate("fetch('/healthz').then((answer) => answer.status)") == 200


@both
def test_a_leading_tab_that_is_closed_under_load_costs_the_others_nothing(
    world: World, transport: str
) -> None:
    tabs = [world.open(f"tab{n}", world.tab(), transport=transport, **SHARED) for n in range(4)]
    with writing(world.dsn, world.tenant):
        for left in (3, 2, 1):
            for tab in tabs:
                tab.until_count(len(tab.ids) + 50)
            (leader,) = (tab for tab in tabs if tab.transport)
            leader.page.close()
            tabs.remove(leader)
            assert len(tabs) == left
            wait_until(lambda: connections(tabs) == 1, LATE_S, "another leader")
        tabs[0].until_count(len(tabs[0].ids) + 50)
    for tab in tabs:
        world.check(tab)
        assert tab.states == ["live"]


def test_a_tab_that_comes_late_or_begins_elsewhere_has_its_own_place(world: World) -> None:
    made = world.insert(10)
    first = world.open("first", **SHARED)
    made += world.insert(10)
    assert first.until_count(10) == made[10:]
    whole = world.open("whole", world.tab(), cursor="earliest", **SHARED)
    late = world.open("late", world.tab(), **SHARED)
    middle = world.open("middle", world.tab(), cursor=first.batches[0]["after"], **SHARED)
    made += world.insert(10)
    assert whole.until_count(30) == made
    assert middle.until_count(20) == made[10:]
    assert late.until_count(10) == made[20:]
    assert connections([first, whole, late, middle]) == 1


def test_a_leading_tab_that_is_frozen_loses_the_lead_and_misses_nothing(world: World) -> None:
    options = {**SHARED, "silenceMs": 2000}
    leader = world.open("leader", **options)
    tabs = [world.open(f"tab{n}", world.tab(), **options) for n in range(3)]
    assert connections(tabs) == 0
    world.page.evaluate(BLOCK, 12_000)
    with writing(world.dsn, world.tenant) as written:
        wait_until(lambda: connections(tabs) == 1, 20, "another leader")
        wait_until(lambda: len(written) > 100 and len(leader.ids), 30, "the first one's return")
    for tab in (leader, *tabs):
        world.check(tab)
    wait_until(lambda: connections([leader, *tabs]) == 1, LATE_S, "one connection")


def test_tabs_that_follow_say_what_the_leading_one_says(world: World) -> None:
    tabs = [world.open(f"tab{n}", world.tab(), **SHARED) for n in range(3)]
    world.server.kill()
    for tab in tabs:
        tab.until_state("reconnecting")
    made = world.insert(5)
    world.server.start()
    for tab in tabs:
        assert tab.until_count(5) == made
        tab.until_state("live")
        assert [notice["kind"] for notice in tab.notices] == ["caughtUp"]


def test_all_tabs_are_told_that_they_are_signed_out(world: World) -> None:
    tabs = [world.open(f"tab{n}", world.tab(), **SHARED) for n in range(3)]
    world.database.execute("DELETE FROM django_session")
    for tab in tabs:
        assert tab.until_state("signedOut")["status"] == 401


def test_tabs_of_others_and_of_other_filters_share_nothing(world: World) -> None:
    tabs = [
        world.open("mine", world.tab(), **SHARED),
        world.open("theirs", world.tab(), share=True, shareKey="ben"),
        world.open("other", world.tab(), types=["error"], **SHARED),
        world.open("nobody", world.tab(), share=True),
    ]
    assert connections(tabs) == 4


SPY = """() => {
    const post = BroadcastChannel.prototype.postMessage;
    window.said = [];
    BroadcastChannel.prototype.postMessage = function (message) {
        window.said.push(message.kind);
        return post.call(this, message);
    };
}"""


def bodies(tab: StreamClient) -> int:
    """How often it has given events to other tabs."""
    found: int = tab.page.evaluate("() => said.filter((kind) => kind === 'events').length")
    return found


def test_a_tab_alone_writes_nothing_for_others_and_one_that_joins_misses_nothing(
    world: World,
) -> None:
    world.page.clock.install()
    world.page.evaluate(SPY)
    alone = world.open("alone", **SHARED)
    world.page.clock.fast_forward(60_000)
    made = world.insert(20)
    assert alone.until_count(20) == made
    assert bodies(alone) == 0
    late = world.open("late", world.tab(), **SHARED)
    with writing(world.dsn, world.tenant):
        late.until_count(100)
    for tab in (alone, late):
        world.check(tab)
    assert bodies(alone) > 0
    assert connections([alone, late]) == 1
    # A tab that was not heard of for long is told the place, and reads what it has missed.
    late.page.evaluate("() => (BroadcastChannel.prototype.postMessage = () => {})")
    world.page.clock.fast_forward(600_000)
    so_far = bodies(alone)
    count = len(alone.ids)
    world.insert(5)
    alone.until_count(count + 5)
    assert bodies(alone) == so_far
    world.page.clock.fast_forward(6_000)
    world.check(late)
