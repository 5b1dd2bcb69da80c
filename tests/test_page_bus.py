"""The bus in a quiet line: the delay, events a second, and their figures for who asks."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from playwright.sync_api import Locator, expect

from tests.support import make_user, wait_until
from tests.support.live_page import AGENT, LATE_S, Site

LATE = LATE_S * 1000


def bus(site: Site) -> Locator:
    """The line, and what it opens."""
    return site.page.locator("#bus")


def line(site: Site) -> Locator:
    """What is pressed to open it."""
    return site.page.locator("#bus > summary")


def insert_late(site: Site, seconds: float) -> None:
    """An event that was made so long ago, and comes only now."""
    site.database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
        " VALUES (%s, %s, 'turn_complete', %s, now() - make_interval(secs => %s))",
        [site.tenant, AGENT, json.dumps({"tokens": 1}), seconds],
    )


def lags(site: Site) -> bool:
    """Does the line say so?"""
    return bus(site).get_attribute("data-lag") is not None


def test_the_line_says_events_a_second_and_the_delay_from_the_insert_to_here(site: Site) -> None:
    expect(site.page.locator("#bus-rate")).to_have_text("0 events/s")
    expect(site.page.locator("#bus-delay")).to_be_empty()
    site.insert(n=20)
    expect(site.page.locator("#bus-rate")).to_have_text(re.compile(r"^[1-9][\d.]* events/s$"))
    expect(site.page.locator("#bus-delay")).to_have_text(
        re.compile(r"^delay (under 10 ms|\d+ ms|\d+\.\d s)$"), timeout=LATE
    )
    expect(site.page.locator("#bus-path")).to_have_attribute("d", re.compile("^M"), timeout=LATE)
    assert not lags(site)
    # Nothing comes any more, and it says that too.
    expect(site.page.locator("#bus-rate")).to_have_text("0 events/s", timeout=LATE)
    expect(site.page.locator("#bus-delay")).to_be_empty(timeout=LATE)


def test_lag_over_two_seconds_is_said_in_words_and_aloud_and_so_is_its_end(site: Site) -> None:
    def late() -> bool:
        insert_late(site, 4)
        return lags(site)

    wait_until(late, LATE_S, "the line to say that events come late")
    expect(site.page.locator("#bus-delay")).to_have_text(re.compile(r"^lag ([4-9]|\d\d)(\.\d)? s$"))
    expect(site.page.locator("#announcer")).to_contain_text("lag", timeout=LATE)

    def in_time() -> bool:
        site.insert(n=2)
        return not lags(site)

    wait_until(in_time, LATE_S, "the line to be quiet again")
    expect(site.page.locator("#bus-delay")).to_have_text(re.compile("^delay "))
    expect(site.page.locator("#announcer")).to_contain_text("late any more", timeout=LATE)


def test_one_late_event_is_no_lag(site: Site) -> None:
    site.insert(n=5)
    insert_late(site, 60)
    site.insert(n=5)
    expect(site.page.locator("#bus-delay")).to_have_text(re.compile("^delay "), timeout=LATE)
    expect(site.page.locator("#bus-delay")).to_be_empty(timeout=LATE)
    assert "lag" not in site.page.locator("#announcer").inner_text()


def test_with_a_filter_the_line_says_that_it_counts_what_matches(site: Site) -> None:
    site.page.goto(f"{site.server.url}/?type=tool.*")
    expect(site.state).to_have_text("Live", timeout=LATE)
    expect(site.page.locator("#bus-rate")).to_have_text("0 matching/s")
    site.insert("turn_complete", n=50)
    site.insert("tool.started", n=2)
    # (Of all that came it would be 10 and more, in each of the seconds that it counts as now.)
    expect(site.page.locator("#bus-rate")).to_have_text(
        re.compile(r"^(0\.[2-9]|1|2) matching/s$"), timeout=LATE
    )
    line(site).click()
    expect(site.page.locator("#bus-rates")).to_contain_text("that match the filter")


def test_the_figures_open_by_keyboard_and_escape_leads_back(site: Site) -> None:
    line(site).focus()
    site.page.keyboard.press("Enter")
    expect(site.page.locator("#bus-connected")).to_have_text(
        re.compile(r"^since \d\d:\d\d:\d\d, for \d+ s$")
    )
    expect(site.page.locator("#bus-reconnections")).to_contain_text("none")
    expect(site.page.locator("#bus-holes")).to_contain_text("none")
    site.insert(n=3)
    expect(site.page.locator("#bus-delays")).to_have_text(
        re.compile("half within .+, 95 of 100 within "), timeout=LATE
    )
    expect(site.page.locator("#bus-rates")).to_contain_text("in the last")
    site.page.keyboard.press("Escape")
    expect(bus(site)).not_to_have_attribute("open", "")
    expect(line(site)).to_be_focused()


def test_a_lost_connection_is_counted_once_however_often_it_is_tried(site: Site) -> None:
    line(site).click()
    site.server.stop()
    expect(site.page.locator("#bus-connected")).to_have_text("not now", timeout=LATE)
    expect(site.page.locator("#bus-rate")).to_have_text(re.compile(r"^\W events/s$"))
    site.server.start()
    expect(site.state).to_have_text("Live", timeout=LATE)
    expect(site.page.locator("#bus-reconnections")).to_have_text(
        re.compile(r"^1, the last at \d\d:\d\d:\d\d$")
    )
    expect(site.page.locator("#bus-connected")).to_contain_text("since")


def test_the_admins_page_of_the_bus_is_linked_for_whoever_may_see_it(
    site: Site, page_server: tuple[object, str]
) -> None:
    line(site).click()
    expect(bus(site).get_by_role("link")).to_have_count(0)
    name = f"root-{uuid.uuid4().hex[:8]}"
    make_user(page_server[1], name, superuser=True)
    site.page.context.clear_cookies()
    site.sign_in(name)
    line(site).click()
    bus(site).get_by_role("link", name="All figures of the bus").click()
    expect(site.page).to_have_url(re.compile("/admin/agent_events/bus/$"), timeout=LATE)


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_shows_nothing_of_it_but_lag(site: Site, width: int) -> None:
    site.page.set_viewport_size({"width": width, "height": 800})
    expect(bus(site)).to_be_hidden()

    def late() -> bool:
        insert_late(site, 4)
        return lags(site)

    wait_until(late, LATE_S, "the line to say that events come late")
    expect(site.page.locator("#bus-delay")).to_be_visible()
    line(site).click()
    expect(site.page.locator("#bus-delays")).to_be_in_viewport(ratio=1)
    wide = site.page.evaluate("() => document.documentElement.scrollWidth")
    assert wide == width
