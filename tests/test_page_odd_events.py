"""What producers can store and nobody expects: it is shown, and costs nothing beside it."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.support import wait_until
from tests.support.live_page import AGENT, LATE_S, Site

DEEP = "[" * 4000 + "]" * 4000


def insert(site: Site, created_at: str, payload: str) -> None:
    site.database.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload, created_at)"
        " VALUES (%s, %s, 'odd', %s, %s)",
        [site.tenant, AGENT, payload, created_at],
    )


@pytest.mark.parametrize(
    "created_at",
    ["10000-01-01", "290000-01-01", "0044-03-15 BC", "infinity", "-infinity", "0001-01-01"],
)
def test_a_time_that_no_browser_knows_costs_no_row(site: Site, created_at: str) -> None:
    site.insert()
    insert(site, created_at, "{}")
    site.insert("error")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "all rows")
    site.page.locator("#events time").nth(1).hover()
    site.page.reload()
    expect(site.state).to_have_text("Live", timeout=LATE_S * 1000)
    assert site.shown() == site.ids()
    site.page.locator("#events time").nth(1).hover()
    site.page.locator("#view-menu summary").click()
    site.page.get_by_label("UTC", exact=True).check()
    site.insert()
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "one more")


def test_a_payload_of_any_depth_costs_no_row(site: Site) -> None:
    site.insert()
    insert(site, "2026-01-01", json.dumps({"a": 1})[:-1] + f', "deep": {DEEP}}}')
    site.insert("error")
    wait_until(lambda: site.shown() == site.ids(), LATE_S, "all rows")
    site.page.locator("#filter-type").fill("odd")
    site.page.locator("#filter-type").press("Enter")
    wait_until(lambda: site.shown() == site.ids()[1:2], LATE_S, "the deep one, read from the log")
