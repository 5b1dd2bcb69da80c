"""The AsyncAPI document, held against what streams send."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from agent_events import consumers
from agent_events.conf import get_settings
from agent_events.contract import asyncapi
from agent_events.position import Cursor, Position
from tests.conftest import node_modules
from tests.support import Server, make_tenant
from tests.support.keys import make_key, revoke_key
from tests.support.streams import insert
from tests.support.watch import bus_settings
from tests.test_cursor import closed_at_ms

Start = Callable[..., Server]

DOCUMENT = asyncapi.document("", get_settings())
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
# A page of one event: there is more, so that `catching_up` comes.
QUICK = {"HEARTBEAT_S": 0.2, "REVOKE_WITHIN_S": 1.0, "PAGE_ROWS": 1}
LIMIT_S = 15.0
SPECS = "@asyncapi/specs@6.11.1"


def names(operation: str) -> set[str]:
    """The messages of an operation, by name."""
    messages = DOCUMENT["operations"][operation]["messages"]
    return {MESSAGES[one["$ref"].rpartition("/")[2]]["name"] for one in messages}


def check(schema: dict[str, Any], value: Any) -> None:
    """`value` is of this schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    found = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]
    assert not found, (found, value)


@pytest.fixture(scope="module")
def official_schema(request: pytest.FixtureRequest) -> dict[str, Any]:
    """AsyncAPI's own JSON Schema."""
    specs = node_modules(request, "asyncapi", SPECS) / "@asyncapi" / "specs"
    path = specs / "schemas" / "3.0.0-without-$id.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def test_the_document_is_valid_asyncapi(official_schema: dict[str, Any]) -> None:
    validator = validator_for(official_schema)(official_schema)
    for name in ("", "/sub"):
        validator.validate(asyncapi.document(name, get_settings()))


def test_every_reference_leads_somewhere_and_each_message_has_its_channel_and_operation() -> None:
    text = json.dumps(DOCUMENT)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        found: Any = DOCUMENT
        for step in reference.split("/"):
            found = found[step]
    used = [one["messages"] for one in DOCUMENT["operations"].values()]
    keys = {ref["$ref"].rpartition("/")[2] for refs in used for ref in refs}
    assert keys == set(MESSAGES)
    assert keys == {key for one in DOCUMENT["channels"].values() for key in one["messages"]}


def test_every_example_is_of_its_schema() -> None:
    for message in MESSAGES.values():
        assert message["examples"]
        for example in message["examples"]:
            check(message["payload"], example["payload"])
            if "headers" in message:
                check(message["headers"], example["headers"])


def test_the_close_codes_are_those_of_the_door() -> None:
    documented = {
        one["code"]: one["comeBack"] for one in DOCUMENT["channels"]["websocket"]["x-close-codes"]
    }
    codes = {
        value
        for name, value in vars(consumers).items()
        if name.isupper() and isinstance(value, int) and 4000 <= value < 5000
    }
    assert set(documented) == codes
    assert {code for code, again in documented.items() if again} == {4408, 4429, 4503}


class Recorder:
    """Holds each message against its schema, and remembers its name."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def frame(self, text: str | bytes) -> dict[str, Any]:
        """A frame of a WebSocket, which is documented."""
        frame: dict[str, Any] = json.loads(text)
        key = f"frame.{frame['type']}"
        assert key in MESSAGES, frame
        check(MESSAGES[key]["payload"], frame)
        self.seen.add(frame["type"])
        return frame

    def block(self, fields: dict[str, str]) -> tuple[str, Any]:
        """A message of an event stream, which is documented."""
        name = fields.get("event", asyncapi.UNNAMED)
        assert f"event.{name}" in MESSAGES, fields
        message = MESSAGES[f"event.{name}"]
        data = json.loads(fields.pop("data"))
        check(message["headers"], fields)
        check(message["payload"], data)
        self.seen.add(name)
        return name, data


class Site:
    """A server whose log begins at its third batch, and a key."""

    def __init__(self, dsn: str, start: Start, **settings: object) -> None:
        self.dsn = dsn
        self.tenant = make_tenant(dsn, "mine")
        self.key = make_key(dsn, self.tenant)
        with psycopg.connect(dsn, autocommit=True) as db:
            for _ in range(4):
                insert(db, self.tenant)
                db.execute("SELECT agent_events_append()")
            times = [closed_at_ms(db, n) for n in (1, 4)]
            db.execute(
                "DELETE FROM agent_events USING agent_events_window(NULL, 1, 2) AS gone"
                " WHERE agent_events.id = gone.id"
            )
            db.execute("UPDATE agent_event_bus SET oldest = 3")
            db.execute("DELETE FROM agent_event_batches WHERE n < 2")
        self.pruned = str(Cursor(Position(2), times[0]))
        self.of_another_history = str(Cursor(Position(5), times[1] + 1))
        self.server = start(env=bus_settings(**{**QUICK, **settings}))

    @asynccontextmanager
    async def websocket(self, query: str = "", key: str = "") -> AsyncIterator[ClientConnection]:
        """A WebSocket with a key."""
        async with connect(
            f"{self.server.ws_url}/ws/agents/stream?{query}",
            additional_headers={"Authorization": f"Bearer {key or self.key}"},
            max_size=None,
        ) as socket:
            yield socket

    @contextmanager
    def event_stream(self, query: str = "", key: str = "") -> Iterator[Iterator[dict[str, str]]]:
        """An event stream with a key: the fields of each message that has data."""
        with httpx.stream(
            "GET",
            f"{self.server.url}/api/agents/stream?{query}",
            headers={"Authorization": f"Bearer {key or self.key}"},
            timeout=20,
        ) as response:
            response.raise_for_status()
            yield self._blocks(response.iter_lines())

    @staticmethod
    def _blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
        fields: dict[str, str] = {}
        for line in lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            fields.pop("retry", None)
            if "data" in fields:
                yield fields
            fields = {}


def insert_large(dsn: str, tenant: str, chars: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        insert(db, tenant, payload=json.dumps("x" * chars))


async def until(socket: ClientConnection, recorder: Recorder, kind: str) -> dict[str, Any]:
    """The next frame of this kind; each on the way is held against its schema."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            frame = recorder.frame(await socket.recv())
            if frame["type"] == kind:
                return frame


async def test_all_that_a_websocket_receives_is_documented_and_comes(
    dsn: str, server: Start
) -> None:
    site = Site(dsn, server, INLINE_PAYLOAD_BYTES=200_000, EXPIRING_S=7200.0)
    recorder = Recorder()
    ends_soon = make_key(dsn, site.tenant, lives="1 hour")
    for query, kinds in (
        ("cursor=earliest", ["hello", "catching_up", "events", "live", "heartbeat"]),
        (f"cursor={site.pruned}", ["truncated", "events"]),
        (f"cursor={site.of_another_history}", ["reset"]),
    ):
        async with site.websocket(query) as socket:
            for kind in kinds:
                await until(socket, recorder, kind)
    async with site.websocket(key=ends_soon) as socket:
        await until(socket, recorder, "expiring")
        await socket.send(json.dumps({"type": "auth", "token": site.key}))
        assert (await until(socket, recorder, "renewed"))["expiresAt"] is None
        insert_large(dsn, site.tenant, 150_000)
        parts = [await until(socket, recorder, "part")]
        while parts[-1]["more"]:
            parts.append(await until(socket, recorder, "part"))
        whole = recorder.frame("".join(part["text"] for part in parts))
        assert len(whole["events"][0]["payload"]) == 150_000
        insert_large(dsn, site.tenant, 250_000)
        (large,) = (await until(socket, recorder, "events"))["events"]
        assert large["payload"] is None
        assert large["payloadHref"] == f"/api/agents/events/{large['id']}"
        revoke_key(dsn, site.key)
        assert (await until(socket, recorder, "error"))["code"] == "revoked"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    assert recorder.seen == names("sendFrames")


async def test_all_that_an_event_stream_holds_is_documented_and_comes(
    dsn: str, server: Start
) -> None:
    site = Site(dsn, server, INLINE_PAYLOAD_BYTES=1_000, EXPIRING_S=7200.0)
    recorder = Recorder()
    ends_soon = make_key(dsn, site.tenant, lives="1 hour")

    def look_for(blocks: Iterator[dict[str, str]], *wanted: str) -> Any:
        end = time.monotonic() + LIMIT_S
        for kind in wanted:
            name, data = "", None
            while name != kind:
                assert time.monotonic() < end, f"no {kind} came"
                name, data = recorder.block(next(blocks))
        return data

    for query, kinds in (
        ("cursor=earliest", ["hello", "catching_up", "message", "live", "heartbeat"]),
        (f"cursor={site.pruned}", ["truncated", "message"]),
        (f"cursor={site.of_another_history}", ["reset"]),
    ):
        with site.event_stream(query) as blocks:
            look_for(blocks, *kinds)
    with site.event_stream(key=ends_soon) as blocks:
        look_for(blocks, "expiring")
        insert_large(dsn, site.tenant, 2_000)
        assert look_for(blocks, "message")["payloadHref"].startswith("/api/agents/events/")
        revoke_key(dsn, ends_soon)
        assert look_for(blocks, "stopped")["reason"] == "revoked"
        assert next(blocks, None) is None
    assert recorder.seen == names("sendServerSentEvents")


async def test_a_websocket_takes_the_documented_frames_and_no_others(
    dsn: str, server: Start
) -> None:
    site = Site(dsn, server)
    recorder = Recorder()
    url = f"{site.server.ws_url}/ws/agents/stream"
    sent = {key: MESSAGES[f"frame.{key}"]["examples"][0]["payload"] for key in names("takeFrames")}
    sent["auth"] = {**sent["auth"], "token": site.key}
    async with connect(url) as socket:
        await socket.send(json.dumps(sent.pop("auth")))
        await until(socket, recorder, "hello")
        for frame in sent.values():
            await socket.send(json.dumps(frame))
        await until(socket, recorder, "live")
        await until(socket, recorder, "heartbeat")
        await socket.send('{"type": "hello"}')
        assert (await until(socket, recorder, "error"))["code"] == "bad_request"
