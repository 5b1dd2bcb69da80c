"""Stream tokens and tickets: signed with SECRET_KEY, and stored nowhere.

A token (`aet.`) lasts minutes and shows one tenant, or some agents and types of it. A ticket
(`aek.`) lasts seconds and works once; a stream that began with it goes on. Both are as good as the
key or the user that they came from: once these are gone, or lack the right, so are they.
Everything in them can be read by whoever holds them, and changed by nobody.
"""

import json
import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import django.db
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.signing import BadSignature, Signer
from django.db import IntegrityError, router, transaction
from django.utils import timezone

from agent_events import keys, members
from agent_events.conf import get_settings
from agent_events.errors import AgentEventsError, NotSignedIn, RightLacking, TooLarge
from agent_events.filters import Filter
from agent_events.models import SpentTicket
from agent_events.principals import Principal, Right, TenantRef

logger = logging.getLogger("agent_events")

TOKEN, TICKET = "aet.", "aek."
MOST_CHARS = 3_500
"""A browser keeps 4,096 bytes of a cookie with its name and attributes."""
SPENT_KEPT = timedelta(hours=1)
"""Used tickets are known for so long past their end: clocks of two servers may differ."""
_SWEEP_S = 60.0

_FORM = re.compile(r"ae[tk]\.[A-Za-z0-9_.-]{20,4000}")
_UNKNOWN = "The ticket is unknown here. Ask for a new one: POST /api/agents/tickets."
_EXPIRED = "The ticket has expired. Ask for a new one just before it is used."
_USED = "The ticket was used already, and works once. Ask for a new one for each connection."
_GONE = "Whoever asked for the ticket may not see these events any more."

_next_sweep = 0.0


@dataclass(frozen=True, slots=True)
class Made:
    """A token or ticket, and until when it can be used, in Unix seconds."""

    text: str = field(repr=False)
    expires_at: float


def make_token(principal: Principal, tenant_id: UUID, filter: Filter, seconds: float) -> Made:
    """A token with which one sees this tenant's events that match, for so long at most.

    Raises RightLacking without the right to subscribe, where `filter` is beyond what they may see,
    and for whoever came with a token; UnknownTenant where the tenant is not theirs; TooLarge where
    the filter is too long for a cookie.
    """
    require_maker(principal)
    tenant = str(principal.tenant(str(tenant_id)))
    end = _earliest(time.time() + seconds, principal.expires_at)
    claims = _Claims(
        id=f"token:{secrets.token_urlsafe(9)}",
        issuer=principal.id,
        tenants=(tenant,),
        only=principal.filter(filter),
        ends_at=end,
    )
    return Made(_sign(TOKEN, claims.dump()), end)


def require_maker(principal: Principal) -> None:
    """Raises RightLacking for whoever may make no tokens, of whatever tenant."""
    principal.require(Right.SUBSCRIBE)
    if principal.issuer:
        raise RightLacking("A stream token cannot make tokens. Whoever made it can make another.")


def make_ticket(principal: Principal) -> Made:
    """A ticket that works once, within TICKET_S, and stands for this principal as a subscriber.

    Its stream ends when the principal would, and after TOKEN_MINUTES at the latest. Raises
    RightLacking without the right to subscribe; TooLarge where it does not fit into a URL.
    """
    principal.require(Right.SUBSCRIBE)
    settings = get_settings()
    now = time.time()
    end = _earliest(now + settings.token_minutes * 60, principal.expires_at)
    issuer = principal.issuer or principal.id
    own = _is_ours(issuer) and not principal.issuer
    claims = _Claims(
        id=principal.id,
        issuer=issuer,
        tenants=None if own else tuple(str(tenant.id) for tenant in principal.named),
        everything=principal.everything and not own,
        only=principal.only,
        ends_at=end,
    )
    use_by = min(now + settings.ticket_s, end)
    once = {"once": secrets.token_urlsafe(12), "by": round(use_by, 3)}
    return Made(_sign(TICKET, {**claims.dump(), **once}), use_by)


def is_token(text: str) -> bool:
    """Has it the form of a token?"""
    return text.startswith(TOKEN) and _FORM.fullmatch(text) is not None


def principals(texts: Iterable[str]) -> dict[str, Principal]:
    """The principal of each of these that is a living token: few queries, however many they are."""
    read = {text: _read(TOKEN, text) for text in set(texts)}
    claims = {text: _Claims.load(fields) for text, fields in read.items() if fields}
    issuers = _issuers(claims.values())
    found = {text: one.principal(issuers) for text, one in claims.items()}
    return {text: principal for text, principal in found.items() if principal}


def ticket_principals(
    texts: Iterable[str], *, spend: bool
) -> dict[str, Principal | AgentEventsError]:
    """The principal of each of these tickets, or why there is none.

    `spend`: they work once, and this is it. Else they were used before, by streams that still
    live: neither their age nor their use matters then.
    """
    read = {text: _read(TICKET, text) for text in set(texts)}
    claims = {text: _Claims.load(fields) for text, fields in read.items() if fields}
    issuers = _issuers(claims.values())
    found: dict[str, Principal | AgentEventsError] = {}
    for text, fields in read.items():
        if fields is None:
            found[text] = NotSignedIn(_UNKNOWN)
        elif spend and fields["by"] <= time.time():
            found[text] = NotSignedIn(_EXPIRED)
        elif (principal := claims[text].principal(issuers)) is None:
            found[text] = NotSignedIn(_GONE)
        elif spend and not _spend(fields["once"], fields["by"]):
            found[text] = NotSignedIn(_USED)
        else:
            found[text] = principal
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claims:
    """What a token or ticket says. `tenants` None: those of the issuer, whichever these are."""

    id: str
    issuer: str
    tenants: tuple[str, ...] | None
    everything: bool = False
    only: Filter
    ends_at: float

    def dump(self) -> dict[str, Any]:
        fields = {
            "id": self.id,
            "of": self.issuer,
            "tenants": self.tenants,
            "all": self.everything,
            "agents": self.only.agents,
            "types": self.only.types,
        }
        kept = {name: value for name, value in fields.items() if value or value == ()}
        return {**kept, "end": round(self.ends_at, 3)}

    @classmethod
    def load(cls, fields: dict[str, Any]) -> "_Claims":
        tenants = fields.get("tenants")
        return cls(
            id=fields["id"],
            issuer=fields["of"],
            tenants=None if tenants is None else tuple(tenants),
            everything=fields.get("all", False),
            only=Filter(tuple(fields.get("agents", ())), tuple(fields.get("types", ()))),
            ends_at=fields["end"],
        )

    def principal(self, issuers: dict[str, Principal]) -> Principal | None:
        """Who this is now; None where it has ended, or its issuer has."""
        if self.ends_at <= time.time():
            return None
        named = tuple(TenantRef(UUID(text), text) for text in self.tenants or ())
        everything, end = self.everything, self.ends_at
        if _is_ours(self.issuer):
            issuer = issuers.get(self.issuer)
            if issuer is None or Right.SUBSCRIBE not in issuer.rights:
                return None
            if not all(issuer.may_see(tenant.id) for tenant in named):
                return None
            names = {tenant.id: tenant for tenant in issuer.named}
            named = tuple(names.get(tenant.id, tenant) for tenant in named)
            if self.tenants is None:
                named, everything = issuer.named, issuer.everything
            end = _earliest(end, issuer.expires_at)
        return Principal(
            id=self.id,
            rights=frozenset({Right.SUBSCRIBE}),
            named=named,
            everything=everything,
            only=self.only,
            expires_at=end,
            issuer=self.issuer,
        )


def _is_ours(issuer: str) -> bool:
    """A key or user of this site, which can be asked for; others a resolver alone knows."""
    return issuer.startswith(("key:", "user:"))


def _issuers(claims: Iterable[_Claims]) -> dict[str, Principal]:
    """Those of the issuers that are there still, by their ids."""
    ids = {one.issuer for one in claims}
    found = keys.principals_by_id(id for id in ids if id.startswith("key:"))
    pks = []
    for id in ids:
        if id.startswith("user:"):
            try:
                pks.append(get_user_model()._meta.pk.to_python(id.removeprefix("user:")))
            except ValidationError:  # signed under another user model
                continue
    if pks:
        users = get_user_model()._default_manager.filter(pk__in=pks)
        found |= {f"user:{pk}": one for pk, one in members.principals_of(users).items()}
    return found


def _earliest(end: float, other: float | None) -> float:
    return end if other is None else min(end, other)


def _signer(form: str) -> Signer:
    # (Dots: a colon may not stand in a WebSocket's subprotocol.)
    return Signer(salt=f"agent_events.{form}", sep=".")


def _sign(form: str, fields: dict[str, Any]) -> str:
    text = form + _signer(form).sign_object(fields)
    if len(text) > MOST_CHARS:
        raise TooLarge(
            f"It would have {len(text)} characters, and {MOST_CHARS} fit. "
            "Name fewer agents, types or tenants; a prefix that ends in * stands for many."
        )
    return text


def _read(form: str, text: str) -> dict[str, Any] | None:
    """What it says; None where this site has not signed it."""
    if not text.startswith(form) or not _FORM.fullmatch(text):
        return None
    try:
        fields: dict[str, Any] = _signer(form).unsign_object(text.removeprefix(form))
    except (BadSignature, json.JSONDecodeError):
        return None
    return fields


def _spend(once: str, by: float) -> bool:
    """Was this the first use of it, in all processes?"""
    end = datetime.fromtimestamp(by, UTC)
    try:
        with transaction.atomic(using=router.db_for_write(SpentTicket)):
            SpentTicket.objects.create(id=once, expires_at=end)
    except IntegrityError:
        return False
    _sweep()
    return True


def _sweep() -> None:
    """Deletes used tickets that have long expired."""
    global _next_sweep
    if time.monotonic() < _next_sweep:
        return
    _next_sweep = time.monotonic() + _SWEEP_S
    try:
        with transaction.atomic(using=router.db_for_write(SpentTicket)):
            SpentTicket.objects.filter(expires_at__lt=timezone.now() - SPENT_KEPT).delete()
    except django.db.Error as error:  # the next one tries again, and this one is let in
        logger.warning("Used tickets could not be deleted: %s", type(error).__name__)
