"""The events in the admin, in the ledger's order: a list that is a bounded look, and one event."""

from typing import Any

import psycopg
from django.contrib import admin
from django.db import Error, transaction
from django.db.models import F, Func, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from agent_events import history
from agent_events.admin import looks
from agent_events.admin.exports import ExportActions
from agent_events.admin.forms import EventsForm
from agent_events.admin.related import related_to, run_of
from agent_events.admin.rows import LivePage, names_of, rows_of, short
from agent_events.conf import get_settings
from agent_events.errors import WrongDatabase
from agent_events.models import AgentEvent, Batch
from agent_events.wire import Event

_LINKS = EventsForm.PLACES
_NOTICES = {
    "truncated": _("What this page's address asks for is pruned: these are the oldest events."),
    "reset": _("This page's address is of another history: these are from about the same time."),
}


@admin.register(AgentEvent)
class AgentEventAdmin(ExportActions):
    """The log, read-only: events are inserted by producers and never changed."""

    list_template = "agent_events/admin/events.html"
    change_form_template = "agent_events/admin/event.html"
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
        base = {
            k: [value for value in given if value]
            for k, given in request.GET.lists()
            if any(given) and k in form.fields and k not in _LINKS
        }
        ended = look.ended
        return context | {
            "rows": rows_of([*look.waiting, *look.events], LivePage(request)),
            "export_all": self._export_all(asked),
            "export_actions": self.get_action_choices(request, default_choices=[]),
            "waits": bool(look.waiting),
            "newest": None if look.newer is None else self.list_url(**base),
            "newer": look.newer and self.list_url(**base, after=look.newer),
            "older": look.older and self.list_url(**base, before=look.older),
            "ended_at": ended and short(looks.closed_at(ended)),
            "ended_batch": ended and ended.position.last_batch,
            "passed": f"{look.passed:,}" if look.passed else "",
            "from_head": not any(asked[k] for k in (*_LINKS, "until", "batch")),
            "notice": _NOTICES.get(look.notice, ""),
        }

    @staticmethod
    def _export_all(asked: dict[str, Any]) -> Any:
        """What "all" is, for whoever exports from here."""
        if asked["before"]:
            return _("All from here back")
        return _("All that match")

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """The event, with its place in the log's order as `placed`, and the live page as `live`."""
        found: Any = super().get_object(request, object_id, from_field)
        if found is not None:
            found.placed = history.one(found.pk, None)
            found.live = LivePage(request)
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
        live = row.live.of(str(row.tenant_id), placed.id)
        ways: list[tuple[Any, str]] = [
            *([(_("On the live page"), live)] if live else []),
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

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """With what stands around it, where it has a place in the log."""
        placed: Event | None = obj.placed
        if placed is not None:
            run = run_of(placed.id, get_settings().database)
            context["related"] = related_to(placed, run, obj.live, self.list_url)
            context["sees_ledger"] = self.may_view(request, Batch)
        return super().render_change_form(request, context, add, change, form_url, obj)

    @admin.display(description=_("batch"))
    def place_text(self, event: Any) -> str:
        """Its batch, or why it has none."""
        placed: Event | None = event.placed
        if placed is not None:
            return f"{placed.batch} ({short(looks.closed_at(placed))})"
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
        name = names_of([event.tenant_id]).get(event.tenant_id)
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
