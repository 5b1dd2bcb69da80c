"""Who may see what. Every door asks here; the default is no."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async

from agent_events.errors import NotSignedIn, TenantNotNamed, UnknownTenant
from agent_events.models import Tenant
from agent_events.window import Tenants


@dataclass(frozen=True, slots=True)
class TenantRef:
    """A tenant by its id, and what to call it."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks, and what they may see. `everything`: a superuser, also tenants without name."""

    name: str
    everything: bool
    named: tuple[TenantRef, ...]

    def tenants(self) -> list[TenantRef]:
        """The tenants to choose from, by name."""
        return list(self.named)

    def may_see(self, tenant_id: UUID) -> bool:
        """Are the events of this tenant theirs to see?"""
        return self.everything or any(tenant.id == tenant_id for tenant in self.named)

    def choose(self, asked: Sequence[str]) -> Tenants:
        """The tenants of a stream that names `asked`; None for all.

        Raises UnknownTenant where one is not theirs, or no UUID. Where none is named: everything
        for a superuser, the only one for a member of one, else TenantNotNamed.
        """
        if asked:
            return tuple(sorted({str(self._mine(text)) for text in asked}))
        if self.everything:
            return None
        if len(self.named) == 1:
            return (str(self.named[0].id),)
        known = ", ".join(f"{tenant.id} ({tenant.name})" for tenant in self.named)
        raise TenantNotNamed(
            f"Say which tenant: ?tenant=<id>, one of {known}."
            if known
            else "You are a member of no tenant. Ask an administrator to make you one."
        )

    def _mine(self, text: str) -> UUID:
        try:
            tenant_id = UUID(text)
        except ValueError:
            tenant_id = None
        if tenant_id is None or not self.may_see(tenant_id):
            raise UnknownTenant("No such tenant, or it is not yours.")
        return tenant_id


def principal_for_user(user: Any) -> Principal:
    """The principal of a signed-in user: a superuser for all, others through membership.

    `user` is an instance of any user model, or Django's AnonymousUser. Raises NotSignedIn.
    """
    if not user.is_authenticated or not user.is_active:
        raise NotSignedIn("Sign in first.")
    everything = bool(getattr(user, "is_superuser", False))
    tenants = Tenant.objects.all()  # where the users are, which need not be where the log is
    if not everything:
        tenants = tenants.filter(membership__user=user)
    return Principal(
        name=user.get_username(),
        everything=everything,
        named=tuple(TenantRef(tenant.id, tenant.name) for tenant in tenants.order_by("name")),
    )


async def principal_of_scope(scope: dict[str, Any]) -> Principal:
    """The principal of an ASGI connection that went through `channels.auth`.

    The one database query runs, and its connection is given back, before the stream begins.
    Raises NotSignedIn.
    """
    user = scope.get("user")
    if user is None:
        raise NotSignedIn("Sign in first.")
    principal: Principal = await database_sync_to_async(principal_for_user)(user)
    return principal
