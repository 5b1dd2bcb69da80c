"""The address that the log is downloaded from."""

import json
from typing import Any

from agent_events.conf import Settings
from agent_events.contract import reading
from agent_events.contract.pieces import EITHER_WAY, answer, operation, query, refusals
from agent_events.contract.schemas import EVENT, text, whole
from agent_events.export_door import MOST_LIMIT
from agent_events.export_forms import FORMS
from agent_events.position import EARLIEST, LATEST


def paths(settings: Settings, pages: str) -> dict[str, Any]:
    """Its part of `paths`; it is below `pages`, where Django's views are."""
    return {f"{pages}/api/agents/export": {"get": _export(settings)}}


def _export(settings: Settings) -> dict[str, Any]:
    return operation(
        "export",
        reading.TAG,
        "What matches, as a file",
        "The events of the history with the same names, in the same order, streamed: as many as "
        "there were when the request came. A line is an event's own text, byte for byte; a CSV "
        "(RFC 4180) has it in columns, the payload as JSON text, and an apostrophe before whatever "
        f"a spreadsheet would take for a formula. A file ends after {settings.export_bytes:,} bytes"
        '. One that is not all that was asked for ends with a line that is no event: `{"incomplete"'
        ': {"reason": ..., "detail": ..., "cursor": ..., "next": ...}}`, in a CSV a row without an '
        "id, of the type `INCOMPLETE`, with the same as its payload. `next` goes on there.",
        {
            "200": answer(
                "The file.",
                {
                    "application/x-ndjson": {
                        "schema": text(),
                        "example": json.dumps(EVENT, separators=(",", ":")) + "\n",
                    },
                    "text/csv": {"schema": text()},
                },
                ["Content-Disposition"],
            ),
            **refusals(
                "BadRequest", "NotSignedIn", "Forbidden", "NotFound", "TooMany", "Unavailable"
            ),
        },
        parameters=[
            query("format", {"enum": list(FORMS), "default": "jsonl"}, "The form of the file."),
            *reading.whose(),
            reading.cursor(f"`{LATEST}` for `desc`, `{EARLIEST}` for `asc`"),
            reading.at(),
            query(
                "until",
                reading.PLACE,
                "Where to end: a cursor. Left out: the other end of the log, as it is now.",
            ),
            query("order", {"enum": ["desc", "asc"], "default": "desc"}, "By the log's order."),
            query(
                "limit",
                whole(minimum=1, maximum=MOST_LIMIT),
                "Events at most. Left out: all, as far as a file goes.",
            ),
        ],
        security=EITHER_WAY,
    )
