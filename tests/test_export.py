"""The log as a file: what is in it, how it ends, what it costs a server whose client is slow."""

from __future__ import annotations

import csv
import io
import json
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import AsyncClient, Client

from agent_events import export_door, exporting, history
from agent_events.export_forms import Csv
from agent_events.models import Membership, Tenant
from agent_events.wire import Event
from tests.conftest import Connect
from tests.support import Server, make_tenant
from tests.support.keys import make_key, revoke_key
from tests.support.streams import insert
from tests.support.waiting import wait_until
from tests.support.watch import bus_settings

EXPORT = "/api/agents/export"
EVENTS = "/api/agents/events"
ONE, TWO = (str(uuid.UUID(int=n)) for n in (1, 2))
AGENT = str(uuid.UUID(int=0xA0))
MIB = 1 << 20
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}"),
    "project.asgi:application",
]
WSGI = [
    *(sys.executable, "-c"),
    "import os, sys; from wsgiref.simple_server import make_server; "
    "os.environ['DJANGO_SETTINGS_MODULE'] = 'project.settings'; "
    "from django.core.wsgi import get_wsgi_application; "
    "make_server('127.0.0.1', int('{port}'), get_wsgi_application()).serve_forever()",
]
SERVERS = {"daphne": None, "uvicorn": UVICORN, "wsgi": WSGI}


def close(database: psycopg.Connection[Any]) -> None:
    while database.execute("SELECT FROM agent_events_append()").fetchone():
        pass


def fill(connect: Connect, tenants: tuple[str, ...] = (ONE, TWO), n: int = 60) -> None:
    """Batches in which ids and order differ, with text that CSV and JSON must escape."""
    database, late = connect(), connect(autocommit=False)
    for i in range(n):
        payload = json.dumps({"n": i, "text": 'a "word",\nand ünï \u2028'})
        insert(late if i % 7 == 0 else database, tenants[i % len(tenants)], payload=payload)
        if i % 5 == 0:
            close(database)
        if i % 11 == 0:
            late.commit()
    late.commit()
    close(database)


def many(database: psycopg.Connection[Any], tenant: str, events: int, size: int) -> None:
    """So many events, with payloads of `size` characters, in batches of a thousand."""
    text = "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) SELECT"
    for first in range(0, events, 1_000):
        database.execute(
            f"{text} %s, %s, 'x', jsonb_build_object('n', i, 'text', repeat('x', %s))"
            " FROM generate_series(%s::int, %s) AS i",
            [tenant, AGENT, size, first, min(first + 1_000, events) - 1],
        )
        close(database)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def pieces_of(answer: Any) -> Iterator[bytes]:
    """The pieces of a file, as a server asks for them."""
    assert answer.streaming
    return iter(answer.streaming_content)


def whole(answer: Any) -> bytes:
    return b"".join(pieces_of(answer))


def begun(
    client: Client, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, Iterator[bytes]]:
    """The first page, of 5, of a file of 20 events; and the pieces that follow."""
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    many(database, ONE, 20, 10)
    pieces = pieces_of(client.get(EXPORT, {"order": "asc"}))
    return next(pieces), pieces


def got(client: Client, **query: str | int) -> str:
    answer = client.get(EXPORT, query)
    assert answer.status_code == 200, answer.content
    return whole(answer).decode()


def numbers_of(body: str | bytes) -> list[int]:
    return [json.loads(line)["payload"]["n"] for line in body.splitlines()]


def history_lines(client: Client, **query: str) -> list[str]:
    return texts_of(lambda url: client.get(url).content.decode(), **query)


def texts_of(fetch: Callable[[str], str], **query: str | int) -> list[str]:
    """The events' own texts, out of the history's pages, which join them as they are."""
    texts: list[str] = []
    url: str | None = f"{EVENTS}?{urlencode(query)}"
    while url:
        body = fetch(url)
        page = json.loads(body)
        rest, decoder = body.removeprefix('{"events":['), json.JSONDecoder()
        for _ in page["events"]:
            _, end = decoder.raw_decode(rest)
            texts.append(rest[:end])
            rest = rest[end:].removeprefix(",")
        url = page["next"]
    return texts


# What is in it


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_json_lines_are_the_historys_events_byte_for_byte_in_its_order(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 7)
    fill(connect)
    queries: list[dict[str, str]] = [
        {},
        {"tenant": ONE},
        {"agent": "f*"},
        {"type": "absent"},
        {"not_type": "x*"},
        {"text": '"WORD"'},
        {"where": "n > 20", "not_agent": "absent"},
    ]
    for query in queries:
        # (U+2028 is no line break of JSON lines.)
        lines = got(root, order=order, **query).removesuffix("\n").split("\n")
        assert [one for one in lines if one] == history_lines(root, order=order, **query), query


def test_a_file_begins_at_a_time_and_ends_at_a_cursor_as_the_history_does(
    root: Client, connect: Connect
) -> None:
    database = connect()
    for n in range(6):
        many(database, ONE, 5, n)
    ((at, until),) = database.execute(
        "SELECT to_char(closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),"
        " (SELECT n FROM agent_event_batches ORDER BY n DESC LIMIT 1)"
        " FROM agent_event_batches WHERE n = 3"
    ).fetchall()
    end = str(history.start_of(until))
    for query in ({"at": at}, {"at": at, "until": end}, {"until": end}, {"until": "latest"}):
        lines = got(root, order="asc", **query).splitlines()
        assert lines == history_lines(root, order="asc", **query), query
    assert numbers_of(got(root, order="asc", at=at, until=end)) == [*range(5)] * 3
    assert numbers_of(got(root, at=at)) == [*range(4, -1, -1)] * 2


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_files_that_go_on_from_one_another_keep_the_whole_filter(
    root: Client, connect: Connect, settings: Any, order: str
) -> None:
    settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "EXPORT_BYTES": 20_000}
    database = connect()
    many(database, ONE, 4_000, 50)
    query = {
        "where": "n >= 100",
        "text": "xxx",
        "not_type": "y*",
        "not_agent": "b*",
        "order": order,
    }
    wanted = history_lines(root, **query, limit="1000")
    ((time,),) = database.execute("SELECT min(closed_at) FROM agent_event_batches").fetchall()
    start = {"at": time.isoformat()} if order == "asc" else {}
    url: str | None = f"{EXPORT}?{urlencode({**query, **start})}"
    lines: list[str] = []
    files = 0
    while url:
        found = whole(root.get(url)).decode().splitlines()
        files += 1
        told = json.loads(found[-1]).get("incomplete")
        lines += found[:-1] if told else found
        url = told and told["next"]
        many(database, ONE, 5, 50)  # is in none of them
    assert files > 2
    assert lines == wanted


def test_the_order_of_the_history_is_the_default(root: Client, connect: Connect) -> None:
    fill(connect)
    assert got(root) == got(root, order="desc")
    assert got(root) == "".join(f"{line}\n" for line in history_lines(root))


def test_a_csv_has_a_header_and_each_event_with_its_cursor(root: Client, connect: Connect) -> None:
    fill(connect)
    text = got(root, format="csv", order="asc", tenant=ONE)
    assert all(line.endswith("\r") for line in text.split("\n")[:-1])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    events = [json.loads(line) for line in history_lines(root, order="asc", tenant=ONE)]
    assert [int(row["id"]) for row in rows] == [event["id"] for event in events]
    for row, event in zip(rows, events, strict=True):
        assert json.loads(row["payload"]) == event["payload"]
        assert (row["type"], row["tenantId"]) == (event["type"], event["tenantId"])
        assert (row["agentId"], row["createdAt"]) == (event["agentId"], event["createdAt"])
    assert got(root, order="asc", cursor=rows[9]["cursor"], tenant=ONE) == "".join(
        f"{line}\n" for line in history_lines(root, order="asc", tenant=ONE)[10:]
    )


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx"])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    text = json.dumps(start)
    one = (
        f'{{"id":1,"tenantId":"{ONE}","agentId":"{AGENT}","type":{text},"payload":-5,'
        '"createdAt":"2026-01-01T00:00:00.000000Z"}'
    )
    written = Csv().lines([Event(1, 0, 1, one)])
    (row,) = csv.reader(io.StringIO(written, newline=""))
    assert row[-2:] == [f"'{start}", "'-5"]


def test_a_file_ends_where_the_log_ended_when_it_began(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = connect()
    body, pieces = begun(root, database, monkeypatch)
    many(database, ONE, 20, 10)
    body += b"".join(pieces)
    assert numbers_of(body) == list(range(20))


def test_cursor_until_and_limit_cut_out_exactly_their_part(root: Client, connect: Connect) -> None:
    many(connect(), ONE, 30, 10)
    page = json.loads(root.get(f"{EVENTS}?order=asc&limit=10").content)
    further = json.loads(root.get(page["next"]).content)
    between = {"cursor": further["before"], "until": further["after"]}
    assert numbers_of(got(root, order="asc", **between)) == list(range(10, 20))
    back = {"until": further["before"], "cursor": further["after"]}
    assert numbers_of(got(root, order="desc", **back)) == list(range(19, 9, -1))
    assert numbers_of(got(root, limit=3, **back)) == [19, 18, 17]
    assert got(root, order="asc", cursor="latest") == ""


def test_a_file_is_an_attachment_named_by_whose_and_when(root: Client, connect: Connect) -> None:
    fill(connect)
    user = get_user_model().objects.create_user("ann")
    Tenant.objects.create(id=ONE, name='Hafen "Süd"; x')
    Membership.objects.create(user=user, tenant_id=ONE)
    ann = Client()
    ann.force_login(user)
    answer = ann.get(EXPORT, {"format": "csv"})
    name = answer["Content-Disposition"]
    assert name.startswith('attachment; filename="agent-events-hafen-sud-x-20')
    assert name.endswith('Z.csv"')
    assert answer["Content-Type"].startswith("text/csv; charset=utf-8")
    assert answer["Cache-Control"] == "no-store"
    assert root.get(EXPORT)["Content-Disposition"].startswith(
        'attachment; filename="agent-events-all-'
    )
    head = ann.head(EXPORT)
    assert (head.status_code, head.content) == (200, b"")
    assert head["Content-Type"] == "application/x-ndjson"


# Who, and what is refused


def test_the_export_asks_for_the_same_rights_as_the_history(
    django: None, dsn: str, connect: Connect
) -> None:
    fill(connect)
    own, other = make_tenant(dsn, "Own"), make_tenant(dsn, "Other")
    insert(connect(), own)
    close(connect())
    reader = bearer(make_key(dsn, own))
    writer = bearer(make_key(dsn, own, subscribe=False))
    client = Client()
    assert client.get(EXPORT).status_code == 401
    assert client.get(EXPORT, headers=writer).status_code == 403
    assert client.get(EXPORT, {"tenant": other}, headers=reader).status_code == 404
    answer = client.get(EXPORT, headers=reader)
    assert len(whole(answer).splitlines()) == 1
    assert client.post(EXPORT, headers=reader).status_code == 405


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "limit=0",
        "limit=x",
        "order=up",
        "cursor=nonsense",
        "until=nonsense",
        "at=yesterday",
        "where=tokens+%3E",
        "agent=%00",
    ],
)
def test_what_is_not_understood_is_refused_before_the_file_begins(
    root: Client, connect: Connect, query: str
) -> None:
    fill(connect, n=3)
    answer = root.get(f"{EXPORT}?{query}")
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert "Content-Disposition" not in answer


def test_a_principal_has_four_downloads_at_once(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 2)
    many(connect(), ONE, 20, 10)
    begun = [root.get(EXPORT) for _ in range(4)]
    pieces = [pieces_of(answer) for answer in begun]
    for each in pieces:
        next(each)
    refused = root.get(EXPORT)
    assert (refused.status_code, refused["Retry-After"]) == (429, "5")
    begun[0].close()
    assert len(got(root).splitlines()) == 20
    for answer in begun[1:]:
        answer.close()
    assert len([pieces_of(root.get(EXPORT)) for _ in range(4)]) == 4


# How it ends


def last_of(text: str) -> dict[str, str]:
    told: dict[str, str] = json.loads(text.splitlines()[-1])["incomplete"]
    return told


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_file_that_reached_the_limit_of_bytes_says_where_the_next_goes_on(
    root: Client, connect: Connect, settings: Any, order: str
) -> None:
    settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "EXPORT_BYTES": 50_000}
    database = connect()
    many(database, ONE, 4_000, 100)
    url: str | None = f"{EXPORT}?order={order}&tenant={ONE}&limit=3500&agent={AGENT}"
    numbers: list[int] = []
    files = 0
    while url:
        answer = root.get(url)
        lines = whole(answer).decode().splitlines()
        files += 1
        told = json.loads(lines[-1]).get("incomplete")
        numbers += [json.loads(line)["payload"]["n"] for line in (lines[:-1] if told else lines)]
        url = told and told["next"]
        if told:
            assert told["reason"] == "bytes"
            assert "50,000" in told["detail"]
            many(database, ONE, 5, 10)  # is in none of them
    assert files > 2
    assert numbers == (list(range(3500)) if order == "asc" else list(range(3999, 499, -1)))


def test_the_last_row_of_a_csv_that_is_not_whole_has_no_id_and_says_why(
    root: Client, connect: Connect, settings: Any
) -> None:
    settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "EXPORT_BYTES": 5_000}
    many(connect(), ONE, 2_000, 100)
    rows = list(csv.DictReader(io.StringIO(got(root, format="csv"), newline="")))
    assert (rows[-1]["id"], rows[-1]["type"]) == ("", "INCOMPLETE")
    told = json.loads(rows[-1]["payload"])
    assert told["reason"] == "bytes"
    assert rows[-1]["cursor"] == told["cursor"]
    following = root.get(told["next"])
    rest = list(csv.DictReader(io.StringIO(whole(following).decode(), newline="")))
    assert int(rest[0]["id"]) == int(rows[-2]["id"]) - 1


def test_a_file_whose_events_were_pruned_meanwhile_does_not_look_whole(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    database = connect()
    for order in ("asc", "desc"):
        for n in range(6):
            many(database, ONE, 5, n)
        answer = root.get(EXPORT, {"order": order})
        pieces = pieces_of(answer)
        body = next(pieces)
        (head,) = database.execute("SELECT max(n) FROM agent_event_batches").fetchone() or (0,)
        database.execute("UPDATE agent_event_bus SET oldest = %s", [head - 1])
        body += b"".join(pieces)
        told = last_of(body.decode())
        assert told["reason"] == "truncated", order
        assert "pruned" in told["detail"]
        assert len(body.splitlines()) < 31


def test_a_file_whose_beginning_was_pruned_says_so_at_its_end(
    root: Client, connect: Connect
) -> None:
    database = connect()
    many(database, ONE, 5, 1)
    first = json.loads(root.get(EVENTS, {"order": "asc"}).content)["before"]
    many(database, ONE, 5, 2)
    assert len(got(root, order="asc", cursor=first).splitlines()) == 10
    database.execute("UPDATE agent_event_bus SET oldest = 2")
    lines = got(root, order="asc", cursor=first).splitlines()
    assert len(lines) == 6
    assert json.loads(lines[-1])["incomplete"]["reason"] == "truncated"
    assert len(got(root, order="asc").splitlines()) == 5


def test_a_file_whose_database_failed_in_the_middle_says_so_and_where_to_go_on(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = connect()
    body, pieces = begun(root, database, monkeypatch)
    database.execute("ALTER TABLE agent_event_batches RENAME TO away")
    body += b"".join(pieces)
    database.execute("ALTER TABLE away RENAME TO agent_event_batches")
    told = last_of(body.decode())
    assert told["reason"] == "failed"
    following = root.get(told["next"])
    body = b"\n".join(body.splitlines()[:-1]) + b"\n" + whole(following)
    assert numbers_of(body) == list(range(20))


@pytest.mark.parametrize("program", ["daphne", "uvicorn", "wsgi"])
def test_a_file_that_a_mistake_of_the_program_ends_does_not_look_whole(
    dsn: str, connect: Connect, server: Callable[..., Server], program: str
) -> None:
    own = make_tenant(dsn, "Own")
    database = connect()
    many(database, own, 3_000, 10)
    known = bearer(make_key(dsn, own))
    running = server(env=bus_settings(), command=SERVERS[program])

    def rows(url: str) -> list[dict[str, str]]:
        # (Over HTTP/1.0 a file that breaks off looks whole to the client, whatever it checks.)
        text = httpx.get(f"{running.url}{url}", headers=known, timeout=20).text
        return list(csv.DictReader(io.StringIO(text, newline="")))

    with no_json_past(database, 1_500):
        *events, last = rows(f"{EXPORT}?order=asc&format=csv&limit=2500")
    assert (last["id"], last["type"]) == ("", "INCOMPLETE")
    told = json.loads(last["payload"])
    assert told["reason"] == "failed"
    assert "Traceback" in running.log()
    events += rows(told["next"])
    assert [json.loads(row["payload"])["n"] for row in events] == list(range(2_500))


@contextmanager
def no_json_past(database: psycopg.Connection[Any], n: int) -> Iterator[None]:
    """The text of later events is none that a CSV can be made of: a program's mistake."""
    kinds = "bigint, uuid, uuid, text, jsonb, timestamptz"
    database.execute(f"ALTER FUNCTION agent_events_json({kinds}) RENAME TO whole_json")
    database.execute(
        f"""CREATE FUNCTION agent_events_json({kinds}) RETURNS text LANGUAGE sql AS $$
            SELECT CASE WHEN ($5->>'n')::int >= {n} THEN '{{'
                   ELSE whole_json($1, $2, $3, $4, $5, $6) END $$"""
    )
    yield
    database.execute(f"DROP FUNCTION agent_events_json({kinds})")
    database.execute(f"ALTER FUNCTION whole_json({kinds}) RENAME TO agent_events_json")


def test_an_export_that_finds_nothing_for_long_ends_and_says_how_far_it_came(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LOOK_S", 0.0)
    many(connect(), ONE, 60_000, 1)
    told = last_of(got(root, type="absent", order="asc"))
    assert told["reason"] == "looked"
    assert told["cursor"] < json.loads(root.get(EVENTS).content)["after"]
    assert "type=absent" in told["next"]


def test_a_key_that_is_revoked_ends_its_download(
    django: None, dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    monkeypatch.setattr(exporting, "ASK_AGAIN_SHARE", 0.0)
    own = make_tenant(dsn, "Own")
    many(connect(), own, 50, 10)
    key = make_key(dsn, own)
    answer = Client().get(EXPORT, headers=bearer(key))
    pieces = pieces_of(answer)
    body = next(pieces) + next(pieces)
    revoke_key(dsn, key)
    body += b"".join(pieces)
    told = last_of(body.decode())
    assert told["reason"] == "refused"
    assert len(body.splitlines()) == 11


# What it holds meanwhile


def test_no_database_connection_is_held_between_two_pages(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    many(connect(), ONE, 20, 10)
    pieces = pieces_of(root.get(EXPORT))
    for _ in range(3):
        next(pieces)
        assert connections["default"].connection is None
    assert len(list(pieces)) >= 1


async def test_under_asgi_a_file_is_sent_page_by_page_and_ends_with_its_client(
    django: None, dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    own = make_tenant(dsn, "Own")
    many(connect(), own, 50, 10)
    key = make_key(dsn, own)
    reads: list[Any] = []
    read = history.read

    def counted(*args: Any, **kwargs: Any) -> Any:
        reads.append(args)
        return read(*args, **kwargs)

    monkeypatch.setattr(history, "read", counted)
    client = AsyncClient()
    answer: Any = await client.get(EXPORT, headers=bearer(key))
    assert answer.is_async
    pieces = aiter(answer.streaming_content)
    for page in range(3):
        assert len((await anext(pieces)).splitlines()) == 5
        assert len(reads) == 2 + page  # where it ends, the first page, and one each
    await pieces.aclose()
    await sync_to_async(answer.close)()  # as Django does where the client has left
    assert len(reads) == 4
    assert not [holder for holder in export_door._under_way._of if holder.startswith("key:")]


async def test_a_file_whose_next_page_does_not_come_ends_where_its_last_page_did(
    django: None, dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 5)
    own = make_tenant(dsn, "Own")
    many(connect(), own, 20, 10)
    known, client = bearer(make_key(dsn, own)), AsyncClient()

    async def lines_of(pieces: Any) -> list[bytes]:
        return b"".join([piece async for piece in pieces]).splitlines()

    answer: Any = await client.get(f"{EXPORT}?order=asc&limit=18", headers=known)
    pieces = aiter(answer.streaming_content)
    body = await anext(pieces) + await anext(pieces)
    locking = connect(autocommit=False)
    locking.execute("LOCK TABLE agent_event_batches")
    with monkeypatch.context() as impatient:
        impatient.setattr(export_door, "PAGE_S", 0.5)
        (last,) = await lines_of(pieces)
    locking.rollback()
    told = json.loads(last)["incomplete"]
    assert told["reason"] == "failed"
    following: Any = await client.get(told["next"], headers=known)
    lines = body.splitlines() + await lines_of(aiter(following.streaming_content))
    assert numbers_of(b"\n".join(lines)) == list(range(18))


@pytest.mark.parametrize("program", ["daphne", "uvicorn", "wsgi"])
def test_a_real_server_sends_exactly_the_committed_events(
    dsn: str, connect: Connect, server: Callable[..., Server], program: str
) -> None:
    own = make_tenant(dsn, "Own")
    fill(connect, (own, TWO), n=400)
    many(connect(), own, 3_000, 200)
    key = make_key(dsn, own)
    running = server(env=bus_settings(), command=SERVERS[program])
    known = bearer(key)

    def fetch(url: str) -> str:
        return httpx.get(f"{running.url}{url}", headers=known, timeout=20).text

    for order in ("asc", "desc"):
        lines = fetch(f"{EXPORT}?order={order}").removesuffix("\n").split("\n")
        assert lines == texts_of(fetch, order=order, limit=1_000)
        assert len(lines) == 3_200
    ((committed,),) = connect().execute(
        "SELECT array_agg(id ORDER BY batch, id) FROM agent_events_window(%s::uuid[], 1,"
        " (SELECT max(n) FROM agent_event_batches))",
        [[own]],
    )
    assert [json.loads(line)["id"] for line in lines] == committed[::-1]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", ["daphne", "uvicorn"])
def test_a_client_that_does_not_read_a_large_export_costs_little_and_holds_no_connection(
    dsn: str, connect: Connect, server: Callable[..., Server], program: str
) -> None:
    own = make_tenant(dsn, "Own")
    database = connect()
    many(database, own, 60_000, 2_000)  # 130 MiB
    key = make_key(dsn, own)
    running = server(env=bus_settings(EXPORT_BYTES=8 * MIB), command=SERVERS[program])
    known = bearer(key)
    assert running.process is not None
    process = psutil.Process(running.process.pid)
    assert httpx.get(f"{running.url}{EXPORT}?limit=10", headers=known, timeout=20).text
    before = process.memory_info().rss
    stuck = [unread(running, key) for _ in range(3)]
    try:
        wait_until(partial(_idle, database), 60, "nobody to ask the database any more")
        grown = process.memory_info().rss - before
        # Uvicorn waits for its client; Daphne keeps what it is given, which is what is bounded.
        kept = 3 * 2 * 8 * MIB if program == "daphne" else 0
        assert grown < kept + 30 * MIB, f"{grown / MIB:.0f} MiB"
        # Others have their turn, and get a whole file.
        lines = httpx.get(f"{running.url}{EXPORT}?limit=50", headers=known, timeout=20).text
        assert lines.count("\n") == 50
    finally:
        for one in stuck:
            one.close()
    wait_until(partial(four_at_once, running, key), 20, "the places of those that left")

    def last_line() -> str:
        answer = httpx.get(f"{running.url}{EXPORT}", headers=known, timeout=60)
        return answer.text.splitlines()[-1] if answer.status_code == 200 else ""

    wait_until(lambda: "incomplete" in last_line(), 20, "a file that ends at its limit")
    assert json.loads(last_line())["incomplete"]["reason"] == "bytes"


def unread(running: Server, key: str) -> socket.socket:
    """A client that asks for all, and reads nothing."""
    one = socket.create_connection(("127.0.0.1", running.port))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    request = f"GET {EXPORT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n"
    one.sendall(request.encode())
    assert one.recv(1_024).startswith(b"HTTP/1.1 200")
    return one


def four_at_once(running: Server, key: str) -> bool:
    """Has the principal all of its places? They are free again afterwards, within a moment."""
    opened: list[socket.socket] = []
    try:
        opened += [unread(running, key) for _ in range(export_door.MOST_AT_ONCE)]
    except AssertionError:
        return False
    finally:
        for one in opened:
            one.close()
    return True


def _idle(database: psycopg.Connection[Any]) -> bool:
    """Has no process of the server a connection of Django's?"""
    row = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND application_name NOT LIKE 'agent_events%%'"
    ).fetchone()
    assert row is not None
    return int(row[0]) == 0
