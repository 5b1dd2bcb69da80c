"""The log in Django's admin, to be read; tenants and their members, to be kept."""

import uuid
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import F, Func, QuerySet, TextField
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from agent_events.models import AgentEvent, Membership, Tenant

COUNT_LIMIT = 10_000
"""Rows that the list pages through; older ones are found by their id or tenant."""


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic only in the stubs
    """Counts no further than COUNT_LIMIT: an exact count reads the whole table on each page."""

    @cached_property
    def count(self) -> int:
        """Rows found, COUNT_LIMIT at most."""
        found: QuerySet[AgentEvent] = self.object_list  # type: ignore[assignment]
        return found.order_by()[:COUNT_LIMIT].count()


@admin.register(AgentEvent)
class AgentEventAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The log, read-only: events are inserted by producers and never changed."""

    list_display = ("id", "created_at", "event_type", "tenant_id", "agent_id")
    list_display_links = ("id", "event_type")
    fields = ("id", "created_at", "event_type", "tenant_id", "agent_id", "tx", "payload_text")
    readonly_fields = fields
    # Only what an index finds: no list_filter (it runs DISTINCT over the table).
    search_fields = ("id", "tenant_id")
    search_help_text = _("An event's id, or a tenant's id.")
    ordering = ("-id",)
    show_full_result_count = False
    paginator = BoundedPaginator
    list_per_page = 100
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentEvent]:
        """Without payloads: a list of them may be hundreds of megabytes."""
        return super().get_queryset(request).defer("payload")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AgentEvent], search_term: str
    ) -> tuple[QuerySet[AgentEvent], bool]:
        """Finds an event by its id or a tenant's events; anything else finds nothing."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.isascii() and term.isdigit() and int(term) < 2**63:
            return queryset.filter(pk=int(term)), False
        try:
            return queryset.filter(tenant_id=uuid.UUID(term)), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description=_("payload"))
    def payload_text(self, event: AgentEvent) -> SafeString:
        """The payload as PostgreSQL writes it, so that no number is rounded on the way."""
        pretty = Func(F("payload"), function="jsonb_pretty", output_field=TextField())
        text = AgentEvent.objects.using(event._state.db).values_list(pretty).get(pk=event.pk)[0]
        return format_html("<pre>{}</pre>", text)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: producers insert."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the log does not change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: pruning goes by batch, by command."""
        return False


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]
    """Who may see a tenant's events."""

    model = Membership
    extra = 1
    raw_id_fields = ("user",)


@admin.register(Tenant)
class TenantAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Tenants and their members."""

    list_display = ("name", "id", "created_at")
    fields = ("name", "id", "created_at")
    readonly_fields = ("id", "created_at")
    search_fields = ("name",)
    inlines = (MembershipInline,)
