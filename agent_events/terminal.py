"""An event as a line on a terminal. Pure."""

import json
import math
from collections.abc import Mapping
from enum import Enum

from agent_events.wire import Event

_PAYLOAD_WIDTH = 160

HUES = 24
"""Hues that agents have: each 15 degrees."""
# Readable on a dark terminal and on a light one.
_LIGHTNESS, _CHROMA = 0.66, 0.14


class Colours(Enum):
    """What a terminal can show."""

    NONE = 0
    OF_256 = 1
    TRUE = 2


def colours_of(environment: Mapping[str, str], is_terminal: bool) -> Colours:
    """What to show by these environment variables: none where `NO_COLOR` is set to anything."""
    if not is_terminal or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return Colours.NONE
    if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return Colours.TRUE
    return Colours.OF_256


def hue_of(agent_id: str) -> int:
    """The agent's hue in degrees, in OKLCH: that of the page (`agents/colours.js`)."""
    hashed = 2166136261
    for character in agent_id:
        hashed = (hashed ^ ord(character)) * 16777619 & 0xFFFFFFFF
    return (hashed >> 8) % HUES * (360 // HUES)


def line(event: Event, *, colour: Colours = Colours.NONE) -> str:
    """One line: time, tenant, agent, type, the payload's beginning. An agent keeps its colour."""
    agent = event.agent_id[:8]
    kind = event.type
    if colour is not Colours.NONE:
        agent = f"\x1b[{_code(hue_of(event.agent_id), colour)}m{agent}\x1b[39m"
    payload = event.payload_text
    if len(payload) > _PAYLOAD_WIDTH:
        payload = payload[: _PAYLOAD_WIDTH - 1] + "…"
    clock = event.created_at[11:23] or "-"
    return f"{clock}  {event.tenant_id[:8]}  {agent}  {_safe(kind):<16}  {_safe(payload)}"


def _code(hue: int, colour: Colours) -> str:
    """The parameters of the escape sequence for a text of this hue."""
    red, green, blue = rgb_of(_LIGHTNESS, _CHROMA, hue)
    if colour is Colours.TRUE:
        return f"38;2;{round(red * 255)};{round(green * 255)};{round(blue * 255)}"
    # The cube of 6 x 6 x 6 colours, whose steps are 0, 95, 135, 175, 215 and 255.
    steps = [
        min(range(6), key=lambda n: abs((n and 55 + 40 * n) - 255 * part))
        for part in (red, green, blue)
    ]
    return f"38;5;{16 + 36 * steps[0] + 6 * steps[1] + steps[2]}"


def rgb_of(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """An OKLCH colour (`hue` in degrees) as sRGB: each part from 0 to 1, cut off where it ends."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    # https://bottosson.github.io/posts/oklab/
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _gamma(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _gamma(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _gamma(linear: float) -> float:
    linear = min(1.0, max(0.0, linear))
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _safe(text: str) -> str:
    """Agents' words are not the terminal's commands: escape sequences are shown, not obeyed."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
