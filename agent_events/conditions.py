"""The `where` of a filter: what a value within an event's payload has to be. Pure.

The grammar is in docs/filters.md. Of the log PostgreSQL is asked, by `to_jsonpath`; a live event is
looked at here, in the same way, that of jsonpath's lax mode: a member of an array is that of its
elements, and an array is compared by its elements.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from agent_events.errors import InvalidFilter

CONDITION_CHARS = 500
MOST_STEPS = 20
"""Keys and places in one path."""
_MOST_DIGITS = 131_072  # what PostgreSQL's numeric holds before its point, and behind it
_MOST_PLACES = 16_383
_NUMBER_EXPECTED = f"at most {_MOST_DIGITS} digits before the point and {_MOST_PLACES} behind it"
_MOST_PLACE = 2**31 - 1

Step = str | int

_KEY = re.compile(r'[^\s.\[\]"=!<>~]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_PLACE = re.compile(r"\[\s*([0-9]{1,10})\s*\]", re.ASCII)
_QUOTED_KEY = re.compile(r'\[\s*("(?:[^"\\]|\\.)*")\s*\]')
_OPERATOR = re.compile(r"\s*(==|!=|>=|<=|=|>|<|~)\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_PIECE = re.compile(r'[\[\]{},:]|"(?:[^"\\]|\\.)*"|[^\s\[\]{},:"]+')
_JSONPATH = {"=": "=="}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    ">": gt,
    ">=": ge,
    "<": lt,
    "<=": le,
}
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Condition:
    """`operator` is '' where the path only has to be there.

    `value` is a str, a Decimal, a bool or None.
    """

    steps: tuple[Step, ...]
    operator: str
    value: Any

    def may_hold(self, text: str) -> bool:
        """False where the keys do not even occur in this JSON text, which need not be read then."""
        return all(_quoted(step) in text for step in self.steps if isinstance(step, str))

    def holds(self, payload: Any) -> bool:
        """Does it hold for a payload as `read` returns it?"""
        found = [payload]
        for step in self.steps:
            found = [one for item in found for one in _at(item, step)]
        if not self.operator:
            return bool(found)
        values = [one for item in found for one in (item if isinstance(item, list) else [item])]
        return any(_compare(self.operator, one, self.value) for one in values)


def read(text: str) -> Any:
    """A payload's JSON with its numbers as Decimals: none is rounded, none takes long to read."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal)
    except RecursionError:
        return _read_deep(text)


def to_jsonpath(conditions: Iterable["Condition"]) -> str:
    """All of them as one predicate in PostgreSQL's jsonpath. At least one."""
    return " && ".join(_jsonpath(condition) for condition in conditions)


@lru_cache(maxsize=1_000)
def parse(text: str) -> Condition:
    """The condition that this text is. Raises InvalidFilter, which says what was expected where."""
    if len(text) > CONDITION_CHARS:
        raise InvalidFilter(
            f"A where is {len(text)} characters long, expected {CONDITION_CHARS} at most."
        )
    steps, at = _path(text)
    if steps[0] == "payload" and len(steps) > 1 and not text.startswith(("[", '"')):
        steps = steps[1:]
    if len(steps) > MOST_STEPS:
        raise InvalidFilter(f"A where has {len(steps)} keys, expected {MOST_STEPS} at most.")
    if at == len(text):
        return Condition(steps, "", None)
    operator = _OPERATOR.match(text, at)
    if operator is None:
        raise _wrong(text, at, "one of = != > >= < <= ~")
    sign = "=" if operator[1] == "==" else operator[1]
    value = _value(text, operator.end())
    if sign == "~" and not isinstance(value, str):
        value = text[operator.end() :]
    return Condition(steps, sign, value)


def _path(text: str) -> tuple[tuple[Step, ...], int]:
    steps: list[Step] = []
    at = 0
    while True:
        if found := _QUOTED_KEY.match(text, at):
            steps.append(_string(text, at, found[1]))
        elif found := _PLACE.match(text, at):
            if int(found[1]) > _MOST_PLACE:
                raise _wrong(text, at, f"a place of {_MOST_PLACE} at most")
            steps.append(int(found[1]))
        else:
            if steps and text[at : at + 1] != ".":
                return tuple(steps), at
            at += bool(steps)
            if found := _QUOTED.match(text, at):
                steps.append(_string(text, at, found[0]))
            elif found := _KEY.match(text, at):
                steps.append(found[0])
            else:
                raise _wrong(text, at, 'a key, "a quoted key" or [0]')
        at = found.end()


def _value(text: str, at: int) -> Any:
    word = text[at:]
    if not word:
        raise _wrong(text, at, "a value")
    if word in _WORDS:
        return _WORDS[word]
    if word.startswith('"'):
        if not _QUOTED.fullmatch(word):
            raise _wrong(text, at, "a JSON string, and nothing behind it")
        return _string(text, at, word)
    if _NUMBER.fullmatch(word):
        try:
            number = Decimal(word)
        except InvalidOperation:
            raise _wrong(text, at, _NUMBER_EXPECTED) from None
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)  # else NaN and the like, which are no numbers here
        if number.adjusted() >= _MOST_DIGITS or exponent < -_MOST_PLACES:
            raise _wrong(text, at, _NUMBER_EXPECTED)
        return number
    return word


def _string(text: str, at: int, quoted: str) -> str:
    try:
        value: str = json.loads(quoted)
        value.encode()
    except ValueError:
        raise _wrong(text, at, "a JSON string") from None
    if "\x00" in value:
        raise _wrong(text, at, "a string without U+0000")
    return value


def _wrong(text: str, at: int, expected: str) -> InvalidFilter:
    where = f"has {text[at : at + 20]!r} at character {at + 1}" if at < len(text) else "ends early"
    return InvalidFilter(
        f"A where {where}, expected {expected}. "
        'Such as: payload.tokens > 1000, error.type = TimeoutError, run_id = "run-17".'
    )


def _at(item: Any, step: Step) -> list[Any]:
    items = item if isinstance(item, list) else [item]
    if isinstance(step, int):
        return items[step : step + 1]
    return [one[step] for one in items if isinstance(one, dict) and step in one]


def _compare(operator: str, found: Any, wanted: Any) -> bool:
    if operator == "~":
        return isinstance(found, str) and wanted in found
    if found is None or wanted is None:
        same = found is wanted
        return not same if operator == "!=" else same and operator in ("=", ">=", "<=")
    if type(found) is not type(wanted):
        return False
    return _COMPARE[operator](found, wanted)


def _jsonpath(condition: Condition) -> str:
    path = "$" + "".join(
        f"[{step}]" if isinstance(step, int) else f".{_quoted(step)}" for step in condition.steps
    )
    if not condition.operator:
        return f"exists ({path})"
    value = condition.value
    if isinstance(value, str):
        written = _quoted(value)
    elif isinstance(value, Decimal):
        written = str(value)
    else:
        written = json.dumps(value)
    if condition.operator == "~":
        return f'({path} like_regex {written} flag "q")'
    return f"({path} {_JSONPATH.get(condition.operator, condition.operator)} {written})"


def _read_deep(text: str) -> Any:
    """What `read` returns, without recursion: PostgreSQL nests deeper than Python's own reader."""
    root: list[Any] = []
    open_ones: list[Any] = [root]
    keys: list[str | None] = [None]
    for piece in _PIECE.findall(text):
        if piece in ",:":
            continue
        if piece in "]}":
            open_ones.pop()
            keys.pop()
            continue
        inside = open_ones[-1]
        if isinstance(inside, dict) and keys[-1] is None:
            keys[-1] = json.loads(piece)
            continue
        value: Any = [] if piece == "[" else {} if piece == "{" else read(piece)
        if isinstance(inside, dict):
            inside[keys[-1]] = value
            keys[-1] = None
        else:
            inside.append(value)
        if piece in "[{":
            open_ones.append(value)
            keys.append(None)
    return root[0]


def _quoted(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)
