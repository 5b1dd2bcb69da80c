"""Tenants and their members: with the keys, the part of the admin that writes.

They are in the users' database, which need not be the log's.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from agent_events.admin.keys import KeysInline
from agent_events.models import Membership, Tenant


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]  # generic only in the stubs
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
    inlines = (MembershipInline, KeysInline)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        """A tenant that is being made has no keys yet."""
        return (MembershipInline,) if obj is None else self.inlines
