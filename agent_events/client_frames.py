"""What a WebSocket client says: its frames, read. Pure."""

import json
from typing import Any, NamedTuple

from agent_events.errors import InvalidFilter, InvalidQuery
from agent_events.filters import Filter

_KNOWN = (
    'That frame was not understood. Known: {"type":"ack","cursor":...}, '
    '{"type":"filter","agents":[],"types":[]} (and, where wanted, the lists "notAgents", '
    '"notTypes", "texts", "where") and {"type":"auth","token":...}.'
)

_MORE = ("notAgents", "notTypes", "texts", "where")
"""What a `filter` frame may leave out, in the order of `Filter.of`."""


class Ack(NamedTuple):
    """It has the `events` frame of this cursor, and all before it."""

    cursor: str


class Refilter(NamedTuple):
    """It wants to see these from now on."""

    filter: Filter


class Auth(NamedTuple):
    """It says who it is, or that it goes on by another token."""

    token: str

    def __repr__(self) -> str:
        return "Auth(...)"  # no secret in a log


ClientFrame = Ack | Refilter | Auth


def read(text: str) -> ClientFrame:
    """The frame that this text is. Raises InvalidQuery, and InvalidFilter."""
    try:
        return _read(json.loads(text))
    except InvalidFilter:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidQuery(_KNOWN) from None  # (the text may hold a token)


def _read(frame: dict[str, Any]) -> ClientFrame:
    match frame["type"]:
        case "ack":
            return Ack(_text(frame["cursor"]))
        case "filter":
            more = (frame.get(name, []) for name in _MORE)
            return Refilter(
                Filter.of(_texts(frame["agents"]), _texts(frame["types"]), *map(_texts, more))
            )
        case "auth":
            return Auth(_text(frame["token"]).strip())
    raise ValueError


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(one) for one in value]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
