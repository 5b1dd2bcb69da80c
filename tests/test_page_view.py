"""The page's view: filters and the address, the connection in words, habits that are kept."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support import wait_until
from tests.support.live_page import AGENT, LATE_S, Site

ROWS = "#events .row"
LATE = LATE_S * 1000


def address(page: Page) -> dict[str, list[str]]:
    """The names and values of the page's address. (`page.url` lags while nothing is awaited.)"""
    return parse_qs(page.evaluate("() => location.search.slice(1)"))


def rows(site: Site) -> Locator:
    """The rows of events."""
    return site.page.locator(ROWS)


def chips(site: Site) -> Locator:
    """The conditions that are set."""
    return site.page.locator("#chips .chip")


@pytest.fixture
def busy(site: Site) -> Site:
    """A site with four kinds of event on its page."""
    site.insert("tool.started", {"tool": "search_orders"})
    site.insert("message", {"text": "Hello, Captain"})
    site.insert("turn_complete", {"tokens": 5})
    site.insert("turn_complete", {"tokens": 5000})
    expect(rows(site)).to_have_count(4)
    return site


def mark(site: Site) -> None:
    """Marks the document, so that a page load would be noticed."""
    site.page.evaluate("() => { document.documentElement.dataset.marked = 'yes'; }")


def assert_not_loaded_again(site: Site) -> None:
    """No page load since `mark`."""
    assert site.page.evaluate("() => document.documentElement.dataset.marked") == "yes"


def test_typing_filters_after_a_pause_without_a_page_load_and_the_address_follows(
    busy: Site,
) -> None:
    mark(busy)
    busy.page.get_by_label("Text", exact=True).fill("captain")
    expect(rows(busy)).to_have_count(1)
    expect(rows(busy)).to_contain_text("Hello, Captain")
    wait_until(lambda: address(busy.page).get("text") == ["captain"], LATE_S, "the address")
    busy.insert("message", {"text": "Aye, CAPTAIN"})
    busy.insert("message", {"text": "no match"})
    expect(rows(busy)).to_have_count(2)
    assert_not_loaded_again(busy)


def test_a_payload_path_filters_the_log_and_what_comes(busy: Site) -> None:
    field = busy.page.get_by_label("Payload", exact=True)
    field.fill("payload.tokens > 1000")
    field.press("Enter")
    expect(rows(busy)).to_have_count(1)
    expect(chips(busy)).to_have_text(re.compile("payload.*payload.tokens > 1000"))
    expect(field).to_have_value("")
    busy.insert("turn_complete", {"tokens": 999})
    busy.insert("turn_complete", {"tokens": 1001})
    expect(rows(busy)).to_have_count(2)


def test_a_mistake_is_said_beside_the_field_in_the_servers_words_and_the_rows_stay(
    busy: Site,
) -> None:
    before = busy.shown()
    answer = httpx.get(
        f"{busy.server.url}/api/agents/events",
        params={"where": "payload.tokens >"},
        cookies={c["name"]: c["value"] for c in busy.page.context.cookies()},
    )
    assert answer.status_code == 400
    field = busy.page.get_by_label("Payload", exact=True)
    field.fill("payload.tokens >")
    expect(busy.page.locator("#filter-error")).to_have_text(answer.json()["detail"])
    expect(field).to_have_attribute("aria-invalid", "true")
    assert busy.shown() == before
    expect(field).to_have_value("payload.tokens >")
    assert "where" not in address(busy.page)
    busy.insert("message", {"text": "and it goes on"})
    expect(rows(busy)).to_have_count(5)
    field.fill("payload.tokens > 1000")
    expect(busy.page.locator("#filter-error")).to_be_hidden()
    expect(rows(busy)).to_have_count(1)
    # The browser itself says on the console that an answer was a 400.
    busy.console[:] = [line for line in busy.console if "400" not in line]


def test_chips_are_removed_and_turned_round_by_mouse_and_keyboard(busy: Site) -> None:
    field = busy.page.get_by_label("Type", exact=True)
    field.fill("tool.*")
    field.press("Enter")
    expect(rows(busy)).to_have_count(1)
    chips(busy).locator(".chip-words").click()
    expect(chips(busy)).to_have_text(re.compile("not type.*tool"))
    expect(rows(busy)).to_have_count(3)
    wait_until(lambda: address(busy.page) == {"not_type": ["tool.*"]}, LATE_S, "the address")
    remove = busy.page.get_by_role("button", name="Remove: not type tool.*")
    remove.focus()
    remove.press("Enter")
    expect(chips(busy)).to_have_count(0)
    expect(rows(busy)).to_have_count(4)
    wait_until(lambda: address(busy.page) == {}, LATE_S, "the address")


def test_opening_the_address_reproduces_the_view(busy: Site) -> None:
    busy.page.goto(
        f"{busy.server.url}/?type=turn_complete&not_type=error&text=tokens"
        "&where=payload.tokens+%3E+1000"
    )
    expect(busy.state).to_have_text("Live")
    expect(rows(busy)).to_have_count(1)
    expect(chips(busy)).to_have_count(4)
    busy.page.locator("#clear").click()
    expect(rows(busy)).to_have_count(4)
    wait_until(lambda: address(busy.page) == {}, LATE_S, "nothing but defaults")


def test_a_comma_in_a_type_is_a_comma(site: Site) -> None:
    site.insert("a,b")
    site.insert("a")
    expect(rows(site)).to_have_count(2)
    field = site.page.get_by_label("Type", exact=True)
    field.fill("a,b")
    field.press("Enter")
    expect(rows(site)).to_have_count(1)
    wait_until(lambda: address(site.page) == {"type": ["a,b"]}, LATE_S, "the address")
    site.page.reload()
    expect(rows(site)).to_have_count(1)
    assert address(site.page) == {"type": ["a,b"]}


def test_an_agent_is_found_by_its_name(site: Site) -> None:
    site.insert("message", {"agent": "Harbour pilot", "text": "one"})
    site.insert("message", {"agent": "Harbour pilot", "text": "two"})
    expect(rows(site)).to_have_count(2)
    field = site.page.get_by_label("Agent", exact=True)
    field.focus()
    options = site.page.locator("#known-agents option")
    expect(options).to_have_attribute("value", "Harbour pilot")
    field.fill("harbour pilot")
    field.press("Enter")
    expect(chips(site)).to_have_text(re.compile("agent.*Harbour pilot"))
    expect(site.page).to_have_url(re.compile(rf"\?agent={AGENT}$"))


def test_no_match_offers_to_clear_the_filters(busy: Site) -> None:
    busy.page.get_by_label("Text", exact=True).fill("nowhere to be found")
    expect(busy.page.get_by_text("No event matches")).to_be_visible()
    busy.page.get_by_role("link", name="Clear filters").click()
    expect(rows(busy)).to_have_count(4)
    expect(busy.page.get_by_label("Text", exact=True)).to_have_value("")
    expect(busy.page.get_by_text("No event matches")).to_be_hidden()


def test_the_first_event_is_ready_to_copy_and_what_is_copied_works(site: Site) -> None:
    empty = site.page.locator("#empty")
    expect(empty).to_contain_text("curl ")
    expect(empty).to_contain_text(f"{site.server.url}/api/agents/events")
    statement = site.copied(empty.get_by_text("Copy", exact=True).first)
    site.database.execute(statement.encode())
    expect(rows(site)).to_have_count(1)
    expect(rows(site)).to_contain_text("142 tokens")


def test_without_javascript_the_form_filters_and_unticked_chips_go(
    busy: Site, browser: Any
) -> None:
    state = busy.page.context.storage_state()
    plain = browser.new_context(java_script_enabled=False, storage_state=state).new_page()
    plain.goto(f"{busy.server.url}/?type=turn_complete")
    expect(plain.locator(ROWS)).to_have_count(2)
    plain.get_by_label("Payload", exact=True).fill("payload.tokens > 1000")
    plain.get_by_role("button", name="Filter").click()
    expect(plain.locator(ROWS)).to_have_count(1)
    plain.get_by_role("checkbox", name="type turn_complete").uncheck()
    plain.get_by_label("Text", exact=True).fill("tokens")
    plain.get_by_role("button", name="Filter").click()
    expect(plain.locator(ROWS)).to_have_count(1)
    expect(plain).not_to_have_url(re.compile(r"[?&]type=[^&]"))
    plain.context.close()


def test_the_download_is_what_is_filtered(busy: Site) -> None:
    field = busy.page.get_by_label("Payload", exact=True)
    field.fill("payload.tokens > 1000")
    field.press("Enter")
    expect(rows(busy)).to_have_count(1)
    busy.page.locator("#download summary").click()
    with busy.page.expect_download() as found:
        busy.page.get_by_role("link", name="JSON lines").click()
    lines = found.value.path().read_text().splitlines()
    assert any('"tokens":5000' in line.replace(" ", "") for line in lines)
    assert not any('"tokens":5}' in line.replace(" ", "") for line in lines)


def test_the_state_is_in_words_with_an_age_and_says_what_to_do(site: Site) -> None:
    expect(site.page.locator("#state-age")).to_have_text("no event yet")
    site.insert()
    expect(site.page.locator("#state-age")).to_have_text(
        re.compile(r"last event (just now|\d+ s ago)")
    )
    expect(site.page.locator("#state")).to_have_attribute(
        "title", re.compile(r"Since \d\d:\d\d:\d\d")
    )
    site.server.kill()
    expect(site.state).to_have_text(re.compile(r"Reconnecting in \d+ s"))
    again = site.page.get_by_role("button", name="Try now")
    again.click()  # (with the server there, it might have come back by itself before the click)
    site.server.start()
    expect(site.state).to_have_text("Live", timeout=LATE)
    expect(again).to_be_hidden()


def test_signed_out_leads_to_the_sign_in_and_back_to_the_same_view(busy: Site) -> None:
    field = busy.page.get_by_label("Type", exact=True)
    field.fill("turn_complete")
    field.press("Enter")
    expect(rows(busy)).to_have_count(2)
    other = busy.page.context.new_page()
    other.goto(f"{busy.server.url}/")
    other.get_by_role("button", name="Sign out").click()
    expect(busy.state).to_have_text("Signed out", timeout=LATE)
    trouble = busy.page.locator("#trouble")
    expect(trouble).to_contain_text("You are signed out")
    expect(rows(busy)).to_have_count(2)
    trouble.get_by_role("link", name="Sign in again").click()
    expect(busy.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert "type%3Dturn_complete" in busy.page.url
    busy.console[:] = [line for line in busy.console if "401" not in line]


def test_what_stops_the_stream_is_said_in_words_on_the_page(site: Site) -> None:
    site.database.execute("DELETE FROM agent_events_membership WHERE tenant_id = %s", [site.tenant])
    site.server.restart()
    expect(site.state).to_have_text("Stopped", timeout=LATE)
    trouble = site.page.locator("#trouble")
    expect(trouble).to_be_visible()
    expect(trouble.locator("#trouble-reason")).not_to_be_empty()
    expect(trouble.get_by_role("link", name="Reload")).to_be_visible()
    expect(site.page.locator("#alarm")).to_contain_text("The stream has stopped")
    site.console[:] = [line for line in site.console if "40" not in line]


def test_an_error_is_said_at_once_and_the_rest_is_summed_up(site: Site) -> None:
    site.insert("tool.failed", {"tool": "search", "error": {"message": "no answer"}})
    expect(site.page.locator("#alarm")).to_contain_text("no answer")
    site.insert(n=3)
    expect(site.page.locator("#announcer")).to_contain_text(
        re.compile(r"\d new events"), timeout=LATE
    )
    expect(site.page.locator("#events")).to_have_attribute("aria-live", "off")


def test_title_and_icon_count_who_needs_a_human_and_nothing_else(site: Site) -> None:
    icon = site.page.locator('link[rel="icon"]')
    title = site.page.title()
    site.insert("error", {"message": "no"}, n=3)
    expect(rows(site)).to_have_count(3)
    expect(site.page).to_have_title(title)
    site.insert("needs_human", {"question": "May I?", "run_id": "run-1"})
    expect(site.page).to_have_title(f"(1) {title}")
    expect(icon).to_have_attribute("href", re.compile("favicon-alert"))
    expect(site.page.locator("#rail-needs")).to_contain_text("1")
    site.insert("human.answered", {"answer": "Yes", "run_id": "run-1"})
    expect(site.page).to_have_title(title)
    expect(icon).not_to_have_attribute("href", re.compile("favicon-alert"))


def hide(page: Page, hidden: bool) -> None:
    """Headless Chromium shows every page for good: the page is told what a browser would tell."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def later(page: Page, ms: int) -> None:
    """The page's clock goes on by so much."""
    page.evaluate("ms => { const now = Date.now; Date.now = () => now() + ms; }", ms)


def test_whoever_comes_back_is_told_what_came_and_led_to_the_first_error(site: Site) -> None:
    hide(site.page, True)
    site.insert("message", n=3)
    site.insert("error", {"message": "the first"})
    site.insert("error", {"message": "the second"})
    first = site.ids()[1]
    expect(rows(site)).to_have_count(5)
    later(site.page, 42 * 60_000)
    hide(site.page, False)
    away = site.page.locator("#away")
    expect(away).to_contain_text("You were away 42 min: 5 events, 2 errors: first error")
    away.get_by_role("link", name="first error").click()
    expect(site.page.locator(f"#event-{first}")).to_have_attribute("open", "")
    expect(away).to_be_hidden()


def test_a_glance_elsewhere_is_no_absence_and_the_bar_can_be_dismissed(site: Site) -> None:
    hide(site.page, True)
    site.insert(n=2)
    expect(rows(site)).to_have_count(2)
    later(site.page, 30_000)
    hide(site.page, False)
    expect(site.page.locator("#away")).to_be_hidden()
    hide(site.page, True)
    site.insert()
    expect(rows(site)).to_have_count(3)
    later(site.page, 61_000)
    hide(site.page, False)
    expect(site.page.locator("#away")).to_contain_text("1 event")
    site.page.get_by_role("button", name="Dismiss").click()
    expect(site.page.locator("#away")).to_be_hidden()


def ground(page: Page) -> str:
    """The colour behind everything."""
    found: str = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    return found


def test_the_theme_is_the_systems_or_a_choice_that_is_kept_and_there_before_the_page(
    site: Site,
) -> None:
    light = ground(site.page)
    site.page.emulate_media(color_scheme="dark")
    dark = ground(site.page)
    assert light != dark
    site.page.locator("#view-menu summary").click()
    site.page.get_by_label("Light", exact=True).check()
    assert ground(site.page) == light
    # (Before any module runs: the document is barely there.)
    site.page.route(
        "**/*.js",
        lambda route: route.continue_() if "theme.js" in route.request.url else route.abort(),
    )
    site.page.reload(wait_until="commit")
    site.page.wait_for_selector("#events", state="attached")
    assert ground(site.page) == light
    site.page.unroute("**/*.js")
    site.page.goto(f"{site.server.url}/accounts/login/")
    assert ground(site.page) == light
    site.page.goto(f"{site.server.url}/")
    site.page.locator("#view-menu summary").click()
    site.page.get_by_label("As the system").check()
    assert ground(site.page) == dark


def test_times_are_local_or_utc_by_one_switch_that_is_kept(site: Site, browser: Any) -> None:
    state = site.page.context.storage_state()
    context = browser.new_context(storage_state=state, timezone_id="Asia/Kathmandu", locale="en-GB")
    page = context.new_page()
    site.insert("message", {"text": "one"})
    page.goto(f"{site.server.url}/")
    time = page.locator(f"{ROWS} time").first
    iso = time.get_attribute("datetime") or ""
    assert iso.endswith("Z")
    local = time.inner_text()
    assert local != iso[11:23]
    assert local[6:] == iso[17:23]  # the same second and milliseconds, 5 h 45 min away
    time.hover()
    expect(time).to_have_attribute("title", re.compile(rf"GMT\+5:45\n{re.escape(iso)}$"))
    page.locator("#view-menu summary").click()
    page.get_by_label("UTC", exact=True).check()
    # The rows that are there, and when each instant is told exactly, follow at once.
    expect(time).to_have_text(iso[11:23])
    time.hover()
    expect(time).to_have_attribute("title", re.compile(re.escape(iso)))
    page.get_by_label("Local", exact=False).check()
    expect(time).to_have_text(local)
    page.get_by_label("UTC", exact=True).check()
    expect(time).to_have_text(iso[11:23])
    site.insert("message", {"text": "two"})
    expect(page.locator(ROWS)).to_have_count(2)
    newer = page.locator(f"{ROWS} time").first
    expect(newer).to_have_text((newer.get_attribute("datetime") or "")[11:23])
    page.reload()
    expect(time).to_have_text((time.get_attribute("datetime") or "")[11:23])
    context.close()


def test_going_to_a_time_shows_what_happened_before_it(site: Site) -> None:
    site.insert("message", {"text": "early"})
    expect(rows(site)).to_have_count(1)
    site.page.locator("#view-menu summary").click()
    site.page.get_by_label("UTC", exact=True).check()
    site.page.keyboard.press("Escape")
    between: str = site.database.execute(
        "SELECT to_char(timezone('UTC', now() + interval '1 s'), 'YYYY-MM-DD\"T\"HH24:MI:SS')"
    ).fetchall()[0][0]
    site.database.execute("SELECT pg_sleep(2)")
    site.insert("message", {"text": "late"})
    expect(rows(site)).to_have_count(2)
    site.page.locator("#jump summary").click()
    site.page.locator("#jump-time").fill(between)
    site.page.get_by_role("button", name="Go there").click()
    expect(rows(site)).to_have_count(1)
    expect(rows(site)).to_contain_text("early")
    wait_until(lambda: address(site.page).get("at") == [f"{between}.000Z"], LATE_S, "the address")
    expect(site.page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    site.page.go_back()
    expect(rows(site)).to_have_count(2)


def test_reduced_motion_moves_nothing(site: Site) -> None:
    site.page.emulate_media(reduced_motion="reduce")
    site.server.kill()
    expect(site.state).to_have_text(re.compile("Reconnecting"))
    moving: int = site.page.evaluate(
        "() => document.getAnimations()"
        ".filter((one) => one.effect.getComputedTiming().duration > 10).length"
    )
    assert moving == 0
    site.server.start()
    expect(site.state).to_have_text("Live", timeout=LATE)
