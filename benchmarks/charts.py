"""Bars as SVG, without a library: readable by day and by night, and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.frame import Chart, number

WIDTH, RIGHT = 860, 90
LETTER = 7.2
"""How wide a letter is, about."""
BAR, GAP, GROUP_GAP, HEAD, KEY, FOOT = 15, 3, 11, 30, 18, 22

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 15px; }
  .quiet { fill: #59636e; }
  .paper { fill: #ffffff; }
  .s0 { fill: #0a6cc4; } .s1 { fill: #8c959f; } .s2 { fill: #c4791f; } .s3 { fill: #4f8f5b; }
  .s4 { fill: #9a6fb0; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .paper { fill: #0d1117; }
    .s0 { fill: #58a6ff; } .s1 { fill: #6e7681; } .s2 { fill: #d29a4a; } .s3 { fill: #6fb57c; }
    .s4 { fill: #b48ccb; }
  }
"""
COLOURS = 5


def svg(charts: Sequence[Chart]) -> str:
    """All charts, one below the other."""
    body: list[str] = []
    top = 12
    for chart in charts:
        lines, top = _panel(chart, top)
        body += lines
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}"'
            f' height="{top}" role="img" aria-label="Benchmarks as bars">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{top}" rx="6"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panel(chart: Chart, top: int) -> tuple[list[str], int]:
    """A chart's elements, and where the next one begins."""
    series = list(dict.fromkeys(name for bars in chart.groups.values() for name in bars))
    colour = {name: f"s{place % COLOURS}" for place, name in enumerate(series)}
    left = round(26 + LETTER * max(map(len, chart.groups), default=0))
    figures = [figure for bars in chart.groups.values() for figure in bars.values()]
    scale = _Scale(figures, chart, left)
    axis = f"{chart.unit}; {chart.better} is better" + (", logarithmic" if chart.log else "")
    lines = [
        f'<text class="title" x="16" y="{top + 16}">{escape(chart.title)}</text>',
        f'<text class="quiet" x="{WIDTH - 16}" y="{top + 16}" text-anchor="end">'
        f"{escape(axis)}</text>",
    ]
    y = top + HEAD
    if len(series) > 1:
        keys, y = _keys(colour, y)
        lines += keys
    for label, bars in chart.groups.items():
        middle = y + (len(bars) * (BAR + GAP) - GAP) / 2 + 4.5
        lines.append(
            f'<text x="{left - 10}" y="{middle:g}" text-anchor="end">{escape(label)}</text>'
        )
        for name, figure in bars.items():
            width = scale.width(figure)
            lines.append(
                f'<rect class="{colour[name]}" x="{left}" y="{y}" width="{width:.1f}"'
                f' height="{BAR}" rx="2"><title>{escape(name)}</title></rect>'
            )
            lines.append(
                f'<text class="quiet" x="{left + width + 6:.1f}" y="{y + 12}">'
                f"{number(figure)}</text>"
            )
            y += BAR + GAP
        y += GROUP_GAP
    return lines, y + FOOT


def _keys(colour: Mapping[str, str], top: int) -> tuple[list[str], int]:
    """Which colour is which series, and where the bars begin."""
    lines: list[str] = []
    x = 16.0
    for name, kind in colour.items():
        width = LETTER * len(name) + 38
        if x > 16 and x + width > WIDTH:
            x, top = 16.0, top + KEY
        lines.append(f'<rect class="{kind}" x="{x:g}" y="{top}" width="11" height="11"/>')
        lines.append(f'<text class="quiet" x="{x + 16:g}" y="{top + 10}">{escape(name)}</text>')
        x += width
    return lines, top + KEY + 4


class _Scale:
    """From a figure to the length of its bar."""

    def __init__(self, figures: Sequence[float], chart: Chart, left: int) -> None:
        """`left`: where the bars begin."""
        self._room = WIDTH - left - RIGHT
        self._log = chart.log
        self._most = max(figures, default=1) or 1
        # (Where the axis is logarithmic the smallest bar still has a length.)
        smallest = min((figure for figure in figures if figure > 0), default=1)
        self._least = 10 ** math.floor(math.log10(smallest) - 0.3)

    def width(self, figure: float) -> float:
        """In the picture's units; one at least."""
        share = figure / self._most
        if self._log and figure > 0:
            share = math.log(figure / self._least) / math.log(self._most / self._least)
        return max(1.0, share * self._room)
