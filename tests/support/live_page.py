"""The live page with somebody signed in: what its tests share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import psycopg
from playwright.sync_api import Locator, Page, expect

from tests.support.server import Server
from tests.support.streams import in_the_log
from tests.support.waiting import LATE_S

AGENT = "0a9e1d00-0000-4000-8000-000000000001"


@dataclass
class Site:
    """A server with a tenant, a member of it who is signed in on `page`, and a producer."""

    server: Server
    page: Page
    database: psycopg.Connection[Any]
    tenant: str
    console: list[str] = field(default_factory=list)

    def insert(self, event_type: str = "turn_complete", payload: object = None, n: int = 1) -> None:
        """Plain INSERTs, each its own transaction."""
        for _ in range(n):
            self.database.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                " VALUES (%s, %s, %s, %s)",
                [self.tenant, AGENT, event_type, json.dumps(payload or {"tokens": 142})],
            )

    def in_the_log(self) -> None:
        """Waits until every event has its place: a page that is opened then begins with them."""
        in_the_log(self.database)

    def ids(self) -> list[int]:
        """Ids of all events of the tenant, newest first."""
        rows = self.database.execute(
            "SELECT id FROM agent_events WHERE tenant_id = %s ORDER BY id DESC", [self.tenant]
        )
        return [row[0] for row in rows]

    def shown(self) -> list[int]:
        """Ids of the rows on the page, from top to bottom."""
        found: list[str] = self.page.eval_on_selector_all(
            "#events > .row", "rows => rows.map(row => row.dataset.id)"
        )
        return [int(one) for one in found]

    def sign_in(self, username: str) -> None:
        """Through the sign-in page, as people do."""
        self.page.goto(f"{self.server.url}/")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password").fill(username)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.state).to_have_text("Live", timeout=LATE_S * 1000)

    def copied(self, button: Locator) -> str:
        """Presses a button that copies, and waits until it says so; the clipboard's text.

        It says so for a moment: the page itself looks, so that none is missed.
        """
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        button.evaluate(
            """button => {
                window.copied = new Promise((done) => new MutationObserver(
                    () => button.textContent === "Copied" && done()
                ).observe(button, { characterData: true, childList: true, subtree: true }));
            }"""
        )
        button.click()
        text: str = self.page.evaluate(
            "() => window.copied.then(() => navigator.clipboard.readText())"
        )
        return text

    @property
    def state(self) -> Any:
        """The words for the connection."""
        return self.page.locator("#state-words")
