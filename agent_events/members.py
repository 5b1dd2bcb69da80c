"""What signed-in users may: superusers everything, others see the tenants of their memberships."""

from collections.abc import Iterable
from typing import Any

from agent_events.models import Membership, Tenant
from agent_events.principals import Principal, Right, TenantRef


def principals_of(users: Iterable[Any]) -> dict[Any, Principal]:
    """The principal of each of these users, by primary key; two queries, however many they are.

    A member may see; only superusers may publish by being signed in, and operate. Whoever is not
    active has none.
    """
    active = {user.pk: user for user in users if user.is_active}
    superusers = {pk for pk, user in active.items() if getattr(user, "is_superuser", False)}
    theirs: dict[Any, list[TenantRef]] = {pk: [] for pk in active}
    everything: list[TenantRef] = []
    # Both where the users are, which need not be where the log is.
    if superusers:
        everything = [TenantRef(one.id, one.name) for one in Tenant.objects.order_by("name")]
    if members := set(active) - superusers:
        found = Membership.objects.filter(user__in=members).select_related("tenant")
        for membership in found.order_by("tenant__name"):
            tenant = membership.tenant
            theirs[membership.user_id].append(TenantRef(tenant.id, tenant.name))
    return {
        pk: Principal(
            id=f"user:{pk}",
            name=user.get_username(),
            rights=frozenset(Right) if pk in superusers else frozenset({Right.SUBSCRIBE}),
            everything=pk in superusers,
            named=tuple(everything if pk in superusers else theirs[pk]),
        )
        for pk, user in active.items()
    }
