"""`make bench` works: each row measures something, and the page tells what it was told.

No figure is judged here. Each row is run in its tiny form, on the server of the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from benchmarks import __main__ as bench
from benchmarks.charts import svg
from benchmarks.cluster import SHARED
from benchmarks.frame import Chart, Part, Row, at_least, at_most, medians, take_turns
from benchmarks.page_events import PageEvents, Tape
from benchmarks.page_seen import checked
from benchmarks.report import page, picture
from project.embedded import EmbeddedPostgres
from tests.conftest import find_program
from tests.support.database import ROOT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHEAP = "bulk"  # run beside one that fails
NEEDS_CHROMIUM = ("page_load", "page_day")


@pytest.mark.parametrize("name", [name for name in bench.ROWS if name != CHEAP])
def test_each_row_measures_something(
    name: str, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS_CHROMIUM:
        find_program("chromium")
    monkeypatch.setenv(SHARED, str(postgres.data_dir))
    part, why = bench.run(name, quick=True, kept=tmp_path)
    assert part is not None, f"{why}\n{(tmp_path / f'{name}.log').read_text()}"
    assert part.rows
    assert all(row.ours > 0 and row.unit for row in part.rows)
    assert part.title in page({name: part}, {}, {})


def test_a_row_that_fails_is_said_and_stops_no_other(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED, str(postgres.data_dir))
    monkeypatch.setattr(bench, "ROWS", ("not_there", CHEAP))
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--out", str(tmp_path)])
    assert bench.main() == 1
    text = (tmp_path / "benchmarks.md").read_text()
    assert "## not_there: not measured" in text
    assert f"Alone: `python -m benchmarks.{CHEAP}`" in text
    assert "one statement of 1,000 rows | ms" in text
    assert (tmp_path / "benchmarks.svg").exists()
    assert str(ROOT) not in text
    assert str(tmp_path) not in text


def test_a_row_that_takes_too_long_is_ended_and_leaves_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def databases() -> set[str]:
        with psycopg.connect(postgres.dsn("postgres")) as connection:
            found = connection.execute("SELECT datname FROM pg_database").fetchall()
        return {name for (name,) in found if name.startswith("bench_")}

    monkeypatch.setenv(SHARED, str(postgres.data_dir))
    monkeypatch.setattr(bench, "ROW_TIMEOUT_S", 0.0)
    ended = bench._end

    def end_in_the_middle(running: subprocess.Popen[str]) -> str:
        wait_until(databases, 60, "a database of the row")
        return ended(running)

    monkeypatch.setattr(bench, "_end", end_in_the_middle)
    assert bench.run(CHEAP, quick=False, kept=tmp_path) == (None, "it took more than 0 s")
    assert databases() == set()


def test_a_row_that_does_not_exist_is_refused_with_those_that_do() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rows", "bulk,comits"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert "no such row: comits" in asked.stderr
    assert "commits" in asked.stderr


PART = Part(
    "Things a second",
    "Counted | twice.",
    [
        Row("1 connection", "things/s", 900, {"bare": 1_000}),
        Row("8 connections", "things/s", 12_345.6, {"bare": 20_000, "usual": 0.5}, note="noisy"),
    ],
    [
        at_least("things/s, 1", 0.9, 0.9, "x bare"),
        at_most("ms a thing", 3.0, 2.5, "ms", hope=1),
    ],
    [Chart("Things <fast>", "things/s", {"1": {"ours": 900, "bare": 1_000}}, log=True)],
    notes=["Spent on waiting."],
    samples={"ours": [1.0, 2.0]},
)


def test_the_page_says_what_is_reached_and_what_is_not() -> None:
    text = page({"things": PART}, {"other": "it burst"}, {"CPU": "two | cores"})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| things/s, 1 | 0.90 x bare | ≥ 0.90 x bare | yes |" in rows
    assert "| ms a thing | 3.00 ms | ≤ 2.50 ms (hoped for: 1.00) | **no** |" in rows
    assert "| 8 connections | things/s | 12,346 | 20,000 | 0.62 | 0.50 | 24,691 | noisy |" in rows
    assert "| CPU | two \\| cores |" in rows
    assert "It failed: it burst" in text
    assert "- Spent on waiting." in text
    for heading in ("## Things a second", "## other: not measured", "## The machine"):
        assert f"\n{heading}\n" in text


def test_what_a_row_measured_survives_its_file() -> None:
    assert Part.from_json(PART.to_json()) == PART


def test_prepared_events_are_those_of_the_wire_and_tell_each_its_place() -> None:
    tape = Tape(PageEvents(agents=3, part=50), batch=7)
    events = tape.read(95, 105, created_ms=1_764_000_000_000.0, step_ms=10.0)
    parsed = [json.loads(event.json) for event in events]
    assert [event.id for event in events] == [one["id"] for one in parsed]
    assert [event.payload for event in events] == [one["payload"] for one in parsed]
    assert parsed[1]["createdAt"] == "2025-11-24T16:00:00.010000Z"
    assert [tape.number(event.cursor) for event in events] == list(range(96, 106))
    assert tape.number(tape.cursor(100, 1)) == 100
    assert tape.number(tape.cursor(0, 1)) == 0


def test_prepared_events_told_again_are_of_other_runs() -> None:
    events = PageEvents(agents=3, part=50)

    def runs(first: int) -> set[str]:
        made = (json.loads(events.json(number, number, "")) for number in range(first, first + 50))
        return {one["payload"]["run_id"] for one in made}

    assert len(runs(0)) == len(runs(50)) > 1
    assert not runs(0) & runs(50)


def test_prepared_events_are_copied_as_they_are_played(postgres: EmbeddedPostgres) -> None:
    events = PageEvents(agents=3, part=200)
    with psycopg.connect(postgres.dsn("postgres")) as connection:
        connection.execute(
            "CREATE TEMP TABLE copied (tenant uuid, agent uuid, type text, payload jsonb)"
        )
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write("".join(events.copied(number) for number in range(200)))
        copied = connection.execute("SELECT tenant::text, agent::text, type, payload FROM copied")
        played = [json.loads(events.json(number, number, "")) for number in range(200)]
        assert copied.fetchall() == [
            (one["tenantId"], one["agentId"], one["type"], one["payload"]) for one in played
        ]


@pytest.mark.parametrize(("gap", "adds_up"), [("1,200", True), ("1,199", False)])
def test_what_a_page_leaves_out_has_to_add_up(page: Page, gap: str, adds_up: bool) -> None:
    page.set_content(
        f"""
        <div id=events><p data-id=5000></p><p data-id=4999></p>
        <p data-notice=gap>{gap} events not shown, 3 errors: load</p><p data-id=3798></p></div>
        """
    )
    if adds_up:
        assert checked(page) == (3, 1_200)
    else:
        with pytest.raises(RuntimeError, match="between 4999 and 3798"):
            checked(page)


def test_the_picture_is_well_formed_and_fits_its_bars() -> None:
    for text in (picture({"things": PART}), svg([])):
        ET.fromstring(text)
    text = picture({"things": PART})
    assert "Things &lt;fast&gt;" in text
    assert "prefers-color-scheme: dark" in text
    bars = re.findall(r'x="(\d+)" y="\d+" width="([\d.]+)"\s+height="15"', text)
    assert len(bars) == 2
    assert all(int(x) + float(width) < 860 for x, width in bars)


def test_what_is_compared_takes_turns() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return len(order)

    samples = take_turns({"a": lambda: run("a"), "b": lambda: run("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert medians(samples) == {"a": 4, "b": 3}
