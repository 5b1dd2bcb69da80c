"""The events of the list as files: those that are selected, or all that match. As admin actions."""

from typing import Any, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext_lazy as _

from agent_events.admin import looks
from agent_events.admin.forms import EventsForm
from agent_events.admin.read_only import ReadOnlyAdmin
from agent_events.admin.rows import names_of
from agent_events.errors import AgentEventsError, LimitReached, RightLacking
from agent_events.export_door import download, file_name
from agent_events.export_forms import FORMS
from agent_events.exporting import Chosen, Export, Range, Source


class ExportActions(ReadOnlyAdmin):
    """The two actions. Whoever may view events may have them as a file."""

    actions = ("export_csv", "export_jsonl")

    @admin.action(description=_("CSV"), permissions=("view",))
    def export_csv(self, request: HttpRequest, chosen: QuerySet[Any]) -> HttpResponseBase | None:
        """For a spreadsheet."""
        return self._export(request, chosen, "csv")

    @admin.action(description=_("JSON lines"), permissions=("view",))
    def export_jsonl(self, request: HttpRequest, chosen: QuerySet[Any]) -> HttpResponseBase | None:
        """For a program."""
        return self._export(request, chosen, "jsonl")

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As ever, but for a number that is none: Django would raise an error."""
        if not all(pk.isdecimal() for pk in request.POST.getlist("_selected_action")):
            return None
        return super().response_action(request, queryset, *args, **kwargs)

    def _export(
        self, request: HttpRequest, chosen: QuerySet[Any], form_name: str
    ) -> HttpResponseBase | None:
        form, holder = FORMS[form_name], f"user:{request.user.pk}"
        tenant, address = None, ""
        source: Source
        if request.POST.get("select_across") in ("", "0", None):
            source = Chosen(chosen.values_list("pk", flat=True))
        else:
            asked_form = EventsForm(request.GET)
            if not asked_form.is_valid():
                return None  # the list says what is wrong with it
            asked = asked_form.cleaned_data
            tenant = asked["tenant"]
            try:
                span = looks.Span.of(asked["since"], asked["until"], asked["batch"])
                source = self._all(asked, span)
            except AgentEventsError as error:
                self._say(request, error)
                return None
            kept = {k: v for k, v in request.GET.lists() if k not in EventsForm.PLACES}
            address = self.list_url(**kept, before="")
        made = Export(
            source,
            form,
            lambda cursor: f"{address}{cursor}" if address else "",
            lambda: self._check(request),
        )
        whose = None if tenant is None else (tenant,)
        names = names_of([] if tenant is None else [UUID(tenant)])
        try:
            name = file_name(form, whose, {str(id_): name for id_, name in names.items()})
            return download(request, made, name, holder)
        except AgentEventsError as error:
            self._say(request, error)
            return None

    @staticmethod
    def _all(asked: dict[str, Any], span: looks.Span) -> Source:
        """All that matches, newest first; where a page further back is shown, from there back."""
        tenants = None if asked["tenant"] is None else (asked["tenant"],)
        return Range(
            tenants,
            asked["filter"],
            True,
            asked["before"] or str(span.last or ""),
            str(span.first or ""),
        )

    def _say(self, request: HttpRequest, error: AgentEventsError) -> None:
        level = messages.WARNING if isinstance(error, LimitReached) else messages.ERROR
        self.message_user(request, str(error), level)

    def _check(self, request: HttpRequest) -> None:
        """Raises RightLacking where whoever began may not view events any more."""
        users = get_user_model()._default_manager
        user: Any = users.filter(pk=cast("Any", request.user).pk).first()
        permission = f"{self.opts.app_label}.view_{self.opts.model_name}"
        if user is None or not (user.is_active and user.is_staff and user.has_perm(permission)):
            raise RightLacking("You may not view events any more.")
