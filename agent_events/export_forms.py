"""Events as lines of a file: JSON lines and CSV. Pure.

A file that is not all that was asked for ends with a line that is no event, and says why and where
to go on: nobody takes it for a whole one.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agent_events.wire import Event

INCOMPLETE = "INCOMPLETE"
"""What the last line of a CSV that is not whole has for a type; it has no id."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins with one of these would be a formula to a spreadsheet (OWASP, "CSV
Injection"): an apostrophe goes before it."""

_COLUMNS = ("cursor", "id", "createdAt", "tenantId", "agentId", "type", "payload")


class Incomplete(NamedTuple):
    """Why a file ends before its end.

    Attributes:
        reason: a word for scripts: `bytes`, `looked`, `truncated`, `reset`, `failed`, `refused`.
        detail: the same for people.
        cursor: where to go on.
        next: the address that goes on there.
    """

    reason: str
    detail: str
    cursor: str
    next: str


class Form(Protocol):
    """How a file is written."""

    @property
    def name(self) -> str:
        """What it is asked for by; also the end of a file's name."""
        ...

    @property
    def content_type(self) -> str:
        """For the header of that name."""
        ...

    @property
    def head(self) -> str:
        """What every file begins with."""
        ...

    def lines(self, events: Iterable[Event]) -> str:
        """These events."""
        ...

    def end(self, why: Incomplete) -> str:
        """The last line of a file that is not whole."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An event a line: its text on the wire, byte for byte."""

    name: str = "jsonl"
    content_type: str = "application/x-ndjson"
    head: str = ""

    def lines(self, events: Iterable[Event]) -> str:
        """A line each. (PostgreSQL's JSON text has no raw line break.)"""
        return "".join([f"{event.json}\n" for event in events])

    def end(self, why: Incomplete) -> str:
        """`{"incomplete": {...}}`."""
        return json.dumps({"incomplete": why._asdict()}, separators=(",", ":")) + "\n"


@dataclass(frozen=True, slots=True)
class Csv:
    """RFC 4180, in UTF-8, with a header row; the payload is its JSON text."""

    name: str = "csv"
    content_type: str = "text/csv; charset=utf-8; header=present"
    head: str = ",".join(_COLUMNS) + "\r\n"

    def lines(self, events: Iterable[Event]) -> str:
        """A row each; no cell of them is a formula."""
        return _rows(
            (
                event.cursor,
                str(event.id),
                event.created_at,
                event.tenant_id,
                event.agent_id,
                event.type,
                event.payload_text,
            )
            for event in events
        )

    def end(self, why: Incomplete) -> str:
        """A row without an id, of the type INCOMPLETE; the payload says why."""
        said = json.dumps(why._asdict(), separators=(",", ":"))
        return _rows([(why.cursor, "", "", "", "", INCOMPLETE, said)])


FORMS: dict[str, Form] = {form.name: form for form in (JsonLines(), Csv())}


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows([_harmless(cell) for cell in row] for row in rows)
    return written.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
