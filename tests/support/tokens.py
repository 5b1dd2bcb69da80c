"""Stream tokens, made as the site makes them, and the environment of a server that knows them."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings

from agent_events import tokens
from agent_events.filters import Filter
from agent_events.principals import Principal, Right, TenantRef
from tests.support.watch import bus_settings


def token_settings(**changed: object) -> dict[str, str]:
    """The environment of a server with these AGENT_EVENTS, which signs as this process does."""
    return {**bus_settings(**changed), "DJANGO_SECRET_KEY": settings.SECRET_KEY}


def make_token(
    key: str,
    tenant: str,
    seconds: float,
    *,
    agents: tuple[str, ...] = (),
    types: tuple[str, ...] = (),
) -> str:
    """A token of the holder of this key."""
    holder = Principal(
        id=f"key:{key.split('_')[1]}",
        rights=frozenset({Right.SUBSCRIBE}),
        named=(TenantRef(UUID(tenant), ""),),
    )
    return tokens.make_token(holder, UUID(tenant), Filter.of(agents, types), seconds).text


def make_ticket(key: str, tenant: str) -> str:
    """A ticket of the holder of this key."""
    holder = Principal(
        id=f"key:{key.split('_')[1]}",
        rights=frozenset({Right.SUBSCRIBE}),
        named=(TenantRef(UUID(tenant), ""),),
    )
    return tokens.make_ticket(holder).text
