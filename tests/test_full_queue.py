"""PostgreSQL's notification queue full: notifying commits of others fail, an INSERT does not."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_events.sequencer import TOLD_ROWS
from project.embedded import EmbeddedPostgres
from tests.support import Server, login, make_user, manage, wait_until
from tests.support.streams import insert, websocket
from tests.support.watch import bus_settings, holder

PAGES = 64  # the fewest that PostgreSQL takes: half a megabyte
FILL = """
    SELECT count(pg_notify('somebody_elses', i || repeat('x', 7000))) FROM generate_series(1, 20) i
"""


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """The dsn of a database on a server with a small notification queue, and a superuser's."""
    folder = Path(tempfile.mkdtemp(prefix="agent-events-tests-"))
    folder.chmod(0o711)
    settings = {"fsync": "off", "max_notify_queue_pages": str(PAGES)}
    one = EmbeddedPostgres(folder / "data", settings=settings, die_with_parent=True)
    try:
        manage("migrate", "--skip-checks", "--verbosity=0", dsn=one.start())
        make_user(one.dsn(), "root", superuser=True)
        yield one.dsn()
    finally:
        one.destroy()
        shutil.rmtree(folder)


@pytest.fixture
def db(small: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(small, autocommit=True) as connection:
        yield connection


def usage(db: psycopg.Connection[Any]) -> float:
    """The share of the notification queue that is in use."""
    row = db.execute("SELECT pg_notification_queue_usage()").fetchone()
    assert row is not None
    return float(row[0])


@pytest.mark.parametrize("mode", ["ring", "coalesce"])
async def test_events_go_on_while_a_listener_that_sits_in_a_transaction_fills_the_queue(
    small: str, db: psycopg.Connection[Any], server: Callable[..., Server], mode: str
) -> None:
    tenant = str(uuid.uuid4())
    running = server(env={"DATABASE_URL": small, **bus_settings(MODE=mode)})

    with psycopg.connect(small) as culprit:
        async with websocket(running, login(running, "root"), f"tenant={tenant}") as socket:
            await socket.until("live")
            if mode == "coalesce":
                await asyncio.to_thread(wait_until, lambda: holder(db), 10, "K to be held")
            culprit.execute("LISTEN anything")
            culprit.commit()
            culprit.execute("SELECT 1")  # and now it sits in its transaction
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="NOTIFY queue"):
                while True:
                    db.execute(FILL)
            assert usage(db) > 0.5
            assert db.execute("SELECT agent_events_tell(1)").fetchone() == (False,)
            made = [insert(db, tenant) for _ in range(3)]
            assert [event["id"] for event in await socket.events(3)] == made
            assert usage(db) > 0.5, "it was full all the time"

            culprit.rollback()
            async with asyncio.timeout(30):
                while usage(db) > 0.5:
                    await asyncio.sleep(0.05)
            listener = await psycopg.AsyncConnection.connect(small, autocommit=True)
            async with listener:
                await listener.execute(f'LISTEN "agent_event_{tenant}"')
                made = [insert(db, tenant)]
                told = [note async for note in listener.notifies(timeout=20, stop_after=1)]
                assert told, "it tells again"
            assert [event["id"] for event in await socket.events(1)] == made
            assert bool(holder(db)) is (mode == "coalesce")
    assert "connection failed" not in running.log()


@pytest.mark.parametrize(
    "others",
    [pytest.param(9_000, id="told in the append"), pytest.param(TOLD_ROWS + 1, id="told after it")],
)
async def test_a_batch_of_more_tenants_than_the_queue_holds_is_closed_and_delivered(
    small: str, db: psycopg.Connection[Any], server: Callable[..., Server], others: int
) -> None:
    tenant = str(uuid.uuid4())
    running = server(env={"DATABASE_URL": small, **bus_settings(MODE="coalesce")})
    async with websocket(running, login(running, "root"), f"tenant={tenant}") as socket:
        await socket.until("live")
        k = await asyncio.to_thread(wait_until, lambda: holder(db), 10, "K to be held")
        assert usage(db) < 0.1, "whoever looks at it in time finds it empty"
        with db.transaction():
            db.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                " SELECT gen_random_uuid(), %s, 'x', '1' FROM generate_series(1, %s)",
                [tenant, others],
            )
            made = [insert(db, tenant)]
        assert [event["id"] for event in await socket.events(1)] == made
        full = lambda: usage(db) > 0.9  # noqa: E731
        await asyncio.to_thread(wait_until, full, 10, "what was to be told not to fit")
        made = [insert(db, tenant)]
        assert [event["id"] for event in await socket.events(1)] == made
        assert holder(db) == k, "its connection was not lost over it"
