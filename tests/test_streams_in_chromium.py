"""A browser's own clients of the streams: what they send, and when they give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.keys import make_key
from tests.support.streams import insert
from tests.support.tokens import make_token, token_settings

LATE_MS = 30_000


def waits_for(page: Page, condition: str) -> None:
    """Until it is true there. (Playwright's own way evaluates text, which the page forbids.)"""
    wait_until(lambda: page.evaluate(condition), LATE_MS / 1000, condition)


class Visit:
    """A page of the site, open in Chromium, of a member who is signed in."""

    def __init__(self, dsn: str, server: Server, page: Page) -> None:
        self.tenant = make_tenant(dsn, "Harbour")
        self.user = make_user(dsn, "ann", tenants=[self.tenant])
        self.key = make_key(dsn, self.tenant)
        self.server, self.page = server, page
        self.answers: list[int] = []
        page.on("response", self._note)

    def sign_in(self) -> None:
        """By the cookies of a sign-in elsewhere."""
        for name, value in login(self.server, "ann").items():
            self.page.context.add_cookies([{"name": name, "value": value, "url": self.server.url}])

    def _note(self, response: Any) -> None:
        if "/api/agents/stream" in response.url:
            self.answers.append(response.status)


@pytest.fixture
def visit(dsn: str, server: Callable[..., Server], page: Page) -> Visit:
    """Not signed in yet."""
    return Visit(dsn, server(env=token_settings(REVOKE_WITHIN_S=2.0)), page)


def test_an_event_source_that_was_stopped_comes_back_once_and_gives_up(
    visit: Visit, connect: Connect
) -> None:
    visit.sign_in()
    page = visit.page
    page.goto(f"{visit.server.url}/accounts/login/")
    page.evaluate(
        """() => {
            window.told = [];
            window.source = new EventSource("/api/agents/stream");
            source.addEventListener("live", () => told.push("live"));
            source.addEventListener("stopped", (m) => told.push(JSON.parse(m.data).reason));
        }"""
    )
    waits_for(page, "told.includes('live')")
    connect().execute("UPDATE auth_user SET is_active = false WHERE id = %s", [visit.user])
    waits_for(page, "source.readyState === EventSource.CLOSED")
    assert page.evaluate("told") == ["live", "signed_out"]
    # (The browser tells the page and Playwright apart, in any order.)
    waits_for_answers = lambda: (page.wait_for_timeout(20), visit.answers == [200, 204])[1]  # noqa: E731
    wait_until(waits_for_answers, LATE_MS / 1000, "the last answer to be told")


@pytest.mark.parametrize("kind", ["key", "token"])
def test_chromium_says_who_it_is_by_subprotocol_and_by_its_first_frame(
    visit: Visit, connect: Connect, kind: str
) -> None:
    secret = visit.key if kind == "key" else make_token(visit.key, visit.tenant, 60)
    page = visit.page
    page.goto(f"{visit.server.url}/accounts/login/")
    for first, protocols in ((None, ["agent-events", f"bearer.{secret}"]), (secret, [])):
        page.evaluate(
            """([first, protocols]) => {
                window.got = [];
                const address = new URL("/ws/agents/stream", location.href);
                address.protocol = "ws:";
                window.socket = new WebSocket(address, protocols);
                socket.onopen = () => first && socket.send(JSON.stringify({ type: "auth", token: first }));
                socket.onmessage = ({ data }) => got.push(JSON.parse(data));
            }""",  # noqa: E501
            [first, protocols],
        )
        waits_for(page, "got.some((frame) => frame.type === 'live')")
        made = insert(connect(), visit.tenant)
        waits_for(page, f"got.some((frame) => frame.events?.[0].id === {made})")
        assert page.evaluate("socket.protocol") == ("" if first else "agent-events")
        page.evaluate("socket.close()")


def test_the_page_says_why_it_stopped_and_does_not_come_back(
    visit: Visit, connect: Connect
) -> None:
    visit.sign_in()
    page, db = visit.page, connect()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    state = page.locator("#state-words")
    page.goto(visit.server.url)
    expect(state).to_have_text("Live", timeout=LATE_MS)
    db.execute("DELETE FROM agent_events_membership WHERE user_id = %s", [visit.user])
    expect(state).to_have_text("Stopped", timeout=LATE_MS)
    expect(page.locator("#trouble")).to_contain_text("not yours any more")
    expect(page.locator("#state-action")).to_have_text("Reload")
    assert len(sockets) == 1


def test_the_page_of_somebody_who_signed_out_elsewhere_offers_to_sign_in_again(
    visit: Visit, connect: Connect
) -> None:
    visit.sign_in()
    page = visit.page
    state = page.locator("#state-words")
    page.goto(visit.server.url)
    expect(state).to_have_text("Live", timeout=LATE_MS)
    connect().execute("DELETE FROM django_session")
    expect(state).to_have_text("Signed out", timeout=LATE_MS)
    expect(page.locator("#state-action")).to_have_text("Sign in again")


def test_the_page_comes_back_where_there_are_too_many_streams(
    dsn: str, server: Callable[..., Server], page: Page
) -> None:
    visit = Visit(dsn, server(env=token_settings(STREAMS_PER_PRINCIPAL=1)), page)
    visit.sign_in()
    # (Of another profile: the tabs of one share a stream.)
    assert page.context.browser is not None
    profile = page.context.browser.new_context(storage_state=page.context.storage_state())
    other = profile.new_page()
    other.goto(visit.server.url)
    expect(other.locator("#state-words")).to_have_text("Live", timeout=LATE_MS)
    page.goto(visit.server.url)
    expect(page.locator("#state-words")).to_contain_text("Reconnecting", timeout=LATE_MS)
    profile.close()
    expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE_MS)
