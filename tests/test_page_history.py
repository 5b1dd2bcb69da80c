"""Back through the log in Chromium: to the first event, a time, one event, and back to now."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Route, expect

from tests.support import manage, wait_until
from tests.support.live_page import LATE_S, Site
from tests.support.server import Server
from tests.test_page_feed import LATE_MS, filled, insert_many

FOOT = "#foot"


def to_the_end(site: Site) -> None:
    """As far down as there is something, once."""
    site.page.evaluate("() => window.scrollTo(0, document.documentElement.scrollHeight)")


def read_on(site: Site, until: int) -> None:
    """Scrolls until so many rows are there."""

    def there() -> bool:
        to_the_end(site)
        return len(site.shown()) >= until

    wait_until(there, LATE_S, f"{until} rows", interval_s=0.1)


def test_scrolling_down_reads_back_to_the_first_event(site: Site) -> None:
    filled(site, 420)
    expect(site.page.locator("#events > .row")).to_have_count(100)
    read_on(site, 420)
    assert site.shown() == site.ids()
    expect(site.page.locator(FOOT)).to_contain_text("This is the first event of the log")


def test_a_long_way_back_makes_room_at_the_top_and_the_reader_stays_where_they_are(
    site: Site,
) -> None:
    filled(site, 1_500)
    read_on(site, 1_000)
    where: dict[str, Any] = site.page.evaluate(
        """() => {
            scrollBy(0, -4000);
            const rows = document.elementsFromPoint(700, 500).map(one => one.closest(".row"));
            const row = rows.find(Boolean);
            window.reader = row;
            return { id: row.dataset.id, top: row.getBoundingClientRect().top };
        }"""
    )
    # The next older rows come, and the newest go, while somebody reads in between.
    gap = site.page.locator('#events > [data-notice="gap"]')

    def made_room() -> bool:
        if gap.count() == 1:  # (and nothing more is on its way, which would make it larger)
            return site.page.locator(FOOT).get_attribute("data-state") != "loading"
        site.page.evaluate("() => document.getElementById('foot-action').click()")
        return False

    wait_until(made_room, LATE_S, "the newest rows to go", interval_s=0.2)
    top: float = site.page.evaluate("() => window.reader.getBoundingClientRect().top")
    assert abs(top - where["top"]) < 1
    expect(site.page.locator("#looking")).to_be_visible()
    ids, shown = site.ids(), site.shown()
    missing = ids.index(shown[0])
    expect(gap).to_contain_text(f"{missing} event")
    assert shown == ids[missing : missing + len(shown)]
    read_on_to_first = "This is the first event of the log"

    def at_the_end() -> bool:
        to_the_end(site)
        return read_on_to_first in (site.page.locator(FOOT).text_content() or "")

    wait_until(at_the_end, LATE_S, "the first event", interval_s=0.1)
    shown = site.shown()
    assert shown == ids[-len(shown) :]
    assert len(shown) <= 1_100
    site.page.get_by_role("button", name="Back to now").click()
    wait_until(lambda: site.shown()[:1] == ids[:1], LATE_S, "the newest rows")
    expect(site.page.locator("#pause")).to_have_text("Pause")


def test_a_filter_that_finds_nothing_for_long_is_looked_further_by_a_click(site: Site) -> None:
    site.insert("needle")
    # One look of the server's is some thousand rows, and the page looks a few times by itself.
    insert_many(site, 100_000)
    site.in_the_log()
    site.page.goto(f"{site.server.url}/?type=needle")
    foot = site.page.locator(FOOT)
    expect(foot).to_contain_text("Nothing found back to", timeout=LATE_MS)
    rows = site.page.locator("#events > .row")
    expect(rows).to_have_count(0)

    def found() -> bool:
        # (Not by the mouse, which would wait for a button that is there no more.)
        site.page.evaluate(
            """() => {
                const button = document.getElementById("foot-action");
                if (button.textContent === "Look further") button.click();
            }"""
        )
        return rows.count() == 1

    wait_until(found, LATE_S, "the needle")
    expect(foot).to_contain_text("This is the first event of the log")


def test_older_events_that_cannot_be_had_are_said_and_asked_for_again(site: Site) -> None:
    filled(site, 250)

    def refuse(route: Route) -> None:
        route.fulfill(status=503, body="{}", content_type="application/json")

    site.page.route("**/api/agents/events?*", refuse)
    to_the_end(site)
    foot = site.page.locator(FOOT)
    expect(foot).to_contain_text("Older events could not be loaded", timeout=LATE_MS)
    site.page.unroute("**/api/agents/events?*")
    foot.get_by_role("button", name="Try again").click()
    read_on(site, 250)
    assert site.shown() == site.ids()
    site.console[:] = [line for line in site.console if "503" not in line]


def test_a_time_shows_the_rows_before_it_and_newer_ones_can_be_loaded(site: Site) -> None:
    insert_many(site, 150)
    site.page.reload()
    wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "the first rows")
    time: str = site.database.execute(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
    ).fetchone()[0]  # type: ignore[index]
    middle = site.ids()
    insert_many(site, 250)
    wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "newer rows")
    site.page.goto(f"{site.server.url}/?at={time}")
    looking = site.page.locator("#looking")
    expect(looking).to_contain_text("Looking at")
    expect(site.page.locator("#pause")).to_contain_text("Paused")
    assert site.shown() == middle[:100]
    site.insert()
    expect(site.page.locator("#pause")).to_have_text("Paused: 1 new")
    gap = site.page.locator('#events > [data-notice="gap"]')
    gap.get_by_role("button", name="Load the next 200").click()
    wait_until(lambda: len(site.shown()) == 300, LATE_S, "newer rows")
    ids = site.ids()
    first = ids.index(site.shown()[0])
    assert site.shown() == ids[first : first + 300]
    gap.get_by_role("button", name="Load the next 200").click()
    expect(looking).to_be_hidden()
    # The reader stays where they are, which is below the rows that came.
    site.page.keyboard.press("Home")
    wait_until(lambda: site.shown()[:100] == ids[:100], LATE_S, "the list to go on")


def test_back_to_now_follows_again_and_the_address_is_the_view(site: Site) -> None:
    filled(site, 150)
    cursor = site.page.locator("main").get_attribute("data-before")
    assert cursor
    site.page.goto(f"{site.server.url}/?at={cursor}")
    expect(site.page.locator("#events > .row")).to_have_count(50)
    site.page.get_by_role("button", name="Back to now").click()
    wait_until(lambda: site.shown()[:100] == site.ids()[:100], LATE_S, "the newest rows")
    wait_until(lambda: "at=" not in site.page.evaluate("location.search"), LATE_S, "the address")
    site.insert()
    wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "the list to follow")


def test_a_permalink_opens_an_event_among_its_neighbours_paused(site: Site) -> None:
    filled(site, 100)
    ids = site.ids()
    row = site.page.locator(f"#event-{ids[50]}")
    row.locator(".row-text").click()
    link = site.copied(row.locator(".row-actions").get_by_text("Copy link"))
    insert_many(site, 50)
    site.page.goto(link)
    expect(row).to_have_attribute("open", "")
    expect(row.locator(".row-payload")).to_be_visible()
    # (Ten newer ones; of older ones more come where the window has room.)
    assert site.shown()[:21] == ids[40:61]
    expect(row).to_be_in_viewport()
    expect(site.page.locator("#pause")).to_contain_text("Paused")
    expect(site.page.locator("#looking")).to_contain_text("Looking at")
    # It stays so: what comes is counted, and the reader is not moved.
    place = row.evaluate("row => row.getBoundingClientRect().top")
    insert_many(site, 5)
    expect(site.page.locator("#pause")).to_have_text(re.compile(r"Paused: \d+ new"))
    assert site.shown()[:21] == ids[40:61]
    assert abs(row.evaluate("row => row.getBoundingClientRect().top") - place) < 1
    # The same from within the page.
    site.page.get_by_role("button", name="Back to now").click()
    wait_until(lambda: site.shown()[:100] == site.ids()[:100], LATE_S, "the newest rows")
    far = site.ids()[140]
    site.page.evaluate(
        """id => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", id);
            const paste = { clipboardData, bubbles: true, cancelable: true };
            document.dispatchEvent(new ClipboardEvent("paste", paste));
        }""",
        str(far),
    )
    expect(site.page.locator(f"#event-{far}")).to_have_attribute("open", "", timeout=LATE_MS)
    assert site.shown()[:20] == site.ids()[130:150]
    wait_until(
        lambda: f"event={far}" in site.page.evaluate("location.search"), LATE_S, "the address"
    )


def test_an_event_that_is_gone_says_so_and_leads_on(site: Site) -> None:
    filled(site, 3)
    site.page.goto(f"{site.server.url}/?event=999999999")
    expect(site.page.locator("#missing")).to_contain_text("not in the log any more")
    site.page.get_by_role("link", name="Go on without it").click()
    expect(site.page.locator("#events > .row")).to_have_count(3)
    site.console[:] = [line for line in site.console if "404" not in line]


def test_an_opened_event_that_left_the_page_is_open_again_when_it_comes_back(site: Site) -> None:
    filled(site, 30)
    row = site.page.locator("#events > .row").nth(5)
    row.locator(".row-text").click()
    opened = site.shown()[5]
    site.page.locator("#pause").click()

    for _ in range(40):
        insert_many(site, 100)  # (of what comes faster than people read not all is shown)
        wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "the newest")
        if opened not in site.shown():
            break
    assert opened not in site.shown()
    read_on_until = site.page.locator(f"#event-{opened}")

    def back() -> bool:
        to_the_end(site)
        return read_on_until.count() == 1

    wait_until(back, LATE_S, "the old rows", interval_s=0.1)
    expect(read_on_until).to_have_attribute("open", "")


def test_without_javascript_links_lead_back_and_on(site: Site, browser: Any) -> None:
    filled(site, 220)
    state = site.page.context.storage_state()
    plain = browser.new_context(java_script_enabled=False, storage_state=state).new_page()
    plain.goto(f"{site.server.url}/")
    rows = plain.locator("#events > .row")
    expect(rows).to_have_count(100)
    plain.get_by_role("link", name="Older").click()
    plain.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(20)
    expect(plain.get_by_text("Older", exact=True)).to_have_count(0)
    plain.get_by_role("link", name="Newer").click()
    expect(rows).to_have_count(100)
    plain.context.close()


def test_where_older_events_were_pruned_the_end_of_the_list_says_so(
    site: Site, page_server: tuple[Server, str]
) -> None:
    filled(site, 150)
    read_on(site, 150)
    manage("prune_events", "--older-than", "0s", dsn=page_server[1])
    insert_many(site, 3)
    site.in_the_log()
    site.page.reload()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what is left")
    expect(site.page.locator(FOOT)).to_contain_text("Older events were pruned from the log")
