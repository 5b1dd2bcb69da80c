"""The ledger: every committed event in exactly one batch, whoever writes and appends, and when."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.sql import load
from tests.support.oracle import Oracle
from tests.support.roles import temporary_role
from tests.support.waiting import wait_until

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

TENANTS = [str(uuid.UUID(int=n)) for n in range(1, 6)]
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'storm', '{}' FROM generate_series(1, %s)
"""
APPEND = "SELECT n, rows FROM agent_events_append(%s)"


def insert(connection: Connection, rows: int = 1, tenant: str = TENANTS[0]) -> None:
    connection.execute(INSERT, [tenant, tenant, rows])


def append(connection: Connection, limit: int = 10_000) -> tuple[int, int] | None:
    return connection.execute(APPEND, [limit]).fetchone()


def cut(connection: Connection, limit: int) -> list[int]:
    """The sizes of the batches that close what there is: each but the last says there is more."""
    query = "SELECT rows, more FROM agent_events_append(%s)"
    closed = []
    while batch := connection.execute(query, [limit]).fetchone():
        closed.append(batch)
    assert [more for _, more in closed] == [True] * (len(closed) - 1) + [False]
    return [rows for rows, _ in closed]


def drain(connection: Connection, limit: int = 10_000) -> None:
    while append(connection, limit):
        pass


def read_batch(connection: Connection, n: int, rows: int) -> list[int]:
    """The ids of batch n as a reader gets them, in pages of odd sizes."""
    ids: list[int] = []
    position = (n, 0)
    size = max(997, rows // 3)
    while position[0] == n:
        *page, end = connection.execute(
            "SELECT batch, id, tenant_id FROM agent_events_page(NULL, %s, %s, %s)",
            [*position, min(size, max(1, rows - len(ids)))],
        ).fetchall()
        if not page:
            break
        ids += [id_ for batch, id_, _ in page if batch == n]
        position = (end[0], end[1])
        if len(ids) >= rows:
            break
    return ids


@dataclass
class Storm:
    """Writers of every kind and appenders of every kind at once; what each batch was when new."""

    connect: Connect
    limits: Sequence[int]
    stop: threading.Event = field(default_factory=threading.Event)
    live: dict[int, list[int]] = field(default_factory=dict)
    refused: int = 0

    def run(
        self,
        seconds: float,
        *,
        writers: Sequence[Callable[..., None]],
        huge: int = 0,
        batches: int = 0,
        refusals: int = 0,
    ) -> None:
        """For so long at least, and until there were so many batches and refusals."""
        jobs: list[tuple[Callable[..., None], Connection, random.Random]] = []
        for seed, work in enumerate([*writers, self.appender, self.appender, self.rude_appender]):
            jobs.append((work, self.connect(), random.Random(seed)))
        with ThreadPoolExecutor(len(jobs) + 1) as pool:
            futures = [pool.submit(self.until_stopped, *job) for job in jobs]
            try:
                began = time.monotonic()
                if huge:
                    insert(self.connect(), huge, TENANTS[1])

                def over() -> bool:
                    enough = len(self.live) >= batches and self.refused >= refusals
                    lasted_s = time.monotonic() - began
                    return any(f.done() for f in futures) or (enough and lasted_s >= seconds)

                wait_until(over, seconds + 60, "enough batches and refusals", 0.05)
            finally:
                self.stop.set()
            for future in futures:
                future.result()

    def until_stopped(
        self, work: Callable[..., None], connection: Connection, rng: random.Random
    ) -> None:
        while not self.stop.is_set():
            work(connection, rng)

    # Writers. Each call is one transaction.

    def small(self, connection: Connection, rng: random.Random) -> None:
        insert(connection, rng.choice([1, 1, 1, 2, 5]), rng.choice(TENANTS))

    def calm(self, connection: Connection, rng: random.Random) -> None:
        self.small(connection, rng)
        self.stop.wait(0.005)

    def savepoints(self, connection: Connection, rng: random.Random) -> None:
        with connection.transaction():
            for _ in range(rng.randint(1, 4)):
                with connection.transaction(force_rollback=rng.random() < 0.4):
                    insert(connection, rng.randint(1, 3), rng.choice(TENANTS))
            self.stop.wait(rng.random() / 20)

    def rolled_back(self, connection: Connection, rng: random.Random) -> None:
        with connection.transaction(force_rollback=True):
            insert(connection, rng.choice([1, 3, 500]), rng.choice(TENANTS))
            self.stop.wait(rng.random() / 20)

    def held_open(self, connection: Connection, rng: random.Random) -> None:
        with connection.transaction(force_rollback=rng.random() < 0.2):
            insert(connection, rng.randint(1, 20), rng.choice(TENANTS))
            self.stop.wait(rng.uniform(0.2, 2.5))
            insert(connection, 1, rng.choice(TENANTS))

    def prepared(self, connection: Connection, rng: random.Random) -> None:
        name = f"storm-{uuid.uuid4()}"
        connection.execute("BEGIN")
        connection.execute("SET LOCAL agent_events.quiet = on")
        insert(connection, rng.randint(1, 3), rng.choice(TENANTS))
        connection.execute(f"PREPARE TRANSACTION '{name}'")
        self.stop.wait(rng.random() / 5)
        connection.execute(f"{rng.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} PREPARED '{name}'")

    # Appenders. None of them takes a lock or knows of the others.

    def note(self, connection: Connection, batch: tuple[int, int] | None) -> None:
        if batch is not None:
            assert batch[0] not in self.live
            self.live[batch[0]] = read_batch(connection, *batch)
            assert len(self.live[batch[0]]) == batch[1]

    def appender(self, connection: Connection, rng: random.Random) -> None:
        with suppress(errors.LockNotAvailable):  # another one was in the way for a second
            self.note(connection, append(connection, rng.choice(self.limits)))

    def rude_appender(self, connection: Connection, rng: random.Random) -> None:
        """Appends, writes an event in the same transaction, and asks once more."""
        batch = None
        with suppress(errors.LockNotAvailable), connection.transaction():
            batch = append(connection, rng.choice(self.limits))
            insert(connection, 1, rng.choice(TENANTS))
            with pytest.raises(errors.InvalidTransactionState), connection.transaction():
                append(connection)
            self.refused += 1
            insert(connection, 1, rng.choice(TENANTS))
        self.note(connection, batch)
        self.stop.wait(rng.random() / 20)

    def verify(self) -> Oracle:
        """Drain, and compare what was read when each batch was new with what it is for ever."""
        connection = self.connect()
        while batch := append(connection, max(self.limits)):
            self.note(connection, batch)
        oracle = Oracle.load(connection)
        assert oracle.unplaced == []
        assert self.live == oracle.batch_ids()
        replayed: dict[int, list[int]] = {}
        position = (1, 0)
        while position != (oracle.head + 1, 0):
            *page, end = connection.execute(
                "SELECT batch, id FROM agent_events_page(NULL, %s, %s, 5000)", position
            ).fetchall()
            for n, id_ in page:
                replayed.setdefault(n, []).append(id_)
            position = end
        assert replayed == self.live
        return oracle


def test_every_committed_event_is_in_exactly_one_batch_and_every_replay_equals_the_live_order(
    connect: Connect,
) -> None:
    storm = Storm(connect, limits=[7, 50, 1_000, 10_000])
    kinds = [storm.small, storm.savepoints, storm.rolled_back, storm.held_open, storm.prepared]
    storm.run(6.0, writers=[*kinds, storm.held_open], huge=100_000, batches=101, refusals=11)
    oracle = storm.verify()
    assert max(len(ids) for ids in storm.live.values()) >= 100_000
    assert oracle.head > 100
    assert storm.refused > 10


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_small_batch_limits_lose_and_repeat_nothing(connect: Connect, limit: int) -> None:
    storm = Storm(connect, limits=[limit])
    writers = [storm.calm, storm.savepoints, storm.rolled_back, storm.held_open, storm.prepared]
    storm.run(1.2, writers=writers)
    oracle = storm.verify()
    # A batch is over the limit only where one transaction is.
    transactions: dict[int, set[int]] = {}
    for (n, _), row in oracle.order:
        transactions.setdefault(n, set()).add(row.tx)
    for n, ids in storm.live.items():
        assert len(ids) <= limit or len(transactions[n]) == 1


def test_an_open_transaction_delays_nobody_but_itself(connect: Connect) -> None:
    slow, quick, sequencer = connect(), connect(), connect()
    drain(sequencer)
    with slow.transaction():
        insert(slow, 3, TENANTS[0])
        for n in range(1, 4):
            insert(quick, 1, TENANTS[1])
            assert append(sequencer) == (n, 1)
        assert append(sequencer) is None
    assert append(sequencer) == (4, 3)
    insert(quick)
    assert append(sequencer) == (5, 1)
    Oracle.load(sequencer)


def test_rows_of_a_large_open_transaction_are_not_looked_at(connect: Connect) -> None:
    slow, sequencer = connect(), connect()
    with slow.transaction():
        slow.execute("SET LOCAL agent_events.quiet = on")
        insert(slow, 20_000)
        insert(connect())
        assert append(sequencer) == (1, 1)
        insert(connect())
        assert buffers(sequencer, "SELECT * FROM agent_events_append()") < 150
    assert append(sequencer) == (3, 20_000)


def buffers(connection: Connection, query: str) -> int:
    """Blocks of shared memory that a query touches, those of functions in it too."""
    row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}").fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_a_backlog_is_cut_into_batches_and_one_transaction_never(connect: Connect) -> None:
    writer, sequencer = connect(), connect()
    for _ in range(10):
        insert(writer, 4)
    insert(writer, 50)
    insert(writer, 4)
    assert cut(sequencer, 10) == [8, 8, 8, 8, 8, 50, 4]
    Oracle.load(sequencer)


def test_late_transactions_are_cut_at_the_limit_too(connect: Connect) -> None:
    sequencer = connect()
    late = [connect(autocommit=False) for _ in range(5)]
    for connection in late:
        insert(connection, 4)
    insert(connect(), 1)
    assert append(sequencer) == (1, 1)
    for connection in late:
        connection.commit()
    insert(connect(), 3)
    assert cut(sequencer, 10) == [8, 8, 7]
    Oracle.load(sequencer)


def test_the_limit_is_bounded_so_that_a_batch_of_many_transactions_stays_cheap_to_page(
    connect: Connect,
) -> None:
    writer, sequencer = connect(), connect()
    for _ in range(3):
        insert(writer, 9_000)
    assert append(sequencer, 2_000_000_000) == (1, 18_000)
    assert append(sequencer, 2_000_000_000) == (2, 9_000)


def test_of_two_appenders_one_wins_and_the_other_returns_nothing(connect: Connect) -> None:
    first, second, watcher = connect(), connect(), connect()
    insert(watcher)
    with ThreadPoolExecutor(1) as pool:
        with first.transaction():
            assert append(first) == (1, 1)
            insert(watcher)
            waiting = pool.submit(append, second)
            wait_until(lambda: is_waiting(watcher, second), what="the second appender to wait")
        assert waiting.result() is None
    assert append(second) == (2, 1)
    Oracle.load(watcher)


def is_waiting(watcher: Connection, connection: Connection) -> bool:
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    return watcher.execute(query, [connection.info.backend_pid]).fetchone() == (True,)


def test_an_appender_that_rolls_back_leaves_the_batch_to_the_next(connect: Connect) -> None:
    first, second = connect(), connect()
    insert(second)
    with first.transaction(force_rollback=True):
        assert append(first) == (1, 1)
    assert append(second) == (1, 1)


def test_an_appender_frozen_in_its_transaction_is_ended_by_the_server(connect: Connect) -> None:
    frozen, other = connect(autocommit=False), connect()
    insert(other)
    assert append(frozen) == (1, 1)

    def appended() -> bool:
        try:
            return append(other) == (1, 1)
        except errors.LockNotAvailable:
            return False

    wait_until(appended, what="somebody else to close the batch")
    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        append(frozen)


def test_append_refuses_in_a_transaction_that_has_written(connect: Connect) -> None:
    connection = connect(autocommit=False)
    insert(connection)
    with pytest.raises(errors.InvalidTransactionState, match="written something already"):
        append(connection)


def test_append_refuses_again_after_it_appended_even_if_a_savepoint_undid_it(
    connect: Connect,
) -> None:
    connection = connect()
    insert(connection)
    with connection.transaction():
        with connection.transaction(force_rollback=True):
            assert append(connection) == (1, 1)
        with pytest.raises(errors.InvalidTransactionState), connection.transaction():
            append(connection)


def test_without_that_refusal_an_event_falls_into_a_batch_closed_before_it_was_written(
    connect: Connect, dsn: str
) -> None:
    connection, other = connect(), connect()
    body = load("append", "public").split("CREATE FUNCTION public.agent_events_append(")[1]
    body = body.split("\n$$;\n")[0]
    start = body.index("    IF pg_current_xact_id_if_assigned()")
    end = body.index("END IF;", start) + len("END IF;")
    unguarded = body[:start] + body[end:]
    connection.execute(f"CREATE FUNCTION append_unguarded({unguarded}\n$$")

    with connection.transaction():
        insert(connection)
        insert(other)  # moves the snapshot beyond the first one's id, which it does not list
        batch = connection.execute("SELECT n, rows FROM append_unguarded()").fetchone()
        assert batch == (1, 2)
        insert(connection)
    assert len(read_batch(connection, 1, 10)) == 3
    with pytest.raises(AssertionError, match="total 2, counted 3"):
        Oracle.load(connection)


def test_append_refuses_a_snapshot_older_than_the_call(connect: Connect) -> None:
    connection = connect()
    insert(connection)
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        connection.execute(f"BEGIN ISOLATION LEVEL {level}")
        with pytest.raises(errors.InvalidTransactionState, match="expected read committed"):
            append(connection)
        connection.rollback()
    assert append(connection) == (1, 1)


def test_append_refuses_an_empty_ledger(connect: Connect) -> None:
    connection = connect()
    connection.execute("DELETE FROM agent_event_batches")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is empty"):
        append(connection)


def test_append_refuses_a_head_ahead_of_the_cluster(connect: Connect) -> None:
    connection = connect()
    connection.execute("UPDATE agent_event_batches SET seen = '9000000000:9000000000:'")
    insert(connection)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="copied from another cluster"):
        append(connection)


def test_append_refuses_a_limit_below_one(connect: Connect) -> None:
    connection = connect()
    for limit in (0, -1, None):
        with pytest.raises(errors.InvalidParameterValue, match="expected 1 or more"):
            connection.execute("SELECT agent_events_append(%s)", [limit])


def test_append_refuses_to_lose_rows_that_a_policy_hides(connect: Connect, dsn: str) -> None:
    connection = connect()
    insert(connection)
    connection.execute("ALTER TABLE agent_events ENABLE ROW LEVEL SECURITY")
    with temporary_role(dsn) as role:
        connection.execute(f"GRANT SELECT ON agent_events, agent_event_batches TO {role}")
        connection.execute(f"GRANT INSERT ON agent_event_batches TO {role}")
        connection.execute(f"SET ROLE {role}")
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            append(connection)
        connection.execute("RESET ROLE")


def test_the_ledger_cannot_be_truncated(connect: Connect) -> None:
    connection = connect()
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="cannot be truncated"):
        connection.execute("TRUNCATE agent_event_batches")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="cannot be truncated"):
        connection.execute("TRUNCATE agent_events, agent_event_batches CASCADE")
    connection.execute("TRUNCATE agent_events")


def test_the_commit_of_an_append_waits_for_the_disk(connect: Connect) -> None:
    connection = connect()

    def setting(name: str) -> str:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        assert row is not None
        return str(row[0])

    for asked, during in (("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")):
        insert(connection)
        connection.execute(f"SET synchronous_commit = {asked}")
        with connection.transaction():
            append(connection)
            assert setting("synchronous_commit") == during
            assert setting("lock_timeout") == "1s"
            assert setting("idle_in_transaction_session_timeout") == "1s"
            assert setting("enable_seqscan") == "on"
        assert setting("synchronous_commit") == asked
        assert setting("lock_timeout") == "0"


def test_a_batch_is_dated_after_the_one_before_even_if_the_clock_stood_still(
    connect: Connect,
) -> None:
    connection = connect()
    connection.execute("UPDATE agent_event_batches SET closed_at = '2100-01-01 00:00:00Z'")
    for _ in range(2):
        insert(connection)
        append(connection)
    (times,) = connection.execute(
        "SELECT array_agg(to_char(closed_at AT TIME ZONE 'UTC', 'YYYY MS') ORDER BY n)"
        "  FROM agent_event_batches"
    ).fetchall()
    assert times[0] == ["2100 000", "2100 001", "2100 002"]
