"""PRINCIPAL_RESOLVERs: who asks, without a database that knows them."""

from __future__ import annotations

import asyncio

from agent_events.credentials import Credentials
from agent_events.principals import Principal, Right


async def superuser(credentials: Credentials) -> Principal:
    """Everybody is one."""
    return Principal(id="operator", rights=frozenset(Right), everything=True)


async def silent(credentials: Credentials) -> Principal:
    """Never answers."""
    return await asyncio.Future()


def by_cookie(credentials: Credentials) -> Principal | None:
    """Whoever bears the cookie, or signs in by HTTP Basic, may do everything."""
    known = "who=ann" in credentials.header("cookie") or (
        credentials.header("authorization") == "Basic YW5uOmFubg=="
    )
    return Principal(id="ann", rights=frozenset(Right), everything=True) if known else None
