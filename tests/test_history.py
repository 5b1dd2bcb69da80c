"""History over HTTP: the log's order, both ways from any cursor, and single events."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agent_events import history
from agent_events.position import Cursor, Position
from tests.conftest import Connect
from tests.support import Server, cookie_header, free_port, login, make_tenant, make_user
from tests.support.django_log import django_on
from tests.support.oracle import Oracle
from tests.support.roles import temporary_role
from tests.support.streams import insert
from tests.test_docs import README, TENANT, blocks_of, section

TENANTS = [str(uuid.UUID(int=n)) for n in (1, 2, 3)]
AGENTS = [str(uuid.UUID(int=0xA0 + n)) for n in range(3)]
TYPES = ["tool.started", "tool.finished", "message"]
EVENTS = "/api/agents/events"

Answer = dict[str, Any]


def member_of(*tenants: str) -> Client:
    """The client of a user who is a member of these."""
    client = Client()
    user = get_user_model().objects.create_user(f"user-{uuid.uuid4()}")
    for tenant in tenants:
        user.agent_events_memberships.create(tenant_id=tenant)
    client.force_login(user)
    return client


def get(client: Client, url: str = EVENTS, **query: Any) -> Answer:
    answer = client.get(url, query)
    assert answer.status_code == 200, answer.content
    made: Answer = json.loads(answer.content)
    return made


def ids(answer: Answer) -> list[int]:
    return [event["id"] for event in answer["events"]]


def walk(client: Client, **query: Any) -> list[Answer]:
    """Every page from the first on, by following `next`."""
    pages = [get(client, **query)]
    while pages[-1]["more"]:
        pages.append(get(client, pages[-1]["next"]))
    return pages


def ids_of(pages: list[Answer]) -> list[int]:
    return [id_ for page in pages for id_ in ids(page)]


def fill(dsn: str, steps: int = 90) -> None:
    """Overlapping transactions, so that ids and created_at are in no order; each in a batch."""
    rng = random.Random(9)
    writers = [psycopg.connect(dsn) for _ in range(5)]
    sequencer = psycopg.connect(dsn, autocommit=True)
    for _ in range(steps):
        writer = rng.choice(writers)
        for _ in range(rng.choice([1, 1, 2, 6])):
            insert(
                writer,
                rng.choice(TENANTS),
                agent=rng.choice(AGENTS),
                kind=rng.choice(TYPES),
            )
        if rng.random() < 0.5:
            writer.commit()
        if rng.random() < 0.4:
            sequencer.execute("SELECT agent_events_append()")
    for writer in writers:
        writer.commit()
        writer.close()
    while sequencer.execute("SELECT agent_events_append()").fetchone():
        pass
    sequencer.close()


def put(connection: psycopg.Connection[Any], tenant: str, **fields: Any) -> int:
    """An event, in a batch of its own."""
    made = insert(connection, tenant, **fields)
    connection.execute("SELECT agent_events_append()")
    return made


def test_every_walk_is_the_ledgers_order_and_backwards_it_is_the_same_reversed(
    dsn: str, connect: Connect, root: Client
) -> None:
    fill(dsn)
    oracle = Oracle.load(connect())
    everything = [position[1] for position in oracle.wanted()]
    assert everything != sorted(everything)  # else the order of ids would do
    questions: list[dict[str, Any]] = [
        {},
        {"tenant": TENANTS[0]},
        {"tenant": TENANTS[:2]},
        {"tenant": TENANTS[1], "agent": AGENTS[0], "type": ["tool.*", "none"]},
    ]
    for question in questions:
        tenants = question.get("tenant")
        wanted = [
            position[1]
            for position in oracle.wanted(
                [tenants] if isinstance(tenants, str) else tenants,
                [question["agent"]] if "agent" in question else None,
                question.get("type"),
            )
        ]
        for limit in (1, 7, 1000):
            if limit == 1 and not question:
                continue
            on = walk(root, order="asc", limit=limit, **question)
            assert ids_of(on) == wanted
            assert all(len(page["events"]) <= limit for page in on)
            back = walk(root, limit=limit, **question)
            assert ids_of(back) == wanted[::-1]


def test_from_any_cursor_the_two_ways_share_the_log_between_them(
    dsn: str, connect: Connect, root: Client
) -> None:
    fill(dsn, 60)
    order = [position[1] for position in Oracle.load(connect()).wanted([TENANTS[0]])]
    query = {"tenant": TENANTS[0], "limit": 1000}
    for way in ("asc", "desc"):
        cursors = {
            page[side]
            for page in walk(root, tenant=TENANTS[0], order=way, limit=3)
            for side in ("before", "after")
        }
        assert len(cursors) > len(order) / 3
        for cursor in cursors:
            newer = ids(get(root, cursor=cursor, order="asc", **query))
            older = ids(get(root, cursor=cursor, order="desc", **query))
            assert older[::-1] + newer == order


def test_until_ends_exactly_there_whichever_way_and_wherever_it_is(
    dsn: str, connect: Connect, root: Client
) -> None:
    fill(dsn, 60)
    oracle = Oracle.load(connect())
    rng = random.Random(4)
    whole = [position for position, _ in oracle.order]
    # Starts of batches, places within them, and right behind an event.
    places: list[Position] = [Position(n) for n in range(1, oracle.head + 2)]
    places += [Position(n, id_ + rng.choice([-1, 0, 0, 1])) for n, id_ in whole if id_ > 1]

    def cursor(at: Position) -> str:
        closed = oracle.closed_at(at.last_batch)
        return str(Cursor(at, int(closed.timestamp() * 1_000_000) // 1_000))

    for _ in range(150):
        start, until = rng.choice(places), rng.choice(places)
        question = rng.choice([{}, {"tenant": TENANTS[0]}, {"type": "tool.*"}])
        allowed = set(
            oracle.wanted(
                [question["tenant"]] if "tenant" in question else None,
                None,
                [question["type"]] if "type" in question else None,
            )
        )
        for order in ("asc", "desc"):
            low, high = (start, until) if order == "asc" else (until, start)
            wanted = [at[1] for at in whole if low < at <= high and at in allowed]
            pages = walk(
                root,
                cursor=cursor(start),
                until=cursor(until),
                order=order,
                limit=rng.choice([1, 5, 1000]),
                **question,
            )
            assert ids_of(pages) == (wanted if order == "asc" else wanted[::-1])
            last = pages[-1]
            assert last["notice"] is None
            arrived = Cursor.parse(last["after" if order == "asc" else "before"]).position
            # (Where it begins beyond that place, it stays where it began.)
            assert arrived == (max if order == "asc" else min)(start, until)
            assert all(f"until={cursor(until)}" in page["next"] for page in pages[:-1])
            if last["previous"]:
                assert "until" not in last["previous"]


def test_until_may_be_an_end_of_the_log_and_latest_stays_where_it_was(
    connect: Connect, root: Client
) -> None:
    made = [put(connect(), TENANTS[0]) for _ in range(5)]
    first = get(root, order="asc", until="latest", limit=2)
    assert first["more"]
    put(connect(), TENANTS[0])
    rest = get(root, first["next"])
    while rest["more"]:
        rest["events"] += (following := get(root, rest["next"]))["events"]
        rest = {**following, "events": rest["events"]}
    assert ids(first) + ids(rest) == made
    assert ids_of(walk(root, cursor=first["after"], until="earliest", limit=1)) == made[1::-1]
    nothing = get(root, until="latest")
    assert (nothing["events"], nothing["more"], nothing["next"]) == ([], False, None)
    nothing = get(root, order="asc", until="earliest")
    assert (nothing["events"], nothing["more"], nothing["next"]) == ([], False, None)


def test_until_a_place_that_is_pruned_or_of_another_history_is_said(
    connect: Connect, root: Client
) -> None:
    connection = connect()
    made = [put(connection, TENANTS[0]) for _ in range(6)]
    old = get(root, order="asc", limit=1)["after"]
    here = get(root, order="asc", limit=5)["after"]
    prune(connection, 4)
    answer = get(root, until=old)
    assert (answer["notice"], ids(answer), answer["more"]) == ("truncated", made[:2:-1], False)
    elsewhere = Cursor(Cursor.parse(here).position, Cursor.parse(here).closed_at_ms + 1)
    for order in ("asc", "desc"):
        assert get(root, order=order, until=str(elsewhere))["notice"] == "reset"
    lost = Cursor(Position(99, 5), Cursor.parse(here).closed_at_ms)
    assert get(root, order="asc", until=str(lost))["notice"] == "reset"


def test_until_a_place_that_the_log_has_not_come_to_is_not_reached(
    connect: Connect, root: Client
) -> None:
    """(A copy of the log may lag behind the one that the cursor is of.)"""
    made = [put(connect(), TENANTS[0]) for _ in range(2)]
    head = Cursor.parse(get(root)["after"])
    ahead = str(Cursor(Position(head.position.batch + 3), head.closed_at_ms + 60_000))
    answer = get(root, order="asc", until=ahead)
    assert (ids(answer), answer["notice"], answer["more"]) == (made, None, True)
    again = get(root, answer["next"])
    assert (ids(again), again["more"], again["after"]) == ([], True, answer["after"])
    put(connect(), TENANTS[0])
    assert len(ids(get(root, again["next"]))) == 1


def test_at_begins_at_the_first_batch_closed_then_or_later(connect: Connect, root: Client) -> None:
    connection = connect()
    made = [put(connection, TENANTS[0]) for _ in range(5)]
    times = [
        time
        for (time,) in connection.execute(
            "SELECT date_trunc('milliseconds', closed_at) FROM agent_event_batches ORDER BY n"
        )
    ][-5:]
    assert times == sorted(set(times))

    def both(at: str) -> tuple[list[int], list[int]]:
        on = ids_of(walk(root, order="asc", at=at, limit=2))
        return on, ids_of(walk(root, at=at, limit=2))

    for n, time in enumerate(times):
        utc = time.astimezone(UTC)
        for zone in (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))):
            assert both(utc.astimezone(zone).isoformat()) == (made[n:], made[:n][::-1])
        for text in (
            utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            utc.strftime("%Y-%m-%dt%H:%M:%S.%fz"),
            utc.strftime("%Y-%m-%d %H:%M:%S.%f+00:00"),
            utc.strftime("%Y-%m-%dT%H:%M:%S.%f 00:00"),  # a + that was not escaped
        ):
            assert both(text) == (made[n:], made[:n][::-1])
        later = utc + timedelta(milliseconds=1)
        if n + 1 == len(times) or later <= times[n + 1]:
            assert both(later.isoformat()) == (made[n + 1 :], made[: n + 1][::-1])
    assert both("1970-01-01T00:00:00Z") == both("0001-01-01T00:00:00+14:00") == (made, [])
    assert both("9999-12-31T23:59:59-12:00") == ([], made[::-1])
    page = get(root, order="asc", at=times[2].astimezone(UTC).isoformat(), limit=2)
    assert "at=" not in page["next"] + page["previous"]
    assert ids(get(root, page["previous"])) == made[:2][::-1]


def test_previous_leads_back_over_the_page_and_on(dsn: str, connect: Connect, root: Client) -> None:
    made = [put(connect(), TENANTS[0]) for _ in range(6)]
    first = get(root, limit=2)
    assert (ids(first), first["previous"]) == (made[:3:-1], None)
    second = get(root, first["next"])
    assert ids(second) == [made[3], made[2]]
    turned = get(root, second["previous"])
    assert ids(turned) == made[4:]
    at_the_end = get(root, turned["next"])  # a full page does not know that nothing follows
    assert at_the_end["events"] == []
    assert (at_the_end["more"], at_the_end["next"]) == (False, None)
    answer = root.get(first["next"])
    assert answer["Link"] == (f'<{second["next"]}>; rel="next", <{second["previous"]}>; rel="prev"')
    assert get(root, cursor="latest", order="asc")["events"] == []
    assert get(root, cursor="earliest", order="desc")["events"] == []


def test_a_page_in_the_middle_of_a_transaction_goes_on_right_there(
    connect: Connect, root: Client
) -> None:
    connection = connect()
    with connection.transaction():
        made = [insert(connection, TENANTS[0]) for _ in range(10)]  # the first id of all is 1
    connection.execute("SELECT agent_events_append()")
    assert ids_of(walk(root, limit=3)) == made[::-1]
    assert ids_of(walk(root, limit=3, order="asc")) == made
    page = get(root, limit=10)
    assert ids(get(root, order="asc", cursor=page["before"])) == made


def test_an_event_has_the_same_bytes_as_on_the_stream_and_alone(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    producer = connect()
    payloads = [
        '{"n": 12345678901234567890.12345678901234567890, "e": 1e400, "z": 1.10}',
        json.dumps("ünïcødé \u2028 </script> \x01", ensure_ascii=False),
        "null",
    ]
    for payload in payloads:
        put(producer, tenant, kind='say "hi"\n', payload=payload)
    running = server()
    cookies = {"Cookie": cookie_header(login(running, "ann"))}
    streamed: list[tuple[str, str]] = []
    with httpx.stream(
        "GET", f"{running.url}/api/agents/stream?cursor=earliest", headers=cookies, timeout=20
    ) as response:
        body = b""  # raw: a payload may hold what else would count as a line break
        for chunk in response.iter_raw():
            body += chunk
            blocks = body.decode(errors="ignore").split("\n\n")[:-1]
            found = [re.fullmatch(r'id: (\S+)\ndata: (\{"id".*)', block) for block in blocks]
            streamed = [(match[1], match[2]) for match in found if match]
            if len(streamed) == len(payloads):
                break
    with httpx.Client(base_url=running.url, headers=cookies, timeout=20) as client:
        page = client.get(f"{EVENTS}?order=asc")
        bodies = ",".join(body for _, body in streamed)
        assert page.text.startswith(f'{{"events":[{bodies}],')
        for cursor, body in streamed:
            alone = client.get(f"{EVENTS}/{json.loads(body)['id']}")
            assert alone.text == body
            assert alone.headers["Agent-Events-Cursor"] == cursor
        assert page.headers["content-type"] == alone.headers["content-type"] == "application/json"
        assert page.headers["cache-control"] == "no-store"
        for url, allowed in ((EVENTS, "GET, HEAD, POST"), (f"{EVENTS}/1", "GET, HEAD")):
            head = client.head(url)
            assert (head.status_code, head.content) == (200, b"")
            for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
                refused = client.request(method, url)
                assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
                assert refused.headers["content-type"] == "application/problem+json"
                assert "Use GET." in refused.json()["detail"]


def test_the_readmes_curl_lines_print_a_page_and_an_event(
    dsn: str, connect: Connect, server: Callable[..., Server], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (apt-get install curl)")
    (block,) = blocks_of(README, "sh")
    (sign_in,) = re.findall(r"^```sh\n(.*?)^curl -N", section(README, "### curl"), re.S | re.M)
    make_tenant(dsn, "Harbour Support", id=uuid.UUID(TENANT))
    make_user(dsn, "demo", tenants=[TENANT])
    made = put(connect(), TENANT, kind="turn_complete", payload='{"tokens": 142}')
    put(connect(), TENANT, kind="message")
    script = (sign_in + block).replace("http://127.0.0.1:8000", server().url)
    done = subprocess.run(
        ["sh", "-ec", script.replace("/events/1", f"/events/{made}")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.JSONDecoder().raw_decode
    answer, end = read(done.stdout)
    assert ids(answer) == [made]
    assert list(answer) == re.findall(r'"(\w+)":', section(README, "### History"))
    alone, length = read(done.stdout[end:])
    assert alone == answer["events"][0]
    assert ids(read(done.stdout[end + length :])[0]) == [made]


def test_a_filter_that_matches_little_gives_empty_pages_that_lead_on(
    connect: Connect, root: Client
) -> None:
    connection = connect()
    needle = put(connection, TENANTS[0], kind="needle")
    connection.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT %s, gen_random_uuid(), 'hay', '1' FROM generate_series(1, 12000)",
        [TENANTS[0]],
    )
    connection.execute("SELECT agent_events_append()")
    last = put(connection, TENANTS[0], kind="needle")
    pages = walk(root, type="needle")
    assert ids_of(pages) == [last, needle]
    empty = [page for page in pages if not page["events"]]
    assert empty, "it looked through 12,000 events at once"
    assert all(page["more"] and page["next"] for page in empty)
    assert ids_of(walk(root, type="needle", order="asc")) == [needle, last]


def test_a_page_is_bounded_in_bytes_but_for_one_event(
    connect: Connect, root: Client, settings: Any
) -> None:
    settings.AGENT_EVENTS = {"PAGE_BYTES": 1000}
    made = [put(connect(), TENANTS[0], payload=json.dumps("x" * size)) for size in (300, 300, 5000)]
    assert [ids(page) for page in walk(root)] == [[made[2]], [made[1], made[0]]]
    assert [ids(page) for page in walk(root, order="asc")] == [[made[0], made[1]], [made[2]]]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "limit is '0', expected a number from 1 to 1000"),
        ("limit=1001", "limit is '1001'"),
        ("limit=ten", "limit is 'ten'"),
        ("limit=%D9%A1", "expected a number"),
        ("limit=-1", "limit is '-1'"),
        ("order=down", "order is 'down', expected 'desc' (newest first) or 'asc'"),
        ("cursor=yesterday", "'yesterday' is no cursor"),
        ("until=yesterday", "'yesterday' is no cursor"),
        ("at=yesterday", "at is 'yesterday', expected a time with its zone, such as 2026-11-26T14"),
        ("at=2026-11-26T14:03:00", "expected a time with its zone"),
        ("at=2026-11-26", "expected a time with its zone"),
        ("at=2026-13-26T14:03:00Z", "at is '2026-13-26T14:03:00Z'"),
        ("at=2026-W48-4T14:03:00Z", "expected a time with its zone"),
        ("at=1769860860", "expected a time with its zone"),
        ("at=2026-11-26T14:03:00Z&cursor=earliest", "There is a cursor and at"),
        ("text=%00", "text filter"),
        ("where=a+%3D", "A where ends early, expected a value"),
        ("type=%00", "type filter"),
        ("agent=" + "&agent=".join(str(n) for n in range(101)), "101 agent filters"),
    ],
)
def test_what_is_not_understood_is_a_400_in_words(root: Client, query: str, says: str) -> None:
    answer = root.get(f"{EVENTS}?{query}")
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def prune(connection: psycopg.Connection[Any], oldest: int) -> None:
    """Forgets all batches before `oldest`, as retention does."""
    connection.execute("UPDATE agent_event_bus SET oldest = %s", [oldest])
    connection.execute(
        "DELETE FROM agent_events AS e USING agent_event_batches AS b"
        " WHERE b.n = %s AND pg_visible_in_snapshot(e.tx, b.seen)",
        [oldest - 1],
    )
    connection.execute("DELETE FROM agent_event_batches WHERE n < %s", [oldest - 1])


def test_what_was_pruned_or_is_of_another_history_is_said(connect: Connect, root: Client) -> None:
    connection = connect()
    made = [put(connection, TENANTS[0]) for _ in range(6)]
    old = get(root, order="asc", limit=1)["after"]
    here = get(root, order="asc", limit=5)["after"]
    prune(connection, 4)
    answer = get(root, order="asc", cursor=old)
    assert (answer["notice"], ids(answer)) == ("truncated", made[3:])
    assert (get(root, order="asc")["notice"], ids_of(walk(root))) == (None, made[:2:-1])
    answer = get(root, cursor=here)
    assert (answer["notice"], ids(answer)) == (None, [made[4], made[3]])
    assert root.get(f"{EVENTS}/{made[0]}").status_code == 404
    assert get(root, f"{EVENTS}/{made[3]}")["id"] == made[3]

    lost = Cursor(Position(99, 5), Cursor.parse(here).closed_at_ms)
    answer = get(root, order="asc", cursor=str(lost))
    assert (answer["notice"], ids(answer)) == ("reset", made[3:])


def test_what_is_pruned_while_it_is_read_is_truncated_and_no_error(
    connect: Connect, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    made = [put(connection, TENANTS[0]) for _ in range(4)]
    cursor = get(root, order="asc", limit=1)["after"]
    resolve = history._DjangoLog.resolve

    async def slowly(self: history._DjangoLog, text: str) -> Any:
        found = await resolve(self, text)
        prune(connection, 4)
        return found

    monkeypatch.setattr(history._DjangoLog, "resolve", slowly)
    answer = get(root, order="asc", cursor=cursor)
    assert (answer["notice"], ids(answer)) == ("truncated", made[3:])


def test_another_tenants_events_look_like_none(dsn: str, connect: Connect, django: None) -> None:
    mine, theirs = make_tenant(dsn, "Mine"), make_tenant(dsn, "Theirs")
    own, secret = put(connect(), mine), put(connect(), theirs)
    client = member_of(mine)
    assert ids(get(client)) == ids(get(client, tenant=mine)) == [own]
    refused = [client.get(EVENTS, {"tenant": asked}) for asked in (theirs, uuid.uuid4(), "no")]
    assert {answer.status_code for answer in refused} == {404}
    assert len({answer.content for answer in refused}) == 1
    absent = (secret, secret + 100, 0, 2**63, "9" * 30, "x", "%00", "-1")
    alone = [client.get(f"{EVENTS}/{asked}") for asked in absent]
    assert {answer.status_code for answer in alone} == {404}
    assert len({answer.content for answer in alone}) == 1
    assert get(client, f"{EVENTS}/{own}")["id"] == own

    def fetched(id_: int) -> list[Any]:
        with CaptureQueriesContext(connection) as asked:
            client.get(f"{EVENTS}/{id_}")
        (query,) = (one["sql"] for one in asked if "agent_events_batch_of" in one["sql"])
        return connect().execute(query.encode()).fetchall()

    # Nothing of it leaves the database: how long that takes would tell that it is there.
    assert len(fetched(own)) == 1
    assert fetched(secret) == fetched(secret + 100) == []

    both = member_of(mine, theirs)
    answer = both.get(EVENTS)
    assert answer.status_code == 400
    assert mine in answer.json()["detail"]
    assert ids(get(both, tenant=[mine, theirs])) == [secret, own]
    assert member_of().get(EVENTS).status_code == 400


def test_without_signing_in_the_answer_is_json_also_where_all_else_asks_for_it(
    django: None, settings: Any
) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert Client().get("/").status_code == 302
    for url in (EVENTS, f"{EVENTS}/1"):
        answer = Client().get(url)
        assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")
        assert answer.json()["detail"].startswith("Sign in first")
        assert (answer["WWW-Authenticate"], answer["Retry-After"]) == ("Bearer", "5")
        assert answer["Cache-Control"] == "no-store"


def test_an_event_is_there_once_it_has_its_place_and_its_cursor_leads_on(
    connect: Connect, root: Client
) -> None:
    connection = connect()
    first = put(connection, TENANTS[0])
    waiting = insert(connection, TENANTS[0])
    assert root.get(f"{EVENTS}/{waiting}").status_code == 404
    connection.execute("SELECT agent_events_append()")
    answer = root.get(f"{EVENTS}/{waiting}")
    assert answer.status_code == 200
    cursor = answer["Agent-Events-Cursor"]
    assert ids(get(root, cursor=cursor)) == [waiting, first]
    last = put(connection, TENANTS[0])
    assert ids(get(root, cursor=cursor, order="asc")) == [last]


def test_every_event_of_a_tangled_log_is_found_at_its_place(
    dsn: str, connect: Connect, root: Client
) -> None:
    fill(dsn, 60)
    for position, _row in Oracle.load(connect()).order:
        cursor = root.get(f"{EVENTS}/{position[1]}")["Agent-Events-Cursor"]
        assert Cursor.parse(cursor).position == position


def test_links_stay_below_the_sites_prefix_and_repeat_what_was_asked(
    connect: Connect, root: Client
) -> None:
    for _ in range(3):
        put(connect(), TENANTS[0], kind="tool.é")
    query = {"tenant": TENANTS[0], "type": "tool.é*", "limit": 1, "secret": "x"}
    answer = root.get(EVENTS, query, SCRIPT_NAME="/below")
    link = answer.json()["next"]
    assert link.startswith(f"/below{EVENTS}?tenant={TENANTS[0]}&type=tool.%C3%A9%2A&order=desc&")
    assert "secret" not in link
    assert re.fullmatch(r'</below/[!-~]+>; rel="next"', answer["Link"])


def test_a_link_header_that_proxies_would_refuse_is_left_out(
    connect: Connect, root: Client
) -> None:
    made = [put(connect(), TENANTS[0]) for _ in range(2)]
    for others, given in ((0, True), (60, False)):
        asked = [TENANTS[0], *(str(uuid.UUID(int=100 + n)) for n in range(others))]
        answer = root.get(EVENTS, {"tenant": asked, "limit": 1})
        assert ("Link" in answer) is given
        assert sum(len(name) + len(value) + 4 for name, value in answer.items()) < 4_000
        assert ids(get(root, answer.json()["next"])) == made[:1]


def told(client: Client) -> list[str]:
    """What the page, the history and an event say in place of what they would show, with a 503."""
    said = []
    for url in ("/", EVENTS, f"{EVENTS}/1", f"{EVENTS}/12345"):
        answer = client.get(url)
        assert (answer.status_code, answer["Cache-Control"]) == (503, "no-store"), answer.content
        said.append(html.unescape(answer.content.decode()))
        if url == "/":
            assert answer["Content-Type"].startswith("text/html")
            assert "default-src 'self'" in answer["Content-Security-Policy"]
            assert '<link rel="stylesheet"' in said[0]
            assert "root" not in said[0]  # who asks takes the database
        else:
            assert set(json.loads(answer.content)) == {"type", "title", "status", "detail"}
    return said


def test_what_is_wrong_with_the_database_is_said_by_the_page_and_the_history(
    dsn: str, connect: Connect, root: Client
) -> None:
    put(connect(), TENANTS[0])
    with temporary_role(dsn) as role:
        admin = connect()
        admin.execute(f"ALTER ROLE {role} LOGIN PASSWORD 'x'")
        admin.execute(f"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
        admin.execute(f"REVOKE SELECT ON agent_events FROM {role}")
        with django_on(f"postgresql://{role}:x@{dsn.split('@')[1]}"):
            assert all("lacks a right: manage.py bus_status" in said for said in told(root))
    with elsewhere():
        assert all("The database is away." in said for said in told(root))
    connect().execute("DELETE FROM agent_event_batches")
    assert all("the ledger must be mended: manage.py mend_events" in said for said in told(root))


def test_while_the_database_is_away_the_answer_says_so(root: Client) -> None:
    with elsewhere():
        answer = root.get(EVENTS)
    assert (answer.status_code, answer["Retry-After"]) == (503, "2")
    assert "try again" in answer.json()["detail"]
    assert get(root)["events"] == []


@contextmanager
def elsewhere() -> Iterator[None]:
    """Django's database is where nobody listens."""
    with django_on(f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"):
        yield
