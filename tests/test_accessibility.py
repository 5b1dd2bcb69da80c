"""axe on every state of the page, light and dark: nothing serious, nothing critical."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import node_modules
from tests.support import wait_until
from tests.support.live_page import LATE_S, Site

AXE = "axe-core@4.10.3"
ROWS = "#events .row"
LATE = LATE_S * 1000
RUN = "run-17"

RULES = """async () => {
    const { violations } = await axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    return violations
        .filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, help, nodes }) =>
            [id, help, ...nodes.slice(0, 3).map(({ html, failureSummary }) =>
                `${html.slice(0, 160)} ${failureSummary}`)].join("\\n  "));
}"""

# The colours of before are not what anybody sees.
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

Check = Callable[[Page], None]


@pytest.fixture(scope="module")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe: `evaluate` runs it past the page's Content-Security-Policy."""
    source = (node_modules(request, "axe", AXE) / "axe-core" / "axe.min.js").read_text()
    return f"() => {{ {source} }}"


@pytest.fixture
def check(axe: str) -> Check:
    """`check(page)`: as it is now, in light and in dark."""

    def looks_good(page: Page) -> None:
        page.emulate_media(reduced_motion="reduce")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.evaluate(DRAWN)
            if not page.evaluate("() => 'axe' in window"):
                page.evaluate(axe)
            # (axe looks for a while, and sees half of what changes meanwhile, as a countdown does.)
            found: list[str] = page.evaluate(RULES)
            found = found and [one for one in page.evaluate(RULES) if one in found]
            assert not found, f"{scheme}:\n" + "\n".join(found)

    return looks_good


@pytest.fixture
def busy(site: Site) -> Site:
    """Events of every kind, of two agents."""
    events: list[tuple[str, dict[str, Any]]] = [
        ("run.started", {"run_id": RUN, "agent": "Harbour pilot", "task": "Bring her in"}),
        (
            "turn.finished",
            {"run_id": RUN, "step": 1, "usage": {"input": 900, "output": 80}, "cost_usd": 0.01},
        ),
        (
            "tool.started",
            {
                "run_id": RUN,
                "tool": "tide_table",
                "tool_call_id": "c1",
                "arguments": {"at": "noon"},
            },
        ),
        (
            "tool.finished",
            {
                "run_id": RUN,
                "tool": "tide_table",
                "tool_call_id": "c1",
                "result": "low",
                "duration_ms": 820,
            },
        ),
        ("handoff", {"run_id": RUN, "from_agent": "pilot", "to_agent": "tug", "reason": "shallow"}),
        ("guardrail.tripped", {"run_id": RUN, "name": "draught", "message": "too deep"}),
        ("message", {"run_id": RUN, "role": "user", "text": "Hello"}),
        (
            "tool.failed",
            {
                "run_id": RUN,
                "tool": "radio",
                "error": {"type": "TimeoutError", "message": "no answer"},
            },
        ),
        ("needs_human", {"run_id": RUN, "question": "Wait for the tide?"}),
        ("something.else", {"key": "value", "list": [1, True, None]}),
    ]
    for event_type, payload in events:
        site.insert(event_type, payload)
    expect(site.page.locator("#events")).to_contain_text("Wait for the tide?")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "all of them on the page")
    return site


def test_empty(site: Site, check: Check) -> None:
    expect(site.page.get_by_text("Waiting for the first event")).to_be_visible()
    check(site.page)


def test_busy(busy: Site, check: Check) -> None:
    check(busy.page)


def test_paused_with_a_row_open(busy: Site, check: Check) -> None:
    busy.page.locator(ROWS).first.locator("summary").click()
    expect(busy.page.locator(f"{ROWS}[open]")).to_have_count(1)
    busy.insert("error", {"message": "one more"})
    expect(busy.page.locator("#pause")).to_contain_text("1 error")
    check(busy.page)


def test_filtered_and_a_mistake_in_a_filter(busy: Site, check: Check) -> None:
    busy.page.goto(f"{busy.server.url}/?not_type=message&text=run-17")
    expect(busy.state).to_have_text("Live", timeout=LATE)
    busy.page.get_by_label("Payload", exact=True).fill("payload.tokens >")
    expect(busy.page.locator("#filter-error")).to_be_visible()
    check(busy.page)
    busy.console[:] = [line for line in busy.console if "400" not in line]


def test_no_match(busy: Site, check: Check) -> None:
    busy.page.get_by_label("Text", exact=True).fill("nowhere to be found")
    expect(busy.page.get_by_text("No event matches")).to_be_visible()
    check(busy.page)


def test_help(busy: Site, check: Check) -> None:
    busy.page.keyboard.press("?")
    expect(busy.page.get_by_role("dialog", name="Help")).to_be_visible()
    check(busy.page)


def test_menus(busy: Site, check: Check) -> None:
    for menu in ("#view-menu", "#jump", "#download"):
        busy.page.locator(f"{menu} summary").click()
        expect(busy.page.locator(f"{menu} .menu-sheet")).to_be_visible()
        check(busy.page)
        busy.page.keyboard.press("Escape")


def test_a_run_alone(busy: Site, check: Check) -> None:
    busy.page.goto(f"{busy.server.url}/?run={RUN}")
    expect(busy.state).to_have_text("Live", timeout=LATE)
    expect(busy.page.get_by_role("dialog")).to_be_visible()
    check(busy.page)


def test_reconnecting(busy: Site, check: Check) -> None:
    busy.server.kill()
    expect(busy.state).to_have_text(re.compile("Reconnecting"))
    check(busy.page)
    busy.server.start()
    expect(busy.state).to_have_text("Live", timeout=LATE)


def test_stopped(busy: Site, check: Check) -> None:
    busy.database.execute("DELETE FROM agent_events_membership WHERE tenant_id = %s", [busy.tenant])
    busy.server.restart()
    expect(busy.page.locator("#trouble")).to_be_visible(timeout=LATE)
    check(busy.page)
    busy.page.reload()  # and what they see then
    expect(busy.page.get_by_role("heading", name="No tenant yet")).to_be_visible()
    check(busy.page)
    busy.console[:] = [line for line in busy.console if "40" not in line]


def test_the_sign_in_page_also_after_a_mistake(site: Site, browser: Any, check: Check) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{site.server.url}/accounts/login/")
    check(page)
    page.get_by_label("Username").fill(uuid.uuid4().hex)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    check(page)
    page.context.close()


def test_on_a_telephone(busy: Site, browser: Any, check: Check) -> None:
    context = browser.new_context(
        storage_state=busy.page.context.storage_state(),
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
    )
    page = context.new_page()
    page.goto(f"{busy.server.url}/?not_type=message")
    expect(page.locator("#state-words")).to_have_text("Live", timeout=LATE)
    check(page)
    page.get_by_role("button", name="Filters").tap()
    check(page)
    context.close()


def test_axe_finds_what_is_wrong(site: Site, axe: str) -> None:
    """Otherwise all of the above might pass for nothing."""
    site.page.evaluate(axe)
    site.page.evaluate(
        "() => document.getElementById('events').append(document.createElement('button'))"
    )
    found: list[str] = site.page.evaluate(RULES)
    assert any("button-name" in one for one in found)
