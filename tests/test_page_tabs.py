"""Tabs of one browser that show the same share one stream, however many they are."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support import wait_until
from tests.support.live_page import LATE_S, Site

SEEN = "#events > .row"


def test_two_tabs_of_the_same_view_open_one_stream_and_show_the_same(site: Site) -> None:
    opened: list[Page] = []

    def watch(page: Page) -> None:
        page.on("websocket", lambda _socket: opened.append(page))

    for page in (site.page, site.page.context.new_page()):
        watch(page)
        page.goto(f"{site.server.url}/")
        expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    first, second = site.page, site.page.context.pages[-1]
    site.insert(n=3)
    for page in (first, second):
        expect(page.locator(SEEN)).to_have_count(3)
    assert len(opened) == 1
    # Another view has a stream of its own.
    second.goto(f"{site.server.url}/?type=message")
    expect(second.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    assert opened == [first, second]


def test_the_tab_that_has_the_stream_is_closed_and_the_other_goes_on(site: Site) -> None:
    other = site.page.context.new_page()
    other.goto(f"{site.server.url}/")
    expect(other.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    streams: list[str] = []
    other.on("websocket", lambda socket: streams.append(socket.url))
    site.insert(n=2)
    expect(other.locator(SEEN)).to_have_count(2)
    site.page.goto("about:blank")
    site.insert(n=2)
    expect(other.locator(SEEN)).to_have_count(4, timeout=LATE_S * 1000)
    # (Playwright tells of sockets while it waits, only.)
    wait_until(
        lambda: (other.wait_for_timeout(20), len(streams) == 1)[1], LATE_S, "a stream of its own"
    )
    site.page = other
    assert site.shown() == site.ids()
