"""Two server processes under load, and clients that follow both: what the tests of faults break."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from agent_events.database import COALESCING_KEY, SEQUENCER_KEY
from tests.support.database import make_tenant, make_user
from tests.support.load import Follower, Load, in_log_order
from tests.support.server import Server, login
from tests.support.waiting import wait_until

StartServer = Callable[..., Server]

# The sessions of this database that hold an advisory lock exclusively.
HOLDERS = """
    SELECT a.pid FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND l.objsubid = 1
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid::bigint << 32) | l.objid::bigint = {}
"""
LEADER = HOLDERS.format(SEQUENCER_KEY)
"""SQL: the session that holds the sequencer's lock."""
K_HOLDER = HOLDERS.format(COALESCING_KEY)
"""SQL: the session that spares producers the ringing."""


def bus_settings(**changed: object) -> dict[str, str]:
    """The environment of a server process with these AGENT_EVENTS."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.support.settings",
        "TEST_AGENT_EVENTS": json.dumps(changed),
    }


def holder(db: psycopg.Connection[Any], query: str = K_HOLDER) -> int | None:
    """The backend that holds K, or the lead, of the database of `db` (in autocommit)."""
    row = db.execute(query).fetchone()
    return row[0] if row else None


class Watch:
    """Two server processes under load, the first of which leads, with followers of both."""

    def __init__(self, dsn: str, load: Load, followers: list[Follower], leader: int) -> None:
        self.dsn = dsn
        self.load = load
        self.followers = followers
        self.leader = leader  # the backend of the first server's listening connection

    def connection(self) -> psycopg.Connection[Any]:
        """A session beside the load, in autocommit."""
        return psycopg.connect(self.dsn, autocommit=True)

    def alive(self, pid: int) -> bool:
        """Is there a session of this process id?"""
        with self.connection() as db:
            return bool(db.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall())

    def quiet(self) -> bool:
        """Is no transaction open, and every event in the ledger?"""
        with self.connection() as db:
            row = db.execute(
                "SELECT total = (SELECT count(*) FROM agent_events)"
                "   AND pg_snapshot_xmin(pg_current_snapshot())"
                "     = pg_snapshot_xmax(pg_current_snapshot())"
                "  FROM agent_events_head()"
            ).fetchone()
        return bool(row and row[0])

    async def recovery(self, since: float, followers: list[Follower] | None = None) -> float:
        """Seconds until each follower (all of them, if not given) got an event committed since."""
        worst = 0.0
        for follower in followers or self.followers:

            def found(follower: Follower = follower) -> list[float]:
                return [
                    came
                    for event, came in follower.at.copy().items()
                    if self.load.committed.get(event, 0) > since
                ]

            await asyncio.to_thread(wait_until, found, 40, "an event committed after the fault")
            worst = max(worst, min(found()) - since)
        return worst

    def exact(self) -> None:
        """What every follower saw is what was committed, each once, in the log's order."""
        with self.connection() as db:
            expected = in_log_order(db, self.load.tenant)
            stored = {row[0] for row in db.execute("SELECT id FROM agent_events").fetchall()}
        assert set(expected) == stored
        assert len(expected) == len(stored)
        assert not stored & self.load.rolled_back
        for follower in self.followers:
            assert follower.seen == expected
            assert not follower.kinds & {"reset", "truncated"}


@asynccontextmanager
async def watched(
    dsn: str,
    server: StartServer,
    *,
    victim_dsn: str | None = None,
    options: str = "",
    somebody_leads: bool = True,
    env: Mapping[str, str] | None = None,
    bystander_env: Mapping[str, str] | None = None,
    pause_s: float = 0.02,
) -> AsyncIterator[Watch]:
    """Load and followers, of the victim (the first server) and of a bystander; exact at the end.

    `env`: more environment variables for both servers, `bystander_env` on top for the second.
    `pause_s`: how long each of three writers waits between its transactions.
    """
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    load = Load(dsn, tenant, options=options, pause_s=pause_s)
    victim = server(env={**(env or {}), "DATABASE_URL": victim_dsn or dsn})
    cookies = login(victim, "ann")

    given_up = threading.Event()

    def done(seen: list[int]) -> bool:
        if given_up.is_set() or not load.over:
            return given_up.is_set()
        with psycopg.connect(dsn) as db:
            row = db.execute("SELECT count(*) FROM agent_events").fetchone()
        assert row is not None
        return len(seen) >= row[0]

    first = Follower(victim, cookies)
    tasks = [asyncio.create_task(first.follow(done))]
    try:
        with load.running():
            leader = 0
            if somebody_leads:
                leader = await asyncio.to_thread(wait_until, lambda: leader_of(dsn), 20, "a leader")
            bystander = server(env={**(env or {}), **(bystander_env or {}), "DATABASE_URL": dsn})
            others = [Follower(victim, cookies, patience=4), Follower(bystander, cookies)]
            sse = Follower(bystander, cookies, patience=9)
            tasks += [asyncio.create_task(follower.follow(done)) for follower in others]
            tasks.append(asyncio.create_task(asyncio.to_thread(sse.follow_by_event_source, done)))
            watch = Watch(dsn, load, [first, *others, sse], leader)
            await watch.recovery(time.monotonic())  # all of them are on
            yield watch
            await asyncio.to_thread(load.wait_for_commits, 20)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    finally:
        given_up.set()
        load.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    watch.exact()


def leader_of(dsn: str) -> int | None:
    """The backend that has the lead in this database."""
    with psycopg.connect(dsn, autocommit=True) as db:
        return holder(db, LEADER)


def process_state(pid: int) -> str:
    """The letter that Linux gives the state of a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
