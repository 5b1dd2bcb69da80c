"""The live page in Chromium: what somebody sees who keeps it open while servers come and go."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import expect

from tests.support import wait_until
from tests.support.live_page import AGENT, LATE_S, Site


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
    row = site.page.locator("#events > .row")
    expect(row).to_have_count(6)
    site.page.get_by_label("Type", exact=True).fill("tool.*")
    site.page.keyboard.press("Enter")
    expect(row).to_have_count(1)
    expect(site.state).to_have_text("Live")
    site.insert("turn_complete")
    site.insert("tool.failed", {"error": {"type": "TimeoutError", "message": "no answer"}})
    expect(row).to_have_count(2)
    expect(row.first).to_contain_text("no answer")
    wait_until(
        lambda: "type=tool" in site.page.evaluate("location.search"),
        LATE_S,
        "the address to be the view",
    )


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
        if rows.last.get_attribute("open") is None:  # the address has it open the second time
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
    expect(other.get_by_role("link", name="Sign in again").first).to_be_visible()


def test_without_javascript_the_page_shows_the_newest_events(site: Site, browser: Any) -> None:
    site.insert("message", {"text": "hello"}, n=2)
    wait_until(lambda: len(site.shown()) == 2, LATE_S, "the events")
    state = site.page.context.storage_state()
    plain = browser.new_context(java_script_enabled=False, storage_state=state).new_page()
    plain.goto(f"{site.server.url}/?type=message&tenant={site.tenant}")
    expect(plain.locator("#events > .row")).to_have_count(2)
    expect(plain.locator("#state")).to_contain_text("Not live")
    plain.locator("#events summary").first.click()
    expect(plain.locator(".row-payload").first).to_be_visible()
    plain.context.close()


def test_it_fits_a_telephone_and_is_used_by_keyboard_alone(site: Site) -> None:
    site.insert("message", {"text": "a long word " * 40})
    site.page.set_viewport_size({"width": 320, "height": 640})
    expect(site.page.locator("#events > .row")).to_have_count(1)
    width: int = site.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320
    site.page.locator("#events summary").focus()
    site.page.keyboard.press("Enter")
    expect(site.page.locator(".row[open] .row-payload")).to_be_visible()
    site.page.keyboard.press("Tab")
    expect(site.page.get_by_role("button", name="Copy JSON")).to_be_focused()
