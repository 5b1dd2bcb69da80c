"""Where the log's database is, for connections that Django does not manage."""

from typing import Any

from django.db import connections
from psycopg.conninfo import make_conninfo

from agent_events.conf import get_settings
from agent_events.errors import WrongDatabase

OLDEST_SERVER = 150000  # PostgreSQL 15 brought min() and max() of xid8


def log_dsn() -> str:
    """The libpq connection string of `AGENT_EVENTS["DATABASE"]`, as Django would connect.

    Raises WrongDatabase where that alias is not PostgreSQL.
    """
    alias = get_settings().database
    connection: Any = connections[alias]
    if connection.vendor != "postgresql":
        raise WrongDatabase(
            f'DATABASES["{alias}"] is {connection.vendor}; agent_events needs PostgreSQL 15 or '
            'later. Set AGENT_EVENTS["DATABASE"] to the alias that is.'
        )
    libpq: dict[str, Any] = {
        key: value
        for key, value in connection.get_connection_params().items()
        if isinstance(value, str | int) and key not in ("prepare_threshold", "autocommit")
    }
    return make_conninfo(**libpq)


def listener_dsn() -> str:
    """The connection string of the listening connection."""
    return get_settings().listener_dsn or log_dsn()


def refuse_unusable(server_version: int, in_recovery: bool) -> None:
    """Raises WrongDatabase, in one sentence, for a server that the bus cannot run on."""
    if server_version < OLDEST_SERVER:
        raise WrongDatabase(
            f"The database server is PostgreSQL {server_version // 10000}; "
            "agent_events needs PostgreSQL 15 or later."
        )
    if in_recovery:
        raise WrongDatabase(
            "The database server is a standby; agent_events needs the primary to sequence events."
        )
