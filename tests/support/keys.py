"""API keys, written by plain SQL."""

from __future__ import annotations

import secrets
import uuid
from hashlib import sha256

import psycopg

INSERT = """
    INSERT INTO agent_event_api_keys
        (tenant_id, name, prefix, hash, may_publish, may_subscribe, created_at, expires_at)
    VALUES (%s, 'test', %s, %s, %s, %s, now(), now() + %s::interval)
"""


def make_key(
    dsn: str,
    tenant: str,
    *,
    publish: bool = True,
    subscribe: bool = True,
    lives: str | None = None,
) -> str:
    """Insert a key of this tenant and return its text; `lives` is an interval, None for ever."""
    prefix = uuid.uuid4().hex[:8]
    key = f"ae_{prefix}_{secrets.token_urlsafe(32)}"
    hashed = sha256(key.encode()).hexdigest()
    with psycopg.connect(dsn) as connection:
        connection.execute(INSERT, [tenant, prefix, hashed, publish, subscribe, lives])
    return key


def revoke_key(dsn: str, key: str) -> None:
    """Takes the key back, as the admin does."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "UPDATE agent_event_api_keys SET revoked_at = now() WHERE prefix = %s",
            [key.split("_")[1]],
        )
