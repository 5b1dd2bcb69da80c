"""The live page on a telephone, in a narrow window and at 200 % zoom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support import wait_until
from tests.support.live_page import LATE_S, Site

ROWS = "#events .row"
LONG = {
    "text": "a long word " * 40,
    "url": "https://example.com/" + "x" * 300,
    "agent": "Harbour pilot",
}


@pytest.fixture
def phone(site: Site, browser: Any) -> Iterator[Page]:
    """The page on a telephone, with three events."""
    site.insert("message", LONG, n=2)
    site.insert("tool.failed", {"tool": "search", "error": {"message": "no answer"}})
    context = browser.new_context(
        storage_state=site.page.context.storage_state(),
        viewport={"width": 390, "height": 844},
        device_scale_factor=2,
        is_mobile=True,
        has_touch=True,
    )
    page = context.new_page()
    page.goto(f"{site.server.url}/")
    expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    expect(page.locator(ROWS)).to_have_count(3)
    yield page
    context.close()


def assert_no_sideways_scroll(page: Page) -> None:
    """The document is as wide as the window."""
    width, window = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= window


def test_filters_are_behind_one_button_with_their_number_on_it(phone: Page) -> None:
    field = phone.get_by_label("Text", exact=True)
    button = phone.get_by_role("button", name="Filters")
    expect(field).to_be_hidden()
    expect(button).to_have_text("Filters ")
    button.tap()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(field).to_be_focused()
    field.fill("no answer")
    expect(phone.locator(ROWS)).to_have_count(1)
    expect(button).to_have_text("Filters 1")
    field.press("Enter")
    button.tap()
    expect(field).to_be_hidden()
    expect(phone.locator("#chips .chip")).to_have_count(1)
    assert_no_sideways_scroll(phone)
    phone.get_by_role("button", name="Remove: text no answer").tap()
    expect(phone.locator(ROWS)).to_have_count(3)


def test_a_row_opens_by_a_tap_and_the_pause_is_within_reach(phone: Page, site: Site) -> None:
    phone.locator(ROWS).first.locator(".row-text").tap()
    expect(phone.locator(f"{ROWS}[open]")).to_have_count(1)
    pause = phone.locator("#pause")
    expect(pause).to_have_attribute("aria-pressed", "true")
    site.insert()
    expect(pause).to_contain_text("1 new")
    box = pause.bounding_box()
    assert box is not None
    assert box["y"] > 700
    assert box["height"] >= 40
    assert_no_sideways_scroll(phone)
    pause.tap()
    expect(phone.locator(ROWS)).to_have_count(4)


def test_what_is_touched_is_large_enough(phone: Page) -> None:
    small = phone.evaluate(
        """() => {
            const found = [];
            for (const one of document.querySelectorAll("a, button, input, select, summary")) {
                const inText = one.closest(".visually-hidden, .skip-link, p");
                if (inText || !one.checkVisibility()) continue;
                const area = one.closest("label") ?? one;
                const { width, height } = area.getBoundingClientRect();
                if (width >= 24 && height >= 24) continue;
                found.push(`${one.outerHTML.slice(0, 90)} ${width} x ${height}`);
            }
            return found;
        }"""
    )
    assert small == []


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(320, 640, 2), (390, 844, 3), (720, 450, 2), (844, 390, 2)]
)
def test_nothing_scrolls_sideways_in_a_narrow_window_or_at_200_percent(
    site: Site, browser: Any, width: int, height: int, scale: int
) -> None:
    site.insert("message", LONG, n=3)
    context = browser.new_context(
        storage_state=site.page.context.storage_state(),
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
    )
    page = context.new_page()
    page.goto(f"{site.server.url}/?text=long&where=payload.text+~+%22{'a+long+word+' * 8}%22")
    expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    expect(page.locator(ROWS)).to_have_count(3)
    assert_no_sideways_scroll(page)
    page.locator(ROWS).first.locator("summary").click()
    expect(page.locator(f"{ROWS}[open]")).to_have_count(1)
    assert_no_sideways_scroll(page)
    for menu in ("#view-menu", "#jump", "#download"):
        page.locator(f"{menu} summary").click()
        sheet = page.locator(f"{menu} .menu-sheet")
        expect(sheet).to_be_visible()
        box = sheet.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert_no_sideways_scroll(page)
        page.keyboard.press("Escape")
    page.locator("#help-open").click()
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    wait_until(lambda: page.locator("#help").bounding_box() is not None, LATE_S, "the help")
    assert_no_sideways_scroll(page)
    context.close()
