"""Whoever asks, and what they may: the answer that every door acts on. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from agent_events.errors import RightLacking, TenantNotNamed, UnknownTenant
from agent_events.filters import Filter
from agent_events.window import Tenants


class Right(StrEnum):
    """What one may be allowed to do. The values are the names in keys, answers and commands."""

    SUBSCRIBE = "subscribe"
    """See the events of its tenants: streams, history, single events, the page."""
    PUBLISH = "publish"
    """Write events of its tenants."""
    OPERATE = "operate"
    """See how the bus does: the metrics."""


@dataclass(frozen=True, slots=True)
class TenantRef:
    """A tenant by its id, and what to call it."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever asks, and what they may do and see; nothing, unless it says so.

    Attributes:
        id: the same for each request of the same holder, such as `user:5`; limits are counted by
            it, and messages name it. No secret.
        name: what a page calls them.
        rights: what they may do.
        named: the tenants that they may do it with.
        everything: a superuser: all tenants, also those without a name.
        only: the agents and types that they may see; empty: all.
        expires_at: when this ends, in Unix seconds; None: when it is taken away.
        issuer: of a stream token, the `id` of who made it: it lasts as long as that one does.
    """

    id: str
    rights: frozenset[Right]
    named: tuple[TenantRef, ...] = ()
    name: str = ""
    everything: bool = False
    only: Filter = field(default_factory=Filter)
    expires_at: float | None = None
    issuer: str = ""

    def require(self, right: Right) -> None:
        """Raises RightLacking, which names it, where this right is not theirs."""
        if right not in self.rights:
            has = ", ".join(sorted(self.rights)) or "none"
            raise RightLacking(
                f"{self.id} lacks the right '{right}' (it has: {has}). "
                "Whoever administers this site can give it."
            )

    def tenants(self) -> list[TenantRef]:
        """The tenants to choose from, by name."""
        return list(self.named)

    def may_see(self, tenant_id: UUID) -> bool:
        """Is this tenant theirs?"""
        return self.everything or any(tenant.id == tenant_id for tenant in self.named)

    def choose(self, asked: Sequence[str]) -> Tenants:
        """The tenants of a stream that names `asked`; None for all.

        Raises UnknownTenant where one is not theirs, or no UUID. Where none is named: everything
        for a superuser, the only one for a member of one, else TenantNotNamed.
        """
        if asked:
            return tuple(sorted({str(self.tenant(text)) for text in asked}))
        if self.everything:
            return None
        return (str(self.only_tenant()),)

    def tenant(self, text: str) -> UUID:
        """The tenant with this id. Raises UnknownTenant where it is not theirs, or no UUID."""
        try:
            tenant_id = UUID(text)
        except ValueError:
            tenant_id = None
        if tenant_id is None or not self.may_see(tenant_id):
            raise UnknownTenant("No such tenant, or it is not yours.")
        return tenant_id

    def only_tenant(self) -> UUID:
        """The one tenant that they have. Raises TenantNotNamed, which lists them, elsewhere."""
        if len(self.named) == 1 and not self.everything:
            return self.named[0].id
        known = ", ".join(f"{tenant.id} ({tenant.name})" for tenant in self.named[:20])
        raise TenantNotNamed(
            f"Say which tenant: ?tenant=<id>, one of {known}."
            if known
            else "You are a member of no tenant. Ask an administrator to make you one."
        )

    def filter(self, asked: Filter) -> Filter:
        """`asked`, within what they may see. Raises RightLacking where that leaves nothing."""
        return asked.within(self.only)
