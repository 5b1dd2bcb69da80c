"""Where the log's database is, and the connections to it that Django does not manage."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from django.db import connections
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from agent_events.conf import get_settings
from agent_events.errors import WrongDatabase

BUS_APPLICATION = "agent_events bus"
"""The name of listening connections in pg_stat_activity."""
PUBLISHER_APPLICATION = "agent_events publisher"
"""That of the connections that hold leases (`leases`)."""
SEQUENCER_KEY = "hashtextextended('agent_events sequencer', 'agent_events'::regclass::oid::bigint)"
"""SQL: the advisory lock of the process that closes batches; of this database and this table."""
COALESCING_KEY = "agent_events_coalescing_key()"
"""SQL: the advisory lock K, whose exclusive holder spares producers the ringing; likewise."""
WRITE_SETTINGS_SQL = "UPDATE agent_event_bus SET bodies = %(bodies)s WHERE bodies <> %(bodies)s"
"""What SQL must know of the settings and cannot read: whoever migrates or leads writes it."""
NOTIFY_SQL = "SELECT pg_notify(%s, %s) WHERE pg_notification_queue_usage() < 0.5"
"""No row where the notification queue is half full, on its way to failing everybody's commits."""
HELD_SQL = """
    (l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.mode = '{mode}'
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.classid::bigint = ({key} >> 32) & 4294967295 AND l.objid::bigint = {key} & 4294967295)
"""
"""SQL, to be formatted: is a row `l` of pg_locks the advisory lock `key` of this database, held in
`mode` (ExclusiveLock, ShareLock)? There a 64-bit key is in two halves."""
COMMIT_LOCK_SQL = """
    (locktype = 'object' AND classid = 'pg_database'::regclass AND database = 0 AND objid = 0)
"""
"""SQL: which rows of pg_locks are of the lock of notifying commits, one for the whole cluster."""
DOORBELL_CHANNEL = "agent_events"
BATCH_CHANNEL = "agent_events_batch"
OLDEST_SERVER = 150000  # PostgreSQL 15 brought min() and max() of xid8

CONNECT: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # A pooler in transaction mode hands the next statement to another session.
    "prepare_threshold": None,
}
"""How such a connection is opened; times in seconds, `tcp_user_timeout` in ms."""


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


_cancelling: set[asyncio.Task[None]] = set()


def abandon(connection: AsyncConnection[TupleRow]) -> None:
    """Severs, and has the server end what it still does there. Waits for nothing.

    While it works, or waits for a lock, it notices no closed socket: each try again would leave it
    one session more.
    """
    task = asyncio.get_running_loop().create_task(_cancel(connection))
    _cancelling.add(task)
    task.add_done_callback(_cancelling.discard)
    sever(connection)


async def _cancel(connection: AsyncConnection[TupleRow]) -> None:
    with suppress(OSError, psycopg.Error):
        await connection.cancel_safe(timeout=5)


def sever(connection: AsyncConnection[TupleRow]) -> None:
    """Cuts the connection off at once: whoever waits for its answer gets psycopg.OperationalError.

    Deliberately no cancellation: psycopg would ask the server over a new connection to stop, and
    wait: ten seconds on a path that swallows packets.
    """
    with suppress(OSError, psycopg.Error):
        own = socket.socket(fileno=os.dup(connection.pgconn.socket))
        with own:
            own.shutdown(socket.SHUT_RDWR)


@contextmanager
def severed_after(
    connection: AsyncConnection[TupleRow],
    timeout_s: float,
    cut: Callable[[AsyncConnection[TupleRow]], None] = sever,
) -> Iterator[None]:
    """Severs the connection where the block, which uses it, takes longer than `timeout_s`.

    Raises psycopg.OperationalError then.
    """
    late = False

    def end() -> None:
        nonlocal late
        late = True
        cut(connection)

    timer = asyncio.get_running_loop().call_later(timeout_s, end)
    try:
        yield
    except psycopg.Error as error:
        if late:
            raise psycopg.OperationalError(f"no answer within {timeout_s:g} s") from error
        raise
    finally:
        timer.cancel()
