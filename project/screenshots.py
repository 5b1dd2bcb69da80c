"""`make screenshots`: the pictures of the README, of the demo as it is now, into docs/screenshots/.

    python -m project.screenshots [FOLDER]

It runs the demo on a database and a port of its own, tells it a story (`screenshot_story`), looks
at it in Chromium once what is to be seen is there, and ends all of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from project.embedded import EmbeddedPostgres
from project.environment import BASE_DIR
from project.processes import end_with_parent, free_port
from project.screenshot_story import Live, Story, write_past

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = BASE_DIR / "docs" / "screenshots"
UP = "Ctrl-C stops everything"
START_TIMEOUT_S = 90.0
LOOK_TIMEOUT_S = 30.0
FEW = "0.001"
"""Events a second of the demo's own agents: a rate of none is refused."""
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--font-render-hinting=none",
)
DESK, SHEET, HAND = (1280, 740), (1200, 1100), (390, 844)


@dataclass(frozen=True)
class Picture:
    """One picture: its name, where it is taken, of what size, by day or night.

    `scale`: pixels of the picture for each of the page.
    """

    name: str
    address: str
    shows: str
    size: tuple[int, int] = DESK
    scheme: Literal["light", "dark"] = "light"
    scale: float = 1.0


def main() -> int:
    """Takes them all; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m project.screenshots")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"({FOLDER})")
    folder: Path = parser.parse_args().folder
    chromium = shutil.which("chromium")
    if chromium is None:
        print("make screenshots: no chromium is installed.", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder.mkdir(parents=True, exist_ok=True)
    with demo() as (address, dsn), browsing(chromium) as browser:
        story = Story()
        with psycopg.connect(dsn, autocommit=True) as connection:
            write_past(connection, story)
            run, event = _busiest_run(connection), _telling_event(connection)
        with Live(dsn, story):
            for picture in _pictures(run, event):
                file = folder / f"{picture.name}.png"
                take(browser, address, picture, file)
                print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB", flush=True)
    return 0


def _pictures(run: str, event: int) -> list[Picture]:
    feed = "#events .row >> nth=25"
    return [
        Picture("feed-light", "/", feed),
        Picture("feed-dark", "/", feed, scheme="dark"),
        Picture("phone", "/", "#events .row >> nth=8", HAND, scale=1.5),
        Picture("run", f"/?run={run}", "#run", scheme="dark"),
        Picture("event", f"/admin/agent_events/agentevent/{event}/change/", "#content", SHEET),
        Picture("bus", "/admin/agent_events/bus/", "#bus-figures > * >> nth=3", SHEET),
    ]


def take(browser: Browser, address: str, picture: Picture, file: Path) -> None:
    """Takes a picture once it shows what it should. Raises playwright's TimeoutError."""
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=picture.scheme,
        reduced_motion="reduce",
        device_scale_factor=picture.scale,
        timezone_id="Europe/Berlin",
        locale="en-GB",
    )
    try:
        page = context.new_page()
        page.set_default_timeout(LOOK_TIMEOUT_S * 1_000)
        _sign_in(page, address)
        page.goto(f"{address}{picture.address}")
        page.locator(picture.shows).wait_for()
        state = page.locator("#state")
        if state.count():
            page.locator('#state[data-state="live"]').wait_for()
        page.evaluate("() => document.fonts.ready.then(() => undefined)")
        page.screenshot(path=file, animations="disabled", caret="hide")
    finally:
        context.close()


def _sign_in(page: Page, address: str) -> None:
    page.goto(f"{address}/accounts/login/")
    page.locator("[name=username]").fill("admin")
    page.locator("[name=password]").fill("admin")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/")


@contextmanager
def browsing(chromium: str) -> Iterator[Browser]:
    """A browser that ends with the block."""
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """The demo, with hardly an event of its own: its address, and its database's.

    Raises:
        RuntimeError: it does not start; the message has what it printed.
    """
    home = Path(tempfile.mkdtemp(prefix="agent-events-pictures-"))
    home.chmod(0o711)  # the database server may run as another user than we
    data, port = home / "data", free_port(None)
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    output = home / "demo.log"
    with output.open("wb") as log:
        running = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "project.demo",
                "--rate",
                FEW,
                "--tenants",
                "3",
                "--end-with-parent",
            ],
            cwd=BASE_DIR,
            env={**kept, "DATA_DIR": str(data), "PORT": str(port), "DJANGO_DEBUG": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        _until(lambda: UP in output.read_text() or running.poll() is not None, "the demo")
        if running.poll() is not None:
            raise RuntimeError(f"the demo does not start:\n{output.read_text()}")
        yield f"http://127.0.0.1:{port}", EmbeddedPostgres(data).dsn()
    finally:
        running.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.wait(30)
        EmbeddedPostgres(data).destroy()
        shutil.rmtree(home)


def _busiest_run(connection: psycopg.Connection[Any]) -> str:
    """The id of a run with much to see: turns, tools, a person, an end."""
    row = connection.execute(
        """
        SELECT payload ->> 'run_id' FROM agent_events
         GROUP BY 1 ORDER BY bool_or(event_type = 'needs_human') DESC,
                             bool_or(event_type = 'tool.failed') DESC, count(*) DESC, 1 LIMIT 1
        """
    ).fetchone()
    assert row is not None
    return str(row[0])


def _telling_event(connection: psycopg.Connection[Any]) -> int:
    """The id of the last failed tool call."""
    row = connection.execute(
        "SELECT max(id) FROM agent_events WHERE event_type = 'tool.failed'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {START_TIMEOUT_S:g} s for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
