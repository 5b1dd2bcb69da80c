"""Retention: whole batches go, in steps; whoever wanted them is told, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from psycopg import errors

from agent_events.errors import InvalidAge
from agent_events.filters import Filter
from agent_events.log import Log
from agent_events.position import Cursor, Position
from agent_events.retention import OLD_KEYS_SQL, parse_age
from agent_events.sources.postgres import PostgresSource
from agent_events.subscriber import Kind, Subscriber
from tests.conftest import Connect
from tests.support import manage, wait_until
from tests.support.database import ROOT
from tests.support.streams import insert
from tests.test_cursor import close_batches, closed_at_ms
from tests.test_feed import OPTIONS, process, take
from tests.test_ledger import buffers, is_waiting

Connection = psycopg.Connection[Any]

TENANT = str(uuid.UUID(int=1))
MANY = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'x', '1' FROM generate_series(1, %s)
"""


def append(connection: Connection) -> None:
    connection.execute("SELECT agent_events_append()")


def age(connection: Connection, batches: int, by: str = "2 days") -> None:
    """Has the first so many batches closed long ago."""
    connection.execute(
        "UPDATE agent_event_batches SET closed_at = closed_at - %s::interval WHERE n <= %s",
        [by, batches],
    )


def step(connection: Connection, rows: int = 10_000, before: str = "1 day") -> tuple[Any, ...]:
    row = connection.execute(
        "SELECT events, batches, keys, more"
        "  FROM agent_events_prune(clock_timestamp() - %s::interval, %s)",
        [before, rows],
    ).fetchone()
    assert row is not None
    return row


def step_to(connection: Connection, last: int, rows: int = 10_000) -> tuple[Any, ...]:
    """A step that takes batches up to `last`, whose times stay as they are: readers know them."""
    row = connection.execute(
        "SELECT events, batches, keys, more FROM agent_events_prune("
        " (SELECT closed_at + interval '1 us' FROM agent_event_batches WHERE n = %s), %s)",
        [last, rows],
    ).fetchone()
    assert row is not None
    return row


def kept(connection: Connection) -> list[int]:
    return [id_ for (id_,) in connection.execute("SELECT id FROM agent_events ORDER BY id")]


def ledger(connection: Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM agent_event_batches ORDER BY n")]


def oldest(connection: Connection) -> int:
    ((found,),) = connection.execute("SELECT oldest FROM agent_event_bus").fetchall()
    return int(found)


def test_batches_go_by_the_time_they_were_closed_and_never_by_created_at(
    connect: Connect,
) -> None:
    connection = connect()
    old = close_batches(connection, TENANT, 3)
    connection.execute("UPDATE agent_events SET created_at = now() + interval '1 year'")
    new = close_batches(connection, TENANT, 2)
    connection.execute(
        "UPDATE agent_events SET created_at = '-infinity' WHERE id = ANY (%s)", [new]
    )
    age(connection, 3)
    assert step(connection) == (3, 3, 0, False)
    assert kept(connection) == new
    assert oldest(connection) == 4
    assert step(connection) == (0, 0, 0, False)
    assert old < new


def test_a_late_transaction_goes_with_the_batch_that_it_was_delivered_in(connect: Connect) -> None:
    late, connection = connect(), connect()
    with late.transaction():
        first = insert(late, TENANT)  # the lowest id and transaction, in the last batch
        close_batches(connection, TENANT, 2)
    append(connection)
    age(connection, 2)
    assert step(connection) == (2, 2, 0, False)
    assert kept(connection) == [first]


def test_a_step_takes_whole_batches_up_to_its_limit(connect: Connect) -> None:
    connection = connect()
    for rows in (3, 3, 3, 9, 1, 1):
        connection.execute(MANY, [TENANT, TENANT, rows])
        append(connection)
    age(connection, 5)
    taken = []
    while True:
        taken.append(step(connection, 7))
        if not taken[-1][3]:
            break
    # (3, 3), then 3; the batch of 9 in two steps, read by nobody from the first on; then 1.
    assert [events for events, *_ in taken] == [6, 3, 7, 2, 1]
    assert [batches for _, batches, *_ in taken] == [2, 1, 1, 0, 1]
    assert oldest(connection) == 6
    assert len(kept(connection)) == 1


def test_the_head_stays_and_so_do_ledger_rows_of_the_last_hour(connect: Connect) -> None:
    connection = connect()
    close_batches(connection, TENANT, 6)
    assert step(connection, before="-1 s") == (6, 6, 0, False)
    assert kept(connection) == []
    assert oldest(connection) == 7
    assert ledger(connection) == [0, 1, 2, 3, 4, 5, 6]
    age(connection, 4, "50 minutes")
    assert step(connection, before="-1 s") == (0, 0, 0, False)
    assert ledger(connection) == [0, 1, 2, 3, 4, 5, 6]
    age(connection, 4, "20 minutes")
    step(connection, before="-1 s")
    assert ledger(connection) == [5, 6]
    age(connection, 6)
    step(connection, before="-1 s")
    assert ledger(connection) == [6]  # the head, where the next batch begins
    (made,) = close_batches(connection, TENANT, 1)
    read = connection.execute("SELECT batch, id FROM agent_events_read(NULL, 7, 0, 9)").fetchall()
    assert read == [(7, made)]


def test_a_key_goes_with_its_event_and_not_before(connect: Connect) -> None:
    late, connection = connect(), connect()
    keyed = "INSERT INTO agent_event_keys (tenant_id, key, event_id) VALUES (%s, %s, %s)"
    with late.transaction():
        connection.execute(keyed, [TENANT, "first", insert(connection, TENANT)])
        append(connection)
        # Its key is older than the batch that goes, its event comes later.
        late.execute(keyed, [TENANT, "late", insert(late, TENANT)])
        connection.execute(keyed, [TENANT, "second", insert(connection, TENANT)])
        append(connection)
    append(connection)
    connection.execute("UPDATE agent_event_keys SET created_at = created_at - interval '3 days'")
    age(connection, 2)
    assert step(connection, 1) == (1, 1, 1, True)
    assert step(connection, 1)[2] == 1
    keys = connection.execute("SELECT key FROM agent_event_keys").fetchall()
    assert keys == [("late",)]


def test_a_key_that_is_older_than_keys_are_kept_goes_and_its_event_stays(
    connect: Connect, dsn: str
) -> None:
    connection = connect()
    for key, old in (("old", "8 days"), ("older", "9 days"), ("young", "6 days")):
        connection.execute(
            "INSERT INTO agent_event_keys VALUES (%s, %s, %s, now() - %s::interval)",
            [TENANT, key, insert(connection, TENANT), old],
        )
    append(connection)
    manage("prune_events", "--older-than=30d", "--step=1", dsn=dsn)
    assert connection.execute("SELECT key FROM agent_event_keys").fetchall() == [("young",)]
    assert connection.execute("SELECT count(*) FROM agent_events").fetchone() == (3,)


def test_forgetting_keys_reads_none_of_those_that_stay(connect: Connect) -> None:
    connection = connect()
    connection.execute(
        "INSERT INTO agent_event_keys SELECT %s, n::text, n FROM generate_series(1, 20000) AS n",
        [TENANT],
    )
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + OLD_KEYS_SQL
    ((((found),),),) = connection.execute(explain.encode(), [3600, 10_000]).fetchall()
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] < 20


def test_a_reader_of_what_is_gone_is_told_though_the_ledger_still_has_its_rows(
    connect: Connect,
) -> None:
    connection = connect()
    close_batches(connection, TENANT, 3)
    age(connection, 2, "50 minutes")
    step(connection, before="40 minutes")
    assert ledger(connection) == [0, 1, 2, 3]
    for function in ("agent_events_page(NULL, 2, 0, 9)", "agent_events_window(NULL, 2, 3)"):
        with pytest.raises(errors.NoDataFound, match="does not hold batches 1 to"):
            connection.execute(f"SELECT * FROM {function}")


def test_a_huge_batch_is_gone_for_readers_before_its_first_event_is(connect: Connect) -> None:
    connection = connect()
    connection.execute(MANY, [TENANT, TENANT, 30_000])
    append(connection)
    (after,) = close_batches(connection, TENANT, 1)
    age(connection, 1)
    assert step(connection, 10_000) == (10_000, 1, 0, True)
    assert len(kept(connection)) == 20_001
    with pytest.raises(errors.NoDataFound):
        connection.execute("SELECT * FROM agent_events_page(NULL, 1, 0, 9)")
    back = "SELECT id FROM agent_events_page_back(NULL, 9, 0, 9) WHERE tenant_id IS NOT NULL"
    assert connection.execute(back).fetchall() == [(after,)]
    prunable = "SELECT events, batches FROM agent_events_prunable(now() - interval '1 day')"
    assert connection.execute(prunable).fetchall() == [(20_000, 0)]
    assert step(connection, 10_000) == (10_000, 0, 0, True)
    assert step(connection, 10_000) == (10_000, 0, 0, False)
    assert kept(connection) == [after]


def test_pruning_touches_what_it_deletes_whatever_the_tables_hold(connect: Connect) -> None:
    connection, other = connect(), connect()
    for table in ("agent_events", "agent_event_batches", "agent_event_keys"):
        other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    # Its plans are made while the tables are all but empty.
    close_batches(other, TENANT, 4)
    age(other, 3)
    step(connection, 1)
    other.execute(MANY, [TENANT, TENANT, 40_000])
    append(other)
    other.execute(
        "INSERT INTO agent_event_keys SELECT %s, n::text, (SELECT max(id) FROM agent_events)"
        " FROM generate_series(1, 20000) AS n",
        [TENANT],
    )
    other.execute(
        "DO $$ BEGIN FOR i IN 1 .. 1500 LOOP"
        " INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '1'); COMMIT;"
        " PERFORM agent_events_append(); COMMIT; END LOOP; END $$"
    )
    step(connection, 10_000)
    call = "SELECT * FROM agent_events_prune(clock_timestamp() - interval '1 day', 100)"
    assert buffers(connection, call) < 1_000  # nothing is due; the newest 100 are looked at
    age(other, 605)
    assert step(connection, 1) == (1, 1, 0, True)
    with connection.transaction(force_rollback=True):
        assert buffers(connection, call) < 4_000  # 100 of the batch of 40,000
    while step(connection, 10_000)[3]:
        pass
    age(other, 1_200)
    assert buffers(connection, call) < 4_000  # 100 small batches
    assert len(kept(connection)) == 800


def test_nonsense_is_refused(connect: Connect) -> None:
    connection = connect()
    for arguments in ("NULL", "now(), 0", "now(), NULL"):
        with pytest.raises(errors.InvalidParameterValue, match="expected a time and 1 or more"):
            connection.execute(f"SELECT agent_events_prune({arguments})")


def test_a_ledger_that_must_be_mended_is_not_pruned(connect: Connect, dsn: str) -> None:
    connection = connect()
    ids = close_batches(connection, TENANT, 2)
    age(connection, 2)
    connection.execute("UPDATE agent_event_batches SET seen = '9000000000:9000000000:' WHERE n = 2")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="must be mended first"):
        step(connection)
    with pytest.raises(AssertionError, match="mend_events"):
        manage("prune_events", "--older-than=1d", dsn=dsn)
    assert kept(connection) == ids


def test_two_that_prune_take_turns(connect: Connect) -> None:
    first, second = connect(), connect()
    close_batches(first, TENANT, 4)
    age(first, 4)
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            assert step(first, 2) == (2, 2, 0, True)
            waiting = pool.submit(step, second, 1)
            wait_until(lambda: is_waiting(first, second), what="the second one to wait")
        assert waiting.result() == (1, 1, 0, True)
    assert len(kept(first)) == 1


# Readers.


@pytest.fixture
async def log(dsn: str) -> AsyncIterator[Log]:
    opened = Log(dsn, OPTIONS)
    await opened.open()
    yield opened
    await opened.close()


async def rest_of(viewer: Subscriber) -> tuple[list[Kind], list[int]]:
    """What a viewer is told and given up to the head."""
    kinds, ids = [], []
    async with asyncio.timeout(15):
        while Kind.LIVE not in kinds:
            update = await viewer.next(5)
            kinds.append(update.kind)
            ids += [event.id for event in update.events]
    return kinds, ids


async def first_page(viewer: Subscriber) -> list[int]:
    async with asyncio.timeout(15):
        while not (update := await viewer.next(5)).events:
            pass
    return [event.id for event in update.events]


async def test_a_reader_who_catches_up_is_told_only_of_what_it_missed(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    made = close_batches(connection, TENANT, 60)
    async with process(dsn) as one:
        behind = await one.feed.subscribe((TENANT,), Filter(), "earliest")
        ahead = await one.feed.subscribe((TENANT,), Filter(), "earliest")
        assert await first_page(behind) == made[:20]
        assert await first_page(ahead) == made[:20]
        assert await first_page(ahead) == made[20:40]
        step_to(connection, 30)
        kinds, ids = await rest_of(behind)
        assert Kind.TRUNCATED in kinds
        assert ids == made[30:]
        kinds, ids = await rest_of(ahead)
        assert Kind.TRUNCATED not in kinds
        assert ids == made[40:]


async def test_a_reader_inside_a_batch_that_is_half_deleted_is_told(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    connection.execute(MANY, [TENANT, TENANT, 60])
    append(connection)
    (after,) = close_batches(connection, TENANT, 1)
    made = kept(connection)
    async with process(dsn) as one:
        viewer = await one.feed.subscribe((TENANT,), Filter(), "earliest")
        assert await first_page(viewer) == made[:20]
        assert step_to(connection, 1, 5) == (5, 1, 0, True)
        assert len(kept(connection)) == 56
        kinds, ids = await rest_of(viewer)
        assert Kind.TRUNCATED in kinds
        assert ids == [after]


async def test_whoever_is_live_notices_nothing(dsn: str, connect: Connect) -> None:
    connection = connect()
    async with process(dsn) as one:
        busy, quiet = await one.live((TENANT,)), await one.live((str(uuid.UUID(int=2)),))
        made = [insert(connection, TENANT) for _ in range(5)]
        assert await take(busy, 5) == made
        async with asyncio.timeout(15):
            while (await quiet.next(0.2)).cursor < busy.cursor:
                pass
        step(connection, before="-1 s")
        assert kept(connection) == []
        for tenant, viewer in (TENANT, busy), (str(uuid.UUID(int=2)), quiet):
            made = [insert(connection, tenant)]
            update = await viewer.next(10)
            while update.kind is Kind.HEARTBEAT:
                update = await viewer.next(10)
            assert (update.kind, [event.id for event in update.events]) == (Kind.EVENTS, made)


async def test_a_source_whose_batches_were_pruned_before_it_read_them_goes_on(
    dsn: str, connect: Connect, log: Log
) -> None:
    connection = connect()
    source = PostgresSource(dsn, log, OPTIONS, lambda: frozenset({TENANT}))
    async with aclosing(source.windows()) as windows:
        first = await anext(windows)  # and now it stands still
        close_batches(connection, TENANT, 3)
        step(connection, before="-1 s")
        async with asyncio.timeout(15):
            while (window := await anext(windows)).last < first.last + 3:
                pass
        # It says how far the log has come, and that it has not what was in there.
        assert (window.covers, window.events) == (frozenset(), ())
        made = insert(connection, TENANT)
        async with asyncio.timeout(15):
            while not (window := await anext(windows)).events:
                pass
        assert [event.id for event in window.events] == [made]


async def test_cursors_of_what_is_kept_stay_valid_and_others_say_truncated(
    connect: Connect, log: Log
) -> None:
    connection = connect()
    ids = close_batches(connection, TENANT, 5)
    age(connection, 5)
    cursors = [
        Cursor(position, closed_at_ms(connection, position.last_batch))
        for position in (Position(2), Position(3, ids[2]), Position(4), Position(5, ids[4]))
    ]
    step_to(connection, 3)
    assert ledger(connection) == [3, 4, 5]
    start = Cursor(Position(4), closed_at_ms(connection, 3))
    resolved = [await log.resolve(str(cursor)) for cursor in cursors]
    assert resolved == [(start, "truncated"), (start, "truncated"), (start, ""), (cursors[3], "")]


# The command.


def test_the_command_tells_interrupts_and_goes_on(dsn: str, connect: Connect) -> None:
    connection = connect()
    for rows in (3, 2, 5):
        connection.execute(MANY, [TENANT, TENANT, rows])
        append(connection)
    age(connection, 3, "8 days")
    (last,) = close_batches(connection, TENANT, 1)

    dry = manage("prune_events", "--older-than=7d", "--dry-run", dsn=dsn)
    assert dry == "Would delete 10 events in 3 batches.\n"
    assert (len(kept(connection)), oldest(connection)) == (11, 1)

    slow = [sys.executable, "manage.py", "prune_events", "--older-than=7d", "--step=1"]
    terminal, inside = pty.openpty()
    options: dict[str, Any] = {
        "cwd": ROOT,
        "env": {**os.environ, "DATABASE_URL": dsn, "DJANGO_DEBUG": "1"},
    }
    # Ctrl-C, at a terminal.
    at_it = {"stdin": inside, "stdout": inside, "stderr": inside}
    with subprocess.Popen([*slow, "--pause=60"], **at_it, **options) as run:
        wait_until(lambda: len(kept(connection)) == 10, what="the first step")
        shown = ""
        while "1 of 10 events" not in shown:
            shown += os.read(terminal, 1_000).decode()
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 130
    shown += os.read(terminal, 1_000).decode()
    os.close(terminal)
    os.close(inside)
    assert f"\r[###{' ' * 27}]  10%  1 of 10 events\r\n" in shown
    assert "Stopped after 1 event in 1 batch. Run it again to go on from there." in shown
    # kill -9, in the middle of a batch.
    with subprocess.Popen([*slow, "--pause=60"], stdout=subprocess.DEVNULL, **options) as run:
        wait_until(lambda: len(kept(connection)) == 9, what="another step")
        run.kill()
    assert oldest(connection) == 2
    done = manage("prune_events", "--older-than=7d", "--step=2", dsn=dsn)
    lines = done.splitlines()
    assert lines[0] == "12%  1 of 8 events"
    assert lines[-2:] == ["100%  8 of 8 events", "Deleted 8 events in 2 batches."]
    assert kept(connection) == [last]
    again = manage("prune_events", "--older-than=7d", dsn=dsn)
    assert again == "Deleted 0 events in 0 batches.\n"


@pytest.mark.parametrize(
    "given", ["--pause=nan", "--pause=inf", "--pause=-1", "--step=99999999999", "--step=0"]
)
def test_a_step_or_a_pause_without_sense_is_refused_before_anything_is_deleted(given: str) -> None:
    with pytest.raises(CommandError, match=f"{given.split('=')[0]} takes"):
        call_command("prune_events", "--older-than=0s", given)  # (here no database may be asked)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("12h", 43_200), ("7d", 604_800), (" 2w ", 1_209_600), ("0d", 0)],
)
def test_an_age_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7y", "-7d", "1.5d", "7 d", "\u0667d", "99999999w"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidAge, match="such as 7d"):
        parse_age(text)
