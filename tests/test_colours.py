"""An agent's colour: the same everywhere, and readable on every ground."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid

import pytest

from agent_events.terminal import HUES, Colours, colours_of, hue_of, line, rgb_of
from agent_events.wire import Event
from tests.support.database import ROOT

STATIC = ROOT / "static" / "agent_events"
AA = 4.5
"""The contrast that WCAG 2.2 asks for of small text (1.4.3)."""


def luminance(rgb: tuple[float, float, float]) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, list[float]]]:
    """The grounds and the hues' lightness and strength, as base.css has them: light, dark."""
    text = (STATIC / "base.css").read_text(encoding="utf-8")
    found: list[dict[str, list[float]]] = [{}, {}]
    for name in ("ground", "surface", "raised"):
        colours = re.findall(rf"--{name}:([^;]*);", text)
        both = re.findall(r"oklch\(([\d. ]+)\)", " ".join(colours))
        for theme, colour in zip(found, both, strict=False):
            theme[name] = [float(part) for part in colour.split()]
    for name in ("hue-lightness", "hue-chroma"):
        values = re.findall(rf"--{name}: ([\d.]+);", text)
        for theme, value in zip(found, values, strict=False):
            theme[name] = [float(value)]
    return found


@pytest.mark.parametrize(("place", "name"), [(0, "light"), (1, "dark")])
def test_every_hue_is_readable_on_every_ground(place: int, name: str) -> None:
    theme = themes()[place]
    low = {}
    for hue in range(0, 360, 360 // HUES):
        for strength in (1.0, 0.9):  # in the rail, in a row
            words = rgb_of(theme["hue-lightness"][0], theme["hue-chroma"][0] * strength, hue)
            for ground in ("ground", "surface", "raised"):
                lightness, chroma, ground_hue = [*theme[ground], 0.0, 0.0][:3]
                found = contrast(words, rgb_of(lightness, chroma, ground_hue))
                if found < AA:
                    low[hue, ground] = round(found, 2)
    assert low == {}


def test_an_agent_has_the_same_hue_on_the_page_and_on_a_terminal() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    agents = [str(uuid.uuid4()) for _ in range(200)]
    script = (
        f'import {{ hueOf }} from "{(STATIC / "agents" / "colours.js").as_uri()}";'
        "console.log(process.argv.slice(1).map(hueOf).join(' '));"
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", script, *agents],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(hue) for hue in done.stdout.split()] == [hue_of(agent) for agent in agents]


def event(agent: str) -> Event:
    return Event(
        1,
        0,
        1,
        f'{{"id":1,"tenantId":"{uuid.UUID(int=1)}","agentId":"{agent}","type":"note",'
        '"payload":{},"createdAt":"2026-01-31T12:00:00.000000Z"}',
    )


def test_a_terminal_shows_the_colours_that_it_has_and_none_where_nobody_wants_any() -> None:
    assert colours_of({"COLORTERM": "truecolor"}, True) is Colours.TRUE
    assert colours_of({"TERM": "xterm-256color"}, True) is Colours.OF_256
    for environment in ({"NO_COLOR": "1", "COLORTERM": "truecolor"}, {"TERM": "dumb"}):
        assert colours_of(environment, True) is Colours.NONE
    assert colours_of({"NO_COLOR": ""}, True) is Colours.OF_256  # as no-color.org has it
    assert colours_of({"COLORTERM": "truecolor"}, False) is Colours.NONE

    agent = str(uuid.uuid4())
    assert "\x1b" not in line(event(agent), colour=Colours.NONE)
    assert re.search(
        rf"\x1b\[38;2;\d+;\d+;\d+m{agent[:8]}\x1b\[39m", line(event(agent), colour=Colours.TRUE)
    )
    assert re.search(
        rf"\x1b\[38;5;\d+m{agent[:8]}\x1b\[39m", line(event(agent), colour=Colours.OF_256)
    )


@pytest.mark.parametrize("colour", [Colours.OF_256, Colours.TRUE])
def test_a_terminal_tells_agents_apart(colour: Colours) -> None:
    agents = {hue_of(agent): agent for agent in (str(uuid.uuid4()) for _ in range(2_000))}
    assert len(agents) == HUES
    codes = {
        line(event(agent), colour=colour).split("m")[0].split("\x1b")[1]
        for agent in agents.values()
    }
    assert len(codes) >= (HUES if colour is Colours.TRUE else 10)
