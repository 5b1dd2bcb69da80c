"""Cursors: what a client keeps, and what it leads to when it comes back."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import TupleRow
from websockets.exceptions import ConnectionClosed

from agent_events.conf import Settings
from agent_events.errors import InvalidCursor
from agent_events.log import RESET_GRACE_MS, Log
from agent_events.position import Cursor, Position
from tests.conftest import Connect
from tests.support import Server, cookie_header, login, make_tenant, make_user
from tests.support.streams import event_stream, insert, websocket

TENANT = str(uuid.uuid4())
GARBAGE = ["0", "1-2-3", "earlier", "latest,", "000000000001-0000000000000000-" + "f" * 13]


positions = st.builds(Position, st.integers(1, 2**48 - 1), st.integers(0, 2**63 - 1))
cursors = st.builds(Cursor, positions, st.integers(0, 2**48 - 1))


@given(cursors)
def test_a_cursor_survives_the_round_trip_through_text(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@given(cursors)
def test_a_cursor_needs_no_escaping_anywhere(cursor: Cursor) -> None:
    assert set(str(cursor)) <= set("0123456789abcdef-")


@given(cursors, cursors)
def test_cursors_sort_as_text_like_their_positions(one: Cursor, other: Cursor) -> None:
    if one.position != other.position:
        assert (str(one) < str(other)) == (one.position < other.position)


@given(st.text() | st.from_regex(r"[0-9a-fA-F]{11,13}-[0-9a-fA-F]{15,17}-[0-9a-f]{0,13}\n?"))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except InvalidCursor:
        return
    assert str(cursor) == text


@pytest.mark.parametrize(
    "text",
    [
        *GARBAGE,
        "",
        "000000000000-0000000000000000-0",  # there is nothing in batch 0
        "000000000001-8000000000000000-0",  # no bigint
        "00000000000A-0000000000000000-0",
        "000000000001-0000000000000000-00",
        "\u0660" * 12 + "-0000000000000000-0",  # digits, but not ours
    ],
)
def test_what_looks_like_a_cursor_is_refused_too(text: str) -> None:
    with pytest.raises(InvalidCursor, match=r"no cursor.*earliest"):
        Cursor.parse(text)


# What a cursor leads to.


@pytest.fixture
async def log(dsn: str) -> AsyncIterator[Log]:
    """The log as a process reads it."""
    log = Log(dsn, Settings())
    await log.open()
    yield log
    await log.close()


def close_batches(connection: psycopg.Connection[TupleRow], tenant: str, count: int) -> list[int]:
    """`count` batches of one event each; returns the events' ids."""
    made = []
    for _ in range(count):
        made.append(insert(connection, tenant))
        connection.execute("SELECT agent_events_append()")
    return made


def closed_at_ms(connection: psycopg.Connection[TupleRow], n: int) -> int:
    row = connection.execute(
        "SELECT floor(extract(epoch FROM closed_at) * 1000)::bigint FROM agent_event_batches"
        " WHERE n = %s",
        [n],
    ).fetchone()
    assert row is not None
    return int(row[0])


def set_apart(connection: psycopg.Connection[TupleRow], apart: timedelta) -> None:
    """Has the batches closed at times so far apart."""
    connection.execute("UPDATE agent_event_batches SET closed_at = closed_at + n * %s", [apart])


def prune(connection: psycopg.Connection[TupleRow], oldest: int) -> None:
    """Forgets all batches before `oldest`, as retention does."""
    connection.execute(
        "DELETE FROM agent_events USING agent_events_window(NULL, 1, %s) AS gone"
        " WHERE agent_events.id = gone.id",
        [oldest - 1],
    )
    connection.execute("UPDATE agent_event_bus SET oldest = %s", [oldest])
    connection.execute("DELETE FROM agent_event_batches WHERE n < %s", [oldest - 1])


async def test_a_cursor_of_this_log_is_taken_as_it_is(connect: Connect, log: Log) -> None:
    connection = connect()
    ids = close_batches(connection, TENANT, 3)
    for position in (Position(1), Position(2, ids[1]), Position(3), Position(4)):
        cursor = Cursor(position, closed_at_ms(connection, position.last_batch))
        assert await log.resolve(str(cursor)) == (cursor, "")


async def test_earliest_is_the_oldest_event_and_latest_the_head(connect: Connect, log: Log) -> None:
    connection = connect()
    close_batches(connection, TENANT, 3)
    assert (await log.resolve("earliest")).cursor.position == Position(1)
    assert (await log.resolve("latest")).cursor.position == Position(4)
    prune(connection, 3)
    assert (await log.resolve("earliest")).cursor.position == Position(3)
    assert (await log.resolve("earliest")).notice == ""


async def test_an_empty_log_has_an_earliest_and_a_latest(connect: Connect, log: Log) -> None:
    for text in ("earliest", "latest"):
        resolved = await log.resolve(text)
        assert resolved.cursor.position == Position(1)
        assert await log.resolve(str(resolved.cursor)) == (resolved.cursor, "")


async def test_a_cursor_whose_events_were_pruned_goes_on_from_the_oldest(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    ids = close_batches(connection, TENANT, 5)
    old = [
        Cursor(p, closed_at_ms(connection, p.last_batch))
        for p in [Position(2), Position(3, ids[2])]
    ]
    kept = Cursor(Position(4), closed_at_ms(connection, 3))
    prune(connection, 4)
    for cursor in old:
        resolved = await log.resolve(str(cursor))
        assert resolved == (Cursor(Position(4), closed_at_ms(connection, 3)), "truncated")
    assert await log.resolve(str(kept)) == (kept, "")


@pytest.mark.parametrize("batch", [2, 3, 900])
async def test_a_cursor_of_another_history_goes_on_minutes_before_its_time(
    connect: Connect, log: Log, batch: int
) -> None:
    connection = connect()
    close_batches(connection, TENANT, 6)
    set_apart(connection, timedelta(minutes=10))
    time_ms = closed_at_ms(connection, 4) + RESET_GRACE_MS - 1
    resolved = await log.resolve(str(Cursor(Position(batch), time_ms)))
    assert resolved == (Cursor(Position(4), closed_at_ms(connection, 3)), "reset")


async def test_a_cursor_of_another_history_never_leads_beyond_the_log(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    close_batches(connection, TENANT, 3)
    later = Cursor(Position(2), closed_at_ms(connection, 3) + 2 * RESET_GRACE_MS)
    earlier = Cursor(Position(2), 0)
    assert (await log.resolve(str(later))).cursor.position == Position(4)
    assert (await log.resolve(str(earlier))).cursor.position == Position(1)
    prune(connection, 3)
    assert (await log.resolve(str(Cursor(Position(3), 0)))) == (
        Cursor(Position(3), closed_at_ms(connection, 2)),
        "reset",
    )


# At the doors.


async def test_garbage_is_refused_in_words_at_both_doors(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    cookies = login(running, "ann")
    headers = {"Cookie": cookie_header(cookies)}
    async with httpx.AsyncClient(base_url=running.url, headers=headers) as client:
        for text in GARBAGE:
            for name in ("cursor", "lastEventId", "last_event_id"):
                answer = await client.get("/api/agents/stream", params={name: text})
                assert answer.status_code == 400
                assert "no cursor" in answer.json()["detail"]
            answer = await client.get("/api/agents/stream", headers={"Last-Event-ID": text})
            assert answer.status_code == 400
    for text in GARBAGE:
        async with websocket(running, cookies, f"cursor={text}") as socket:
            frame = await socket.frame()
            assert frame["type"] == "error"
            assert "no cursor" in frame["message"]
            with pytest.raises(ConnectionClosed) as closed:
                await socket.frame()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4400


def test_the_header_wins_over_every_way_to_write_a_cursor_into_the_url(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    connection = connect()
    ids = close_batches(connection, tenant, 4)
    running = server()
    cookies = login(running, "ann")
    second = str(Cursor(Position(2, ids[1]), closed_at_ms(connection, 2)))
    for name in ("cursor", "lastEventId", "last_event_id"):
        with event_stream(running, cookies, f"{name}={second}") as stream:
            assert [event["id"] for event in stream.events(2)] == ids[2:]
        with event_stream(running, cookies, f"{name}=earliest", last_id=second) as stream:
            assert [event["id"] for event in stream.events(2)] == ids[2:]
    with event_stream(running, cookies, "cursor=earliest") as stream:
        assert [event["id"] for event in stream.events(4)] == ids
        # Each event's own id goes on right after it.
        with event_stream(running, cookies, last_id=stream.last_id) as resumed:
            made = insert(connection, tenant)
            assert [event["id"] for event in resumed.events(1)] == [made]


async def test_both_doors_say_truncated_and_reset_and_go_on(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    connection = connect()
    ids = close_batches(connection, tenant, 4)
    old = {
        "truncated": str(Cursor(Position(1, ids[0]), closed_at_ms(connection, 1))),
        "reset": str(Cursor(Position(4, ids[3]), closed_at_ms(connection, 4) + 1)),
    }
    prune(connection, 3)
    running = server()
    cookies = login(running, "ann")
    for notice, cursor in old.items():
        async with websocket(running, cookies, f"cursor={cursor}") as socket:
            hello, said = await socket.frame(), await socket.frame()
            assert (hello["type"], said["type"]) == ("hello", notice)
            assert said["cursor"] == hello["cursor"]
            assert [event["id"] for event in await socket.events(2)] == ids[2:]
        with event_stream(running, cookies, last_id=cursor) as stream:
            messages = stream.messages()
            (hello_name, _), (name, data) = next(messages), next(messages)
            assert (hello_name, name) == ("hello", notice)
            assert stream.last_id == data["cursor"]
            assert [event["id"] for event in stream.events(2)] == ids[2:]
