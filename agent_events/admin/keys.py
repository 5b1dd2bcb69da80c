"""API keys in the admin: made, shown once, renamed, revoked.

The key itself is on one page, the answer to the form that made it: no browser or proxy may keep
that page, and neither a message, a session nor the admin's history has it.
"""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.core.signing import BadSignature, Signer
from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from agent_events import keys
from agent_events.models import ApiKey

_AGAIN = _(
    "This form has made the key ae_%(prefix)s_... already, and showed it then. If it is lost, "
    "revoke it and make another."
)


def _signer() -> Signer:
    return Signer(salt="agent_events.new key")


def _form_id() -> str:
    return _signer().sign(keys.new_prefix())


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """A new key."""

    # The prefix that the key will have. Two keys cannot have the same: a form that is sent again,
    # by a second click or by loading the answer anew, makes no other key.
    form_id = forms.CharField(widget=forms.HiddenInput, required=False, initial=_form_id)

    def clean(self) -> dict[str, Any]:
        """With a right, and an end that is to come."""
        cleaned: dict[str, Any] = super().clean() or {}
        cleaned["prefix"] = _prefix_of(cleaned)
        if not cleaned["prefix"]:
            raise ValidationError(_("This form is none of this page's. Load the page anew."))
        if ApiKey.objects.filter(prefix=cleaned["prefix"]).exists():
            raise ValidationError(_AGAIN, params={"prefix": cleaned["prefix"]})
        if not (cleaned.get("may_publish") or cleaned.get("may_subscribe")):
            raise ValidationError(_("A key without a right is of no use: give it one or both."))
        end = cleaned.get("expires_at")
        if end is not None and end <= timezone.now():
            raise ValidationError({"expires_at": _("This time is past.")})
        return cleaned


def _prefix_of(sent: Mapping[str, Any]) -> str:
    try:
        return _signer().unsign(sent.get("form_id", ""))
    except BadSignature:
        return ""


class _Shown:
    """What lists say of a key."""

    @admin.display(description=_("prefix"), ordering="prefix")
    def shown_prefix(self, key: ApiKey) -> str:
        """The beginning of the key, by which one finds it."""
        return f"ae_{key.prefix}_"

    @admin.display(description=_("rights"))
    def rights(self, key: ApiKey) -> str:
        """What it may do."""
        given = {_("publish"): key.may_publish, _("subscribe"): key.may_subscribe}
        return ", ".join(str(name) for name, has in given.items() if has) or "-"

    @admin.display(description=_("state"))
    def state(self, key: ApiKey) -> Any:
        """Does it work?"""
        if key.revoked_at:
            return _("revoked")
        if key.expires_at and key.expires_at <= timezone.now():
            return _("expired")
        return _("in use") if key.last_used_at else _("never used")


class KeysInline(_Shown, admin.TabularInline):  # type: ignore[type-arg]
    """The keys of a tenant, to be read; each leads to its own page."""

    model = ApiKey
    fields = ("shown_name", "shown_prefix", "rights", "expires_at", "last_used_at", "state")
    readonly_fields = fields
    can_delete = False
    show_change_link = True
    extra = 0

    @admin.display(description=_("name"))
    def shown_name(self, key: ApiKey) -> str:
        """What it is for."""
        return str(key.name)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not here: a key is shown once, on a page of its own."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not here."""
        return False


@admin.register(ApiKey)
class ApiKeyAdmin(_Shown, admin.ModelAdmin):  # type: ignore[type-arg]
    """Keys; Django's permissions of the model decide who may see, add, change and delete them."""

    list_display = (
        "name",
        "shown_prefix",
        "tenant",
        "rights",
        "created_at",
        "expires_at",
        "last_used_at",
        "state",
    )
    list_select_related = ("tenant",)
    search_fields = ("name", "prefix", "tenant__name")
    raw_id_fields = ("tenant",)
    actions = ("revoke",)
    change_form_template = "agent_events/admin/key.html"
    _asked = ("tenant", "name", "may_publish", "may_subscribe", "expires_at", "form_id")
    _known = (
        *("tenant", "shown_prefix", "rights", "state", "created_at", "created_by"),
        *("expires_at", "last_used_at", "revoked_at"),
    )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What is asked for a new key; later its name, and what is known of it."""
        return self._asked if obj is None else ("name", *self._known)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """A new key's form, or the one that renames it."""
        made = {} if change else {"form": KeyForm}
        return super().get_form(request, obj, change=change, **{**made, **kwargs})

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """All but the name: a key that was given away does not change under its holder."""
        return () if obj is None else self._known

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """A new one is made as anywhere; the answer shows it."""
        if change:
            super().save_model(request, obj, form, change)
        else:
            obj.created_by = request.user  # type: ignore[assignment]  # nobody else comes here
            # For `response_add`, which Django gives the row and the request alone.
            text = keys.issue(obj, form.cleaned_data["prefix"])
            request._agent_events_key = text  # type: ignore[attr-defined]

    def add_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """The form. Sent twice at once, it fails for the second at the database alone."""
        try:
            return super().add_view(request, *args, **kwargs)
        except IntegrityError:
            made = ApiKey.objects.filter(prefix=_prefix_of(request.POST)).values_list(
                "prefix", flat=True
            )
            if not made:
                raise
            self.message_user(request, _AGAIN % {"prefix": made[0]}, messages.ERROR)
            return HttpResponseRedirect(self._list_url())

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The key, this once, as the answer itself: a redirect would have to store it somewhere."""
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("The new API key"),
            "subtitle": None,
            "opts": self.opts,
            "key": obj,
            "text": request._agent_events_key,  # type: ignore[attr-defined]
            "list_url": self._list_url(),
        }
        response = TemplateResponse(request, "agent_events/admin/key_made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def response_change(self, request: HttpRequest, obj: ApiKey) -> HttpResponse:
        """As ever; or the key is revoked, where that button was pressed."""
        if "_revoke" not in request.POST:
            return super().response_change(request, obj)
        self.revoke(request, ApiKey.objects.filter(pk=obj.pk))
        return HttpResponseRedirect(self._list_url())

    @admin.action(description=_("Revoke selected API keys"), permissions=("change",))
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        """Ends them for good; streams that came from them end within seconds."""
        living = list(chosen.filter(revoked_at=None))
        keys.revoke(key.prefix for key in living)
        for key in living:
            self.log_change(request, key, [{"changed": {"fields": ["revoked at"]}}])
        words = ngettext("%d key was revoked.", "%d keys were revoked.", len(living))
        self.message_user(request, words % len(living), messages.SUCCESS)

    def _list_url(self) -> str:
        return reverse("admin:agent_events_apikey_changelist", current_app=self.admin_site.name)
