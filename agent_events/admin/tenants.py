"""Tenants and their members: the one part of the admin that writes.

They are in the users' database, which need not be the log's.
"""

from django.contrib import admin

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
    inlines = (MembershipInline,)
