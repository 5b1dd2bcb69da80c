"""PostgreSQL's notification queue full: notifying commits of others fail, an INSERT does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from project.embedded import EmbeddedPostgres
from tests.support import Server, login, make_tenant, make_user
from tests.support.streams import insert, websocket

PAGES = 64  # the fewest that PostgreSQL takes: half a megabyte
FILL = """
    SELECT count(pg_notify('somebody_elses', i || repeat('x', 7000))) FROM generate_series(1, 20) i
"""


async def test_events_go_on_while_a_listener_that_sits_in_a_transaction_fills_the_queue(
    cluster: Callable[..., EmbeddedPostgres], server: Callable[..., Server]
) -> None:
    dsn = cluster(max_notify_queue_pages=str(PAGES)).dsn()
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    running = server(env={"DATABASE_URL": dsn})
    with (
        psycopg.connect(dsn) as culprit,
        psycopg.connect(dsn, autocommit=True) as other,
        psycopg.connect(dsn, autocommit=True) as producer,
    ):

        def usage() -> float:
            row = other.execute("SELECT pg_notification_queue_usage()").fetchone()
            assert row is not None
            return float(row[0])

        async with websocket(running, login(running, "ann")) as socket:
            await socket.until("live")
            culprit.execute("LISTEN anything")
            culprit.commit()
            culprit.execute("SELECT 1")  # and now it sits in its transaction
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="NOTIFY queue"):
                while True:
                    other.execute(FILL)
            assert usage() > 0.5
            made = [insert(producer, tenant) for _ in range(3)]
            assert [event["id"] for event in await socket.events(3)] == made
            assert usage() > 0.5, "it was full all the time"

            culprit.rollback()
            async with asyncio.timeout(10):
                while usage() > 0.5:
                    await asyncio.sleep(0.05)
            listener = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            async with listener:
                await listener.execute("LISTEN agent_events")
                made = [insert(producer, tenant)]
                rung = [note async for note in listener.notifies(timeout=5, stop_after=1)]
                assert rung, "it rings again"
            assert [event["id"] for event in await socket.events(1)] == made
