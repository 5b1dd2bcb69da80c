"""What a row module gives back, how it takes turns with its alternatives, how it runs alone."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Aim:
    """A bound that a figure was meant to reach.

    Args:
        what: the figure in words, such as "commits/s at 32 connections".
        figure: what was measured, in `unit`.
        bound: what it should be at least (`upward`) or at most.
        unit: what both are counted in, such as "x the bare table" or "ms".
        hope: what would be better still.
    """

    what: str
    figure: float
    bound: float
    unit: str
    upward: bool
    hope: float | None = None

    @property
    def reached(self) -> bool:
        """Is it?"""
        return self.figure >= self.bound if self.upward else self.figure <= self.bound

    @property
    def wanted(self) -> str:
        """The bound in words."""
        sign = "≥" if self.upward else "≤"
        hoped = "" if self.hope is None else f" (hoped for: {number(self.hope)})"
        return f"{sign} {number(self.bound)} {self.unit}{hoped}"


def at_least(what: str, figure: float, bound: float, unit: str, hope: float | None = None) -> Aim:
    """An aim for a figure that should be large."""
    return Aim(what, figure, bound, unit, True, hope)


def at_most(what: str, figure: float, bound: float, unit: str, hope: float | None = None) -> Aim:
    """An aim for a figure that should be small."""
    return Aim(what, figure, bound, unit, False, hope)


@dataclass(frozen=True)
class Row:
    """One line of a table: ours, and what stands beside it.

    Args:
        what: what was measured, such as "32 connections".
        unit: what the figures are counted in.
        ours: our figure, a median.
        beside: the alternatives' figures by their names.
    """

    what: str
    unit: str
    ours: float
    beside: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars: for each group (a label) one bar a series (a name); "ours" is drawn in colour.

    Args:
        better: "longer" or "shorter".
        log: a logarithmic axis, for figures that are far apart.
    """

    title: str
    unit: str
    groups: Mapping[str, Mapping[str, float]]
    better: str = "longer"
    log: bool = False


@dataclass(frozen=True)
class Part:
    """What a row module measured: one section of the page.

    Args:
        how: one or two paragraphs of Markdown: what was done, in which turns, how often.
        notes: sentences below the table: what a figure is spent on, what went wrong.
        samples: the raw figures behind the medians, by name.
    """

    title: str
    how: str
    rows: list[Row]
    aims: list[Aim] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: Mapping[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text for a file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Part:
        """Back from text."""
        raw: dict[str, Any] = json.loads(text)
        return cls(
            **{
                **raw,
                "rows": [Row(**row) for row in raw["rows"]],
                "aims": [Aim(**aim) for aim in raw["aims"]],
                "charts": [Chart(**chart) for chart in raw["charts"]],
            }
        )


def take_turns(
    candidates: Mapping[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
    """Measures each candidate `repeats` times, one after the other, round after round.

    Every other round goes backwards, so that none always runs in the wake of the same other one.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats):
        names = list(candidates)
        for name in names if turn % 2 == 0 else reversed(names):
            samples[name].append(candidates[name]())
            print(f"  {name}: {number(samples[name][-1])}", file=sys.stderr, flush=True)
    return samples


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each candidate's samples."""
    return {name: statistics.median(values) for name, values in samples.items()}


def number(value: float) -> str:
    """A figure as people read it: three digits that count, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.2g}"


def end_cleanly() -> None:
    """Has Ctrl-C and SIGTERM raise KeyboardInterrupt: servers are stopped, their data removed.

    (A shell has what it runs in its background ignore Ctrl-C.)
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def alone(measure: Callable[..., Part], seconds: float | None = None) -> None:
    """The main program of a row module: measures, prints its section, keeps it where told to.

    Args:
        measure: called with whether it is to be quick.
        seconds: how long it usually takes a measurement, where that may be said
            (`--seconds`); `measure` is called with it too.
    """
    from benchmarks.report import section

    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny: only to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the result there too")
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help=f"({seconds:g})")
    options = parser.parse_args()
    end_cleanly()
    part = measure(options.quick, *([] if seconds is None else [options.seconds]))
    if options.json:
        options.json.write_text(part.to_json())
    print(section(part))
