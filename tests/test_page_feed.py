"""The feed in Chromium: what moves and what does not, and that nothing is left out in silence."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Locator, WebSocketRoute, expect

from tests.support import wait_until
from tests.support.live_page import AGENT, LATE_S, Site

LATE_MS = LATE_S * 1000


def insert_many(site: Site, n: int, event_type: str = "turn_complete") -> None:
    """So many rows in one statement."""
    site.database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT %s, %s, %s, '{}' FROM generate_series(1, %s)",
        [site.tenant, AGENT, event_type, n],
    )


def filled(site: Site, n: int) -> None:
    """The page shows so many rows, and is at its top."""
    insert_many(site, n)
    site.in_the_log()
    site.page.reload()
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    wait_until(lambda: len(site.shown()) >= min(n, 100), LATE_S, "the first rows")


def top_of(row: Locator) -> float:
    box: float = row.evaluate("row => row.getBoundingClientRect().top")
    return box


def grown(site: Site, before: int) -> None:
    """More rows than before are there."""
    wait_until(lambda: len(site.shown()) > before, LATE_S, "rows of the gap")


def button(site: Site) -> Locator:
    return site.page.locator("#pause")


def test_at_the_top_it_follows_newest_first(site: Site) -> None:
    filled(site, 30)
    site.insert(n=3)
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the newest on top")
    expect(button(site)).to_have_text("Pause")


def test_paused_is_unmistakable_and_counts_what_waits(site: Site) -> None:
    filled(site, 3)
    colour = "element => getComputedStyle(element).backgroundColor"
    before = button(site).evaluate(colour)
    site.page.keyboard.press("Space")
    site.insert("turn_complete", n=5)
    site.insert("error", n=2)
    expect(button(site)).to_have_text("Paused: 7 new, 2 errors")
    expect(button(site)).to_have_attribute("aria-pressed", "true")
    assert button(site).evaluate(colour) != before
    assert len(site.shown()) == 3
    site.page.keyboard.press("Space")
    expect(button(site)).to_have_text("Pause")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what waited")


def test_nothing_moves_while_it_is_scrolled(site: Site) -> None:
    filled(site, 80)
    site.page.mouse.move(600, 500)
    site.page.mouse.wheel(0, 900)
    expect(button(site)).to_have_text("Paused: 0 new")
    # (It says so as the scrolling begins, which takes a while.)
    wait_until(lambda: site.page.evaluate("scrollY") == 900, LATE_S, "it to be scrolled")
    row = site.page.locator("#events > .row").nth(40)
    where = top_of(row)
    insert_many(site, 50)
    expect(button(site)).to_have_text("Paused: 50 new")
    assert top_of(row) == where
    site.page.keyboard.press("Home")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the list to follow at the top")


def test_nothing_moves_while_a_row_is_open_or_selected_or_text_is(site: Site) -> None:
    filled(site, 20)
    first = site.page.locator("#events > .row .row-text").first
    first.click()
    site.insert()
    expect(button(site)).to_have_text("Paused: 1 new")
    first.click()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what waited")
    site.page.keyboard.press("j")
    site.insert()
    expect(button(site)).to_have_text("Paused: 1 new")
    site.page.keyboard.press("Escape")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what waited")
    site.page.evaluate(
        "() => getSelection().selectAllChildren(document.querySelector('.row-what'))"
    )
    site.insert()
    expect(button(site)).to_have_text("Paused: 1 new")
    site.page.evaluate("() => getSelection().removeAllRanges()")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what waited")


def gap_past_the_cap(site: Site, events: int) -> Locator:
    """What stands for those not shown, where so many came while it was paused."""
    button(site).click()
    for _ in range(events // 250):
        insert_many(site, 250)
    expect(button(site)).to_have_text(f"Paused: {events:,} new", timeout=LATE_MS)
    button(site).click()
    return site.page.locator('[data-notice="gap"]')


def test_past_the_cap_a_gap_says_how_many_and_a_click_reads_exactly_those(site: Site) -> None:
    filled(site, 2)
    gap = gap_past_the_cap(site, 1_500)
    expect(gap).to_contain_text("events not shown", timeout=LATE_MS)
    ids = site.ids()
    wait_until(
        lambda: (site.shown()[0], site.shown()[-2:]) == (ids[0], ids[-2:]), LATE_S, "what waited"
    )
    shown = site.shown()
    newest = len(shown) - 2
    assert shown == ids[:newest] + ids[-2:]
    expect(gap).to_contain_text(f"{1500 - newest:,} events not shown")
    while gap.count():
        before = len(site.shown())
        gap.get_by_role("button", name="Load").first.click()
        grown(site, before)
        shown = site.shown()
        assert shown == [one for one in ids if one in set(shown)], "each once, in order"
    assert site.shown() == ids


def test_filling_a_gap_moves_nothing_under_the_reader(site: Site) -> None:
    filled(site, 60)
    gap = gap_past_the_cap(site, 1_250)
    expect(gap).to_be_attached(timeout=LATE_MS)
    site.page.evaluate(
        """() => {
            const gap = document.querySelector('[data-notice="gap"]');
            scrollBy(0, gap.getBoundingClientRect().top - 250);
        }"""
    )
    below = site.page.locator('[data-notice="gap"] + .row')
    above = site.page.locator('.row:has(+ [data-notice="gap"])')
    reader = above.element_handle()
    assert reader is not None
    where = reader.evaluate("row => row.getBoundingClientRect().top")
    expect(below).to_be_visible()
    size = len(site.shown())
    gap.get_by_role("button", name="Load").first.click()
    wait_until(lambda: len(site.shown()) > size, LATE_S, "rows of the gap")
    assert abs(reader.evaluate("row => row.getBoundingClientRect().top") - where) < 1


def test_a_flood_skips_to_its_end_and_says_so(site: Site) -> None:
    filled(site, 10)
    for _ in range(40):
        insert_many(site, 500)
    wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "the newest")
    expect(site.page.locator('[data-notice="gap"]').first).to_contain_text("events not shown")
    shown, ids = site.shown(), site.ids()
    assert shown == [one for one in ids if one in set(shown)]
    assert len(shown) <= 1_100


def test_the_page_keeps_a_thousand_rows_or_so(site: Site) -> None:
    filled(site, 100)
    for _ in range(15):
        insert_many(site, 100)
        wait_until(lambda: site.shown()[:1] == site.ids()[:1], LATE_S, "the newest")
        # No flood: a few hundred a second.
        site.page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    shown = site.shown()
    assert 900 <= len(shown) <= 1_100
    assert shown == site.ids()[: len(shown)]


def test_a_hidden_page_takes_everything_and_shows_it_when_it_is_seen(site: Site) -> None:
    filled(site, 5)
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        window.raf ??= window.requestAnimationFrame;
        window.requestAnimationFrame = hidden ? () => 0 : window.raf;
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    site.page.evaluate(hide, True)
    site.insert(n=3)
    # Once a second, without animation frames.
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "a hidden page to draw")
    insert_many(site, 40)
    site.page.evaluate(hide, False)
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "all of it")


def test_what_is_open_survives_new_rows_a_filter_and_a_reconnection(site: Site) -> None:
    site.insert("message", {"text": "first"})
    site.insert("error", {"error": {"message": "second"}})
    rows = site.page.locator("#events > .row")
    expect(rows).to_have_count(2)
    for at in range(2):
        rows.nth(at).locator(".row-text").click()
    expect(site.page.locator(".row[open]")).to_have_count(2)
    expect(site.page.locator(".row[open] .row-payload")).to_have_count(2)
    opened = site.shown()
    button(site).click()
    site.insert(n=3)
    expect(rows).to_have_count(5)
    kept = site.page.locator(".row[open]")
    expect(kept).to_have_count(2)
    site.page.get_by_label("Type", exact=True).fill("error")
    site.page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    expect(kept).to_have_attribute("data-id", str(opened[0]))
    expect(kept.locator(".row-payload")).to_contain_text("second")
    site.page.get_by_text("Clear", exact=True).first.click()
    expect(rows).to_have_count(5)
    expect(kept).to_have_count(2)
    expect(button(site)).to_have_text("Pause")
    site.server.restart()
    site.insert(n=2)
    expect(rows).to_have_count(7, timeout=LATE_MS)
    expect(kept).to_have_count(2)


def test_a_reconnection_says_how_long_and_how_many(site: Site) -> None:
    filled(site, 3)
    site.server.kill()
    expect(site.state).to_contain_text("Reconnecting")
    site.insert(n=4)
    # (Another process has closed their batch.)
    site.database.execute("SELECT n FROM agent_events_append()")
    site.server.start()
    said = site.page.locator('[data-notice="caught-up"]')
    expect(said).to_contain_text("caught up 4 events", timeout=LATE_MS)
    expect(said).to_contain_text("Reconnected after")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "what was missed")


def test_what_was_pruned_and_a_log_put_back_are_said_where_it_happened(site: Site) -> None:
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    site.page.route_web_socket("**/ws/agents/stream*", through)
    filled(site, 3)
    before = site.shown()
    cursor = site.page.locator("main").get_attribute("data-cursor")
    for kind in ("truncated", "reset"):
        sockets[-1].send(json.dumps({"type": kind, "cursor": cursor}))
    expect(site.page.locator('[data-notice="truncated"]')).to_contain_text("were pruned")
    expect(site.page.locator('[data-notice="reset"]')).to_contain_text(
        "put back to an earlier state"
    )
    site.insert()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the stream to go on")
    below: str = site.page.evaluate(
        "() => document.querySelector('[data-notice=truncated] + .row').dataset.id"
    )
    assert int(below) == before[0]


def test_a_payload_is_highlighted_folded_and_copied_as_json(site: Site) -> None:
    payload = {
        "text": "one\ntwo",
        "deep": {"a": {"b": {"c": {"d": {"e": 17}}}}},
        "many": list(range(5_000)),
        "flag": None,
    }
    site.insert("message", payload)
    row = site.page.locator("#events > .row")
    row.locator(".row-text").click()
    shown = row.locator(".row-payload")
    expect(shown).to_contain_text('"flag": null')
    expect(shown.locator('[data-kind="string"]').first).to_have_text('"one\ntwo"')
    # A long list is made a hundred at a time, a deep value when it is opened.
    assert shown.locator("*").count() < 1_500
    assert "17" not in (shown.locator(".json-line").nth(1).text_content() or "")
    for _ in range(6):
        folded = shown.locator('[data-json="fold"][aria-expanded="false"]').first
        if not folded.is_visible():
            break
        folded.click()
    expect(shown).to_contain_text('"e": 17')
    shown.locator('[data-json="more"]').first.click()
    expect(shown).to_contain_text("199")
    copied = site.copied(row.locator(".row-actions").get_by_text("Copy JSON"))
    assert json.loads(copied) == payload


def test_a_payload_too_long_to_keep_is_read_in_full_when_it_is_wanted(site: Site) -> None:
    payload = {"tool": "search_orders", "found": [f"order {n}" for n in range(12_000)]}
    asked: list[str] = []
    site.page.on("request", lambda request: asked.append(request.url))
    site.insert("message", payload)
    row = site.page.locator("#events > .row")
    expect(row).to_contain_text("Large payload: open the row to load it")
    event = f"/api/agents/events/{site.ids()[0]}"
    assert not any(event in url for url in asked)
    row.locator(".row-text").click()
    expect(row.locator(".row-payload")).to_contain_text("order 99")
    assert any(event in url for url in asked)
    copied = site.copied(row.locator(".row-actions").get_by_text("Copy JSON"))
    assert json.loads(copied) == payload


def test_a_payload_is_read_with_the_keyboard(site: Site) -> None:
    site.insert("message", {"a": {"b": 1}})
    row = site.page.locator("#events > .row")
    row.locator("summary").focus()
    site.page.keyboard.press("Enter")
    shown = row.locator(".row-payload")
    expect(shown).to_contain_text('"b": 1')
    shown.focus()
    site.page.keyboard.press("ArrowDown")
    expect(shown.locator('[data-json="fold"]').first).to_be_focused()
    site.page.keyboard.press("ArrowDown")
    site.page.keyboard.press("Enter")
    expect(shown.locator('[data-json="fold"]').nth(1)).to_have_attribute("aria-expanded", "false")


def test_a_click_on_a_value_an_agent_or_a_type_filters(site: Site) -> None:
    site.insert("message", {"run": {"id": "run-17"}, "text": "seventeen"})
    site.insert("message", {"run": {"id": "run-18"}, "text": "eighteen"})
    site.insert("error", {"message": "x"})
    rows = site.page.locator("#events > .row")
    expect(rows).to_have_count(3)
    rows.first.locator(".badge").click()
    expect(rows).to_have_count(1)
    rows.first.locator(".badge").click()
    expect(rows).to_have_count(3)
    rows.first.locator(".badge").click(modifiers=["Alt"])
    expect(rows).to_have_count(2)
    wait_until(
        lambda: "not_type=error" in site.page.evaluate("location.search"), LATE_S, "the address"
    )
    rows.last.locator(".row-text").click()
    rows.last.locator('.json-value:has-text("run-17")').click()
    site.page.get_by_role("button", name="Filter by this value").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("seventeen")


def test_a_wrong_filter_is_said_and_the_rows_stay(site: Site) -> None:
    filled(site, 5)
    site.page.get_by_label("Payload", exact=True).fill("tokens >")
    site.page.keyboard.press("Enter")
    expect(site.page.locator("#filter-error")).to_be_visible()
    assert len(site.shown()) == 5
    site.insert()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "the stream to go on")
    # (The browser says that the server refused.)
    site.console[:] = [line for line in site.console if "400 (Bad Request)" not in line]


def test_no_match_says_so_and_leads_back(site: Site) -> None:
    filled(site, 5)
    site.page.get_by_label("Type", exact=True).fill("nothing.*")
    site.page.keyboard.press("Enter")
    expect(site.page.get_by_role("heading", name="No event matches")).to_be_visible()
    site.page.locator("#empty").get_by_text("Clear filters").click()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "all rows again")


def test_numbers_survive_whatever_their_neighbours_are(site: Site) -> None:
    texts = ["12345678901234567890", "1.50", "0.00000001", "100.0", "123456789.123456789"]
    kept: list[str] = site.page.evaluate(
        """async texts => {
            const main = document.querySelector("script[src*=main]").src;
            const { parse } = await import(main.replace("main", "json"));
            const within = text => `{"a": [${text}, 1], "b": {"c": ${text}}}`;
            return texts.map(text => JSON.stringify(parse(within(text))));
        }""",
        texts,
    )
    assert kept == [f'{{"a":[{text},1],"b":{{"c":{text}}}}}' for text in texts]


def test_a_call_and_its_result_are_one_line(site: Site) -> None:
    call: dict[str, Any] = {"run_id": "r1", "tool_call_id": "c1", "tool": "search_orders"}
    site.insert("tool.started", call | {"arguments": {"order": "A-77"}})
    rows = site.page.locator("#events > .row")
    expect(rows).to_be_visible()
    site.insert("tool.finished", call | {"result": {"rows": 3}, "duration_ms": 820})
    expect(rows).to_have_count(2)
    expect(rows.last).to_be_hidden()
    expect(rows.first).to_contain_text("search_orders")
    expect(rows.first).to_contain_text("A-77")
    expect(rows.first).to_contain_text("rows: 3")
    expect(rows.first).to_contain_text("820 ms")


def test_a_handoff_shows_from_and_to_and_unknown_types_what_they_carry(site: Site) -> None:
    site.insert("handoff", {"from_agent": "triage", "to_agent": "refunds", "reason": "money"})
    site.insert("warehouse.moved", {"shelf": "B2", "boxes": 7})
    rows = site.page.locator("#events > .row")
    expect(rows.last).to_contain_text("triage → refunds")
    expect(rows.first).to_contain_text("boxes: 7 · shelf: B2")


def test_kinds_differ_by_shape_and_not_by_colour_alone(site: Site) -> None:
    for kind in ("run.started", "turn.started", "tool.started", "handoff", "message", "error"):
        site.insert(kind, {"text": "x"})
    site.insert("needs_human", {"question": "Which?"})
    expect(site.page.locator("#events > .row")).to_have_count(7)
    shapes: list[str] = site.page.eval_on_selector_all(
        "#events .badge", "all => all.map(one => getComputedStyle(one, '::before').clipPath)"
    )
    assert len(set(shapes)) == 7


def test_days_are_set_apart_and_the_exact_instant_is_on_hover(site: Site) -> None:
    for stamp in ("2026-01-05T10:00:00.123456Z", "2026-01-06T10:00:00Z", "2026-01-06T11:00:00Z"):
        site.database.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
            " VALUES (%s, %s, 'message', '{}', %s)",
            [site.tenant, AGENT, stamp],
        )
    expect(site.page.locator("#events > .row")).to_have_count(3)
    days = site.page.locator('#events > [data-notice="day"]')
    expect(days).to_have_count(1)
    expect(days).to_contain_text("5")
    oldest = site.page.locator("#events > .row time").last
    expect(oldest).to_have_attribute("datetime", "2026-01-05T10:00:00.123456Z")
    oldest.hover()
    assert "2026-01-05T10:00:00.123456Z" in (oldest.get_attribute("title") or "")
    site.page.reload()
    expect(days).to_have_count(1)


def test_the_list_is_a_quiet_log_of_real_elements(site: Site) -> None:
    filled(site, 90)
    log = site.page.get_by_role("log")
    expect(log).to_have_attribute("aria-live", "off")
    assert log.locator(".row summary").count() == 90
    assert site.page.evaluate("() => window.find('turn_complete')")
