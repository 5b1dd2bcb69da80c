"""What the lists in the admin are asked for. Every field may be left out."""

from typing import Any
from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from agent_events.conf import get_settings
from agent_events.errors import InvalidCursor, InvalidFilter
from agent_events.filters import Filter
from agent_events.models import AgentEvent, Tenant
from agent_events.position import MOST_ID, Cursor


def _time(label: Any) -> forms.DateTimeField:
    """A time in Django's current time zone, picked by the browser's own control."""
    widget = forms.DateTimeInput(
        format="%Y-%m-%dT%H:%M:%S", attrs={"type": "datetime-local", "step": "1"}
    )
    return forms.DateTimeField(required=False, label=label, widget=widget)


def _number(label: Any, least: int = 0) -> forms.IntegerField:
    return forms.IntegerField(
        required=False,
        label=label,
        min_value=least,
        max_value=MOST_ID - 1,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "size": "8"}),
    )


def _text(label: Any, hint: Any, widget: Any = forms.TextInput) -> forms.CharField:
    return forms.CharField(
        required=False,
        label=label,
        max_length=2_000,
        widget=widget(attrs={"placeholder": hint, "autocomplete": "off"}),
    )


class Lines(forms.Textarea):
    """A line each, in one field or in several of the same name, as in the live page's address."""

    def __init__(self, attrs: dict[str, Any]) -> None:
        super().__init__({"rows": "1", "cols": "24", "spellcheck": "false", **attrs})

    def value_from_datadict(self, data: Any, files: Any, name: str) -> str:
        """All of them, joined."""
        given = data.getlist(name) if hasattr(data, "getlist") else [data.get(name) or ""]
        return "\n".join(given)


def _entries(cleaned: dict[str, Any], name: str, between: str) -> list[str]:
    return (cleaned.get(name) or "").split(between)


class EventsForm(forms.Form):
    """Filters of the events, each with an index or a bounded look behind it."""

    tenant = _text(_("Tenant"), _("id or name"))
    agent = _text(_("Agent"), _("id, or its beginning and *"))
    type = _text(_("Type"), _("tool.*, error"))
    text = _text(_("Text in type or payload"), _("a line each"), Lines)
    where = _text(_("Where in the payload"), _("tokens > 1000, a line each"), Lines)
    since = _time(_("Since"))
    until = _time(_("Until"))
    batch = _number(_("Batch"), least=1)
    id = _number(_("Event"))
    # Of links, not of people.
    before = forms.CharField(required=False, widget=forms.HiddenInput)
    after = forms.CharField(required=False, widget=forms.HiddenInput)
    around = forms.CharField(required=False, widget=forms.HiddenInput)

    PLACES = ("before", "after", "around")

    def clean_tenant(self) -> str | None:
        """The id of the tenant, which need not have a name here."""
        text: str = self.cleaned_data["tenant"].strip()
        if not text:
            return None
        try:
            return str(UUID(text))
        except ValueError:
            named = Tenant.objects.filter(name=text).first()
        if named is None:
            raise ValidationError(_("No tenant has this name, and it is no id (a UUID)."))
        return str(named.id)

    def clean_id(self) -> int | None:
        """An event that exists, in the log's order or not yet."""
        wanted: int | None = self.cleaned_data["id"]
        events = AgentEvent.objects.using(get_settings().database)
        if wanted is not None and not events.filter(pk=wanted).exists():
            raise ValidationError(_("There is no event %(id)s."), params={"id": wanted})
        return wanted

    def clean(self) -> dict[str, Any]:
        """With `filter`; and with cursors that are cursors."""
        cleaned: dict[str, Any] = super().clean() or {}
        for name, given in self._given(cleaned).items():
            try:
                Filter.of(**given)
            except InvalidFilter as error:
                self.add_error(name, str(error))
        if not self.errors:
            merged: dict[str, Any] = {}
            for given in self._given(cleaned).values():
                merged |= given
            cleaned["filter"] = Filter.of(**merged)
        for place in self.PLACES:
            try:
                Cursor.parse(cleaned[place]) if cleaned.get(place) else None
            except InvalidCursor as error:
                raise ValidationError(str(error)) from error
        return cleaned

    @staticmethod
    def _given(cleaned: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
        """By field, what it gives a filter: each is tried alone, so that its error stands there."""
        given = {
            "agent": {"agents": _entries(cleaned, "agent", ",")},
            "type": {"types": _entries(cleaned, "type", ",")},
            "text": {"texts": _entries(cleaned, "text", "\n")},
            "where": {"where": _entries(cleaned, "where", "\n")},
        }
        return {name: one for name, one in given.items() if any(map(any, one.values()))}


class LedgerForm(forms.Form):
    """Where to look into the ledger."""

    batch = _number(_("Batch"))
    until = _time(_("Closed before"))
    # Of links.
    before = forms.IntegerField(
        required=False, min_value=0, max_value=MOST_ID, widget=forms.HiddenInput
    )
    after = forms.IntegerField(
        required=False, min_value=-1, max_value=MOST_ID, widget=forms.HiddenInput
    )
