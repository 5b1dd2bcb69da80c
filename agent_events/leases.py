"""Who publishes: leases of shards, as advisory locks of a connection of its own.

A lease ends with its connection: at once where the process dies, and by the server's
`idle_session_timeout` where it is frozen or cut off. A lease that two workers believe to hold for a
moment does no harm: what is published twice is dropped by its readers (the one rule).
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events.backoff import Backoff
from agent_events.brokers.addresses import extra_of
from agent_events.conf import Settings
from agent_events.database import CONNECT, HELD_SQL, PUBLISHER_APPLICATION, severed_after
from agent_events.outage import Outage

TURN_S = 0.5
"""Each so often a worker says that it is there, and tries for what is free."""
IDLE_MS = 2_000
"""The server ends a worker's session that says nothing for so long."""

_SESSION = f"""
    SELECT set_config('idle_session_timeout', '{IDLE_MS}ms', false),
           set_config('tcp_user_timeout', '{IDLE_MS}ms', false)
"""
LONG_S = 3.0
"""A connection for leases that has failed for so long, where all else is well, is spoken of."""


def publisher_keys(settings: Settings) -> tuple[str, ...]:
    """SQL: the advisory lock of whoever publishes a shard, for each; of this database and table."""
    shards = settings.broker_shards if settings.broker_url else 1
    return tuple(_key(settings, f"publisher {shard}/{shards}") for shard in range(shards))


def _key(settings: Settings, what: str) -> str:
    # While workers move to a broker of another kind or name, those of the old one keep nobody from
    # the new one. (Not by its address: each machine may know it by another.)
    where = f"layer {settings.channel_layer}"
    if settings.broker_url:
        kind = ""
        with suppress(ValueError):  # no address: nobody publishes
            kind = extra_of(settings.broker_url)
        where = f"{kind} {settings.broker_name}"
    name = f"agent_events {what} {where}".replace("'", "''")
    return f"hashtextextended('{name}', 'agent_events'::regclass::oid::bigint)"


class Leases:
    """The shards that this process publishes."""

    def __init__(self, dsn: str, settings: Settings, able: Callable[[], bool]) -> None:
        """`able`: can this process publish now? Where not, it leaves the leases to others."""
        self._dsn = dsn
        self._settings = settings
        self._keys = publisher_keys(settings)
        # Those who can publish now hold this lock, shared; so whoever cannot keeps nobody from it.
        self._workers_key = _key(settings, f"publishers of {len(self._keys)}")
        self._able = able
        self._changed = asyncio.Event()
        self.held: frozenset[int] = frozenset()
        self._counted = False  # among those who can publish
        self._outage = Outage(
            "The connection that holds leases failed (%s); trying until it is back. This process "
            "publishes nothing meanwhile.",
            "The connection that holds leases is back after %.1f s.",
        )

    async def some(self) -> frozenset[int]:
        """Waits until there are some."""
        while not self.held:
            self._changed.clear()
            await self._changed.wait()
        return self.held

    def hold(self, shards: frozenset[int]) -> None:
        """From now on these are held; whoever waits is told."""
        self.held = shards
        self._changed.set()

    async def keep(self) -> None:
        """Takes a fair share of the shards, and whatever nobody has; until cancelled."""
        backoff = Backoff()
        well_at = time.monotonic()
        while True:
            try:
                connection = await AsyncConnection.connect(
                    self._dsn, **{**CONNECT, "application_name": PUBLISHER_APPLICATION}
                )
                try:
                    with severed_after(connection, self._settings.query_timeout_s):
                        await connection.execute(_SESSION)
                    while True:
                        with severed_after(connection, self._settings.query_timeout_s):
                            await self._turn(connection)
                        backoff.reset()
                        self._outage.over()
                        await asyncio.sleep(TURN_S)
                        well_at = time.monotonic()
                finally:
                    self._counted = False
                    self.hold(frozenset())
                    await connection.close()
            except (psycopg.Error, OSError) as error:
                # (Where the database is away, the source says so.)
                if self._able() and time.monotonic() - well_at > LONG_S:
                    self._outage.failed(error)
                await asyncio.sleep(backoff.next_s())

    async def _turn(self, connection: AsyncConnection[TupleRow]) -> None:
        able = self._able()
        if able != self._counted:
            lock = "pg_try_advisory_lock_shared" if able else "pg_advisory_unlock_shared"
            await connection.execute(f"SELECT {lock}({self._workers_key})".encode())
            self._counted = able
        held_sql = HELD_SQL.format(mode="ShareLock", key=self._workers_key)
        count = f"SELECT count(*) FROM pg_locks AS l WHERE {held_sql}".encode()
        row = await (await connection.execute(count)).fetchone()
        workers = max(1, row[0] if row is not None else 1)
        fair = -(-len(self._keys) // workers) if able else 0
        held = set(self.held)
        while len(held) > fair:
            shard = max(held)
            held.discard(shard)
            self.hold(frozenset(held))  # before another one begins
            unlock = f"SELECT pg_advisory_unlock({self._keys[shard]})"
            await connection.execute(unlock.encode())
        for shard in range(len(self._keys)):
            if len(held) >= fair:
                break
            if shard not in held and await self._try(connection, shard):
                held.add(shard)
        if held != self.held:
            self.hold(frozenset(held))

    async def _try(self, connection: AsyncConnection[TupleRow], shard: int) -> bool:
        query = f"SELECT pg_try_advisory_lock({self._keys[shard]})".encode()
        row = await (await connection.execute(query)).fetchone()
        return row is not None and bool(row[0])
