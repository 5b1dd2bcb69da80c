"""Tenants: who can see one's events, which keys it has, what the log has of it lately.

With the keys, the part of the admin that writes. They are in the users' database, which need not be
the log's.
"""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldError
from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from agent_events.admin import tenant_looks
from agent_events.admin.keys import KeysInline
from agent_events.admin.read_only import LinkedAdmin
from agent_events.admin.rows import LivePage, created
from agent_events.conf import DEFAULT_RESOLVER, get_settings
from agent_events.models import AgentEvent, ApiKey, Membership, Tenant

LATELY = ((_("the last hour"), timedelta(hours=1)), (_("the last day"), timedelta(days=1)))
MOST_NAMES = 10
"""Of whoever sees every tenant so many are named."""


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]  # generic only in the stubs
    """Who may see a tenant's events."""

    model = Membership
    extra = 1
    raw_id_fields = ("user",)


class _WithNewest(ChangeList):
    """A page of tenants, with the last event of each: one look for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        """Also what is shown of the log, where that may be seen."""
        super().get_results(request)
        admin_: TenantAdmin = self.model_admin  # type: ignore[assignment]
        if admin_.may_view(request, AgentEvent):
            newest = tenant_looks.newest(tenant.pk for tenant in self.result_list)
            for tenant in self.result_list:
                tenant.newest = newest.get(tenant.pk)


@admin.register(Tenant)
class TenantAdmin(LinkedAdmin):
    """Tenants, and what there is to know of one."""

    search_fields = ("name",)
    inlines = (MembershipInline, KeysInline)
    change_form_template = "agent_events/admin/tenant.html"
    readonly_fields = ("id", "created_at", "newest_text", "lately_text", "others_text")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """With the last event of each."""
        return _WithNewest

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With how many members and keys each has."""
        members = Membership.objects.filter(tenant=OuterRef("pk"))
        keys = ApiKey.objects.filter(tenant=OuterRef("pk"), revoked_at=None)
        tenants: QuerySet[Any] = super().get_queryset(request)
        counted: QuerySet[Any] = tenants.annotate(
            members_there=_of_each(members, Count("pk")),
            keys_there=_of_each(keys, Count("pk")),
            key_used_at=_of_each(keys, Max("last_used_at")),
        )
        return counted

    def get_list_display(self, request: HttpRequest) -> Any:
        """Each column for whoever may see what is in it."""
        return [
            "name",
            "id",
            *(["members_text"] if self._may_view_members(request) else []),
            *(["keys_text", "key_used_text"] if self.may_view(request, ApiKey) else []),
            *(["newest_text"] if self.may_view(request, AgentEvent) else []),
            "created_at",
        ]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What it is, what the log has of it, who sees it: what may be seen of that."""
        fieldsets: list[Any] = [(None, {"fields": ("name", "id", "created_at")})]
        if obj is not None and self.may_view(request, AgentEvent):
            fieldsets.append((_("In the log"), {"fields": ("newest_text", "lately_text")}))
        if obj is not None and self._may_view_members(request):
            fieldsets.append((_("Who can see it"), {"fields": ("others_text",)}))
        return fieldsets

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        """A tenant that is being made has no keys yet."""
        return (MembershipInline,) if obj is None else self.inlines

    def ways(self, request: HttpRequest, row: Any) -> list[tuple[Any, str]]:
        """Its events, where they are live and where they are kept, and its keys."""
        ways: list[tuple[Any, str]] = []
        if live := LivePage(request).of(str(row.pk)):
            ways.append((_("On the live page"), live))
        if self.may_view(request, AgentEvent):
            ways.append((_("Its events"), self.list_url(AgentEvent, tenant=row.pk)))
        if self.may_view(request, ApiKey):
            ways.append((_("Its keys"), self.list_url(ApiKey, tenant__id__exact=row.pk)))
        if request.user.has_perm("agent_events.add_apikey"):
            ways.append((_("Make a key"), f"{self.url('add', model=ApiKey)}?tenant={row.pk}"))
        return ways

    def _may_view_members(self, request: HttpRequest) -> bool:
        """They have no page of their own."""
        return MembershipInline(Tenant, self.admin_site).has_view_permission(request)

    @admin.display(description=_("members"), ordering="members_there")
    def members_text(self, tenant: Any) -> int:
        """How many there are."""
        return tenant.members_there or 0

    @admin.display(description=_("keys"), ordering="keys_there")
    def keys_text(self, tenant: Any) -> int:
        """How many are not revoked."""
        return tenant.keys_there or 0

    @admin.display(description=_("a key was used"), ordering="key_used_at", empty_value="never")
    def key_used_text(self, tenant: Any) -> Any:
        """When one of them was used last."""
        return tenant.key_used_at

    @admin.display(description=_("last event"))
    def newest_text(self, tenant: Any) -> Any:
        """When its producer says that it was; it leads there."""
        if not hasattr(tenant, "newest"):
            tenant.newest = tenant_looks.newest([tenant.pk]).get(tenant.pk)
        if tenant.newest is None:
            return _("none")
        url = self.url("change", tenant.newest.id, model=AgentEvent)
        return format_html('<a href="{}">{}</a>', url, created(tenant.newest.created_at))

    @admin.display(description=_("events"))
    def lately_text(self, tenant: Tenant) -> str:
        """How many lately."""
        return ", ".join(
            f"{_counted(tenant_looks.how_many(tenant.pk, span))} {_('in')} {words}"
            for words, span in LATELY
        )

    @admin.display(description=_("besides its members"))
    def others_text(self, tenant: Tenant) -> str:
        """Who sees every tenant, and whom only the application knows."""
        said = [
            f"{_('superusers see all tenants')}: {_names(Q(is_superuser=True))}",
            f"{_('in the admin, staff who may view events')}: "
            f"{_names(Q(is_superuser=False, is_staff=True) & _may_view_events())}",
        ]
        resolver = get_settings().principal_resolver
        if resolver != DEFAULT_RESOLVER:
            said.append(f"{_('and whomever the application lets in')} ({resolver})")
        return "; ".join(said) + "."


def _of_each(rows: QuerySet[Any], what: Any) -> Subquery:
    return Subquery(rows.order_by().values("tenant").annotate(it=what).values("it"))


def _counted(count: int) -> str:
    most = tenant_looks.MOST_COUNTED
    return f"{most:,}+" if count > most else f"{count:,}"


def _may_view_events() -> Q:
    theirs = {"content_type__app_label": "agent_events", "codename": "view_agentevent"}
    return Q(**{f"user_permissions__{k}": v for k, v in theirs.items()}) | Q(
        **{f"groups__permissions__{k}": v for k, v in theirs.items()}
    )


def _names(who: Q) -> str:
    users = get_user_model()._default_manager
    try:
        found = list(users.filter(who, is_active=True).distinct().order_by("pk")[: MOST_NAMES + 1])
    except FieldError:  # a user model of the application's own
        return str(_("not known"))
    names = [str(user.get_username()) for user in found[:MOST_NAMES]]
    return (
        ", ".join(names) + (", ..." if len(found) > MOST_NAMES else "") if names else str(_("none"))
    )
