"""Opening a connection that listens, and finding out whether it hears anything.

It may go through a pooler in transaction mode, whose sessions are somebody else's in a moment: no
setting, no lock and no prepared statement goes into one before that is known.
"""

import secrets
import time
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.conf import Settings
from agent_events.database import (
    BATCH_CHANNEL,
    BUS_APPLICATION,
    CONNECT,
    DOORBELL_CHANNEL,
    refuse_unusable,
    severed_after,
)
from agent_events.deliveries import ASK_CHANNEL
from agent_events.log import Log
from agent_events.sources import Doorbell

CHANNELS = (DOORBELL_CHANNEL, BATCH_CHANNEL, ASK_CHANNEL)
ECHO_S = 2.0
"""A notification of our own that has not come back after so long does not come."""
MISSED_POLLS = 3
"""The server ends a listening connection that misses so many polls (2 s at least)."""
MOST_SESSIONS = 10
"""A pooler hands out its sessions as it likes: how many are looked at for the one that listens."""

# Several statements in one message run in one session, also behind a pooler: this is its id.
_LISTEN = f"""
    SELECT pg_is_in_recovery(), pg_backend_pid();
    LISTEN {DOORBELL_CHANNEL};
    LISTEN {BATCH_CHANNEL};
    LISTEN {ASK_CHANNEL}
"""
# For this session alone; `row_security`: hidden rows then raise, in place of being lost.
_SESSION = """
    SELECT set_config('row_security', 'off', false),
           set_config('idle_session_timeout', %s, false),
           set_config('tcp_user_timeout', '10s', false),
           set_config('lock_timeout', '2s', false)
"""


class Opened(NamedTuple):
    """A connection that listens.

    `backend`: the server's process, which a pooler's client is told wrongly. `idle_ms`: the server
    ends it where it says nothing for longer.
    """

    bus: AsyncConnection[TupleRow]
    backend: int
    doorbell: Doorbell
    idle_ms: int


async def open_bus(dsn: str, log: Log, settings: Settings) -> Opened:
    """Connects, listens, and tries whether a notification arrives.

    Raises psycopg.Error, psycopg_pool.PoolTimeout, WrongDatabase.
    """
    bus = await AsyncConnection.connect(dsn, **CONNECT, application_name=BUS_APPLICATION)
    idle_ms = max(2_000, int(MISSED_POLLS * settings.poll_interval_s * 1_000))
    try:
        with severed_after(bus, settings.query_timeout_s):
            row = await (await bus.execute(_LISTEN)).fetchone()
            assert row is not None
            in_recovery, pid = row
            refuse_unusable(bus.info.server_version, in_recovery)
        doorbell = await _try_doorbell(bus, log)
        if doorbell is Doorbell.UNKNOWN and pid != bus.info.backend_pid:
            doorbell = Doorbell.DEAF  # a pooler, in which mode nobody knows
        if doorbell is Doorbell.DEAF:
            await _unlisten(dsn, pid)
        else:
            with severed_after(bus, settings.query_timeout_s):
                await bus.execute(_SESSION, (str(idle_ms),))
            # The session is ours alone: to plan each append anew would be half of its cost.
            bus.prepare_threshold = 0
    except BaseException:
        await bus.close()
        raise
    return Opened(bus, pid, doorbell, idle_ms)


async def _unlisten(dsn: str, pid: int) -> None:
    """Has the pooler's session `pid` listen no more: its notifications are nobody's.

    Each transaction keeps the session that it was given, so the next one is given another. Gives up
    where the pooler has none left: a session that listens costs little, this process more.
    """
    with suppress(psycopg.Error):
        async with AsyncExitStack() as sessions:
            for _ in range(MOST_SESSIONS):
                other = await AsyncConnection.connect(dsn, **{**CONNECT, "autocommit": False})
                await sessions.enter_async_context(other)
                with severed_after(other, ECHO_S):
                    row = await (await other.execute("SELECT pg_backend_pid()")).fetchone()
                    if row is not None and row[0] == pid:
                        await other.execute("UNLISTEN *")
                        return


async def _try_doorbell(bus: AsyncConnection[TupleRow], log: Log) -> Doorbell:
    """Rings over another connection, as a producer would, and listens for it."""
    echo = f"echo {secrets.token_hex(8)}"
    if not await log.ring(DOORBELL_CHANNEL, echo):
        return Doorbell.UNKNOWN
    until = time.monotonic() + ECHO_S
    heard = False
    while not heard and (left_s := until - time.monotonic()) > 0:
        # (No break: the generator holds the connection until it has ended.)
        async for note in bus.notifies(timeout=left_s, stop_after=1):
            heard = heard or note.payload == echo
    return Doorbell.HEARD if heard else Doorbell.DEAF
