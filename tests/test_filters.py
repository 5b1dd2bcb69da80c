"""Filters: the same events live and from the log, because Python and SQL say the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import TupleRow

from agent_events.conf import Settings
from agent_events.errors import InvalidFilter, RightLacking
from agent_events.feed import Feed
from agent_events.filters import MOST_PATTERNS, Filter
from agent_events.log import Log
from agent_events.position import Cursor, Position
from agent_events.sources.postgres import PostgresSource
from agent_events.subscriber import Kind, Subscriber
from tests.conftest import Connect
from tests.support.streams import insert

# Few letters, so that prefixes meet; and letters that trip up naive comparisons.
words = st.text(st.sampled_from("ab.*%_\\ßéñ\u0301İ\u0131\U0001d54f \u2028'\""), max_size=6)
storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
kinds = (words | storable).filter(bool)
patterns = st.lists(words | storable | kinds.map(lambda kind: kind + "*"), max_size=4)
agents = st.sampled_from(
    ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-0000000000ab"]
) | st.uuids().map(str)
agent_patterns = st.lists(
    agents
    | agents.map(str.upper)
    | st.tuples(agents, st.integers(0, 36)).map(lambda cut: cut[0][: cut[1]] + "*"),
    max_size=3,
)


@pytest.fixture
def connection(connect: Connect) -> psycopg.Connection[TupleRow]:
    """One connection for all examples of a test."""
    return connect()


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(agent=agents, kind=kinds, wanted_agents=agent_patterns, wanted_kinds=patterns)
def test_python_and_sql_say_the_same(
    connection: psycopg.Connection[TupleRow],
    agent: str,
    kind: str,
    wanted_agents: list[str],
    wanted_kinds: list[str],
) -> None:
    filter = Filter.of(wanted_agents, wanted_kinds)
    row = connection.execute(
        "SELECT agent_events_matches(%s::uuid, %s,"
        " agent_events_patterns(%s::text[]), agent_events_patterns(%s::text[]))",
        [agent, kind, list(filter.agents) or None, list(filter.types) or None],
    ).fetchone()
    assert row == (filter.matches(agent, kind),)


@settings(max_examples=400, deadline=None)
@given(kind=kinds, limit=patterns, asked=patterns)
def test_a_filter_covers_what_is_within_it_and_shows_all_that_it_covers(
    kind: str, limit: list[str], asked: list[str]
) -> None:
    own, other = Filter.of(types=limit), Filter.of(types=asked)
    with suppress(RightLacking):
        assert own.covers(other.within(own))
        assert own.covers(other) == other.within(own).covers(other)
    if own.covers(other) and other.matches("", kind):
        assert own.matches("", kind)
    assert own.covers(Filter(("a",), own.types))
    assert Filter(("a",), own.types).covers(own) is False


def test_entries_of_a_list_are_alternatives_and_the_lists_are_both_needed() -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    filter = Filter.of([one.upper(), " "], ["tool.*", "message"])
    assert filter.matches(one, "tool.started")
    assert filter.matches(one, "tool.")
    assert filter.matches(one, "message")
    assert not filter.matches(one, "message.sent")
    assert not filter.matches(one, "tool")
    assert not filter.matches(two, "message")


def test_no_filter_and_a_bare_star_want_everything() -> None:
    assert Filter().matches(str(uuid.uuid4()), "anything")
    assert Filter.of([""], []) == Filter()
    assert not Filter()
    assert Filter.of([], ["*"]).matches(str(uuid.uuid4()), "anything")


def test_a_prefix_is_taken_literally() -> None:
    agent = str(uuid.uuid4())
    assert not Filter.of([], ["a%*"]).matches(agent, "abc")
    assert not Filter.of([], ["a*c"]).matches(agent, "abc")
    assert Filter.of([], ["a**"]).matches(agent, "a*b")


@pytest.mark.parametrize(
    ("wanted_agents", "wanted_kinds", "said"),
    [
        ([], [str(n) for n in range(MOST_PATTERNS + 1)], "101 type filters"),
        ([str(n) for n in range(MOST_PATTERNS + 1)], [], "101 agent filters"),
        (["a\x00"], [], "^An agent filter .* U\\+0000"),
        ([], ["a\x00"], "^A type filter .* U\\+0000"),
        ([], ["\ud800"], "surrogate"),
        ([], ["x" * 202], "200 characters"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused(
    wanted_agents: list[str], wanted_kinds: list[str], said: str
) -> None:
    with pytest.raises(InvalidFilter, match=said):
        Filter.of(wanted_agents, wanted_kinds)


async def read(subscriber: Subscriber, until: Callable[[list[int]], bool]) -> list[int]:
    """The ids that come until there are enough."""
    seen: list[int] = []
    async with asyncio.timeout(20):
        while not until(seen):
            seen += [event.id for event in (await subscriber.next(0.2)).events]
    return seen


async def test_a_filtered_stream_is_the_same_live_and_replayed(dsn: str, connect: Connect) -> None:
    tenant, agents = str(uuid.uuid4()), [str(uuid.UUID(int=n)) for n in (1, 2, 300)]
    filters = [
        Filter.of([], ["tool.*"]),
        Filter.of([agents[0], agents[2][:-3] + "*"], []),
        Filter.of([agents[1]], ["tool.started", "mess*"]),
        Filter.of([], ["nothing"]),
    ]
    options = Settings(page_rows=5, poll_interval_s=0.2)
    log = Log(dsn, options)
    await log.open()
    feed = Feed(log, options)
    source = PostgresSource(dsn, log, options, feed.watched)

    async def flow() -> None:
        async for window in source.windows():
            feed.take(window)

    flowing = asyncio.create_task(flow())
    try:
        live = [await feed.subscribe((tenant,), filter, "latest") for filter in filters]
        for subscriber in live:
            while (await subscriber.next(5)).kind is not Kind.LIVE:
                pass
        producer = connect()
        made: dict[int, tuple[str, str]] = {}
        for n in range(60):
            agent, kind = agents[n % 3], ("tool.started", "tool.failed", "message", "run")[n % 4]
            made[insert(producer, tenant, agent=agent, kind=kind)] = (agent, kind)
        for filter, subscriber in zip(filters, live, strict=True):
            wanted = [id_ for id_, (agent, kind) in made.items() if filter.matches(agent, kind)]
            replayed = await feed.subscribe((tenant,), filter, "earliest")
            for stream in (subscriber, replayed):
                seen = await read(stream, lambda seen, wanted=wanted: len(seen) >= len(wanted))
                assert seen == wanted
            # A filter never holds a cursor back: the end is the end for everybody.
            end = Position((await log.head()).n + 1)
            for stream in (subscriber, replayed):
                seen = await read(
                    stream, lambda _, at=stream, end=end: Cursor.parse(at.cursor).position == end
                )
                assert seen == []
    finally:
        flowing.cancel()
        await asyncio.gather(flowing, return_exceptions=True)
        await log.close()
