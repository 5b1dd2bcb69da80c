"""The events in the admin, in the ledger's order: a list that is a bounded look, and one event."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from django.contrib import admin
from django.db import Error, transaction
from django.db.models import F, Func, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from agent_events import history
from agent_events.admin import looks
from agent_events.admin.forms import EventsForm
from agent_events.admin.read_only import ReadOnlyAdmin
from agent_events.conf import get_settings
from agent_events.errors import WrongDatabase
from agent_events.models import AgentEvent, Batch, Tenant
from agent_events.wire import Event

PAYLOAD_CHARS = 120
"""What a list shows of a payload."""

_LINKS = EventsForm.PLACES
_NOTICES = {
    "truncated": _("What this page's address asks for is pruned: these are the oldest events."),
    "reset": _("This page's address is of another history: these are from about the same time."),
}


class Row(NamedTuple):
    """An event of the list; `batch` is None where it waits for one."""

    id: int
    batch: int | None
    closed_at: str
    created_at: str
    type: str
    tenant_id: str
    agent_id: str
    payload: str
    tenant_name: str = ""


@admin.register(AgentEvent)
class AgentEventAdmin(ReadOnlyAdmin):
    """The log, read-only: events are inserted by producers and never changed."""

    list_template = "agent_events/admin/events.html"
    change_form_template = "agent_events/admin/one.html"
    fields = (
        "id",
        "place_text",
        "cursor_text",
        "event_type",
        "tenant_text",
        "agent_id",
        "created_text",
        "tx",
        "payload_text",
    )
    readonly_fields = fields

    def listed(self, request: HttpRequest) -> dict[str, Any] | HttpResponse:
        """What was asked for, as far as a bounded look finds it."""
        form = EventsForm(request.GET)
        context: dict[str, Any] = {
            "form": form,
            "filtered": any(v for k, v in request.GET.items() if k not in _LINKS),
            "sees_ledger": self.may_view(request, Batch),
        }
        if not form.is_valid():
            return context
        asked = form.cleaned_data
        if asked["id"] is not None:
            return HttpResponseRedirect(self.url("change", asked["id"]))
        try:
            with transaction.atomic(get_settings().database):
                look = _look(asked)
        except WrongDatabase as error:
            return context | {"refused": str(error)}
        except Error as error:
            if not isinstance(error.__cause__, psycopg.errors.ObjectNotInPrerequisiteState):
                raise
            told = error.__cause__.diag
            return context | {"refused": f"{told.message_primary}. {told.message_hint or ''}"}
        base = {k: v for k, v in request.GET.items() if v and k in form.fields and k not in _LINKS}
        ended = look.ended
        return context | {
            "rows": _rows(look),
            "waits": bool(look.waiting),
            "newest": None if look.newer is None else self.list_url(**base),
            "newer": look.newer and self.list_url(**base, after=look.newer),
            "older": look.older and self.list_url(**base, before=look.older),
            "ended_at": ended and _short(looks.closed_at(ended)),
            "ended_batch": ended and ended.position.last_batch,
            "passed": f"{look.passed:,}" if look.passed else "",
            "from_head": not any(asked[k] for k in (*_LINKS, "until", "batch")),
            "notice": _NOTICES.get(look.notice, ""),
        }

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """The event, with its place in the log's order as `placed`."""
        found: Any = super().get_object(request, object_id, from_field)
        if found is not None:
            found.placed = history.one(found.pk, None)
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentEvent]:
        """Without what Python cannot hold as it is: a payload's numbers, an infinite time."""
        events: QuerySet[AgentEvent] = super().get_queryset(request)
        created = Cast("created_at", TextField())
        return events.defer("payload", "created_at").annotate(created_text=created)

    def ways(self, request: HttpRequest, row: Any) -> list[tuple[Any, str]]:
        """Its surroundings, and its batch."""
        placed: Event | None = row.placed
        if placed is None:
            return []
        here = {"around": placed.cursor}
        ways: list[tuple[Any, str]] = [
            (_("Around it"), self.list_url(**here)),
            (_("This tenant around it"), self.list_url(**here, tenant=row.tenant_id)),
            (
                _("This agent around it"),
                self.list_url(**here, tenant=row.tenant_id, agent=row.agent_id),
            ),
        ]
        if self.may_view(request, Batch):
            ways.append((_("Its batch"), self.url("change", placed.batch, model=Batch)))
        return ways

    @admin.display(description=_("batch"))
    def place_text(self, event: Any) -> str:
        """Its batch, or why it has none."""
        placed: Event | None = event.placed
        if placed is not None:
            return f"{placed.batch} ({_short(looks.closed_at(placed))})"
        if looks.is_waiting(event.tx):
            return str(_("None yet: nobody has closed the batch that will hold it."))
        return str(_("None any more: its batch was pruned."))

    @admin.display(description=_("cursor right after it"))
    def cursor_text(self, event: Any) -> SafeString | str:
        """What a client sends to go on after this event."""
        placed: Event | None = event.placed
        return "-" if placed is None else format_html("<code>{}</code>", placed.cursor)

    @admin.display(description=_("created at"))
    def created_text(self, event: Any) -> str:
        """What the producer, or the start of its transaction, said; it may be infinite."""
        return str(event.created_text)

    @admin.display(description=_("tenant"))
    def tenant_text(self, event: AgentEvent) -> str:
        """The tenant's id, and its name if it has one."""
        name = _names([event.tenant_id]).get(event.tenant_id)
        return f"{event.tenant_id} ({name})" if name else str(event.tenant_id)

    @admin.display(description=_("payload"))
    def payload_text(self, event: AgentEvent) -> SafeString:
        """The payload as PostgreSQL writes it, so that no number is rounded on the way."""
        pretty = Func(F("payload"), function="jsonb_pretty", output_field=TextField())
        text = AgentEvent.objects.using(event._state.db).values_list(pretty).get(pk=event.pk)[0]
        return format_html('<pre class="payload">{}</pre>', text)


def _look(asked: dict[str, Any]) -> looks.Look:
    search = looks.Search(
        asked["tenant"],
        asked["filter"],
        looks.Span.of(asked["since"], asked["until"], asked["batch"]),
    )
    if asked["around"]:
        return search.around(asked["around"])
    if asked["after"]:
        return search.newer_than(asked["after"])
    return search.older_than(asked["before"])


def _rows(look: looks.Look) -> list[Row]:
    rows = [
        Row(w.id, None, "", _created(w.created_at), w.type, w.tenant_id, w.agent_id, "")
        for w in look.waiting
    ] + [
        Row(
            e.id,
            e.batch,
            _short(looks.closed_at(e)),
            _created(e.created_at),
            e.type,
            e.tenant_id,
            e.agent_id,
            e.payload_text[: PAYLOAD_CHARS + 1],
        )
        for e in look.events
    ]
    names = _names({UUID(row.tenant_id) for row in rows})
    return [row._replace(tenant_name=names.get(UUID(row.tenant_id), "")) for row in rows]


def _names(ids: Any) -> dict[UUID, str]:
    tenants = Tenant.objects.filter(pk__in=list(ids))
    return dict(tenants.values_list("id", "name"))


def _created(text: str) -> str:
    """RFC 3339 as a time of this site; as it is where Python has no such time."""
    try:
        return _short(datetime.fromisoformat(text))
    except ValueError:
        return text or "infinite"


def _short(time: datetime) -> str:
    return timezone.localtime(time).isoformat(" ", "milliseconds")[:23]
