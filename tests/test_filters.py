"""Filters: the same events live and from the log, because Python and SQL say the same."""

from __future__ import annotations

import asyncio
import json
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
from agent_events.wire import Event
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
    assert row == (filter.names(agent, kind),)


# Few keys and values, so that conditions and texts meet them; JSON text, so that numbers are any.
strings = (
    st.text(st.sampled_from('aAb"\\\n\t\x01\x7f/.%_*éÉ\u2028\U0001d54f '), max_size=4) | storable
)
json_strings = strings.map(lambda text: json.dumps(text, ensure_ascii=False))
numbers = st.sampled_from(
    [
        "0",
        "-0",
        "1",
        "1.0",
        "1e0",
        "10e-1",
        "-1",
        "2",
        "0.1",
        "1e-5",
        "12345678901234567890",
        "12345678901234567891",
        "9007199254740993",
        "9007199254740992",
        "1.5e300",
        "1e400",
        "1e-300",
    ]
) | st.integers().map(str)
scalars = json_strings | numbers | st.sampled_from(["null", "true", "false"])
keys = st.sampled_from(["a", "b", "c d", "a.b", "", '"', "\\", "é", "\n", "payload", "0", "$", "@"])
payloads = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(keys, inner, max_size=4).map(
            lambda found: "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in found.items()) + "}"
        )
    ),
    max_leaves=8,
)
steps = st.one_of(
    st.sampled_from(["a", "b"]).map(lambda key: "." + key),
    keys.map(lambda key: f".{json.dumps(key, ensure_ascii=False)}"),
    keys.map(lambda key: f"[{json.dumps(key)}]"),
    st.integers(0, 2).map(lambda place: f"[{place}]"),
)


def is_bare(word: str) -> bool:
    """Is it a value as it stands, without quotes?"""
    return bool(word.strip()) and not word.strip().startswith('"')


operators = st.sampled_from(["=", "==", "!=", ">", ">=", "<", "<=", "~"])
conditions_asked = st.tuples(
    st.sampled_from(["", "payload"]),
    st.lists(steps, min_size=1, max_size=3).map("".join),
    st.just("") | st.tuples(operators, scalars | kinds.filter(is_bare)).map(" ".join),
).map(lambda parts: "".join(parts) if parts[0] else "".join(parts).removeprefix("."))
filters = st.builds(
    Filter.of,
    agents=st.just(()) | agent_patterns,
    types=st.just(()) | patterns,
    not_agents=st.just(()) | agent_patterns,
    not_types=st.just(()) | patterns,
    texts=st.lists(strings, max_size=2),
    where=st.lists(conditions_asked, max_size=2),
) | st.builds(Filter.of, where=st.lists(conditions_asked, min_size=1, max_size=1))

SAID_BY_SQL = """
    WITH f AS MATERIALIZED (
        SELECT place, agent_events_patterns(agents) AS agents,
               agent_events_patterns(types) AS types,
               agent_events_patterns(not_agents) AS not_agents,
               agent_events_patterns(not_types) AS not_types,
               agent_events_needles(texts) AS needles, conditions::jsonpath AS conditions
          FROM ROWS FROM (jsonb_to_recordset(%s::jsonb) AS (agents text[], types text[],
                   not_agents text[], not_types text[], texts text[], conditions text))
               WITH ORDINALITY AS asked (
                   agents, types, not_agents, not_types, texts, conditions, place)
    ),
    e AS MATERIALIZED (
        SELECT place, agent::uuid AS agent, kind, payload::jsonb AS payload
          FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY
               AS made (agent, kind, payload, place)
    )
    SELECT agent_events_json(1, agent, agent, kind, payload, now()), ARRAY(
               SELECT agent_events_matches(agent, kind, agents, types, not_agents, not_types)
                      AND agent_events_contains(kind, payload, needles, conditions)
                 FROM f ORDER BY f.place)
      FROM e ORDER BY e.place
"""


def as_sql(filter: Filter) -> dict[str, object]:
    """The arguments of the SQL functions."""
    return {
        "agents": filter.agents or None,
        "types": filter.types or None,
        "not_agents": filter.not_agents or None,
        "not_types": filter.not_types or None,
        "texts": filter.texts or None,
        "conditions": filter.jsonpath,
    }


def agree(
    connection: psycopg.Connection[TupleRow],
    events: list[tuple[str, str, str]],
    asked: list[Filter],
) -> list[list[bool]]:
    """What SQL says of each event and filter, which has to be what Python says."""
    parts = [as_sql(filter) for filter in asked]
    rows = connection.execute(
        SAID_BY_SQL, [json.dumps(parts), *(list(column) for column in zip(*events, strict=True))]
    ).fetchall()
    for text, said in rows:
        event = Event(1, 0, 1, text)
        for filter, wanted in zip(asked, said, strict=True):
            assert filter.matches(event) is wanted, (filter, text[:2_000])
    return [said for _, said in rows]


@settings(
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
@given(
    events=st.lists(st.tuples(agents, kinds, payloads), min_size=10, max_size=20),
    asked=st.lists(filters, min_size=10, max_size=20),
)
def test_what_is_live_and_what_is_read_back_pass_the_same_filters(
    connection: psycopg.Connection[TupleRow],
    events: list[tuple[str, str, str]],
    asked: list[Filter],
) -> None:
    agree(connection, events, asked)


def test_the_largest_and_the_smallest_numbers_are_compared_in_the_same_way(
    connection: psycopg.Connection[TupleRow],
) -> None:
    numbers = ["1e131071", "-1e131071", "9.99e131071", "1e-16383", "-1e-16383", "0", "1", "1e400"]
    asked = [
        Filter.of(where=[f"a {sign} {one}"])
        for sign in ["=", "!=", ">", ">=", "<", "<="]
        for one in numbers
    ]
    events = [(str(uuid.uuid4()), "x", f'{{"a": {one}}}') for one in numbers]
    agree(connection, events, asked)


def test_a_payload_nested_as_deeply_as_postgresql_takes_is_filtered_in_the_same_way(
    connection: psycopg.Connection[TupleRow],
) -> None:
    inner = '{"a": 1, "b": [true, null, -1.50, "x\\"]}"], "": {}}'
    for depth in (900, 1_100, 5_000):
        payload = '{"deep": ' + '{"a": [' * depth + inner + "]}" * depth + ', "n": 7, "s": "é"}'
        asked = [
            Filter.of(where=[where])
            for where in ("n = 7", "n > 7", "deep.a", "deep.a.a.a != 1", 's ~ "é"', "deep = 1")
        ]
        said = agree(connection, [(str(uuid.uuid4()), "x", payload)], asked)[0]
        assert said[:3] == [True, False, True]


@settings(max_examples=400)
@given(kind=kinds, limit=patterns, asked=patterns)
def test_a_filter_covers_what_is_within_it_and_shows_all_that_it_covers(
    kind: str, limit: list[str], asked: list[str]
) -> None:
    own, other = Filter.of(types=limit), Filter.of(types=asked)
    with suppress(RightLacking):
        assert own.covers(other.within(own))
        assert own.covers(other) == other.within(own).covers(other)
    if own.covers(other) and other.names("", kind):
        assert own.names("", kind)
    assert own.covers(Filter(("a",), own.types))
    assert Filter(("a",), own.types).covers(own) is False


def test_entries_of_a_list_are_alternatives_and_the_lists_are_both_needed() -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    filter = Filter.of([one.upper(), " "], ["tool.*", "message"])
    assert filter.names(one, "tool.started")
    assert filter.names(one, "tool.")
    assert filter.names(one, "message")
    assert not filter.names(one, "message.sent")
    assert not filter.names(one, "tool")
    assert not filter.names(two, "message")


def test_no_filter_and_a_bare_star_want_everything() -> None:
    assert Filter().names(str(uuid.uuid4()), "anything")
    assert Filter.of([""], []) == Filter()
    assert not Filter()
    assert Filter.of([], ["*"]).names(str(uuid.uuid4()), "anything")


def test_a_prefix_is_taken_literally() -> None:
    agent = str(uuid.uuid4())
    assert not Filter.of([], ["a%*"]).names(agent, "abc")
    assert not Filter.of([], ["a*c"]).names(agent, "abc")
    assert Filter.of([], ["a**"]).names(agent, "a*b")


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
            wanted = [id_ for id_, (agent, kind) in made.items() if filter.names(agent, kind)]
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
