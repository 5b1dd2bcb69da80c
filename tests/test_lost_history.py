"""The data directory is put back to an earlier copy: who has seen what is lost hears `reset`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.log import Log
from agent_events.position import Cursor, Position
from agent_events.subscriber import Kind
from project.embedded import EmbeddedPostgres
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user
from tests.support.streams import Socket, event_stream, insert, websocket
from tests.test_cursor import close_batches
from tests.test_feed import OPTIONS

TENANT = str(uuid.UUID(int=1))


def copy(source: Path, target: Path) -> None:
    """A folder of the server's, with its owner and all."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


async def batch_each(dsn: str, socket: Socket, tenant: str, count: int) -> list[int]:
    """`count` events, each in a batch of its own, as the socket gets them."""
    made = []
    with psycopg.connect(dsn, autocommit=True) as producer:
        for _ in range(count):
            made.append(insert(producer, tenant))
            assert [event["id"] for event in await socket.events(1)] == made[-1:]
    return made


async def test_a_data_directory_put_back_resets_every_cursor_and_position_of_what_is_lost(
    cluster: Callable[..., EmbeddedPostgres], tmp_path: Path
) -> None:
    postgres = cluster()
    dsn = postgres.dsn()
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    server = Server(dsn, tmp_path / "server.log").start()
    try:
        cookies = login(server, "ann")
        async with AsyncExitStack() as stack:

            async def viewer(cursor: str) -> Socket:
                query = f"tenant={tenant}&cursor={cursor}"
                return await stack.enter_async_context(websocket(server, cookies, query))

            watching = await viewer("latest")
            await watching.until("live")
            kept = await batch_each(dsn, watching, tenant, 2)
            before_it = str(watching.cursor)
            postgres.stop("fast")
            copy(postgres.pgdata, tmp_path / "copy")
            postgres.start()
            assert postgres.dsn() == dsn

            lost = await batch_each(dsn, watching, tenant, 4)
            lost_cursors = [str(watching.cursor)]  # behind the last batch
            with event_stream(server, cookies, last_id=before_it) as stream:
                assert [event["id"] for event in stream.events(2)] == lost[:2]
                lost_cursors.append(stream.last_id)  # in the fourth

            def put_back() -> None:
                postgres.stop("immediate")
                copy(tmp_path / "copy", postgres.pgdata)
                postgres.start()

            # While clients are connected, and reconnect: nobody has written anything new yet.
            put_back()
            assert (await watching.until("reset"))["cursor"]
            assert [event["id"] for event in await watching.events(2)] == kept
            for cursor in lost_cursors:
                again = await viewer(cursor)
                await again.until("hello")
                assert (await again.frame())["type"] == "reset"
                with event_stream(server, cookies, last_id=cursor) as stream:
                    messages = stream.messages()
                    assert [next(messages)[0], next(messages)[0]] == ["hello", "reset"]
            # A cursor from before is of this history: nothing is repeated, nothing is said.
            steady = await viewer(before_it)
            await steady.until("live")
            new = await batch_each(dsn, watching, tenant, 4)
            assert [event["id"] for event in await steady.events(4)] == new
            assert "reset" not in steady.kinds

            # Once more, and the new history reaches the same numbers before the server looks.
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            lost_cursors.append(str(watching.cursor))
            put_back()
            with psycopg.connect(dsn, autocommit=True) as producer:
                other = close_batches(producer, tenant, 6)
            server.process.send_signal(signal.SIGCONT)
            for socket in watching, steady:
                await socket.until("reset")
                assert [event["id"] for event in await socket.events(8)] == [*kept, *other]
            for cursor in lost_cursors:
                again = await viewer(cursor)
                await again.until("hello")
                assert (await again.frame())["type"] == "reset"
                assert [event["id"] for event in await again.events(8)] == [*kept, *other]
            await batch_each(dsn, watching, tenant, 1)
    finally:
        server.stop()


async def test_a_reader_in_the_middle_of_the_log_does_not_pass_into_another_history(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    made = close_batches(connection, TENANT, 60)
    log = Log(dsn, OPTIONS)
    await log.open()
    try:
        # No source is there that could notice it.
        viewer = await Feed(log, OPTIONS).subscribe((TENANT,), Filter(), "earliest")
        got: list[int] = []
        async with asyncio.timeout(15):
            while not got:
                got += [event.id for event in (await viewer.next(5)).events]
            assert got == made[:20]
            # As after a restore: the same numbers, other batches.
            connection.execute("UPDATE agent_event_batches SET closed_at = closed_at + '1 ms'")
            kinds = []
            while Kind.LIVE not in kinds:
                update = await viewer.next(5)
                kinds.append(update.kind)
                if update.kind is Kind.RESET:
                    got.clear()  # it goes on some minutes before: that is all of this log
                got += [event.id for event in update.events]
        assert Kind.RESET in kinds
        assert got == made
    finally:
        await log.close()


async def test_a_position_beyond_the_log_is_not_taken_for_its_end(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    close_batches(connection, TENANT, 3)
    log = Log(dsn, OPTIONS)
    await log.open()
    try:
        beyond = Cursor(Position(90), 1_700_000_000_000)
        with pytest.raises(psycopg.errors.NoDataFound):
            await log.page((TENANT,), beyond, Filter())
        end = (await log.resolve("latest")).cursor
        page = await log.page((TENANT,), end, Filter())
        assert (page.cursor, page.at_head) == (end, True)
    finally:
        await log.close()
