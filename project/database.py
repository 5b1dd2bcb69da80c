"""Which PostgreSQL this project talks to, and whether that one will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from agent_events.database import refuse_unusable
from agent_events.errors import WrongDatabase
from project import environment
from project.embedded import EmbeddedPostgres
from project.postgres_home import EmbeddedPostgresError

CONNECT_TIMEOUT_S = 10

# A server that went silent: else Django waits for hours, and everybody who signs in behind it.
GIVE_UP: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": 10_000,  # ms
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

# Commands that look at the code alone, for which no server is started.
COMMANDS_WITHOUT_DATABASE = frozenset(
    {"help", "version", "--help", "-h", "--version", "check", "makemigrations", "makemessages"}
    | {"compilemessages", "collectstatic", "findstatic", "diffsettings", "startapp", "shell_plus"}
)

# Nothing listens there: what needs a database and has none fails at once, and changes nothing.
NO_SERVER = "postgresql://agent_events@127.0.0.1:1/agent_events"

# libpq's parameters that Django's DATABASES has a name of its own for.
DJANGO_NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD"} | {
    "host": "HOST",
    "port": "PORT",
}


class UnsuitableDatabase(RuntimeError):
    """The database cannot be used; the message is one sentence that says why and what to do."""


def embedded(*, die_with_parent: bool = False) -> EmbeddedPostgres:
    """The embedded PostgreSQL of `DATA_DIR`, which may or may not be running."""
    return EmbeddedPostgres(environment.data_dir(), die_with_parent=die_with_parent)


def current_dsn() -> str:
    """Where the database is now: `DATABASE_URL`, or the embedded server's. Starts nothing."""
    if (url := environment.database_url()) is not None:
        return url
    try:
        return embedded().dsn()
    except EmbeddedPostgresError:
        return NO_SERVER


def prepare_for_command(argv: Sequence[str]) -> None:
    """Start the embedded server for `manage.py argv[1]`, if that needs a database and none is set.

    The server is left running: the next command, or `make run`, finds it.

    Raises:
        UnsuitableDatabase: it does not start.
    """
    if environment.database_url() is not None or len(argv) < 2:
        return
    if argv[1] in COMMANDS_WITHOUT_DATABASE or "--help" in argv or "-h" in argv:
        return
    try:
        embedded().start()
    except EmbeddedPostgresError as error:
        raise UnsuitableDatabase(str(error)) from error


def django_settings(dsn: str) -> dict[str, Any]:
    """The entry of Django's DATABASES for a libpq URL or connection string.

    Raises:
        UnsuitableDatabase: it is not one of PostgreSQL.
    """
    scheme = urlsplit(dsn).scheme
    if scheme and scheme not in {"postgresql", "postgres"}:
        raise UnsuitableDatabase(
            f"DATABASE_URL must name a PostgreSQL server (postgresql://...), not {scheme}://..."
        )
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise UnsuitableDatabase(
            f"DATABASE_URL is not understood: {str(error).strip()}; "
            "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    entry: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        # No connection is kept between requests: streams are no requests, and hold none either.
        "CONN_MAX_AGE": 0,
        "OPTIONS": dict(GIVE_UP),
    }
    for name, value in parts.items():
        if name in DJANGO_NAMES:
            entry[DJANGO_NAMES[name]] = str(value)
        else:
            entry["OPTIONS"][name] = value
    entry.setdefault("NAME", parts.get("user") or "")
    return entry


def require_suitable(dsn: str) -> None:
    """Connect once and make sure that this is a PostgreSQL that we can live on.

    Raises:
        UnsuitableDatabase: unreachable, older than PostgreSQL 15, or a standby.
    """
    django_settings(dsn)
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            version = connection.info.server_version
            row = connection.execute("SELECT version(), pg_is_in_recovery()").fetchone()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise UnsuitableDatabase(
            f"The database does not answer as asked ({reason}): check DATABASE_URL."
        ) from None
    assert row is not None
    if not row[0].startswith("PostgreSQL "):
        raise UnsuitableDatabase(
            f"DATABASE_URL leads to {' '.join(row[0].split()[:2])}; agent_events needs PostgreSQL."
        )
    try:
        refuse_unusable(version, row[1])
    except WrongDatabase as error:
        raise UnsuitableDatabase(f"DATABASE_URL will not do. {error}") from None
