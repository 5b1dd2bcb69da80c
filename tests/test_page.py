"""The live page in Chromium: what somebody sees who keeps it open while servers come and go."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from project.embedded import EmbeddedPostgres
from tests.support import Server, make_tenant, make_user, wait_until

AGENT = "0a9e1d00-0000-4000-8000-000000000001"
LATE_S = 30.0  # for what should take a moment, on a machine that may be busy


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

    @property
    def state(self) -> Any:
        """The words for the connection."""
        return self.page.locator("#state-words")


@pytest.fixture(scope="module")
def running(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """One server for all tests here, and the DSN of its database: each test has its own tenant."""
    name = f"test_page_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        server = Server(postgres.dsn(name), tmp_path_factory.mktemp("page") / "server.log")
        yield server.start(), postgres.dsn(name)
        server.stop()
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def site(running: tuple[Server, str], page: Page) -> Iterator[Site]:
    """Signed in, live, and quiet in the console to the end."""
    server, dsn = running
    if server.process is None:  # a test that failed may have left it so
        server.start()
    tenant = make_tenant(dsn, f"Harbour {uuid.uuid4().hex[:8]}")
    username = f"mara-{uuid.uuid4().hex[:8]}"
    make_user(dsn, username, tenants=[tenant])
    with psycopg.connect(dsn, autocommit=True) as database:
        made = Site(server, page, database, tenant)
        page.on("console", lambda message: made.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: made.console.append(f"exception: {error}"))
        made.sign_in(username)
        yield made
    # A server that is away is reported by the browser itself; all else is our mistake, such as
    # what the Content-Security-Policy refuses.
    complaints = [line for line in made.console if "net::ERR_" not in line]
    assert not complaints


def test_an_insert_appears_on_the_open_page(site: Site) -> None:
    expect(site.page.get_by_text("Waiting for the first event")).to_be_visible()
    site.insert("turn_complete", {"tokens": 142, "latency": 820})
    row = site.page.locator("#events > .row")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("turn_complete")
    expect(row).to_contain_text("142 tokens")
    expect(row).to_contain_text("820 ms")
    expect(site.page.get_by_text("Waiting for the first event")).to_be_hidden()


def test_the_first_render_and_the_stream_meet_exactly(site: Site) -> None:
    site.insert(n=40)
    for _ in range(3):
        site.insert(n=10)
        site.page.reload()
        site.insert(n=10)
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "every event once, newest first")


def test_a_filter_acts_on_the_log_and_on_what_comes(site: Site) -> None:
    site.insert("tool.started", {"tool": "search_orders"})
    site.insert("turn_complete", n=5)
    site.page.get_by_label("Type").fill("tool.*, error")
    site.page.get_by_role("button", name="Filter").click()
    row = site.page.locator("#events > .row")
    expect(row).to_have_count(1)
    expect(site.state).to_have_text("Live")
    site.insert("turn_complete")
    site.insert("error", {"error": {"type": "TimeoutError", "message": "no answer"}})
    expect(row).to_have_count(2)
    expect(row.first).to_contain_text("no answer")
    assert "type=tool" in site.page.url  # the address is the view


def test_paused_it_counts_what_waits_and_resuming_shows_it(site: Site) -> None:
    site.insert(n=3)
    wait_until(lambda: len(site.shown()) == 3, LATE_S, "the first events")
    button = site.page.locator("#pause")
    site.page.keyboard.press("Space")
    site.insert("turn_complete", n=5)
    site.insert("error", n=2)
    expect(button).to_have_text("Paused: 7 new, 2 errors")
    assert len(site.shown()) == 3
    button.click()
    expect(button).to_have_text("Pause")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what waited")


def test_nothing_moves_while_a_row_is_open_or_the_page_is_scrolled(site: Site) -> None:
    site.insert(n=80)
    wait_until(lambda: len(site.shown()) == 80, LATE_S, "the first events")
    button = site.page.locator("#pause")
    top = site.page.locator("#events > .row summary").first
    top.click()
    expect(site.page.locator("#events > .row[open] .row-payload")).to_contain_text('"tokens": 142')
    site.insert()
    expect(button).to_have_text("Paused: 1 new")
    top.click()
    expect(button).to_have_text("Pause")
    site.page.mouse.wheel(0, 600)
    expect(button).to_have_text("Paused: 0 new")
    site.insert()
    expect(button).to_have_text("Paused: 1 new")
    site.page.keyboard.press("Home")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the list to follow at the top")


def test_more_than_fits_while_paused_leaves_a_word_for_what_is_not_shown(site: Site) -> None:
    site.insert(n=2)
    wait_until(lambda: len(site.shown()) == 2, LATE_S, "the first events")
    button = site.page.locator("#pause")
    button.click()
    site.database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT %s, %s, 'turn_complete', '{}' FROM generate_series(1, 3000)",
        [site.tenant, AGENT],
    )
    expect(button).to_have_text("Paused: 3,000 new", timeout=LATE_S * 1000)
    button.click()
    gap = site.page.locator('[data-notice="gap"]')
    expect(gap).to_have_text("2,100 events not shown", timeout=LATE_S * 1000)
    ids = site.ids()
    assert site.shown() == ids[:900] + ids[-2:]


def test_a_killed_server_comes_back_and_every_event_is_there_once_and_in_order(
    site: Site,
) -> None:
    site.insert(n=5)
    wait_until(lambda: len(site.shown()) == 5, LATE_S, "the first events")
    for _ in range(2):
        site.server.kill()
        expect(site.state).to_contain_text("Reconnecting in")
        site.insert(n=20)
        site.server.start()
        site.insert(n=5)
        expect(site.state).to_have_text("Live", timeout=LATE_S * 1000)
        wait_until(lambda: len(site.shown()) >= len(site.ids()), LATE_S, "what was missed")
        assert site.shown() == site.ids()
    site.insert()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the stream to go on")


def test_a_bare_eventsource_resumes_across_a_restart(site: Site) -> None:
    site.page.evaluate(
        """() => {
            window.got = [];
            const stream = new EventSource("/api/agents/stream");
            stream.onmessage = (message) => window.got.push(JSON.parse(message.data).id);
            return new Promise((open) => stream.addEventListener("hello", open, { once: true }));
        }"""
    )

    def got() -> list[int]:
        ids: list[int] = site.page.evaluate("window.got")
        return ids

    site.insert(n=5)
    wait_until(lambda: len(got()) == 5, LATE_S, "the first events")
    site.server.kill()
    site.insert(n=20)
    site.server.start()
    site.insert(n=5)
    wait_until(lambda: len(got()) >= 30, LATE_S, "EventSource to resume")
    assert got() == site.ids()[::-1]


def test_hostile_text_is_shown_as_text_live_and_after_a_reload(site: Site) -> None:
    attack = "<img src=x onerror='document.title=\"owned\"'>"
    site.insert("message", {"text": attack, "</pre><script>": attack})
    site.insert(attack, {"agent": attack})
    for _ in range(2):
        rows = site.page.locator("#events > .row")
        expect(rows).to_have_count(2)
        expect(rows.first.locator(".badge")).to_have_text(attack)
        expect(rows.last.locator(".row-text")).to_have_text(attack)
        rows.last.locator("summary").click()
        expect(rows.last.locator(".row-payload")).to_contain_text("onerror")
        assert site.page.locator("#events img, #events script").count() == 0
        assert "owned" not in site.page.title()
        site.page.reload()


def test_numbers_keep_every_digit(site: Site) -> None:
    for payload in ('{"id": 12345678901234567890, "price": 1.50}',):
        site.database.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " VALUES (%s, %s, 'order', %s)",
            [site.tenant, AGENT, payload],
        )
    row = site.page.locator("#events > .row")
    expect(row).to_contain_text("id: 12345678901234567890")
    row.locator("summary").click()
    expect(row.locator(".row-payload")).to_contain_text('"price": 1.50')


def test_signing_out_ends_at_the_sign_in_page_and_the_page_says_so_elsewhere(site: Site) -> None:
    other = site.page.context.new_page()
    other.goto(f"{site.server.url}/")
    expect(other.locator("#state-words")).to_have_text("Live")
    site.page.get_by_role("button", name="Sign out").click()
    expect(site.page.get_by_role("heading", name="Sign in")).to_be_visible()
    site.server.restart()
    expect(other.locator("#state-words")).to_have_text("Signed out", timeout=LATE_S * 1000)
    expect(other.get_by_role("link", name="Sign in again")).to_be_visible()


def test_without_javascript_the_page_shows_the_newest_events(site: Site, browser: Any) -> None:
    site.insert("message", {"text": "hello"}, n=2)
    wait_until(lambda: len(site.shown()) == 2, LATE_S, "the events")
    state = site.page.context.storage_state()
    plain = browser.new_context(java_script_enabled=False, storage_state=state).new_page()
    plain.goto(f"{site.server.url}/?type=message&tenant={site.tenant}")
    expect(plain.locator("#events > .row")).to_have_count(2)
    expect(plain.locator("#state")).to_contain_text("Not live")
    plain.locator("summary").first.click()
    expect(plain.locator(".row-payload").first).to_be_visible()
    plain.context.close()


def test_it_fits_a_telephone_and_is_used_by_keyboard_alone(site: Site) -> None:
    site.insert("message", {"text": "a long word " * 40})
    site.page.set_viewport_size({"width": 320, "height": 640})
    expect(site.page.locator("#events > .row")).to_have_count(1)
    width: int = site.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320
    site.page.locator("summary").focus()
    site.page.keyboard.press("Enter")
    expect(site.page.locator(".row[open]")).to_have_count(1)
    site.page.keyboard.press("Tab")
    expect(site.page.get_by_role("button", name="Copy JSON")).to_be_focused()
