"""From an INSERT to a row on the live page, in a real Chromium."""

from __future__ import annotations

import os
import shutil
import time

import psycopg

from benchmarks.cluster import AGENT, TENANT
from benchmarks.servers import Site

FLAGS = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
WAIT_MS = 10_000
# (Both clocks are the machine's; the browser's is rounded to 0.1 ms.)
_NOTE_ROWS = """
() => {
  window.shown = {};
  new MutationObserver((changes) => {
    const now = performance.timeOrigin + performance.now();
    for (const { addedNodes } of changes)
      for (const row of addedNodes) if (row.dataset?.id) window.shown[row.dataset.id] = now;
  }).observe(document.querySelector("#events"), { childList: true });
}
"""
_LIVE = """() => document.querySelector("#state")?.dataset.state === "live" """


def missing() -> str:
    """What is not installed, in words; empty where nothing is missing."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return "" if shutil.which("chromium") else "no chromium is installed"


def delays_ns(dsn: str, site: Site, rate: float, count: int) -> list[int]:
    """How long each of `count` events, `rate` a second, takes until its row is on the page."""
    from playwright.sync_api import sync_playwright

    origin = f"http://127.0.0.1:{site.port}"
    name, value = site.cookie.split("=", 1)
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    sent: dict[str, float] = {}
    with sync_playwright() as playwright, psycopg.connect(dsn, autocommit=True) as connection:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        context = browser.new_context()
        context.add_cookies([{"name": name, "value": value, "url": origin}])
        page = context.new_page()
        page.goto(f"{origin}/?tenant={TENANT}")
        page.wait_for_function(_LIVE, timeout=WAIT_MS)
        page.evaluate(_NOTE_ROWS)
        due = time.monotonic()
        for _ in range(count):
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / rate
            at = time.time()
            row = connection.execute(
                """
                INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
                VALUES (%s, %s, 'turn_complete', '{"tokens": 142, "latency": 820}') RETURNING id
                """,
                [TENANT, AGENT],
            ).fetchone()
            assert row is not None
            sent[str(row[0])] = at
        page.wait_for_function(
            "(count) => Object.keys(window.shown).length >= count", arg=count, timeout=WAIT_MS
        )
        shown: dict[str, float] = page.evaluate("() => window.shown")
        browser.close()
    return [int((shown[number] / 1_000 - at) * 1e9) for number, at in sent.items()]
