"""client.js in a page of the site: what its tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page

from tests.support.server import Server, login
from tests.support.streams import insert
from tests.support.waiting import LATE_S, wait_until

both = pytest.mark.parametrize("transport", ["websocket", "sse"])

_OPEN = """async ([name, options]) => {
    const { AgentEvents } = await import("/static/agent_events/client.js");
    if (options.tokenFrom) options.token = () => window[options.tokenFrom]();
    const stream = new AgentEvents(options);
    const it = (window[name] = {
        stream, options, ids: [], batches: [], states: [], notices: [], holes: 0,
    });
    let before = null;
    stream.addEventListener("events", ({ detail }) => {
        if (before !== null && detail.after < before) it.holes += 1;
        before = detail.cursor;
        it.ids.push(...detail.events.map((event) => event.id));
        const { events, ...rest } = detail;
        it.batches.push({ ...rest, count: events.length });
    });
    stream.addEventListener("state", ({ detail }) => it.states.push(detail));
    stream.addEventListener("notice", ({ detail }) => it.notices.push(detail));
}"""


class StreamClient:
    """An `AgentEvents` in a page, and what it has told."""

    def __init__(self, page: Page, name: str = "client", **options: Any) -> None:
        """`tokenFrom`: the name of a function of the page that gives it a token."""
        self.page, self.name = page, name
        page.evaluate(_OPEN, [name, options])

    def _read(self, what: str) -> Any:
        return self.page.evaluate(f"(name) => window[name].{what}", self.name)

    @property
    def ids(self) -> list[int]:
        """Of all events that it handed over, in their order."""
        found: list[int] = self._read("ids")
        return found

    @property
    def holes(self) -> int:
        """How often a batch began before the one before it had ended."""
        found: int = self._read("holes")
        return found

    @property
    def batches(self) -> list[dict[str, Any]]:
        """The details of `events`, with `count` in place of the events."""
        found: list[dict[str, Any]] = self._read("batches")
        return found

    @property
    def states(self) -> list[str]:
        """The names of its states, in their order."""
        found: list[str] = self._read("states.map((state) => state.name)")
        return found

    @property
    def state(self) -> dict[str, Any]:
        """What it is doing."""
        found: dict[str, Any] = self._read("stream.state")
        return found

    @property
    def notices(self) -> list[dict[str, Any]]:
        """The details of `notice`."""
        found: list[dict[str, Any]] = self._read("notices")
        return found

    @property
    def transport(self) -> str | None:
        """Which way its events come."""
        found: str | None = self._read("stream.transport")
        return found

    def reads(self, what: str) -> Any:
        """A property of the stream, or what a call of it returns."""
        return self._read(f"stream.{what}")

    def until_state(self, name: str, timeout_s: float = LATE_S) -> dict[str, Any]:
        """Waits for a state, and returns it."""
        wait_until(lambda: self.state["name"] == name, timeout_s, f"{self.name} to be {name}")
        return self.state

    def until_notice(self, kind: str) -> dict[str, Any]:
        """Waits for a notice of this kind, and returns it."""
        found = wait_until(
            lambda: [notice for notice in self.notices if notice["kind"] == kind],
            LATE_S,
            f"{self.name} to be told {kind}",
        )
        return found[-1]

    def until_count(self, count: int, timeout_s: float = LATE_S) -> list[int]:
        """Waits for so many events, and returns the ids of all."""
        wait_until(lambda: len(self.ids) >= count, timeout_s, f"{count} events in {self.name}")
        return self.ids


@dataclass
class World:
    """A server with a tenant, a member of it who is signed in on `page`, and a producer."""

    dsn: str
    server: Server
    page: Page
    database: psycopg.Connection[Any]
    tenant: str
    user: int

    def sign_in(self) -> None:
        """On a page of the site that has no stream of its own."""
        for name, value in login(self.server, "ann").items():
            self.page.context.add_cookies([{"name": name, "value": value, "url": self.server.url}])
        self.page.goto(f"{self.server.url}/healthz")

    def tab(self, url: str = "") -> Page:
        """Another one of the same browser."""
        page = self.page.context.new_page()
        page.goto(f"{url or self.server.url}/healthz")
        return page

    def insert(self, count: int = 1, **event: str) -> list[int]:
        """Plain INSERTs, each its own transaction."""
        return [insert(self.database, self.tenant, **event) for _ in range(count)]

    def open(self, name: str = "client", page: Page | None = None, **options: Any) -> StreamClient:
        """A client that is live."""
        client = StreamClient(page or self.page, name, **options)
        client.until_state("live")
        return client

    def check(self, client: StreamClient) -> None:
        """It gets all that the log has from its first event on, each once and in order."""
        newest = self.database.execute("SELECT max(id) FROM agent_events").fetchone()
        assert newest is not None
        wait_until(lambda: client.ids[-1:] == [newest[0]], LATE_S, f"all events in {client.name}")
        rows = self.database.execute("SELECT id FROM agent_events ORDER BY id").fetchall()
        ids = [row[0] for row in rows]
        assert client.ids == ids[ids.index(client.ids[0]) :]
        assert client.holes == 0
