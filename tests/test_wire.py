"""What goes over the wire: an event's JSON, frames, Server-Sent Events, windows as text."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_events import wire
from agent_events.conf import Settings
from agent_events.filters import Filter
from agent_events.log import Log
from agent_events.position import Cursor, Position
from agent_events.window import Window
from agent_events.wire import Event
from tests.conftest import Connect
from tests.support.streams import insert

TENANT, AGENT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
LINE_BREAKS = "\n\r\u2028\u2029\x85\x0b\x0c\x1c"

# The machine may be busy.
unhurried = settings(suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
awkward = texts | st.text(st.sampled_from(LINE_BREAKS + "\"'\\<&:{} id:data\ufeff\U0001f600"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(awkward, inner, max_size=3),
    max_leaves=8,
)


def event(
    batch: int = 3,
    closed_at_ms: int = 1_767_225_600_000,
    id: int = 7,
    tenant_id: str = TENANT,
    agent_id: str = AGENT,
    type: str = "turn_complete",
    payload_text: str = '{"tokens": 142}',
    created_at: str = "2026-01-01T00:00:00.123456Z",
) -> Event:
    """An event with these fields, its JSON as PostgreSQL writes it."""
    text = (
        f'{{"id":{id},"tenantId":"{tenant_id}","agentId":"{agent_id}",'
        f'"type":{json.dumps(type, ensure_ascii=False)},"payload":{payload_text},'
        f'"createdAt":{json.dumps(created_at or None)}}}'
    )
    return Event(batch, closed_at_ms, id, text)


events = st.builds(
    event,
    batch=st.integers(1, 2**40),
    closed_at_ms=st.integers(0, 2**41),
    id=st.integers(1, 2**63 - 1),
    tenant_id=st.uuids().map(str),
    agent_id=st.uuids().map(str),
    type=awkward.filter(bool),
    # As PostgreSQL writes it: control characters escaped, everything else as it is.
    payload_text=values.map(lambda value: json.dumps(value, ensure_ascii=False)),
    created_at=st.sampled_from(["2026-01-01T00:00:00.000000Z", ""]),
)


def as_a_browser_reads(text: str) -> list[dict[str, str]]:
    """The messages of an event stream by WHATWG HTML, section 9.2.6: name, data, last id."""
    found = []
    message = {"event": "message", "data": "", "id": ""}
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if message["data"]:
                found.append({**message, "data": message["data"].removesuffix("\n")})
            message = {**message, "event": "message", "data": ""}
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            message["data"] += value + "\n"
        elif field in message:
            message[field] = value
    return found


@unhurried
@given(events)
def test_an_events_json_says_what_the_event_says(made: Event) -> None:
    assert json.loads(made.json) == {
        "id": made.id,
        "tenantId": made.tenant_id,
        "agentId": made.agent_id,
        "type": made.type,
        "payload": json.loads(made.payload_text),
        "createdAt": made.created_at or None,
    }


@unhurried
@given(st.lists(events, min_size=1, max_size=4))
def test_whatever_an_event_holds_it_is_one_message_for_a_browser(made: list[Event]) -> None:
    stream = "".join(map(wire.sse_event, made))
    read = as_a_browser_reads(f"retry: 2000\n{wire.sse_named('hello', 'c-0')}{stream}")
    assert read[0] == {"event": "hello", "data": '{"cursor":"c-0"}', "id": "c-0"}
    assert [message["event"] for message in read[1:]] == ["message"] * len(made)
    assert [message["data"] for message in read[1:]] == [one.json for one in made]
    assert [message["id"] for message in read[1:]] == [one.cursor for one in made]


@unhurried
@given(st.lists(events, min_size=1, max_size=4), st.integers(1, 2_000))
def test_pieces_of_an_event_stream_are_the_whole_and_may_end_after_any_event(
    made: list[Event], size: int
) -> None:
    whole = "".join(map(wire.sse_event, made)).encode()
    assert b"".join(block for block, _ in wire.sse_blocks(made)) == whole
    assert [one for _, run in wire.sse_blocks(made) for one in run] == made
    cut = wire.sse_up_to(made, size)
    assert whole.startswith(cut)
    ends = [len("".join(map(wire.sse_event, made[:n])).encode()) for n in range(1, len(made) + 1)]
    assert len(cut) == min((end for end in ends if end >= size), default=ends[-1])


def test_a_named_message_without_a_cursor_leaves_the_last_id_alone() -> None:
    assert wire.sse_named("stopped", why="revoked") == (
        'event: stopped\ndata: {"why":"revoked"}\n\n'
    )


def test_an_events_cursor_goes_on_right_after_it() -> None:
    made = event(batch=12, id=34)
    assert Cursor.parse(made.cursor) == Cursor(Position(12, 34), made.closed_at_ms)


# Frames.


def frames(made: Sequence[Event], cursor: str) -> list[dict[str, Any]]:
    """The frames as a client has them, each with the cursor that was announced for it."""
    found = []
    for text, upto in wire.events_frames(made, cursor):
        frame = json.loads(text)
        assert frame["cursor"] == upto
        found.append(frame)
    return found


@unhurried
@given(st.lists(events, min_size=1, max_size=4))
def test_frames_hold_all_events_in_order_and_the_last_has_the_whole_cursor(
    made: list[Event],
) -> None:
    got = frames(made, "end")
    assert [one for frame in got for one in frame["events"]] == [json.loads(e.json) for e in made]
    assert got[-1]["cursor"] == "end"


def test_many_events_go_in_frames_and_pieces_of_a_bounded_size() -> None:
    made = [event(id=n, payload_text=json.dumps("x" * 1_000)) for n in range(1, 200)]
    sizes = [len(text) for text, _ in wire.events_frames(made, "end")]
    sizes += [len(block) for block, _ in wire.sse_blocks(made)]
    assert min(len(sizes), 6) == 6
    assert max(sizes) < 1.1 * wire.FRAME_CHARS


def test_large_events_travel_in_frames_of_their_own_that_can_be_resumed_between() -> None:
    large = json.dumps("x" * wire.FRAME_CHARS)
    made = [event(id=n, payload_text=large if n == 2 else "{}") for n in (1, 2, 3)]
    got = frames(made, "end")
    assert [[one["id"] for one in frame["events"]] for frame in got] == [[1], [2], [3]]
    assert [frame["cursor"] for frame in got] == [made[0].cursor, made[1].cursor, "end"]


@pytest.mark.parametrize("length", [0, 1, wire.PART_CHARS - 40, 3 * wire.PART_CHARS])
def test_a_long_frame_is_put_together_again_from_its_parts(length: int) -> None:
    whole = wire.frame("error", message='\\"\U0001f600'[: length % 4] + "y" * length)
    sent = list(wire.messages(whole))
    if len(sent) == 1:
        assert sent == [whole]
        return
    parts = [json.loads(message) for message in sent]
    assert {part["type"] for part in parts} == {"part"}
    assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False]
    assert "".join(part["text"] for part in parts) == whole


# Windows, for a channel layer.

windows = st.builds(
    Window,
    first=st.integers(1, 2**40),
    last=st.integers(0, 2**40),
    before_ms=st.integers(0, 2**41),
    closed_at_ms=st.integers(0, 2**41),
    covers=st.none() | st.frozensets(st.uuids().map(str), max_size=3),
    events=st.lists(events, max_size=3).map(tuple),
    restarted=st.booleans(),
)


@unhurried
@given(windows)
def test_a_window_survives_the_way_through_a_layer(window: Window) -> None:
    text = window.to_text()
    assert text.isascii()
    assert Window.from_text(text) == window


@unhurried
@given(
    st.lists(st.sampled_from("abcd"), max_size=8),
    st.none() | st.frozensets(st.sampled_from("abcd")),
    st.none() | st.sets(st.sampled_from("abcd"), min_size=1),
)
def test_a_window_gives_each_stream_its_tenants_events_in_order(
    tenants: list[str], covers: frozenset[str] | None, wanted: set[str] | None
) -> None:
    ids = dict(zip("abcd", (str(uuid.UUID(int=n)) for n in range(4)), strict=True))
    held = [tenant for tenant in tenants if covers is None or tenant in covers]
    made = tuple(event(id=n, tenant_id=ids[tenant]) for n, tenant in enumerate(held))
    covered = None if covers is None else frozenset(ids[tenant] for tenant in covers)
    window = Window(3, 3, 0, 1, covered, made)
    asked = None if wanted is None else tuple(sorted(ids[tenant] for tenant in wanted))
    assert list(window.events_of(asked)) == [
        one for one in made if asked is None or one.tenant_id in asked
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1,2]", "null", '[1,2,3,4,null,[["a"]],false]'])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Window.from_text(text)


# The payload: PostgreSQL's own text, byte for byte.


@pytest.fixture
async def log(dsn: str) -> AsyncIterator[Log]:
    """The log as a process reads it."""
    log = Log(dsn, Settings())
    await log.open()
    yield log
    await log.close()


async def test_an_event_is_six_names_and_nothing_else_however_awkward_its_type(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    characters = (
        "".join(map(chr, range(1, 0x180))) + LINE_BREAKS + "\u200b\ufeff\U0001f600</script>"
    )
    types = ["turn_complete", *(characters[at : at + 200] for at in range(0, len(characters), 200))]
    times = ["2026-01-01T00:00:00.123456Z", "infinity", "2026-01-01T00:00:00Z"]
    for kind in types:
        for time in times:
            connection.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
                """ VALUES (%s, %s, %s, '{"tokens":142}', %s)""",
                [TENANT, AGENT, kind, time],
            )
    connection.execute("SELECT agent_events_append()")
    page = await log.page((TENANT,), (await log.resolve("earliest")).cursor, Filter())
    assert page.events[0].json == (
        f'{{"id":1,"tenantId":"{TENANT}","agentId":"{AGENT}","type":"turn_complete",'
        '"payload":{"tokens": 142},"createdAt":"2026-01-01T00:00:00.123456Z"}'
    )
    # As Python would write it: one text, whoever made it.
    shown = [times[0], "", times[2].replace("Z", ".000000Z")]
    expected = [(kind, time) for kind in types for time in shown]
    assert [(one.type, one.created_at) for one in page.events] == expected
    for one, (kind, time) in zip(page.events, expected, strict=True):
        assert one == event(one.batch, one.closed_at_ms, one.id, type=kind, created_at=time)


async def test_numbers_that_no_float_holds_arrive_as_they_were_written(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    numbers = [
        "1e400",
        "0.1",
        "12345678901234567890",
        "1.000",
        "-0.0",
        "1e-400",
        "0.30000000000000004",
    ]
    for number in numbers:
        insert(connection, TENANT, payload=f'{{"n":{number}}}')
    insert(connection, TENANT, payload='"\\u2028 \\u0085 \\n \U0001f600 \\"id: 1\\""')
    connection.execute("SELECT agent_events_append()")
    stored = connection.execute("SELECT payload::text FROM agent_events ORDER BY id").fetchall()

    page = await log.page((TENANT,), (await log.resolve("earliest")).cursor, Filter())
    window = await log.window(1, 1, frozenset({TENANT}))
    assert window is not None
    for read in (page.events, window, Window.from_text(_carried(window)).events):
        assert [(one.payload_text,) for one in read] == stored
    for number, one in zip(numbers, page.events, strict=False):
        assert json.loads(one.json, parse_float=Decimal)["payload"]["n"] == Decimal(number)
        assert f'"payload":{one.payload_text},' in one.json
    (message,) = as_a_browser_reads(wire.sse_event(page.events[-1]))
    assert json.loads(message["data"])["payload"] == '\u2028 \x85 \n \U0001f600 "id: 1"'


async def test_five_megabytes_pass_and_a_page_or_window_is_cut_before_them(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    large = json.dumps("\u00e9" * 2_500_000, ensure_ascii=False)
    for payload in ("1", large, "2"):
        insert(connection, TENANT, payload=payload)
    connection.execute("SELECT agent_events_append()")
    assert await log.window(1, 1, frozenset({TENANT})) is None

    cursor, read = (await log.resolve("earliest")).cursor, []
    for _ in range(3):
        page = await log.page((TENANT,), cursor, Filter())
        assert len(page.events) == 1
        read.append(page.events[0].payload_text)
        cursor = page.cursor
    assert read == ["1", large, "2"]


def _carried(events: tuple[Event, ...]) -> str:
    return Window(1, 1, 0, 1, None, events).to_text()
