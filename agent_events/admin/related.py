"""What stands around an event: of the same agent, and of the same run. Bounded looks both ways."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import F, Func, JSONField, TextField, Value
from django.db.models.functions import Cast
from django.utils.translation import gettext as _

from agent_events.admin.looks import Look, Search, closed_at
from agent_events.admin.rows import LivePage, Row, rows_of, short
from agent_events.filters import Filter
from agent_events.models import AgentEvent
from agent_events.wire import Event

EACH_WAY = 10
"""Events before it and after it."""
LOOKS = 2
"""Each at some thousands of events, each way: for whoever wants more there is a link."""
RUN_CHARS = 200
"""A longer run id is no name of a run."""

Address = Callable[..., str]
"""The address of the list of events, with a query."""


class Note(NamedTuple):
    """How far a look came, and where it goes on; `url` is empty at the end of the log."""

    words: str
    link: str
    url: str


@dataclass(frozen=True, slots=True)
class Related:
    """A table of them, newest first, this event among them."""

    title: str
    rows: list[Row]
    notes: list[Note]
    all_url: str


def related_to(event: Event, run: str, live: LivePage, address: Address) -> list[Related]:
    """Those of its agent and, where it is of a run, of that. Raises as `history.read`.

    `run` is the JSON text of its run's id, or empty.
    """
    asked = {"tenant": event.tenant_id, "agent": event.agent_id}
    title, filter = _("This agent around it"), Filter.of(agents=[event.agent_id])
    groups = [_around(event, title, filter, asked, live, address)]
    if run:
        where = f"run_id = {run}"
        asked = {"tenant": event.tenant_id, "where": where}
        title = _("The run %(run)s around it") % {"run": _said(run)}
        filter = Filter.of(where=[where])
        groups.append(_around(event, title, filter, asked, live, address))
    return groups


def run_of(event_id: int, alias: str) -> str:
    """The JSON text of the event's `payload.run_id`: a string's, a number's; else empty.

    PostgreSQL cuts it out: a payload may be of any size, and a number has all of its digits.
    """
    events = AgentEvent.objects.using(alias).filter(pk=event_id)
    cut = Func(
        F("payload"), Value("run_id"), function="jsonb_extract_path", output_field=JSONField()
    )
    text = events.values_list(Cast(cut, TextField())).first()
    run = text[0] if text else None
    if not run or len(run) > RUN_CHARS or run[0] in "[{" or run in ("null", '""'):
        return ""
    return str(run)


def _around(
    event: Event,
    title: str,
    filter: Filter,
    asked: dict[str, Any],
    live: LivePage,
    address: Address,
) -> Related:
    search = Search(event.tenant_id, filter)
    after = search.after(event, EACH_WAY, LOOKS)
    before = search.before(event, EACH_WAY, LOOKS)
    return Related(
        title,
        rows_of([*after.events, event, *before.events], live, event.id),
        [
            _note(after, _("after"), address(**asked, after=after.newer) if after.newer else ""),
            _note(
                before, _("before"), address(**asked, before=before.older) if before.older else ""
            ),
        ],
        address(**asked, around=event.cursor),
    )


def _note(look: Look, way: str, url: str) -> Note:
    found = len(look.events)
    if look.ended is not None:
        words = _(
            "%(found)d among the %(passed)s events of the log right %(way)s it, "
            "as far as batch %(batch)d (%(time)s)."
        ) % {
            "found": found,
            "passed": f"{look.passed:,}" if look.passed else _("next"),
            "way": way,
            "batch": look.ended.position.last_batch,
            "time": short(closed_at(look.ended)),
        }
        return Note(words, _("Look further"), url)
    if url:
        words = _("The nearest %(found)d %(way)s it.")
        return Note(words % {"found": found, "way": way}, _("More"), url)
    words = _("All %(found)d %(way)s it that the log has.") if found else _("None %(way)s it.")
    return Note(words % {"found": found, "way": way}, "", "")


def _said(run: str) -> str:
    return str(json.loads(run)) if run.startswith('"') else run
