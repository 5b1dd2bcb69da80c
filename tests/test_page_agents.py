"""Agents now, on the page: who needs a human comes first, forty fit, one click narrows. The
timeline; a run alone."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from playwright.sync_api import Locator, Route, expect

from agent_events.agents_now import MOST_EVENTS
from tests.support.live_page import LATE_S, Site
from tests.support.waiting import wait_until

LATE_MS = LATE_S * 1000
INSERT = (
    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
    " VALUES (%s, %s, %s, %s,"
    "         coalesce(%s::timestamptz - make_interval(secs => %s), now())) RETURNING id"
)


class Fleet:
    """Agents by name, at the tenant of a site.

    What they said some time ago is as far apart as the test says, however long it takes to write.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        row = site.database.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        self.began = row[0]

    def id(self, name: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self.site.tenant), name))

    def says(self, name: str, kind: str, ago_s: float = 0, **payload: Any) -> int:
        values = [
            self.site.tenant,
            self.id(name),
            kind,
            json.dumps({"agent": name, **payload}),
            self.began if ago_s else None,
            ago_s,
        ]
        row = self.site.database.execute(INSERT, values).fetchone()
        assert row is not None
        return int(row[0])

    def line(self, name: str) -> Locator:
        return self.site.page.locator(f'#agents [data-agent="{self.id(name)}"]')

    def names(self) -> list[str]:
        found: list[str] = self.site.page.locator("#agents .agent-name").all_inner_texts()
        return found

    def expect_order(self, *names: str) -> None:
        expect(self.site.page.locator("#agents .agent-name")).to_have_text(
            list(names), timeout=LATE_MS
        )


@pytest.fixture
def fleet(site: Site) -> Fleet:
    return Fleet(site)


def state_of(line: Locator, state: str) -> None:
    expect(line).to_have_attribute("data-state", state, timeout=LATE_MS)


def test_those_who_need_something_come_first(fleet: Fleet, site: Site) -> None:
    fleet.says("anna", "message", text="hello")
    fleet.says("bert", "run.started", run_id="r1", task="Find it")
    fleet.says("cleo", "tool.failed", tool="mail", error={"type": "Timeout", "message": "10 s"})
    fleet.says("dora", "needs_human", run_id="r2", question="May I refund it?")
    fleet.expect_order("dora", "cleo", "bert", "anna")
    expect(site.page.locator("#rail-needs")).to_have_text("1 needs you")
    expect(site.page.locator("#rail-counts")).to_have_text("1 failing · 1 busy · 1 idle")
    expect(fleet.line("dora")).to_contain_text("May I refund it?")
    expect(fleet.line("cleo")).to_contain_text("mail: Timeout: 10 s")
    # Not by colour alone: a shape, and a word for who does not see it.
    expect(fleet.line("dora")).to_have_accessible_name(
        re.compile("dora needs you: May I refund it?")
    )
    expect(fleet.line("dora").locator(".mark-needsHuman")).to_be_visible()

    fleet.says("dora", "human.answered", run_id="r2", answer="yes")
    fleet.expect_order("cleo", "bert", "anna", "dora")
    expect(site.page.locator("#rail-needs")).to_be_hidden()


def test_a_question_interrupts_whoever_listens(fleet: Fleet, site: Site) -> None:
    fleet.says("anna", "message")
    state_of(fleet.line("anna"), "idle")
    fleet.says("dora", "escalation", question="Which account?")
    expect(
        site.page.locator("#alarm, #announcer")
        .filter(has_text="dora needs you: Which account?")
        .first
    ).to_be_attached(timeout=LATE_MS)


def test_a_question_that_is_older_than_all_that_is_read_is_still_first(
    fleet: Fleet, site: Site
) -> None:
    fleet.says("dora", "needs_human", run_id="old", question="Still there?")
    site.database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        """ SELECT %s, %s, 'message', '{"agent": "anna"}' FROM generate_series(1, %s)""",
        [site.tenant, fleet.id("anna"), MOST_EVENTS + 100],
    )
    expect(site.page.locator("#agents .agent-name").last).to_have_text("anna", timeout=LATE_MS)
    site.page.reload()
    fleet.expect_order("dora", "anna")
    state_of(fleet.line("dora"), "needsHuman")


def test_an_answer_from_before_the_page_is_asked_for_again(fleet: Fleet, site: Site) -> None:
    """The server gives everybody the look of a moment ago."""
    fleet.says("anna", "message")
    fleet.expect_order("anna")
    old = site.page.request.get(f"{site.server.url}/api/agents/now?tenant={site.tenant}").text()
    fleet.says("bert", "run.started", run_id="r1", task="Find it")
    fleet.expect_order("bert", "anna")
    answers = [old]

    def answer(route: Route) -> None:
        if answers:
            route.fulfill(body=answers.pop(), content_type="application/json")
        else:
            route.continue_()

    site.page.route("**/api/agents/now?*", answer)
    site.page.reload()
    fleet.expect_order("bert", "anna")
    assert not answers


def test_a_click_narrows_the_feed_to_an_agent_and_the_rail_shows_all(
    fleet: Fleet, site: Site
) -> None:
    fleet.says("anna", "message")
    fleet.says("bert", "message")
    fleet.expect_order("anna", "bert")
    fleet.line("anna").click()
    expect(fleet.line("anna")).to_have_attribute("aria-pressed", "true")
    expect(site.page).to_have_url(re.compile(rf"agent={fleet.id('anna')}"))
    # The stream carries anna's alone now: the server says what bert does.
    fleet.says("bert", "needs_human", question="And me?")
    fleet.expect_order("bert", "anna")
    fleet.line("anna").click()
    expect(fleet.line("anna")).to_have_attribute("aria-pressed", "false")
    expect(site.page).not_to_have_url(re.compile("agent="))
    fleet.line("bert").click(modifiers=["Alt"])
    expect(site.page).to_have_url(re.compile(rf"not_agent={fleet.id('bert')}"))
    expect(fleet.line("bert")).to_have_attribute("data-excluded", "")


def test_the_focus_stays_on_a_line_that_moves(fleet: Fleet, site: Site) -> None:
    for name in ("anna", "bert", "cleo"):
        fleet.says(name, "message")
    fleet.expect_order("anna", "bert", "cleo")
    fleet.line("cleo").focus()
    fleet.says("cleo", "error")
    fleet.says("bert", "needs_human")
    fleet.expect_order("bert", "cleo", "anna")
    expect(fleet.line("cleo")).to_be_focused()
    site.page.keyboard.press("Tab")
    expect(fleet.line("anna")).to_be_focused()


def test_an_agent_that_is_busy_and_silent_says_so(fleet: Fleet) -> None:
    fleet.says("bert", "run.started", ago_s=1200, run_id="r", task="Find it")
    fleet.says("bert", "message", ago_s=900, run_id="r")
    fleet.says("cleo", "run.started", run_id="q", task="Find it too")
    state_of(fleet.line("bert"), "stale")
    state_of(fleet.line("cleo"), "busy")
    expect(fleet.line("bert").locator(".agent-age")).to_have_text("15m")
    fleet.says("bert", "run.finished", run_id="r")
    state_of(fleet.line("bert"), "idle")


def test_a_line_shows_events_a_minute_and_errors_since_somebody_looked(fleet: Fleet) -> None:
    fleet.says("anna", "message")
    spark = fleet.line("anna").locator(".agent-spark path")
    expect(spark).to_have_attribute("d", re.compile("^M.*L60"), timeout=LATE_MS)
    fleet.says("anna", "error")
    fleet.says("anna", "turn_complete")
    unseen = fleet.line("anna").locator(".agent-unseen")
    expect(unseen).to_have_text("1", timeout=LATE_MS)
    fleet.line("anna").click()
    expect(unseen).to_be_hidden(timeout=LATE_MS)


def test_forty_agents_fit_without_scrolling(fleet: Fleet, site: Site) -> None:
    site.page.set_viewport_size({"width": 1440, "height": 900})
    for i in range(40):
        fleet.says(f"agent-{i:02}", "needs_human" if i % 5 == 0 else "run.started", run_id=str(i))
    expect(site.page.locator("#agents .agent")).to_have_count(40, timeout=LATE_MS)
    expect(site.page.locator("#rail-needs")).to_have_text("8 need you", timeout=LATE_MS)
    bottom = site.page.locator("#agents .agent").last.evaluate(
        "item => item.getBoundingClientRect().bottom"
    )
    assert bottom <= 900
    assert site.page.locator("#rail").evaluate("rail => rail.scrollHeight <= rail.clientHeight")


def test_on_a_phone_the_rail_is_a_strip_that_opens(fleet: Fleet, site: Site) -> None:
    site.page.set_viewport_size({"width": 390, "height": 844})
    site.page.reload()
    fleet.says("dora", "needs_human")
    expect(site.page.locator("#rail-needs")).to_have_text("1 needs you", timeout=LATE_MS)
    expect(fleet.line("dora")).to_be_hidden()
    site.page.locator("#rail summary").click()
    expect(fleet.line("dora")).to_be_visible(timeout=LATE_MS)
    assert site.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_where_the_server_does_not_say_the_stream_does(fleet: Fleet, site: Site) -> None:
    site.page.route("**/api/agents/now*", lambda route: route.abort())
    site.page.reload()
    expect(site.page.locator("#rail-note")).to_contain_text("does not say", timeout=LATE_MS)
    fleet.says("dora", "needs_human")
    state_of(fleet.line("dora"), "needsHuman")
    site.page.unroute("**/api/agents/now*")
    expect(site.page.locator("#rail-note")).to_be_hidden(timeout=LATE_MS)
    state_of(fleet.line("dora"), "needsHuman")


# The timeline.


def test_a_minute_of_the_histogram_leads_there(fleet: Fleet, site: Site) -> None:
    site.page.set_viewport_size({"width": 1440, "height": 900})
    fleet.says("anna", "message", ago_s=600)
    fleet.says("anna", "error", ago_s=600)
    fleet.says("anna", "message")
    bars = site.page.locator("#histogram")
    expect(site.page.locator("#timeline-summary")).to_have_text(
        "3 events in 30 min, 1 error", timeout=LATE_MS
    )
    bars.focus()
    # Ten to the left, or one more: the minutes go on meanwhile.
    for _ in range(12):
        site.page.keyboard.press("ArrowLeft")
        if (bars.get_attribute("aria-valuetext") or "").endswith(": 2 events, 1 error"):
            break
    expect(bars).to_have_attribute("aria-valuetext", re.compile(": 2 events, 1 error$"))
    site.page.keyboard.press("Enter")
    expect(site.page).to_have_url(re.compile("at=20"))
    before = site.page.url
    box = bars.bounding_box()
    assert box is not None
    site.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    site.page.mouse.down()
    site.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20, steps=4)
    site.page.mouse.up()
    expect(site.page).not_to_have_url(before)
    expect(site.page).to_have_url(re.compile("at=20"))


def test_a_mark_of_a_lane_opens_its_event(fleet: Fleet, site: Site) -> None:
    site.page.set_viewport_size({"width": 1440, "height": 900})
    first = fleet.says("anna", "message", ago_s=100)
    fleet.says("bert", "tool.started", ago_s=50, tool="search")
    state_of(fleet.line("bert"), "busy")
    lanes, tip = site.page.locator("#lanes"), site.page.locator("#timeline-tip")
    lanes.focus()
    expect(chosen_by(site, "Home")).to_contain_text("anna: message")
    site.page.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("bert: tool.started")
    site.page.keyboard.press("ArrowLeft")
    site.page.keyboard.press("Enter")
    expect(site.page).to_have_url(re.compile(rf"event={first}\b"))


def chosen_by(site: Site, key: str) -> Locator:
    """The words for what is chosen, once the lanes are drawn."""
    tip = site.page.locator("#timeline-tip")

    def chosen() -> bool:
        site.page.keyboard.press(key)
        return tip.inner_text() != ""

    wait_until(chosen, LATE_S, "a mark")
    return tip


def test_the_timeline_stays_folded(fleet: Fleet, site: Site) -> None:
    site.page.set_viewport_size({"width": 1440, "height": 900})
    site.page.reload()
    expect(site.page.locator("#histogram")).to_be_visible()
    site.page.locator("#timeline summary").click()
    expect(site.page.locator("#histogram")).to_be_hidden()
    site.page.reload()
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    expect(site.page.locator("#histogram")).to_be_hidden()
    assert fleet.names() == []


# A run alone.


def test_a_run_is_shown_alone_and_live(fleet: Fleet, site: Site) -> None:
    run = f"run-{uuid.uuid4()}"
    fleet.says("anna", "run.started", ago_s=20, run_id=run, task="Refund A-77310")
    fleet.says("bert", "run.started", ago_s=20, run_id="other", task="Something else")
    fleet.says("anna", "turn.started", ago_s=18, run_id=run, step=1)
    fleet.says("anna", "tool.started", ago_s=15, run_id=run, tool_call_id="c", tool="search")
    fleet.says("anna", "tool.finished", ago_s=13, run_id=run, tool_call_id="c", tool="search")
    fleet.says(
        "anna", "turn.finished", ago_s=10, run_id=run, step=1, usage={"total": 1234}, cost_usd=0.5
    )
    fleet.says("anna", "needs_human", ago_s=9, run_id=run, question="May I?")
    state_of(fleet.line("anna"), "needsHuman")
    site.page.goto(f"{site.server.url}/?run={run}")
    dialog = site.page.get_by_role("dialog", name="Refund A-77310")
    expect(dialog).to_be_visible(timeout=LATE_MS)
    expect(dialog.locator("#run-state")).to_have_text("Waits for a human", timeout=LATE_MS)
    totals = dialog.locator("#run-totals")
    for words in ("Turns1", "Tools1", "Tokens1,234", "Cost$0.50"):
        expect(totals).to_contain_text(words)
    steps = dialog.locator(".run-step-label")
    expect(steps).to_have_text(["Refund A-77310", "turn 1", "search", "May I?"])
    expect(dialog.locator(".run-step", has_text="search").locator(".run-step-took")).to_have_text(
        "2.0 s"
    )

    fleet.says("anna", "human.answered", run_id=run, answered_by="mara", answer="yes")
    fleet.says("anna", "handoff", run_id=run, from_agent="anna", to_agent="bert")
    fleet.says("anna", "run.failed", run_id=run, error={"type": "Budget", "message": "too much"})
    expect(dialog.locator("#run-state")).to_have_text("Failed", timeout=LATE_MS)
    expect(dialog).to_contain_text("mara: yes")
    expect(dialog).to_contain_text("anna → bert")
    expect(dialog).to_contain_text("Budget: too much")
    expect(totals).to_contain_text("Waited for humans")
    site.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(site.page).not_to_have_url(re.compile("run="))


def test_a_row_leads_to_its_run(fleet: Fleet, site: Site) -> None:
    run = f"run-{uuid.uuid4()}"
    fleet.says("anna", "run.started", run_id=run, task="It")
    row = site.page.locator("#events > .row")
    row.locator(".row-text").click()
    row.get_by_role("button", name="Open the run").click()
    expect(site.page.locator("#run-state")).to_have_text("Running", timeout=LATE_MS)
    expect(site.page).to_have_url(re.compile(f"run={run}"))
    site.page.keyboard.press("Escape")
    expect(site.page.locator("#run")).to_be_hidden()
    expect(row).to_have_attribute("open", "")


def test_while_nothing_comes_the_rail_does_not_claim_to_be_live(fleet: Fleet, site: Site) -> None:
    fleet.says("anna", "run.started", run_id="r", task="Find it")
    state_of(fleet.line("anna"), "busy")
    note = site.page.locator("#rail-note")
    expect(note).to_be_hidden()
    site.server.kill()
    expect(note).to_have_text(re.compile(r"Not live: .* at \d\d:\d\d:\d\d"), timeout=LATE_MS)
    site.server.start()
    expect(site.state).to_have_text("Live", timeout=LATE_MS)
    expect(note).to_be_hidden()


def test_a_step_of_a_run_leads_to_its_event(fleet: Fleet, site: Site) -> None:
    run = f"run-{uuid.uuid4()}"
    made = fleet.says("anna", "run.started", run_id=run, task="It")
    state_of(fleet.line("anna"), "busy")
    site.page.goto(f"{site.server.url}/?run={run}")
    site.page.locator(".run-step a").click(timeout=LATE_MS)
    expect(site.page.locator("#run")).to_be_hidden()
    expect(site.page).to_have_url(re.compile(rf"event={made}\b"))


def test_a_run_goes_on_though_the_filter_leaves_it_out(fleet: Fleet, site: Site) -> None:
    run = f"run-{uuid.uuid4()}"
    fleet.says("anna", "run.started", run_id=run, task="It")
    state_of(fleet.line("anna"), "busy")
    site.page.goto(f"{site.server.url}/?type=error&run={run}")
    expect(site.page.locator("#run-state")).to_have_text("Running", timeout=LATE_MS)
    fleet.says("anna", "run.finished", run_id=run)
    expect(site.page.locator("#run-state")).to_have_text("Finished", timeout=LATE_MS)


def test_a_run_that_is_not_there_is_said_so(fleet: Fleet, site: Site) -> None:
    fleet.says("anna", "message")
    site.page.goto(f"{site.server.url}/?run=nothing-of-the-kind")
    expect(site.page.locator("#run-state")).to_have_text("Not found", timeout=LATE_MS)
