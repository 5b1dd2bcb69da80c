"""Faults under load. Each shows that its fault was in force, and ends in exactly the committed set,
in the ledger's order, for subscribers that stay and for such that come and go.

The recovery time that a test prints is from the fault to the first event, committed after it, that
a subscriber got: the worst of them. docs/reliability.md tells them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from project.embedded import EmbeddedPostgres
from tests.conftest import Connect, Report
from tests.support import wait_until
from tests.support.proxy import proxy_to
from tests.support.watch import StartServer, leader_of, process_state, watched


async def test_the_listeners_backend_terminated(
    dsn: str, server: StartServer, report: Report
) -> None:
    async with watched(dsn, server) as watch:
        with watch.connection() as db:
            at = time.monotonic()
            assert db.execute("SELECT pg_terminate_backend(%s, 5000)", [watch.leader]).fetchone()
        assert not watch.alive(watch.leader)
        report("listener's backend terminated", f"{await watch.recovery(at):.2f} s")


async def test_the_sequencing_process_stopped(
    dsn: str, server: StartServer, report: Report
) -> None:
    async with watched(dsn, server) as watch:
        frozen, others = watch.followers[:2], watch.followers[2:]
        process = frozen[0].server.process
        assert process is not None
        at = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(process.pid) == "T", what="the process to be stopped")
        recovery_s = await watch.recovery(at, others)
        assert process_state(process.pid) == "T"
        report("sequencing process stopped, the other process", f"{recovery_s:.2f} s")
        # The server ends the frozen session by itself: its lock is free for the next.
        await asyncio.to_thread(
            wait_until, lambda: not watch.alive(watch.leader), 15, "the server to end its session"
        )
        report("sequencing process stopped, its lock free", f"{time.monotonic() - at:.2f} s")
        await asyncio.to_thread(
            wait_until, lambda: leader_of(watch.dsn), 10, "the other process to lead"
        )
        assert process_state(process.pid) == "T"
        woken_at = time.monotonic()
        process.send_signal(signal.SIGCONT)
        recovery_s = await watch.recovery(woken_at, frozen)
        report("sequencing process woken, its own subscribers", f"{recovery_s:.2f} s")


async def test_the_sequencers_connections_frozen(
    dsn: str, server: StartServer, report: Report
) -> None:
    with proxy_to(dsn) as (proxy, through):
        async with watched(dsn, server, victim_dsn=through) as watch:
            frozen, others = watch.followers[:2], watch.followers[2:]
            # Not those of Django, which live for a request: it waits for an answer for as long as
            # TCP does (docs/deploy.md), and this path takes every packet.
            at = time.monotonic()
            assert proxy.freeze(older_than_s=1) > 0
            assert watch.alive(watch.leader)
            recovery_s = await watch.recovery(at, others)
            report("sequencer's connections frozen, the other process", f"{recovery_s:.2f} s")
            assert proxy.swallowed > 0
            recovery_s = await watch.recovery(at, frozen)
            report("sequencer's connections frozen, its own subscribers", f"{recovery_s:.2f} s")
            await asyncio.to_thread(
                wait_until, lambda: not watch.alive(watch.leader), 15, "the server to end it"
            )


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_client_frozen_inside_an_append(
    dsn: str, server: StartServer, connect: Connect, report: Report, busy: bool
) -> None:
    async with watched(dsn, server) as watch:
        client = connect(autocommit=False)
        pid = client.info.backend_pid
        # It may lose the race for the next batch some times.
        while client.execute("SELECT * FROM agent_events_append()").fetchone() is None:
            client.rollback()
        at = time.monotonic()
        client.execute("SET LOCAL idle_in_transaction_session_timeout = 0" if busy else "SELECT 1")
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert watch.alive(pid)
        name = "busy in its transaction after an append" if busy else "frozen inside an append"
        report(f"client {name}", f"{await watch.recovery(at):.2f} s")
        assert not watch.alive(pid)  # the server ended it, or a process that waited for it did


async def test_a_web_process_killed(dsn: str, server: StartServer, report: Report) -> None:
    async with watched(dsn, server) as watch:
        victim, others = watch.followers[:2], watch.followers[2:]
        at = time.monotonic()
        await asyncio.to_thread(victim[0].server.kill)
        recovery_s = await watch.recovery(at, others)
        report("web process killed, the other process", f"{recovery_s:.2f} s")
        assert victim[0].server.process is None
        at = time.monotonic()
        await asyncio.to_thread(victim[0].server.start)
        report("web process started again", f"{await watch.recovery(at, victim):.2f} s")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgresql_restarted(
    cluster: Callable[..., EmbeddedPostgres], server: StartServer, report: Report, mode: str
) -> None:
    postgres = cluster()
    dsn = postgres.dsn()
    async with watched(dsn, server) as watch:
        pid = postgres.pid
        await asyncio.to_thread(postgres.stop, mode)
        assert postgres.pid is None
        postgres.start()  # (here: it dies with the thread that starts it)
        at = time.monotonic()  # since it answers again
        assert postgres.pid != pid
        report(f"PostgreSQL restarted ({mode})", f"{await watch.recovery(at):.2f} s")
    for running in {follower.server.port: follower.server for follower in watch.followers}.values():
        assert running.log().count("The listening connection failed") == 1, running.log()
        assert running.log().count("The listening connection is back after") == 1, running.log()


async def test_postgresql_killed_and_transaction_ids_come_back(
    cluster: Callable[..., EmbeddedPostgres], server: StartServer, report: Report
) -> None:
    # What is not flushed within the 10 s is lost with the crash: the ids of rolled-back
    # transactions among it, which nothing made durable.
    postgres = cluster(wal_writer_delay="10s")
    dsn = postgres.dsn()
    options = "-c synchronous_commit=off"
    async with watched(dsn, server, options=options) as watch:
        await asyncio.to_thread(watch.load.wait_for_commits, 50)
        with watch.load.paused():
            await asyncio.to_thread(wait_until, watch.quiet, 10, "all events to be in the ledger")
            delivered = {event for follower in watch.followers for event in list(follower.seen)}
            with watch.connection() as db:
                used = [_rolled_back(db) for _ in range(20)]
            await asyncio.to_thread(_kill_all, postgres)
            postgres.start()  # (here: it dies with the thread that starts it)
            at = time.monotonic()
            with watch.connection() as db:
                came_back = [_rolled_back(db) for _ in used]
                stored = {row[0] for row in db.execute("SELECT id FROM agent_events").fetchall()}
        assert set(came_back) & set(used), "ids came back"
        assert delivered <= stored, "what was delivered is durable"
        report("PostgreSQL killed", f"{await watch.recovery(at):.2f} s")


def _rolled_back(db: psycopg.Connection[Any]) -> int:
    """The id of a transaction that wrote nothing durable."""
    with db.transaction(force_rollback=True):
        row = db.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _kill_all(postgres: EmbeddedPostgres) -> list[int]:
    """`kill -9` to every process of the server at once: nobody writes anything any more."""
    postmaster = postgres.pid
    assert postmaster is not None
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    pids = [postmaster, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: postgres.pid is None, what="the server to be gone")
    return pids
