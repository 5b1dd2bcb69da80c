"""Who asks is looked up within a limit, whatever hangs, by a few connections that nobody keeps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest
from django.db import OperationalError, connection

from agent_events import access
from agent_events.credentials import Credentials, Via
from agent_events.errors import NotSignedIn
from agent_events.lookups import Lookups
from tests.support import Server, make_tenant, wait_until
from tests.support.keys import make_key
from tests.support.proxy import proxy_to
from tests.support.watch import bus_settings

Connect = Callable[..., psycopg.Connection[Any]]
TICKETS = "/api/agents/tickets"
LIMIT_S = 1.0
ASKING = 30
"""So many ask at once: the last one's turn, were it waited for, would come after PATIENCE_S."""
PATIENCE_S = 6.0
"""LIMIT_S is over by then, on a machine that is busy too."""
LOCKED = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"


def count(db: psycopg.Connection[Any], query: str) -> int:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def ask(server: Server, key: str) -> tuple[int, float]:
    """The status of an answer, and how many seconds it took."""
    # (No TLS here, and loading the authorities takes longer than the request.)
    with httpx.Client(verify=False, timeout=30) as client:
        began = time.monotonic()
        answer = client.post(server.url + TICKETS, headers={"Authorization": f"Bearer {key}"})
        return answer.status_code, time.monotonic() - began


def test_nobody_waits_long_for_a_database_that_does_not_answer(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    running, db, locker = server(env=bus_settings(QUERY_TIMEOUT_S=LIMIT_S)), connect(), connect()
    tenant = make_tenant(dsn, "Harbour")
    keys = [make_key(dsn, tenant) for _ in range(ASKING)]
    assert ASKING / access.MOST_LOOKUPS * LIMIT_S > PATIENCE_S + 2
    with locker.transaction(), ThreadPoolExecutor(len(keys)) as clients:
        locker.execute("LOCK TABLE agent_event_api_keys")
        asked = [clients.submit(ask, running, key) for key in keys]
        wait_until(lambda: count(db, LOCKED) > 0, what="a lookup that waits")
        for given in ("x", "ae_nonsense", "aet.nonsense"):
            assert ask(running, given)[0] == 401, "nobody is nobody, whatever hangs"
        most = 0
        while not all(one.done() for one in asked):
            most = max(most, count(db, LOCKED))
        answers = [one.result() for one in asked]
        assert {status for status, _ in answers} == {503}
        assert max(took_s for _, took_s in answers) < PATIENCE_S
        assert most <= access.MOST_LOOKUPS
        # What was asked is ended at the server, too.
        wait_until(lambda: count(db, LOCKED) == 0, what="the end of all lookups")
    assert [ask(running, key)[0] for key in keys] == [201] * len(keys)
    assert "Traceback" not in running.log()


def test_a_connection_that_is_half_open_holds_up_nobody(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    db, locker, key = connect(), connect(), make_key(dsn, make_tenant(dsn, "Harbour"))
    with proxy_to(dsn) as (proxy, through), ThreadPoolExecutor(3) as clients:
        # (Long enough for all three to come before the first one's time is over.)
        running = server(env={**bus_settings(QUERY_TIMEOUT_S=5.0), "DATABASE_URL": through})
        with locker.transaction():
            locker.execute("LOCK TABLE agent_event_api_keys")
            asked = [clients.submit(ask, running, key) for _ in range(3)]
            wait_until(lambda: count(db, LOCKED) == 3, what="three lookups that wait")
            proxy.freeze()
        assert {one.result()[0] for one in asked} == {503}
        wait_until(lambda: ask(running, key)[0] == 201, 30, "a lookup by another connection")


def test_a_resolver_of_ones_own_that_does_not_answer_is_not_waited_for(
    dsn: str, server: Callable[..., Server]
) -> None:
    name = "tests.support.resolvers.silent"
    running = server(env=bus_settings(QUERY_TIMEOUT_S=LIMIT_S, PRINCIPAL_RESOLVER=name))
    status, took_s = ask(running, "something")
    assert status == 503
    assert took_s < PATIENCE_S


# In this process


@pytest.mark.django_db(transaction=True)
async def test_what_is_not_answered_in_time_is_ended_and_its_connection_given_back(
    connect: Connect,
) -> None:
    db, lookups = connect(), Lookups(1, "test")

    def sleep() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    # Whichever comes first: our word, or that of the statement that we had ended.
    with pytest.raises(OperationalError, match=r"did not answer within|canceling statement"):
        await lookups.run(sleep, 0.3)
    await asyncio.to_thread(wait_until, lambda: count(db, SLEEPING) == 0)

    def two() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 2, pg_backend_pid()")
            return cursor.fetchone()

    (answer, pid), (_, same) = await lookups.run(two, 5), await lookups.run(two, 5)
    assert (answer, pid > 0, same > 0) == (2, True, True)
    gone = f"SELECT count(*) FROM pg_stat_activity WHERE pid IN ({pid}, {same})"
    await asyncio.to_thread(wait_until, lambda: count(db, gone) == 0)


async def test_those_who_wait_for_a_turn_share_a_few_threads() -> None:
    lookups, held, threads = Lookups(2, "test lookups"), threading.Event(), set[int]()

    def hold() -> None:
        threads.add(threading.get_ident())
        assert held.wait(10)

    waiting = [asyncio.create_task(lookups.run(hold, 10)) for _ in range(8)]
    left = asyncio.create_task(lookups.run(lambda: threads.add(-1), 10))
    while len(threads) < 2:
        await asyncio.sleep(0)
    left.cancel()
    late = lookups.run(lambda: threads.add(-2), 0.05)
    with pytest.raises(OperationalError):
        await late
    held.set()
    await asyncio.gather(*waiting)
    assert len(threads) == 2, "nobody waits for the answer of those who have left"


async def test_what_is_raised_is_raised_and_the_context_is_that_of_who_asks() -> None:
    word, lookups = ContextVar("word", default=""), Lookups(1, "test")
    word.set("mine")
    assert await lookups.run(word.get, 5) == "mine"

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(ValueError, match="no"):
        await lookups.run(partial(fail, ValueError("no")), 5)
    with pytest.raises(RuntimeError, match="StopIteration"):  # as of any coroutine
        await lookups.run(partial(fail, StopIteration()), 5)
    assert await lookups.run(word.get, 5) == "mine"


async def test_nobody_is_nobody_without_a_question() -> None:
    before = set(threading.enumerate())
    for one in (Credentials(Via.NOTHING), Credentials(Via.HEADER, "x"), Credentials(Via.COOKIE)):
        with pytest.raises(NotSignedIn):
            await access.look(one)
    assert set(threading.enumerate()) <= before  # those of other tests may have ended
