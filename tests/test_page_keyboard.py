"""The live page by keyboard alone."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.support import make_user, wait_until
from tests.support.live_page import LATE_S, Site

ROWS = "#events .row"


def rows(page: Page) -> Locator:
    """The rows of events."""
    return page.locator(ROWS)


def selected(site: Site) -> str | None:
    """The id of the event that is selected."""
    found: str | None = site.page.evaluate(
        "() => document.activeElement?.closest('.row')?.dataset.id"
        " ?? document.querySelector('#events [aria-selected=true], #events .is-selected')"
        "?.closest('.row')?.dataset.id ?? null"
    )
    return found


def tab_to(page: Page, there: Locator) -> None:
    """Press Tab until this has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if there.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"Tab never came to {there}")


def test_from_the_sign_in_to_an_opened_event(site: Site, browser: Any) -> None:
    site.insert("message", {"text": "hello"}, n=3)
    username = f"mara-{uuid.uuid4().hex[:8]}"
    make_user(
        site.database.info.dsn + f" password={site.database.info.password}",
        username,
        tenants=[site.tenant],
    )
    page = browser.new_context().new_page()
    page.goto(f"{site.server.url}/")
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type(username)
    page.keyboard.press("Tab")
    page.keyboard.type(username)
    page.keyboard.press("Enter")
    expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE_S * 1000)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    expect(rows(page)).to_have_count(3)
    tab_to(page, rows(page).first.locator("summary"))
    page.keyboard.press("Enter")
    expect(rows(page).first).to_have_attribute("open", "")
    expect(rows(page).first.locator(".row-payload")).to_contain_text("hello")
    page.context.close()


def test_everything_can_be_reached_by_tab_and_shows_where_it_is(site: Site) -> None:
    site.insert("message", {"text": "hello"})
    expect(rows(site.page)).to_have_count(1)
    site.page.keyboard.press("Home")
    wanted = {"filter-agent", "filter-type", "filter-text", "filter-where", "pause", "help-open"}
    seen: set[str] = set()
    for _ in range(60):
        site.page.keyboard.press("Tab")
        where = site.page.evaluate(
            """() => {
                const at = document.activeElement;
                const style = getComputedStyle(at);
                const { outlineStyle, outlineWidth } = style;
                const visible = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
                const name = at.outerHTML.slice(0, 80);
                return { id: at.id, name, visible, body: at === document.body };
            }"""
        )
        if where["body"]:
            break
        assert where["visible"], where["name"]
        seen.add(where["id"])
    assert wanted <= seen


def test_j_and_k_select_enter_opens_escape_closes(site: Site) -> None:
    site.insert("message", {"text": "hello"}, n=4)
    expect(rows(site.page)).to_have_count(4)
    ids = [str(one) for one in site.ids()]
    press = site.page.keyboard.press
    press("j")
    wait_until(lambda: selected(site) == ids[0], LATE_S, "the newest")
    press("j")
    press("j")
    wait_until(lambda: selected(site) == ids[2], LATE_S, "the third")
    press("k")
    wait_until(lambda: selected(site) == ids[1], LATE_S, "the second")
    second = site.page.locator(f"#event-{ids[1]}")
    press("Enter")
    expect(second).to_have_attribute("open", "")
    press("o")
    expect(second).not_to_have_attribute("open", "")
    press("o")
    expect(second).to_have_attribute("open", "")
    # The feed stands still meanwhile: nothing moves under who reads.
    site.insert()
    expect(site.page.locator("#pause")).to_contain_text("1 new")
    press("Escape")
    press("g")
    wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "live again")


def test_slash_searches_and_keys_rest_while_somebody_types(site: Site) -> None:
    site.insert("message", {"text": "jig"}, n=2)
    expect(rows(site.page)).to_have_count(2)
    site.page.keyboard.press("/")
    field = site.page.get_by_label("Text", exact=True)
    expect(field).to_be_focused()
    site.page.keyboard.type("jog? c")
    expect(field).to_have_value("jog? c")
    expect(site.page.locator("#help")).to_be_hidden()
    expect(site.page.get_by_text("No event matches")).to_be_visible()
    site.page.keyboard.press("Escape")
    expect(field).not_to_be_focused()


def test_keys_of_the_browser_stay_the_browsers(site: Site) -> None:
    site.insert(n=2)
    expect(rows(site.page)).to_have_count(2)
    for keys in ("Control+j", "Alt+j", "Meta+j"):
        site.page.keyboard.press(keys)
    assert selected(site) is None


def test_space_pauses_and_goes_on(site: Site) -> None:
    site.page.keyboard.press("Space")
    expect(site.page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    site.page.keyboard.press("Space")
    expect(site.page.locator("#pause")).to_have_attribute("aria-pressed", "false")


def test_capital_g_goes_to_the_oldest_and_g_back_to_the_newest(site: Site) -> None:
    site.insert(n=90)
    expect(rows(site.page)).to_have_count(90)
    site.page.keyboard.press("Shift+G")
    expect(rows(site.page).last).to_be_in_viewport()
    site.page.keyboard.press("g")
    expect(rows(site.page).first).to_be_in_viewport()
    expect(site.page.locator("#pause")).to_have_attribute("aria-pressed", "false")


def test_question_mark_shows_the_keys_and_the_command_for_this_filter(site: Site) -> None:
    site.page.goto(f"{site.server.url}/?type=tool.*&text=it%27s&where=payload.tokens+%3E+1000")
    expect(site.state).to_have_text("Live")
    site.page.keyboard.press("?")
    dialog = site.page.get_by_role("dialog", name="Help")
    expect(dialog).to_be_visible()
    command = (
        f"python manage.py listen_events --tenant={site.tenant} --type='tool.*' --text='it'\\''s'"
        " --where='payload.tokens > 1000'"
    )
    expect(dialog.locator("#help-command")).to_have_text(command)
    assert site.copied(dialog.get_by_text("Copy", exact=True).first) == command
    site.page.keyboard.press("j")
    assert selected(site) is None
    site.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_c_copies_the_event_and_l_a_link_that_opens_it(site: Site) -> None:
    site.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    site.insert("message", {"text": "the one"})
    site.insert("message", {"text": "another"})
    expect(rows(site.page)).to_have_count(2)
    site.page.keyboard.press("j")
    site.page.keyboard.press("j")
    site.page.keyboard.press("c")

    def clipboard() -> str:
        text: str = site.page.evaluate("() => navigator.clipboard.readText()")
        return text

    wait_until(lambda: "the one" in clipboard(), LATE_S, "the copy")
    site.page.keyboard.press("l")
    wait_until(lambda: clipboard().startswith("http"), LATE_S, "the link")
    link = clipboard()
    assert parse_qs(urlsplit(link).query)["event"] == [str(site.ids()[1])]
    other = site.page.context.new_page()
    other.goto(link)
    expect(other.locator(f"#event-{site.ids()[1]}")).to_have_attribute("open", "")
    expect(other.locator("#pause")).to_have_attribute("aria-pressed", "true")


def paste(page: Page, text: str) -> None:
    """As the browser does for Ctrl-V."""
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.keyboard.press("Control+v")


def test_an_id_or_a_cursor_pasted_anywhere_goes_there(site: Site) -> None:
    site.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    site.insert("message", {"text": "the one"})
    expect(rows(site.page)).to_have_count(1)
    wanted = site.ids()[0]
    site.page.reload()
    cursor = site.page.locator("main").get_attribute("data-cursor") or ""
    site.insert("message", {"text": "later"}, n=3)
    expect(rows(site.page)).to_have_count(4)
    paste(site.page, f" {wanted} ")
    expect(site.page.locator(f"#event-{wanted}")).to_have_attribute("open", "")
    site.page.keyboard.press("Escape")
    site.page.keyboard.press("g")
    expect(rows(site.page)).to_have_count(4)
    paste(site.page, cursor)
    expect(rows(site.page)).to_have_count(1)
    expect(rows(site.page)).to_contain_text("the one")
    site.page.keyboard.press("g")
    expect(rows(site.page)).to_have_count(4)
    field = site.page.get_by_label("Text", exact=True)
    field.focus()
    paste(site.page, str(wanted))
    expect(field).to_have_value(str(wanted))
    expect(site.page).not_to_have_url(re.compile("event="))
