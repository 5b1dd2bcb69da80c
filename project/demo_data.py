"""What the demo begins with: tenants and users. Running it again changes nothing."""

from __future__ import annotations

from django.contrib.auth import get_user_model

from agent_events.models import Membership, Tenant
from project.simulation import tenant_id, tenant_name


def create_demo_tenants(count: int) -> list[Tenant]:
    """The tenants that the simulator fills. A tenant of that name keeps the id that it has."""
    tenants = []
    for index in range(count):
        name = tenant_name(index)
        tenant, _ = Tenant.objects.get_or_create(name=name, defaults={"id": tenant_id(name)})
        tenants.append(tenant)
    return tenants


def create_demo_users(tenants: list[Tenant]) -> list[str]:
    """`demo`, a member of the first tenants, and `admin`, who sees all; return those that are ours.

    They have no password in the database: see demo_sign_in. A user of that name who has one is
    somebody's own, and stays as it is.
    """
    users = get_user_model()._default_manager
    ours = []
    for name in ("demo", "admin"):
        is_admin = name == "admin"
        user, created = users.get_or_create(
            username=name, defaults={"is_staff": is_admin, "is_superuser": is_admin}
        )
        if created:
            user.set_unusable_password()
            user.save()
        if user.has_usable_password():
            continue
        ours.append(name)
        if not is_admin:
            for tenant in tenants:
                Membership.objects.get_or_create(tenant=tenant, user=user)
    return ours
