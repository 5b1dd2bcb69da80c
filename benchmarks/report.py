"""The page: what was measured, as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.charts import svg
from benchmarks.frame import Part, number


def page(parts: Mapping[str, Part], failed: Mapping[str, str], machine: Mapping[str, str]) -> str:
    """docs/benchmarks.md.

    Args:
        parts: what each row module measured, by the module's name, in the page's order.
        failed: why a module measured nothing, likewise.
        machine: what the figures depend on, by name.
    """
    lines = [
        "# How fast",
        "",
        "One run on one machine, the alternatives side by side and in turns; figures are medians. "
        "`make bench` runs it and writes this page.",
        "",
        "![The figures as bars](benchmarks.svg)",
        "",
        *_aims(parts),
        "## The machine",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in machine.items()),
        "",
        "PostgreSQL runs with its defaults (`fsync` and `synchronous_commit` on, 128 MB of shared "
        "buffers), on the same machine as everything else: load, clients and server share its "
        "cores.",
        "",
    ]
    for name, part in parts.items():
        lines += [section(part), f"Alone: `python -m benchmarks.{name}`.", ""]
    for name, why in failed.items():
        lines += [f"## {name}: not measured", "", f"It failed: {_cell(why)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def picture(parts: Mapping[str, Part]) -> str:
    """docs/benchmarks.svg."""
    return svg([chart for part in parts.values() for chart in part.charts])


def section(part: Part) -> str:
    """What one module measured, as a section of the page."""
    lines = [f"## {part.title}", "", part.how, "", *_table(part), ""]
    for aim in part.aims:
        verdict = "reached" if aim.reached else "**not reached**"
        lines.append(
            f"- {aim.what}: {number(aim.figure)} {aim.unit}, to reach {aim.wanted}: {verdict}."
        )
    lines += [f"- {note}" for note in part.notes]
    return "\n".join(lines).rstrip() + "\n"


def _aims(parts: Mapping[str, Part]) -> list[str]:
    """Every aim in one table: the page in short."""
    rows = [
        f"| {_cell(aim.what)} | {number(aim.figure)} {_cell(aim.unit)} | {_cell(aim.wanted)} |"
        f" {'yes' if aim.reached else '**no**'} |"
        for part in parts.values()
        for aim in part.aims
    ]
    if not rows:
        return []
    return ["| measured | figure | to reach | reached |", "|---|---|---|---|", *rows, ""]


def _table(part: Part) -> list[str]:
    """The rows, with a column for each alternative, and how ours compares with it."""
    others = list(dict.fromkeys(name for row in part.rows for name in row.beside))
    noted = any(row.note for row in part.rows)
    head = ["measured", "unit", "ours"]
    for other in others:
        head += [other, "ours / it"]
    if noted:
        head.append("")
    lines = ["| " + " | ".join(head) + " |", "|---|---" + "|---:" * (len(head) - 2) + "|"]
    for row in part.rows:
        cells = [row.what, row.unit, number(row.ours)]
        for other in others:
            figure = row.beside.get(other)
            cells.append("" if figure is None else number(figure))
            cells.append(f"{number(row.ours / figure)}" if figure else "")
        if noted:
            cells.append(row.note)
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
