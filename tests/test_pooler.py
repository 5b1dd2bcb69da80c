"""Through PgBouncer: everything works, and what a pooler in transaction mode costs is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from agent_events.journey import verdict
from agent_events.tracing import trace
from tests.conftest import Connect, find_program
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.load import Follower, Load, in_log_order
from tests.support.pooler import pgbouncer
from tests.support.streams import insert, websocket

SAID = 'Set AGENT_EVENTS["LISTENER_DSN"]'
LOCKS = """
    SELECT count(*) FROM pg_locks
     WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
                                                  WHERE datname = current_database())
"""


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    """The one value of a query's one row."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


async def test_in_transaction_mode_all_is_delivered_by_polling_and_said_once_with_what_to_set(
    dsn: str, connect: Connect, server: Callable[..., Server], tmp_path: Path
) -> None:
    with pgbouncer(find_program("pgbouncer"), dsn, "transaction", tmp_path) as through:
        tenant = make_tenant(through, "Harbour")
        make_user(through, "ann", tenants=[tenant])
        # Two processes whose sessions the pooler hands to one another, and producers likewise.
        running = [server(env={"DATABASE_URL": through}) for _ in range(2)]
        cookies = login(running[0], "ann")
        for process in running:
            async with websocket(process, cookies) as socket:
                await socket.until("live")
            await asyncio.to_thread(
                wait_until, lambda p=process: SAID in p.log(), 10, "it to say that it is deaf"
            )
        # All of the pooler's sessions at once: whose is which, nobody knows.
        with ExitStack() as stack:
            held = [stack.enter_context(psycopg.connect(through)) for _ in range(15)]
            channels = "SELECT pg_listening_channels()"
            assert [session.execute(channels).fetchall() for session in held] == [[]] * 15
        load = Load(through, tenant, rounds=60)
        database = connect()

        def done(seen: list[int]) -> bool:
            return load.over and len(seen) >= len(load.committed)

        followers = [Follower(running[0], cookies), Follower(running[1], cookies, patience=3)]
        with load.running():
            await asyncio.wait_for(asyncio.gather(*(f.follow(done) for f in followers)), 60)
        expected = in_log_order(database, tenant)
        assert set(expected) == set(load.committed)
        for follower in followers:
            assert follower.seen == expected
        for process in running:
            assert process.log().count(SAID) == 1, process.log()
        assert one(database, LOCKS) == 0, "a pooler would keep it for somebody else"
        leaked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%idle_session_timeout%'"
        assert one(database, leaked) == 1, "but for this query itself"


async def test_with_a_listener_dsn_past_the_pooler_nothing_waits_for_a_poll(
    dsn: str, connect: Connect, server: Callable[..., Server], tmp_path: Path
) -> None:
    with pgbouncer(find_program("pgbouncer"), dsn, "transaction", tmp_path) as through:
        await _heard(
            server(env={"DATABASE_URL": through, "AGENT_EVENTS_LISTENER_DSN": dsn}), dsn, connect
        )


async def test_in_session_mode_nothing_needs_to_be_set(
    dsn: str, connect: Connect, server: Callable[..., Server], tmp_path: Path
) -> None:
    with pgbouncer(find_program("pgbouncer"), dsn, "session", tmp_path) as through:
        await _heard(server(env={"DATABASE_URL": through}), dsn, connect)


async def _heard(running: Server, dsn: str, connect: Connect) -> None:
    """The process leads, so it knows that it hears; and it delivers."""
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    database = connect()
    async with websocket(running, login(running, "ann")) as socket:
        await socket.until("live")
        await asyncio.to_thread(wait_until, lambda: one(database, LOCKS) == 1, 10, "a leader")
        made = [insert(database, tenant) for _ in range(5)]
        assert [event["id"] for event in await socket.events(5)] == made
        # Asked past the pooler, it says so, whatever backend the pooler makes it believe in.
        traced = await trace(dsn, dsn, made[-1])
        assert verdict(traced).code == "delivered", verdict(traced).words
    assert SAID not in running.log()
