"""After a restore into another cluster: refused in words, mended, and every cursor goes on."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events.filters import Filter
from agent_events.position import Cursor, Position
from agent_events.subscriber import Kind
from project.embedded import EmbeddedPostgres
from project.postgres_home import shipped_program
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, manage, wait_until
from tests.support.oracle import Oracle
from tests.support.streams import event_stream, insert, websocket
from tests.test_cursor import close_batches, closed_at_ms
from tests.test_feed import process, take
from tests.test_ledger import buffers

Connection = psycopg.Connection[Any]
Cluster = Callable[..., EmbeddedPostgres]

TENANT = str(uuid.UUID(int=1))
FAULT = "SELECT agent_events_fault()"
COPIED = "it was copied from another cluster"


def fault(connection: Connection) -> str | None:
    ((found,),) = connection.execute(FAULT).fetchall()
    return str(found) if found else None


def mend(connection: Connection) -> tuple[Any, ...]:
    row = connection.execute("SELECT * FROM agent_events_mend()").fetchone()
    assert row is not None
    return row


def drain(connection: Connection) -> None:
    while connection.execute("SELECT n FROM agent_events_append()").fetchone():
        pass


def log_of(connection: Connection) -> list[tuple[int, int]]:
    """(batch, id) of every event, in the order of the log."""
    return connection.execute(
        "SELECT batch, id FROM agent_events_page(NULL, 1, 0, 100000) WHERE tenant_id IS NOT NULL"
    ).fetchall()


def ledger(connection: Connection) -> list[tuple[Any, ...]]:
    """What of the ledger a cursor, or a source, compares itself with."""
    return connection.execute(
        "SELECT n, total, closed_at FROM agent_event_batches ORDER BY n"
    ).fetchall()


def age(connection: Connection) -> None:
    """As if all this was some hours ago: `now` must be later than what is restored."""
    connection.execute("UPDATE agent_events SET created_at = created_at - interval '5 hours'")
    connection.execute("UPDATE agent_event_batches SET closed_at = closed_at - interval '5 hours'")


def overlapping(connect: Connect, rounds: int = 6) -> Connection:
    """A log whose batches are not in the order of ids; the connection that closes batches."""
    sequencer, quick = connect(), connect()
    for _ in range(rounds):
        slow = connect(autocommit=False)
        insert(slow, TENANT)
        insert(quick, TENANT)
        drain(sequencer)
        insert(quick, TENANT)
        insert(slow, TENANT)
        drain(sequencer)
        slow.commit()
        drain(sequencer)
    return sequencer


def raise_numbers(connection: Connection, by: int) -> None:
    """As if all of it came from a cluster that is so many transactions further."""
    connection.execute("UPDATE agent_events SET tx = (tx::text::bigint + %s)::text::xid8", [by])
    connection.execute(
        "UPDATE agent_event_batches SET seen = ("
        " SELECT format('%%s:%%s:%%s', pg_snapshot_xmin(seen)::text::bigint + %(by)s,"
        "               pg_snapshot_xmax(seen)::text::bigint + %(by)s,"
        "               (SELECT string_agg((x::text::bigint + %(by)s)::text, ',' ORDER BY x)"
        "                  FROM pg_snapshot_xip(seen) AS x))::pg_snapshot) WHERE n > 0",
        {"by": by},
    )


def test_nothing_is_mended_where_nothing_is_wrong(connect: Connect, dsn: str) -> None:
    connection = overlapping(connect)
    insert(connection, TENANT)  # in no batch yet
    numbers = (
        "SELECT id, tx::text FROM agent_events UNION ALL"
        " SELECT -n, seen::text FROM agent_event_batches ORDER BY 1"
    )
    before = connection.execute(numbers).fetchall()
    assert fault(connection) is None
    assert mend(connection) == (None, None, None, None)
    assert manage("mend_events", dsn=dsn) == "Nothing to mend.\n"
    assert connection.execute(numbers).fetchall() == before


def test_a_copied_ledger_keeps_its_order_its_times_and_its_totals(connect: Connect) -> None:
    connection = overlapping(connect)
    in_no_batch = [insert(connection, TENANT) for _ in range(3)]
    order = log_of(connection)
    age(connection)
    raise_numbers(connection, 5_000_000)
    kept = ledger(connection)
    new = [insert(connection, TENANT) for _ in range(2)]  # producers go on
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=COPIED):
        drain(connection)
    # Streams would pass what was written since: it looks like part of old batches.
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=COPIED):
        log_of(connection)
    assert fault(connection) == "ahead"

    assert mend(connection) == ("ahead", len(kept) - 1, len(order), 5)
    assert fault(connection) is None
    assert ledger(connection) == kept
    assert log_of(connection) == order
    drain(connection)
    head = kept[-1][0]
    assert log_of(connection) == [*order, *((head + 1, id_) for id_ in in_no_batch + new)]
    Oracle.load(connection)
    assert mend(connection)[0] is None


def test_a_transaction_that_is_open_while_it_is_mended_comes_after(connect: Connect) -> None:
    connection = overlapping(connect, 2)
    order = log_of(connection)
    age(connection)
    raise_numbers(connection, 5_000_000)
    slow = connect(autocommit=False)
    id_ = insert(slow, TENANT)
    mend(connection)
    drain(connection)
    assert log_of(connection) == order
    slow.commit()
    drain(connection)
    assert log_of(connection) == [*order, (order[-1][0] + 1, id_)]


def test_more_batches_than_the_cluster_has_had_transactions(connect: Connect, dsn: str) -> None:
    connection = connect()
    close_batches(connection, TENANT, 3)
    age(connection)
    ((now,),) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
    # As if a long ledger had been pruned: its rows are there, its events are gone.
    connection.execute(
        "INSERT INTO agent_event_batches"
        " SELECT 3 + k, (%s + k || ':' || %s + k || ':')::pg_snapshot, 3 + k,"
        "        (SELECT max(closed_at) FROM agent_event_batches) + k * interval '1 ms'"
        "   FROM generate_series(1, %s) AS k",
        [now + 1_000_000, now + 1_000_000, now + 500],
    )
    kept = ledger(connection)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="more are needed") as refused:
        mend(connection)
    assert "CALL agent_events_burn(" in str(refused.value.diag.message_hint)
    told = manage("mend_events", "--dry-run", dsn=dsn)
    assert "transaction ids are used up first" in told
    assert "Nothing was changed" in told
    assert fault(connection) == "ahead"
    assert "Events that have their place: 3, in batches: " in manage("mend_events", dsn=dsn)
    assert ledger(connection) == kept
    assert fault(connection) is None
    id_ = insert(connection, TENANT)
    drain(connection)
    assert log_of(connection)[-1] == (kept[-1][0] + 1, id_)


def test_a_cluster_that_overtook_the_ledger_before_anyone_looked(connect: Connect) -> None:
    connection = overlapping(connect)
    order = log_of(connection)
    # Restored when this cluster was at the number of the first events, it has had more since.
    age(connection)
    kept = ledger(connection)
    ((low,),) = connection.execute("SELECT min(tx)::text::bigint FROM agent_events").fetchall()
    lost = []
    for k in range(4):
        id_ = insert(connection, TENANT)
        connection.execute(
            "UPDATE agent_events SET tx = %s::text::xid8 WHERE id = %s", [low + 2 * k, id_]
        )
        lost.append(id_)
    later = close_batches(connection, TENANT, 1)
    kept += ledger(connection)[-1:]
    assert {id_ for _, id_ in log_of(connection)} == {*(i for _, i in order), *lost, *later}
    assert connection.execute("SELECT agent_events_overtaken()").fetchone() == (True,)
    assert fault(connection) == "overtaken"

    assert mend(connection) == ("overtaken", len(kept) - 1, len(order) + 1, 4)
    assert ledger(connection) == kept
    drain(connection)
    head = kept[-1][0]
    assert log_of(connection) == [*order, (head, later[0]), *((head + 1, id_) for id_ in lost)]
    assert fault(connection) is None


def test_a_producers_own_times_prove_nothing(connect: Connect) -> None:
    connection = overlapping(connect)
    connection.execute("UPDATE agent_events SET created_at = created_at + interval '1 day'")
    assert connection.execute("SELECT agent_events_overtaken()").fetchone() == (False,)
    connection.execute("UPDATE agent_events SET created_at = 'infinity'")
    assert fault(connection) is None


def test_looking_whether_it_was_overtaken_costs_a_look_at_the_newest(connect: Connect) -> None:
    connection = connect()
    connection.execute("ALTER TABLE agent_events SET (autovacuum_enabled = off)")
    connection.execute(FAULT)
    connection.execute(
        "DO $$ BEGIN FOR i IN 1 .. 2000 LOOP"
        " INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'x', '1' FROM generate_series(1, 10);"
        " COMMIT; PERFORM agent_events_append(); COMMIT; END LOOP; END $$"
    )
    assert buffers(connection, "SELECT agent_events_fault(100)") < 500


def test_events_that_bear_numbers_of_the_future_are_delivered_once_and_stop_nobody(
    connect: Connect,
) -> None:
    connection = connect()
    order = [(n + 1, id_) for n, id_ in enumerate(close_batches(connection, TENANT, 2))]
    forged = insert(connection, TENANT)
    connection.execute("UPDATE agent_events SET tx = '9000000000' WHERE id = %s", [forged])
    order += [(3, id_) for id_ in close_batches(connection, TENANT, 1)]
    drain(connection)
    assert log_of(connection) == order
    assert fault(connection) == "rows ahead"
    # It takes nothing from retention either.
    (more,) = connection.execute("SELECT more FROM agent_events_prune('-infinity')").fetchall()
    assert more == (False,)
    assert mend(connection) == ("rows ahead", 0, 0, 1)
    drain(connection)
    assert log_of(connection) == [*order, (4, forged)]
    assert fault(connection) is None


def test_a_row_of_the_migration_before_the_copied_ledger_is_no_part_of_it(
    connect: Connect,
) -> None:
    connection = connect()
    close_batches(connection, TENANT, 9)
    age(connection)
    order = log_of(connection)[5:]
    connection.execute("DELETE FROM agent_event_batches WHERE n BETWEEN 1 AND 4")
    connection.execute("DELETE FROM agent_events WHERE id <= 5")
    raise_numbers(connection, 5_000_000)
    assert mend(connection)[:3] == ("ahead", 4, 4)
    assert [n for n, *_ in ledger(connection)] == [5, 6, 7, 8, 9]
    assert connection.execute("SELECT oldest FROM agent_event_bus").fetchone() == (6,)
    read = connection.execute("SELECT batch, id FROM agent_events_read(NULL, 6, 0, 100)").fetchall()
    assert read == order


# An emptied ledger.


@pytest.mark.parametrize("oldest", [1, 4])
def test_an_emptied_ledger_is_made_anew_from_the_events(connect: Connect, oldest: int) -> None:
    connection = overlapping(connect, 3)
    if oldest > 1:
        connection.execute("UPDATE agent_event_batches SET closed_at = closed_at - interval '1 d'")
        connection.execute(
            "SELECT agent_events_prune((SELECT closed_at FROM agent_event_batches WHERE n = %s))",
            [oldest],
        )
    connection.execute(
        "DO $$ BEGIN FOR i IN 1 .. 2500 LOOP"
        " INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '1'); COMMIT; END LOOP; END $$"
    )
    drain(connection)
    ids = {id_ for (id_,) in connection.execute("SELECT id FROM agent_events")}
    slow = connect(autocommit=False)
    late = insert(slow, TENANT)
    ids.add(insert(connection, TENANT))
    connection.execute("DELETE FROM agent_event_batches")
    for call in ("agent_events_append()", "agent_events_head()", "agent_events_read(NULL,1,0,9)"):
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is empty"):
            connection.execute(f"SELECT * FROM {call}")

    found, batches, events, waiting = mend(connection)
    assert (found, batches, waiting) == ("empty", 3, 0)
    assert fault(connection) is None
    drain(connection)
    slow.commit()
    drain(connection)
    oracle = Oracle.load(connection)
    assert oracle.batches[0].n == oldest - 1
    assert oracle.unplaced == []
    placed = [row.id for _, row in oracle.order]
    assert set(placed) == ids | {late}
    assert placed[-1] == late
    assert events >= len(ids) - 1  # what the open transaction hid comes in the next batch
    read = connection.execute("SELECT id FROM agent_events_read(NULL, %s, 0, 100000)", [oldest])
    assert [id_ for (id_,) in read] == placed


async def test_streams_wait_while_the_ledger_is_empty_and_then_say_reset(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one:
        viewer = await one.live((TENANT,))
        made = [insert(connection, TENANT) for _ in range(3)]
        assert await take(viewer, 3) == made
        cursors = [viewer.cursor, str(Cursor(Position(1, made[0]), closed_at_ms(connection, 1)))]
        connection.execute("DELETE FROM agent_event_batches")
        made.append(insert(connection, TENANT))
        for cursor in ("earliest", "latest", *cursors):
            with pytest.raises(psycopg.Error, match="is empty"):
                await one.feed.subscribe((TENANT,), Filter(), cursor)
        assert (await viewer.next(1)).kind is Kind.HEARTBEAT
        assert mend(connection)[0] == "empty"
        for cursor in cursors:
            resolved = await one.log.resolve(cursor)
            assert resolved.notice == "reset"
        while (update := await viewer.next(10)).kind is not Kind.RESET:
            assert update.kind is Kind.HEARTBEAT
        assert await take(viewer, 4) == made  # some minutes before its time
        made = [insert(connection, TENANT)]
        assert await take(viewer, 1) == made


# A real one.


async def test_dump_and_restore_into_a_fresh_cluster(
    dsn: str, connect: Connect, cluster: Callable[..., EmbeddedPostgres], tmp_path: Path
) -> None:
    old = connect()
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    old.execute("CALL agent_events_burn(5000)")
    ids = close_batches(old, tenant, 5)
    after_two = str(Cursor(Position(2, ids[1]), closed_at_ms(old, 2)))
    after_all = str(Cursor(Position(6), closed_at_ms(old, 5)))
    unsequenced = insert(old, tenant)
    dump = tmp_path / "dump"
    run = [str(shipped_program("pg_dump")), "--format=custom", f"--file={dump}", dsn]
    subprocess.run(run, check=True)

    new = cluster()
    with psycopg.connect(new.dsn("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE restored")
    fresh = new.dsn("restored")
    run = [str(shipped_program("pg_restore")), "--exit-on-error", f"--dbname={fresh}", str(dump)]
    subprocess.run(run, check=True)
    server = Server(fresh, tmp_path / "server.log")
    try:
        with psycopg.connect(fresh, autocommit=True) as producer:
            # Producers go on; nobody gets anything, and the log says why.
            while_broken = insert(producer, tenant)
            with pytest.raises(errors.ObjectNotInPrerequisiteState, match=COPIED):
                producer.execute("SELECT agent_events_append()")
            cookies = login(server.start(), "ann")
            async with (
                websocket(server, cookies, f"tenant={tenant}&cursor={after_two}") as behind,
                websocket(server, cookies, f"tenant={tenant}&cursor={after_all}") as at_the_end,
            ):
                await behind.until("hello")
                await at_the_end.until("hello")
                wait_until(lambda: COPIED in server.log(), what="the server to say so")

                assert "ledger was copied" in manage("mend_events", "--dry-run", dsn=fresh)
                assert fault(producer) == "ahead"
                assert "Events that have their place: 5, in batches: 5." in manage(
                    "mend_events", dsn=fresh
                )
                rest = [*ids[2:], unsequenced, while_broken]
                assert [event["id"] for event in await behind.events(5)] == rest
                assert [event["id"] for event in await at_the_end.events(2)] == rest[3:]
                made = insert(producer, tenant)
                for socket in behind, at_the_end:
                    assert [event["id"] for event in await socket.events(1)] == [made]
                assert not {"reset", "truncated"} & {*behind.kinds, *at_the_end.kinds}
            with event_stream(server, cookies, last_id=after_two) as stream:
                assert [event["id"] for event in stream.events(6)] == [*rest, made]
    finally:
        server.stop()
