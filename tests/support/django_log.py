"""Django of this process on a test's own database, for what runs inside a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from psycopg.conninfo import conninfo_to_dict


@contextmanager
def django_on(dsn: str) -> Iterator[None]:
    """`DATABASES["default"]` is `dsn`, in every thread.

    Needs `django_db_blocker.unblock()` where Django itself asks the database.
    """
    # One dict for the wrappers of all threads.
    settings = connections["default"].settings_dict
    before = {key: settings[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
    parts = conninfo_to_dict(dsn)
    connections["default"].close()
    settings.update(
        NAME=parts["dbname"],
        USER=parts["user"],
        PASSWORD=parts.get("password", ""),
        HOST=parts["host"],
        PORT=str(parts["port"]),
    )
    try:
        yield
    finally:
        connections["default"].close()
        settings.update(before)
