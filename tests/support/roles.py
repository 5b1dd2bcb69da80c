"""Database roles for tests: roles belong to the whole server, so each test makes its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def temporary_role(dsn: str) -> Iterator[str]:
    """The name of a fresh role without any rights, gone with its grants afterwards."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}")
        try:
            yield name
        finally:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")
