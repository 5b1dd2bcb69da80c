"""Databases for tests, and the rows that most tests begin with, written by plain SQL."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import psycopg
from django.contrib.auth.hashers import make_password

ROOT = Path(__file__).parents[2]


def manage(*args: str, dsn: str, **env: str) -> str:
    """Run `manage.py` with `args` on the database `dsn`; return its standard output.

    Raises:
        AssertionError: it failed; the message carries what it printed.
    """
    done = subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"manage.py {' '.join(args)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_user(
    dsn: str,
    username: str,
    *,
    superuser: bool = False,
    tenants: Iterable[str | uuid.UUID] = (),
    password: str | None = None,
) -> int:
    """Insert a user and make it a member of `tenants` (ids of `Tenant` rows); return its id.

    Args:
        password: the same as `username` if left out.
    """
    hashed = make_password(password or username, hasher="pbkdf2_sha256")
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            """
            INSERT INTO auth_user (username, password, is_superuser, is_staff, is_active,
                                   first_name, last_name, email, date_joined)
            VALUES (%s, %s, %s, %s, true, '', '', '', now())
            RETURNING id
            """,
            [username, hashed, superuser, superuser],
        ).fetchone()
        assert row is not None
        for tenant in tenants:
            connection.execute(
                "INSERT INTO agent_events_membership (tenant_id, user_id) VALUES (%s, %s)",
                [tenant, row[0]],
            )
    return int(row[0])


def make_tenant(dsn: str, name: str, *, id: uuid.UUID | None = None) -> str:
    """Insert a `Tenant` row and return its id as text."""
    tenant = str(id or uuid.uuid4())
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO agent_events_tenant (id, name, created_at) VALUES (%s, %s, now())",
            [tenant, name],
        )
    return tenant
