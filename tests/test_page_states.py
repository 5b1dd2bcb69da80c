"""States that come together seldom: the page ends up whole."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Route, expect

from tests.support import wait_until
from tests.support.live_page import LATE_S, Site

LATE_MS = LATE_S * 1000


def test_back_to_another_filter_with_an_event_streams_by_that_filter(site: Site) -> None:
    site.insert("error")
    site.insert("turn_complete", n=150)  # which leave the error out of the first rows
    event = site.ids()[-1]
    site.in_the_log()
    page = site.page
    page.goto(f"{site.server.url}/?type=error&event={event}")
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    streams: list[str] = []
    page.on("websocket", lambda socket: streams.append(socket.url))
    page.evaluate("() => history.pushState(null, '', '/')")
    page.evaluate("() => history.pushState(null, '', '/?tenant=')")
    page.go_back()
    expect(page.locator("#events > .row")).to_have_count(100, timeout=LATE_MS)

    def streamed(what: str) -> bool:
        page.wait_for_timeout(20)  # Playwright tells of sockets while it waits, only
        return bool(streams) and ("type=error" in streams[-1]) == (what == "errors")

    wait_until(lambda: streamed("all"), LATE_S, "a stream of all events")
    assert event not in site.shown()
    page.go_back()
    expect(page.locator(f"#event-{event}")).to_have_attribute("open", "", timeout=LATE_MS)
    expect(page.locator("#events > .row")).to_have_count(1)
    wait_until(lambda: streamed("errors"), LATE_S, "a stream of errors alone")


def test_try_again_after_a_filter_failed_asks_for_that_filter_though_an_event_is_open(
    site: Site,
) -> None:
    site.insert("error")
    site.insert("turn_complete", n=3)
    page = site.page
    page.locator("#events .row summary").first.click()
    expect(page.locator("#events .row[open]")).to_have_count(1)

    def refuse(route: Route) -> None:
        route.abort()

    page.route("**/api/agents/events?*", refuse)
    page.locator("#filter-type").fill("error")
    page.locator("#filter-type").press("Enter")
    expect(page.locator("#feed-trouble")).to_be_visible(timeout=LATE_MS)
    page.unroute("**/api/agents/events?*", refuse)
    page.locator("#feed-trouble-again").click()
    wait_until(lambda: site.shown() == site.ids()[-1:], LATE_S, "the error alone")


def test_older_rows_that_failed_while_others_were_asked_for_are_asked_for_again(
    site: Site,
) -> None:
    site.insert(n=150)
    site.in_the_log()  # what came only now would be on the page, and no older rows to ask for
    page = site.page
    page.reload()
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    held: list[Any] = []
    page.route("**/api/agents/events?*", lambda route: held.append(route))
    page.evaluate("() => window.scrollTo(0, document.documentElement.scrollHeight)")
    wait_until(lambda: (page.wait_for_timeout(20), held)[1], LATE_S, "older rows to be asked for")
    page.locator("#filter-text").fill("nothing like it")
    page.locator("#filter-text").press("Enter")
    wait_until(lambda: (page.wait_for_timeout(20), len(held) > 1)[1], LATE_S, "the filter's rows")
    for route in held:
        route.abort()
    expect(page.locator("#feed-trouble")).to_be_visible(timeout=LATE_MS)
    expect(page.locator("#foot")).not_to_have_attribute("data-state", "loading")


def test_the_page_is_live_where_nothing_can_be_kept(site: Site) -> None:
    page = site.page
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })"
    )
    page.reload()
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    site.insert()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the row")
