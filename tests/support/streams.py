"""Clients of the two doors, as plain as a user's would be."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import psycopg
from websockets.asyncio.client import ClientConnection, connect

from tests.support.server import Server, cookie_header
from tests.support.waiting import wait_until

INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    VALUES (%s, %s, %s, %s) RETURNING id
"""


def insert(
    connection: psycopg.Connection[Any],
    tenant: str,
    *,
    agent: str | None = None,
    kind: str = "message",
    payload: str = "{}",
) -> int:
    """A producer's plain INSERT; returns the id."""
    row = connection.execute(INSERT, [tenant, agent or uuid.uuid4(), kind, payload]).fetchone()
    assert row is not None
    return int(row[0])


def in_the_log(connection: psycopg.Connection[Any]) -> None:
    """Waits until somebody has given each committed event its place."""
    whole = (
        "SELECT bool_and(pg_visible_in_snapshot(tx, (SELECT seen FROM agent_event_batches"
        " ORDER BY n DESC LIMIT 1))) FROM agent_events"
    )
    wait_until(lambda: connection.execute(whole).fetchone() == (True,), what="all to be in the log")


class Socket:
    """A WebSocket client that acknowledges, and remembers where it stopped."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.cursor: str | None = None
        self.kinds: list[str] = []

    async def frame(self) -> dict[str, Any]:
        """The next frame, acknowledged if it bears events."""
        made: dict[str, Any] = json.loads(await self.connection.recv())
        text = ""
        while made["type"] == "part":
            text += made["text"]
            made = json.loads(text if not made["more"] else await self.connection.recv())
        self.kinds.append(made["type"])
        self.cursor = made.get("cursor", self.cursor)
        if made["type"] == "events":
            await self.connection.send(json.dumps({"type": "ack", "cursor": made["cursor"]}))
        return made

    async def events(self, count: int) -> list[dict[str, Any]]:
        """At least `count` events, in the order of their arrival."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = await self.frame()
            assert frame["type"] != "error", frame
            found += frame.get("events", [])
        return found

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of this kind; others are passed over."""
        while True:
            frame = await self.frame()
            if frame["type"] == kind:
                return frame


@asynccontextmanager
async def websocket(
    server: Server,
    cookies: dict[str, str],
    query: str = "",
    *,
    token: str = "",
    origin: str | None = None,
    open_timeout: float = 10,
) -> AsyncIterator[Socket]:
    """A WebSocket client of the stream, by cookies or by a key or token."""
    async with connect(
        f"{server.ws_url}/ws/agents/stream?{query}",
        additional_headers=_credentials(cookies, token),
        origin=origin or server.url,  # type: ignore[arg-type]
        max_size=None,
        open_timeout=open_timeout,
        close_timeout=1,  # a server that is frozen answers no goodbye
    ) as connection:
        yield Socket(connection)


class EventStream:
    """A Server-Sent Events client (WHATWG HTML, section 9.2) that remembers its last id."""

    def __init__(self, lines: Iterator[str], last_id: str = "") -> None:
        self._lines = lines
        self.last_id = last_id

    def messages(self) -> Iterator[tuple[str, Any]]:
        """(event name, data) pairs; events of agents have the name `message`."""
        name, data, identity = "message", "", None
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "id":
                identity = value
            elif not line:
                if identity is not None:
                    self.last_id = identity
                if data:
                    yield name, json.loads(data)
                name, data, identity = "message", "", None

    def events(self, count: int) -> list[dict[str, Any]]:
        """The next `count` events, or fewer where the response ends."""
        found: list[dict[str, Any]] = []
        for name, data in self.messages():
            if name == "message":
                found.append(data)
                if len(found) == count:
                    break
        return found


@contextmanager
def event_stream(
    server: Server,
    cookies: dict[str, str],
    query: str = "",
    *,
    token: str = "",
    last_id: str = "",
    timeout_s: float = 20,
) -> Iterator[EventStream]:
    """A Server-Sent Events client of the stream, by cookies or by a key or token."""
    headers = _credentials(cookies, token)
    if last_id:
        headers["Last-Event-ID"] = last_id
    with httpx.stream(
        "GET",
        f"{server.url}/api/agents/stream?{query}",
        headers=headers,
        timeout=timeout_s,
        verify=False,  # no TLS here, and loading the authorities takes longer than the request
    ) as response:
        response.raise_for_status()
        yield EventStream(response.iter_lines(), last_id)


def _credentials(cookies: dict[str, str], token: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    return {"Cookie": cookie_header(cookies)}


async def told_to_come_back(server: Server, cookies: dict[str, str], why: str) -> None:
    """No stream can begin now: both doors say why, and that it is worth coming again."""
    # EventSource ends for good on any status but 200.
    answer = httpx.get(f"{server.url}/api/agents/stream", cookies=cookies, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == f": {why}\nretry: 2000\n\n"
    async with connect(
        f"{server.ws_url}/ws/agents/stream",
        additional_headers={"Cookie": cookie_header(cookies)},
        origin=server.url,  # type: ignore[arg-type]
    ) as refused:
        said = json.loads(await refused.recv())
        assert said["code"] == "try_again"
        assert said["message"] == f"{why[0].upper()}{why[1:]}. Try again in a moment."
        await refused.wait_closed()
        assert refused.close_code == 4503, server.log()
