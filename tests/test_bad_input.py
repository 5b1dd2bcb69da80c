"""Ten thousand bad inputs: each is refused in words, none leaves a trace, and the server lives."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed

from tests.conftest import Connect
from tests.support import Server, make_tenant
from tests.support.keys import make_key
from tests.support.watch import bus_settings

SEED = 20_26
POSTS, FRAMES = 7_500, 2_600
CONNECTIONS = 8
MIB = 1 << 20
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}"),
    "project.asgi:application",
]
MOST_GROWTH = 150 * MIB
FORBIDDEN = ("Traceback", "Internal Server Error", "Exception inside application", "ERROR")

Request = tuple[str, list[tuple[str, bytes]], bytes]
JSON = ("Content-Type", b"application/json")
CLOUD = ("Content-Type", b"application/cloudevents+json")
NOT_TEXT: list[Any] = [None, True, 0, -1.5, [], {}, [[]], {"a": 1}]
NOT_UUID: list[Any] = [*NOT_TEXT, "", "x", "0" * 32 + "z", "../../etc/passwd", "' OR 1=1 --"]
NOT_TYPE: list[Any] = [*NOT_TEXT, "", "x" * 201, "\0", "a\0b"]
NOT_KEY: list[Any] = [True, 0, [], {}, "", "k" * 5_000, "\0"]
# As they stand in the body: what no JSON library would write, or PostgreSQL would not keep.
BAD_PAYLOADS = [
    b'"\\u0000"',
    b'"\\ud800"',
    b'{"\\udc00": 1}',
    b"1e999999",
    b"-" + b"9" * 200_000,
    b"NaN",
    b"Infinity",
    b"01",
    b"'x'",
    b"undefined",
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"[1,]",
    b"{,}",
    b"",
    b"1 2",
]


def valid(rng: random.Random) -> dict[str, Any]:
    """A good event in our own form."""
    return {
        "agentId": str(uuid.UUID(int=rng.getrandbits(128))),
        "type": "note",
        "payload": {"n": rng.randrange(10**6), "text": "äß€"},
    }


def cloud(rng: random.Random) -> dict[str, Any]:
    """A good event as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": str(rng.getrandbits(64)),
        "source": "urn:test",
        "type": "note",
        "agentid": str(uuid.UUID(int=rng.getrandbits(128))),
        "data": {"n": 1},
    }


def bad_posts(foreign: str) -> Iterator[Request]:
    """Requests each of which was good until one thing in it was spoilt; for ever."""
    rng = random.Random(SEED)
    spoilers = [
        *(_cut, _control, _not_utf8, _wrong_field, _wrong_field, _missing, _unknown, _bad_payload),
        *(_one_of_many, _not_an_event, _bad_type, _bad_method, _bad_key, _bad_cloud, _bad_binary),
    ]
    while True:
        made = rng.choice([*spoilers, lambda r: _foreign(r, foreign)])(rng)
        yield made


def _body(event: Any) -> bytes:
    return json.dumps(event).encode()


def _cut(rng: random.Random) -> Request:
    body = _body(valid(rng))
    return "POST", [JSON], body[: rng.randrange(len(body))]


def _put(rng: random.Random, what: bytes) -> bytes:
    body = _body(valid(rng))
    at = rng.randrange(len(body))
    return body[:at] + what + body[at:]


def _control(rng: random.Random) -> Request:
    # Anywhere: in a string a control character must be escaped, elsewhere these are no space.
    return "POST", [JSON], _put(rng, bytes([rng.choice([0, 1, 7, 8, 11, 27, 31])]))


def _not_utf8(rng: random.Random) -> Request:
    wrong = rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
    return "POST", [JSON], _put(rng, wrong)


def _wrong_field(rng: random.Random) -> Request:
    name, values = rng.choice(
        [
            ("agentId", NOT_UUID),
            ("type", NOT_TYPE),
            ("eventKey", NOT_KEY),
            ("tenantId", [value for value in NOT_UUID if value is not None]),
        ]
    )
    return "POST", [JSON], _body(valid(rng) | {name: rng.choice(values)})


def _missing(rng: random.Random) -> Request:
    event = valid(rng)
    del event[rng.choice(list(event))]
    return "POST", [JSON], _body(event)


def _unknown(rng: random.Random) -> Request:
    name = rng.choice(["id", "createdAt", "tx", "__proto__", "Type", "x" * 10_000, ""])
    return "POST", [JSON], _body(valid(rng) | {name: rng.choice(NOT_TEXT)})


def _bad_payload(rng: random.Random) -> Request:
    event = valid(rng)
    del event["payload"]
    body = _body(event)[:-1] + b', "payload": ' + rng.choice(BAD_PAYLOADS) + b"}"
    return "POST", [JSON], body


def _foreign(rng: random.Random, tenant: str) -> Request:
    return "POST", [JSON], _body(valid(rng) | {"tenantId": tenant})


def _one_of_many(rng: random.Random) -> Request:
    events: list[Any] = [valid(rng) for _ in range(rng.randrange(1, 20))]
    events.insert(rng.randrange(len(events) + 1), rng.choice([*NOT_TEXT, {"type": "x"}, "x"]))
    return "POST", [JSON], _body(events)


def _not_an_event(rng: random.Random) -> Request:
    return "POST", [JSON], _body(rng.choice([*NOT_TEXT, "text", [[valid(rng)]], [[], []]]))


def _bad_type(rng: random.Random) -> Request:
    kind = rng.choice(
        [
            *(b"text/plain", b"application/xml", b"", b"/", b"application/json; charset=latin-1"),
            b"application/x-www-form-urlencoded",
            *(b"application/cloudevents+xml", b"application/json; charset=utf-16", b"\xff\xfe"),
        ]
    )
    return "POST", [("Content-Type", kind)], _body(valid(rng))


def _bad_method(rng: random.Random) -> Request:
    return rng.choice(["PUT", "PATCH", "DELETE"]), [JSON], _body(valid(rng))


def _bad_key(rng: random.Random) -> Request:
    key = rng.choice([b"k" * 5_000, b"\xff\xfe", b"\xc3", b"k" * 300])
    return "POST", [JSON, ("Idempotency-Key", key)], _body(valid(rng))


def _bad_cloud(rng: random.Random) -> Request:
    event = cloud(rng)
    name = rng.choice(["specversion", "id", "source", "type", "agentid"])
    if rng.random() < 0.3:
        del event[name]
    else:
        event[name] = rng.choice([*NOT_TEXT[1:], ""])
    return "POST", [CLOUD], _body(event)


def _bad_binary(rng: random.Random) -> Request:
    headers = {
        f"ce-{name}": str(value).encode() for name, value in cloud(rng).items() if name != "data"
    }
    name = rng.choice(list(headers))
    if rng.random() < 0.3:
        del headers[name]
    else:
        headers[name] = rng.choice([b"", b"%ff", b"%ED%A0%80"])
    body = rng.choice([b"{", b"", b"\xff", b"nul"]) if name == "ce-source" else b"{}"
    return "POST", [JSON, *headers.items()], body


async def posted(port: int, key: str, request: Request, streams: list[Any]) -> tuple[int, bytes]:
    """Sends a request over a connection that is kept; returns (status, body)."""
    method, headers, body = request
    head = [
        f"{method} /api/agents/events HTTP/1.1".encode(),
        b"Host: 127.0.0.1",
        f"Authorization: Bearer {key}".encode(),
        f"Content-Length: {len(body)}".encode(),
        *(name.encode() + b": " + value for name, value in headers),
    ]
    if not streams:
        streams[:] = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = streams
    writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields = dict(line.lower().split(": ", 1) for line in answer.split("\r\n")[1:] if ": " in line)
    text = await reader.readexactly(int(fields.get("content-length", "0")))
    if fields.get("connection") == "close":
        writer.close()
        streams.clear()
    return int(answer.split(" ")[1]), text


async def all_posted(port: int, key: str, foreign: str) -> Counter[int]:
    """Sends them all; returns how many were answered with which status."""
    statuses: Counter[int] = Counter()
    source, left = bad_posts(foreign), POSTS

    async def one() -> None:
        nonlocal left
        streams: list[Any] = []
        while left > 0:
            left -= 1
            request = next(source)
            status, text = await asyncio.wait_for(posted(port, key, request, streams), 30)
            told = f"{request[0]} {request[1]} {request[2][:300]!r}: {status} {text[:500]!r}"
            assert 400 <= status < 500, told
            assert text.startswith(b"{"), told
            problem = json.loads(text)
            assert problem["status"] == status, problem
            assert problem["detail"], problem
            statuses[status] += 1
        if streams:
            streams[1].close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(one())
    return statuses


def bad_frames(undecodable: bool) -> Iterator[tuple[str | bytes, bool]]:
    """Frames that no client should send, and whether each goes as text; for ever."""
    rng = random.Random(SEED)
    kinds = ["ack", "filter", "auth", "hello", "events", "", "x" * 300, None, 1, [], {}]
    while True:
        what = rng.randrange(8)
        if what == 0:  # no JSON
            text = rng.choice(
                ["", "{", "[1,]", "nul", "\0", "{'a':1}", '{"type":"ack"', "NaN", "\ud7ff"]
            )
        elif what == 1:  # no object
            text = json.dumps(rng.choice([*NOT_TEXT[:5], [[]], "text"]))
        elif what == 2:  # no frame of ours
            text = json.dumps({"type": rng.choice(kinds[3:]), "cursor": rng.choice(NOT_TEXT)})
        elif what == 3:
            text = json.dumps(
                {"type": "ack", "cursor": rng.choice([*NOT_TEXT, "x", "9" * 400, "\0"])}
            )
        elif what == 4:
            words = rng.choice(
                [*NOT_TEXT[:4], "x", [1], [None], ["x" * 5_000], ["\ud800"], ["a"] * 300]
            )
            text = json.dumps({"type": "filter", rng.choice(["agents", "types"]): words})
        elif what == 5:
            token = rng.choice(
                [*NOT_TEXT, "", "x", "aet." + "A" * 200, "ae_" + "a" * 52, "\0", "\ud800"]
            )
            text = json.dumps({"type": "auth", "token": token})
        elif what == 6:  # deep, or large
            text = rng.choice(['{"type":' * 10_000, "[" * 60_000, '"' + "x" * 70_000 + '"'])
        else:
            yield rng.choice([rng.randbytes(rng.randrange(200)), b'{"type":"ack"}', b""]), False
            continue
        if undecodable and rng.random() < 0.05:
            yield rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b'{"type":"\xff"}']), True
        else:
            yield text, True


INTERNAL_ERROR = 1011
CUT = 1006
"""No close frame came: the peer had closed while more was on its way, and TCP drops what it said
last. Now and then only."""


async def all_framed(server: Server, key: str, *, undecodable: bool) -> Counter[int]:
    """Sends them all, over streams and over connections that have not said who they are."""
    codes: Counter[int] = Counter()
    source, left = bad_frames(undecodable), FRAMES
    cut: set[ClientConnection] = set()

    async def spoil(connection: ClientConnection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            frame, as_text = next(source)
            if as_text and isinstance(frame, bytes):
                cut.add(connection)
            await connection.send(frame, text=as_text)
            # An answer, or the end; a frame that may be ignored has neither before a ping's.
            await asyncio.wait_for(await connection.ping(), 30)

    async def one(headers: dict[str, str]) -> None:
        nonlocal left
        while left > 0:
            try:
                async with websocket(
                    f"{server.ws_url}/ws/agents/stream",
                    additional_headers=headers,
                    proxy=None,
                    max_size=None,
                    compression=None,
                ) as connection:
                    await spoil(connection)
            except ConnectionClosed as closed:
                # Daphne cuts a connection that brings no UTF-8, and says nothing.
                code = closed.rcvd.code if closed.rcvd else CUT
                codes[1007 if code == CUT and connection in cut else code] += 1

    known = {"Authorization": f"Bearer {key}"}
    async with asyncio.TaskGroup() as group:
        for n in range(CONNECTIONS):
            group.create_task(one(known if n % 2 else {}))
    return codes


@pytest.mark.timeout(240)
@pytest.mark.parametrize("program", ["daphne", "uvicorn"])
async def test_ten_thousand_bad_inputs_are_refused_and_leave_nothing(
    dsn: str,
    connect: Connect,
    server: Callable[..., Server],
    report: Callable[[str, object], None],
    program: str,
) -> None:
    assert POSTS + FRAMES >= 10_000
    tenant, foreign = make_tenant(dsn, "Own"), make_tenant(dsn, "Foreign")
    key, log = make_key(dsn, tenant), connect()
    command = None if program == "daphne" else UVICORN
    site = server(env=bus_settings(STREAMS_PER_PRINCIPAL=1_000), command=command)
    bearer = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{site.url}/readyz", timeout=20).status_code == 200
    assert site.process is not None
    process = psutil.Process(site.process.pid)
    before = process.memory_info().rss

    statuses = await all_posted(site.port, key, foreign)
    assert sum(statuses.values()) >= POSTS
    assert {400, 404, 405, 415, 422} <= set(statuses)
    # Uvicorn itself writes a traceback of a frame that is no UTF-8.
    codes = await all_framed(site, key, undecodable=program == "daphne")
    assert 4400 in codes
    assert INTERNAL_ERROR not in codes
    assert codes[CUT] < codes[4400] / 20

    for table in ("agent_events", "agent_event_keys"):
        assert log.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,), table
    said = site.log()
    for word in FORBIDDEN:
        assert word not in said, said[max(0, said.index(word) - 500) : said.index(word) + 1_500]
    assert process.memory_info().rss - before < MOST_GROWTH
    good = valid(random.Random(SEED))
    answer = httpx.post(f"{site.url}/api/agents/events", json=good, headers=bearer, timeout=20)
    assert answer.status_code == 201, answer.text
    assert log.execute("SELECT id FROM agent_events").fetchall() == [(answer.json()["ids"][0],)]
    report(f"{program}: bad posts, by status", dict(sorted(statuses.items())))
    report(f"{program}: bad frames, by close code", dict(sorted(codes.items())))
