"""JSON that came from outside: checked, and kept as the text that it was. Pure.

A payload is never decoded: PostgreSQL gets the very text, and a number such as 1.50 stays what it
is. What PostgreSQL's `jsonb` would refuse though it is JSON is refused here, with its place.
"""

import re
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from agent_events.errors import InvalidEvent, NotJson, TooLarge

T = TypeVar("T")

MOST_DEPTH = 200
"""Arrays and objects within each other: readers in many languages give up at some hundreds."""
# What PostgreSQL's `numeric` can hold (its manual, 8.1: Numeric Types).
MOST_DIGITS_BEFORE = 131_072
MOST_DIGITS_AFTER = 16_383

ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""U+0000 in JSON: valid there, but PostgreSQL cannot store it in text."""
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING)
_NUMBERS = re.compile(rf"{_STRING}|-?([0-9]++)(?:\.([0-9]++))?(?:[eE]([+-]?[0-9]++))?")
# One try for each run of digits: at each digit, a text of many would be looked at 16,000 times.
_MAY_BE_EXTREME = re.compile(r"[0-9][eE][+-]?[0-9]|(?<![0-9])[0-9]{16000}")
_MOST_WORDS = 300
_MOST_FIELD = 60
_WHERE = re.compile(r" - at `\$(?:\[(?P<place>\d+)\])?(?:\.(?P<field>\w+))?[^`]*`$")
_NAMED = re.compile(r"(?:missing required|unknown) field `(?P<field>[^`]*)`")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def decoded(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """What the decoder reads from the body of a request.

    Raises NotJson, and InvalidEvent with the place and the field of what is not as it should be.
    """
    if not body:
        raise NotJson("The body is empty. Send an event, or a list of them, as JSON.")
    try:
        body.decode()  # msgspec does not look into what it leaves as it is
    except UnicodeDecodeError as error:
        raise NotJson(f"The body is not UTF-8: {error}. Send JSON in UTF-8.") from error
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except msgspec.DecodeError as error:
        raise NotJson(f"The body is no JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidEvent(_TOO_DEEP, field="payload") from error


def decoded_list(
    decoder: "msgspec.json.Decoder[list[T]]", body: bytes, most_events: int
) -> list[T]:
    """A list, likewise. Raises TooLarge for more than `most_events`, too."""
    found = decoded(decoder, body)
    if len(found) > most_events:
        raise TooLarge(f"The list has {len(found):,} events. POST_EVENTS allows {most_events:,}.")
    return found


def invalid(words: str) -> InvalidEvent:
    """The error for what msgspec says of an event, which is the first one of a list of one."""
    where, named = _WHERE.search(words), _NAMED.search(words)
    place = int(where["place"]) if where and where["place"] else 0
    field = ((named and named["field"]) or (where and where["field"]) or "")[:_MOST_FIELD]
    what = (words[: where.start()] if where else words)[:_MOST_WORDS]  # it repeats what was sent
    about = "" if named or not field else f"{field}: "
    return InvalidEvent(f"Event {place}: {about}{what}.", place=place, field=field)


def payload_text(raw: Any, place: int, field: str, most_bytes: int) -> str:
    """The payload as text that PostgreSQL takes; `raw` is JSON in UTF-8, bytes or msgspec.Raw.

    Raises InvalidEvent, and TooLarge for more than `most_bytes`.
    """
    data = bytes(raw)
    if len(data) > most_bytes:
        raise TooLarge(
            f"Event {place}: its payload is {len(data):,} bytes. "
            f"POST_PAYLOAD_BYTES lets {most_bytes:,} through."
        )
    text = data.decode()
    what = _refused(text)
    if what:
        raise InvalidEvent(f"Event {place}: {field}: {what}", place=place, field=field)
    if _MAY_BE_EXTREME.search(text):
        _refuse_extreme(text, place, field, most_bytes)
    return text


def _refuse_extreme(text: str, place: int, field: str, most_bytes: int) -> None:
    """Raises InvalidEvent for a number that is out of range, TooLarge for numbers that grow.

    `jsonb` writes 1e131071 out, as 131,072 digits, wherever it is read.
    """
    size = len(text)
    for number in _NUMBERS.finditer(text):
        whole, fraction, exponent = number.groups("")
        if not whole:  # a string
            continue
        shift = int(exponent or 0) if len(exponent) <= 8 else MOST_DIGITS_BEFORE + 1
        before = (len(whole) if whole != "0" else 0) + shift
        after = len(fraction) - shift
        if before > MOST_DIGITS_BEFORE or after > MOST_DIGITS_AFTER:
            raise InvalidEvent(
                f"Event {place}: {field}: the payload contains a number out of range: PostgreSQL "
                f"holds {MOST_DIGITS_BEFORE:,} digits before the point and {MOST_DIGITS_AFTER:,} "
                "behind it.",
                place=place,
                field=field,
            )
        if exponent:
            size += max(before, 0) + max(after, 0)
    if size > most_bytes:
        raise TooLarge(
            f"Event {place}: its payload is {size:,} bytes with its numbers written out, as "
            f"PostgreSQL does. POST_PAYLOAD_BYTES lets {most_bytes:,} through."
        )


_TOO_DEEP = f"the payload is nested more than {MOST_DEPTH} levels deep."


def _refused(text: str) -> str:
    """Why PostgreSQL would not take it, or readers could not; empty where there is nothing."""
    if ESCAPED_NUL.search(text):
        return "the payload contains U+0000, which PostgreSQL cannot store in text."
    if text.count("[") + text.count("{") > MOST_DEPTH and _depth(text) > MOST_DEPTH:
        return _TOO_DEEP
    return ""


def _depth(text: str) -> int:
    steps = map(_STEPS.get, _STRINGS.sub("", text))
    return max(accumulate(step for step in steps if step is not None))
