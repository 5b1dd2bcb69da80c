"""A log that an operator made a partitioned table: nothing is lost, and old partitions go whole.

The SQL is that of docs/partitions.md, word for word.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.filters import Filter
from agent_events.position import Cursor, Position
from agent_events.status import gather
from agent_events.subscriber import Kind
from agent_events.writing import EventRow, statement
from tests.conftest import Connect
from tests.support import manage
from tests.support.database import ROOT
from tests.support.roles import temporary_role
from tests.support.streams import insert
from tests.test_docs import blocks_of
from tests.test_feed import (
    HARBOUR,
    MEADOW,
    OPTIONS,
    everything_sequenced,
    in_order,
    process,
    take_to_the_head,
    until,
    write,
)
from tests.test_ledger import buffers, drain

Connection = psycopg.Connection[Any]

SIZE = 10_000_000  # the page's ids a partition
MANY = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, 'x', '1' FROM generate_series(1, %s)
"""


def run(connection: Connection, kind: str) -> None:
    (block,) = blocks_of(ROOT / "docs" / "partitions.md", kind)
    connection.execute(block.encode())


def partition(connection: Connection) -> None:
    run(connection, "bound")
    run(connection, "swap")


def partitions(connection: Connection) -> list[str]:
    """Their names."""
    rows = connection.execute(
        "SELECT relid::regclass::text FROM pg_partition_tree('agent_events') WHERE isleaf"
        " ORDER BY 1"
    )
    return [str(name) for (name,) in rows.fetchall()]


def go_on_at(connection: Connection, id: int) -> None:
    """The next event has this id: gaps are nothing new to a log."""
    connection.execute("SELECT setval('agent_events_id_seq', %s)", [id - 1])


def age(connection: Connection, last: int) -> None:
    """Has the batches up to `last` closed long ago."""
    connection.execute(
        "UPDATE agent_event_batches SET closed_at = closed_at - interval '40 days' WHERE n <= %s",
        [last],
    )


def wait_ten_minutes(connection: Connection, name: str) -> None:
    """What the block wrote down as it put the partition out of reach was long ago."""
    ((said,),) = connection.execute(
        "SELECT obj_description(%s::regclass, 'pg_class')", [name]
    ).fetchall()
    assert said.startswith("out of reach since ")
    connection.execute(f"COMMENT ON TABLE {name} IS 'out of reach since 2020-01-01'")


@pytest.fixture
def log(connect: Connect) -> Connection:
    """A partitioned log with three events in its first partition, the rest still to be written."""
    connection = connect()
    for _ in range(3):
        insert(connection, HARBOUR)
    drain(connection)
    partition(connection)
    return connection


@pytest.mark.parametrize("mode", ["ring", "coalesce"])
async def test_it_becomes_partitioned_while_producers_write_and_a_stream_reads(
    dsn: str, connect: Connect, mode: str
) -> None:
    connection = connect()
    async with process(dsn, sources=2, options=replace(OPTIONS, mode=mode)) as one:
        viewers = {await one.live((HARBOUR,)): HARBOUR, await one.live(None): None}
        written = asyncio.gather(*(write(dsn, seed) for seed in range(3)))
        seen: dict[Any, list[int]] = {viewer: [] for viewer in viewers}

        async def follow(viewer: Any) -> None:
            while not written.done():
                seen[viewer] += [event.id for event in (await viewer.next(0.1)).events]

        async def operate() -> None:
            await asyncio.to_thread(partition, connection)
            await asyncio.to_thread(run, connection, "reconnect")
            go_on_at(connection, 2 * SIZE - 20)  # the next partition begins among what follows
            await asyncio.to_thread(run, connection, "next")

        await asyncio.gather(operate(), *map(follow, viewers))
        await written
        for _ in range(25):
            insert(connection, HARBOUR)
        head = await everything_sequenced(connection)
        for viewer, tenant in viewers.items():
            seen[viewer] += await take_to_the_head(viewer, head)
            assert seen[viewer] == in_order(connection, tenant)

        # Whoever closes batches by the clock holds the lock that the new trigger looks at.
        async def silenced() -> bool:
            row = connection.execute(
                "SELECT pg_try_advisory_xact_lock_shared(agent_events_coalescing_key())"
            ).fetchone()
            return row == (mode == "ring",)

        await until(silenced, "the new lock to be held, where it should")
    used = connection.execute("SELECT DISTINCT tableoid::regclass::text FROM agent_events")
    assert {name for (name,) in used} == {f"agent_events_to_{n * SIZE}" for n in (2, 3)}


def test_what_the_table_had_it_has(dsn: str, connect: Connect) -> None:
    owner, producer, listener = connect(), connect(), connect()

    def shape() -> list[Any]:
        return owner.execute(
            "SELECT ARRAY(SELECT ROW(attname, atttypid, attnotnull, attidentity, attacl::text,"
            "                        pg_get_expr(adbin, adrelid))::text"
            "               FROM pg_attribute LEFT JOIN pg_attrdef"
            "                 ON adrelid = attrelid AND adnum = attnum"
            "              WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),"
            "       ARRAY(SELECT replace(pg_get_indexdef(indexrelid), ' ONLY ', ' ') FROM pg_index"
            "              WHERE indrelid = c.oid ORDER BY 1),"
            "       ARRAY(SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint"
            "              WHERE conrelid = c.oid AND conname <> 'agent_events_bound' ORDER BY 1),"
            "       ARRAY(SELECT tgname FROM pg_trigger WHERE tgrelid = c.oid ORDER BY 1),"
            "       relacl::text, relowner, pg_get_serial_sequence('agent_events', 'id')"
            "  FROM pg_class AS c WHERE oid = 'agent_events'::regclass"
        ).fetchall()

    with temporary_role(dsn) as role:
        owner.execute(
            "GRANT INSERT (tenant_id, agent_id, event_type, payload), SELECT (id) ON agent_events"
            f" TO {role}; GRANT SELECT ON agent_events TO {role} WITH GRANT OPTION;"
            f"GRANT USAGE ON SEQUENCE agent_events_id_seq TO {role}"
        )
        first = insert(owner, HARBOUR)
        before = shape()
        partition(owner)
        assert shape() == before

        # A producer with these rights alone rings, and the bell tells what came.
        listener.execute("SELECT agent_events_listen(%s)", [HARBOUR])
        producer.execute(f"SET ROLE {role}")
        assert insert(producer, HARBOUR, payload='{"a": 1}') == first + 1
        (told,) = listener.notifies(timeout=10, stop_after=1)
        assert json.loads(told.payload)["payload"] == {"a": 1}
        assert producer.execute("SELECT nextval('agent_events_id_seq')").fetchone() == (first + 2,)
        producer.close()
    said = manage("check", "--database", "default", dsn=dsn)
    assert "no issues" in said


def test_a_key_is_known_in_whatever_partition_its_event_is(log: Connection) -> None:
    run(log, "next")
    row = EventRow(HARBOUR, MEADOW, "x", "1", key="once")
    query, columns, _ = statement([row])
    ((first, state),) = log.execute(query.encode(), columns).fetchall()
    assert state == "new"
    go_on_at(log, 2 * SIZE)
    assert log.execute(query.encode(), columns).fetchall() == [(first, "known")]
    with pytest.raises(errors.UniqueViolation):
        log.execute(
            "INSERT INTO agent_events (id, tenant_id, agent_id, event_type, payload)"
            " VALUES (%s, %s, %s, 'x', '1')",
            [first, HARBOUR, MEADOW],
        )


def test_a_transaction_over_two_partitions_is_one_batch_in_the_order_of_its_ids(
    log: Connection,
) -> None:
    run(log, "next")
    go_on_at(log, 2 * SIZE - 100)
    log.execute(MANY, [MEADOW, HARBOUR, 200])
    drain(log)
    assert in_order(log, MEADOW) == list(range(2 * SIZE - 100, 2 * SIZE + 100))
    back = log.execute("SELECT id FROM agent_events_read_back(%s, 3, 0, 1000)", [MEADOW])
    assert [id_ for (id_,) in back] == in_order(log, MEADOW)[::-1]
    ((live,),) = log.execute(
        "SELECT array_agg(id) FROM agent_events_live(NULL, 2, 1000000)"
    ).fetchall()
    assert live == in_order(log, MEADOW)


def test_a_look_goes_into_each_partition_by_index(dsn: str, log: Connection) -> None:
    go_on_at(log, 2 * SIZE + 1)
    for n in range(3, 11):  # eight of them, each with thousands of events
        run(log, "next")
        for _ in range(40):
            log.execute(MANY, [MEADOW, HARBOUR, 100])
            log.execute("SELECT agent_events_append()")
        go_on_at(log, n * SIZE + 1)
    assert len(partitions(log)) == 10  # and the first, and the net
    log.execute("VACUUM agent_events")

    def touched(call: str) -> int:
        """By a call whose statements are planned."""
        log.execute(f"SELECT * FROM {call}".encode())
        return buffers(log, f"SELECT * FROM {call}")

    assert touched(f"agent_events_page(ARRAY['{MEADOW}']::uuid[], 160, 0, 100)") < 600
    assert touched(f"agent_events_page(ARRAY['{HARBOUR}']::uuid[], 160, 0, 100)") < 200  # no event
    assert touched("agent_events_page(NULL, 160, 0, 100)") < 600
    assert touched("agent_events_page_back(NULL, 160, 0, 100)") < 600
    assert touched("agent_events_live(NULL, 160, 1000000)") < 300
    insert(log, HARBOUR)
    assert touched("agent_events_append()") < 100  # there is nothing new
    insert(log, HARBOUR)
    assert buffers(log, "SELECT * FROM agent_events_append()") < 200
    ((plan,),) = log.execute(
        "EXPLAIN (FORMAT JSON) SELECT * FROM agent_events WHERE id = 50000001"
    ).fetchall()
    assert plan[0]["Plan"]["Relation Name"] == f"agent_events_to_{6 * SIZE}"
    assert asyncio.run(gather(dsn)).log_bytes > 1_000_000  # all partitions together


def looks(connection: Connection, call: str) -> dict[str, int]:
    """How often a call looks into each partition's primary key."""
    scans = """
        SELECT i.relname, i.idx_scan FROM pg_stat_user_indexes AS i
          JOIN pg_partition_tree('agent_events') AS t ON t.relid = i.relid
          JOIN pg_index AS x ON x.indexrelid = i.indexrelid AND x.indisprimary
    """
    connection.execute("SELECT pg_stat_force_next_flush()")
    before = dict(connection.execute(scans).fetchall())
    connection.execute(f"SELECT * FROM {call}".encode())
    connection.execute("SELECT pg_stat_force_next_flush()")
    return {name: n - before[name] for name, n in connection.execute(scans).fetchall()}


def test_a_step_of_pruning_looks_for_ids_in_the_partitions_that_have_them_alone(
    log: Connection,
) -> None:
    go_on_at(log, 2 * SIZE + 1)
    for n in range(3, 8):  # batches 2 to 6: of 3,000 events each, in a partition each
        run(log, "next")
        log.execute(MANY, [MEADOW, HARBOUR, 3000])
        drain(log)
        go_on_at(log, n * SIZE - 2 if n == 7 else n * SIZE + 1)
    run(log, "next")
    log.execute(MANY, [MEADOW, HARBOUR, 4])  # batch 7 is half in one partition, half in the next
    drain(log)
    insert(log, HARBOUR)
    drain(log)
    age(log, 7)
    assert len(partitions(log)) == 8

    def pruned(rows: int) -> tuple[set[str], set[str]]:
        """By one step: which partitions it deleted from, and in which it looked for ids."""
        always = looks(log, "agent_events_fault(100)")  # it looks at the newest events first
        counts = "SELECT tableoid::regclass::text, count(*) FROM agent_events GROUP BY 1"
        before = dict(log.execute(counts).fetchall())
        found = looks(log, f"agent_events_prune(clock_timestamp() - interval '1 day', {rows})")
        left = dict(log.execute(counts).fetchall())
        return (
            {name for name, count in before.items() if left.get(name) != count},
            {name for name, count in found.items() if count > always[name]},
        )

    # The first batch; the next in two steps; then two, one, and the one in two partitions.
    steps = ((2000, {2}), (2000, {3}), (2000, {3}), (6000, {4, 5}), (3000, {6}), (9000, {7, 8}))
    for rows, numbers in steps:
        names = {f"agent_events_to_{n * SIZE}" for n in numbers}
        assert pruned(rows) == (names, names)
    assert log.execute("SELECT count(*) FROM agent_events").fetchone() == (1,)


async def test_an_old_partition_is_dropped_whole_and_whoever_wanted_it_is_told(
    dsn: str, log: Connection
) -> None:
    run(log, "next")
    go_on_at(log, 2 * SIZE - 2)
    log.execute(MANY, [HARBOUR, MEADOW, 4])  # batch 2: half of it is in the next partition
    drain(log)
    left = [insert(log, HARBOUR) for _ in range(3)]  # batch 3
    drain(log)
    old = f"agent_events_to_{2 * SIZE}"

    run(log, "drop")
    assert old in partitions(log)  # it is young
    age(log, 2)
    run(log, "drop")
    assert log.execute("SELECT oldest, swept FROM agent_event_bus").fetchone() == (3, 1)
    with pytest.raises(errors.NoDataFound, match="does not hold batches"):
        log.execute("SELECT * FROM agent_events_read(%s, 2, 0, 10)", [HARBOUR])
    run(log, "drop")
    assert old in partitions(log)  # whoever began to read before may still be at it

    wait_ten_minutes(log, old)
    run(log, "drop")
    assert old not in partitions(log)
    # The other half of batch 2, the ledger's rows, and keys: `prune_events` takes them along.
    said = manage("prune_events", "--older-than", "7d", dsn=dsn)
    assert "2 events" in said
    kept = [id_ for (id_,) in log.execute("SELECT id FROM agent_events ORDER BY id")]
    assert kept == left
    assert log.execute("SELECT oldest, swept FROM agent_event_bus").fetchone() == (3, 3)
    async with process(dsn) as one:
        cursor = str(Cursor(Position(1), 0))
        late = await one.feed.subscribe((HARBOUR,), Filter(), cursor)
        kinds, ids = [], []
        async with asyncio.timeout(10):
            while Kind.LIVE not in kinds:
                told = await late.next(1)
                kinds.append(told.kind)
                ids += [event.id for event in told.events]
        assert Kind.TRUNCATED in kinds
        assert ids == left


def test_what_a_late_transaction_wrote_keeps_its_partition(
    connect: Connect, log: Connection
) -> None:
    run(log, "next")
    late = connect(autocommit=False)
    id_ = insert(late, MEADOW)  # the last of the old partition, and open
    go_on_at(log, 2 * SIZE)
    insert(log, HARBOUR)
    drain(log)
    age(log, 2)
    old = f"agent_events_to_{2 * SIZE}"
    run(log, "drop")
    late.commit()
    wait_ten_minutes(log, old)
    run(log, "drop")
    assert old in partitions(log)
    drain(log)
    assert in_order_from(log, MEADOW) == [id_]
    run(log, "drop")  # nor later, while the event is young
    assert log.execute("SELECT oldest FROM agent_event_bus").fetchone() == (2,)


def in_order_from(connection: Connection, tenant: str) -> list[int]:
    rows = connection.execute(
        "SELECT r.id FROM agent_event_bus, agent_events_read(%s, oldest, 0, 1000) AS r", [tenant]
    )
    return [id_ for (id_,) in rows.fetchall()]


def test_events_that_found_no_partition_are_in_the_net_which_becomes_one(log: Connection) -> None:
    go_on_at(log, 2 * SIZE - 1)
    log.execute(MANY, [MEADOW, HARBOUR, 10])
    drain(log)
    ((caught,),) = log.execute("SELECT count(*) FROM agent_events_rest").fetchall()
    assert caught == 9
    assert len(in_order(log, MEADOW)) == 10
    run(log, "next")
    assert partitions(log) == [
        "agent_events_rest",
        *(f"agent_events_to_{n * SIZE}" for n in (2, 3, 4)),
    ]
    assert log.execute("SELECT count(*) FROM agent_events_rest").fetchone() == (0,)
    assert log.execute(f"SELECT count(*) FROM agent_events_to_{3 * SIZE}").fetchone() == (9,)
    assert len(in_order(log, MEADOW)) == 10
    run(log, "next")  # at any time again
    assert len(partitions(log)) == 4


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE VIEW theirs AS SELECT id FROM agent_events",
        "CREATE TABLE theirs (event bigint REFERENCES agent_events)",
        "ALTER TABLE agent_events ENABLE ROW LEVEL SECURITY",
        "CREATE PUBLICATION theirs FOR TABLE agent_events",
    ],
)
def test_a_log_on_which_others_hang_stays_as_it_is(connect: Connect, theirs: str) -> None:
    connection = connect()
    insert(connection, HARBOUR)
    connection.execute(theirs.encode())
    run(connection, "bound")
    with pytest.raises(errors.RaiseException, match="would not follow"):
        run(connection, "swap")
    connection.execute("ROLLBACK")
    assert insert(connection, HARBOUR) == 2
    assert connection.execute(
        "SELECT relkind FROM pg_class WHERE relname = 'agent_events'"
    ).fetchone() == ("r",)


def test_it_gives_up_where_a_producer_stays_in_its_transaction(connect: Connect) -> None:
    connection, open_, other = connect(), connect(autocommit=False), connect()
    run(connection, "bound")
    first = insert(open_, HARBOUR)
    (block,) = blocks_of(ROOT / "docs" / "partitions.md", "swap")
    with pytest.raises(errors.LockNotAvailable):
        connection.execute(block.replace("'5s'", "'100ms'").encode())
    connection.execute("ROLLBACK")
    assert insert(other, HARBOUR) == first + 1
    open_.commit()
    run(connection, "swap")
    assert insert(other, HARBOUR) == first + 2
