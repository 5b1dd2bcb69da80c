"""Source, layer and feed on a real PostgreSQL: whatever the way loses, nobody's stream does."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from channels.layers import InMemoryChannelLayer, channel_layers
from psycopg.rows import TupleRow

from agent_events import metrics
from agent_events.bus import pump
from agent_events.conf import Settings
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.layer import GROUP, LayerReceiver, LayerSink
from agent_events.log import Log, Page
from agent_events.position import Cursor, Position
from agent_events.sources import Doorbell
from agent_events.sources.postgres import PostgresSource
from agent_events.stretch import Stretch
from agent_events.subscriber import Kind, Subscriber
from agent_events.window import Tenants
from tests.conftest import Connect
from tests.support.streams import insert

HARBOUR, MEADOW = (str(uuid.UUID(int=n)) for n in (1, 2))
OPTIONS = Settings(poll_interval_s=0.2, tick_timeout_s=0.7, page_rows=20, heartbeat_s=0.5)
LOCK = """
    SELECT pg_advisory_lock(
        hashtextextended('agent_events sequencer', 'agent_events'::regclass::oid::bigint))
"""


class LossyLayer(InMemoryChannelLayer):
    """A layer that loses, repeats and delays messages, always in the same way for a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._dice = random.Random(seed)
        self._delayed: deque[dict[str, Any]] = deque()
        self.lost = self.repeated = self.overtaken = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        fate = self._dice.random()
        if fate < 0.25:
            self.lost += 1
        elif fate < 0.5:
            self._delayed.append(message)
            return
        else:
            await super().group_send(group, message)
            if fate < 0.65:
                self.repeated += 1
                await super().group_send(group, message)
        while self._delayed and self._dice.random() < 0.6:
            self.overtaken += 1
            await super().group_send(group, self._delayed.pop())


@dataclass
class Process:
    """What a process has: a log, a feed, a layer, sources."""

    log: Log
    feed: Feed
    layer: InMemoryChannelLayer
    sources: list[PostgresSource]

    async def live(self, tenants: Tenants, filter: Filter | None = None) -> Subscriber:
        """A subscriber that stands at the head."""
        subscriber = await self.feed.subscribe(tenants, filter or Filter(), "latest")
        async with asyncio.timeout(10):
            while (await subscriber.next(5)).kind is not Kind.LIVE:
                pass
        return subscriber


@asynccontextmanager
async def process(
    dsn: str,
    *,
    layer: InMemoryChannelLayer | None = None,
    sources: int = 1,
    options: Settings = OPTIONS,
) -> AsyncIterator[Process]:
    """A process's parts, running."""
    alias = f"layer-{uuid.uuid4()}"
    layer = layer or InMemoryChannelLayer()
    channel_layers.set(alias, layer)
    options = replace(options, channel_layer=alias)
    log = Log(dsn, options)
    await log.open()
    feed = Feed(log, options)
    made = [PostgresSource(dsn, log, options, feed.watched) for _ in range(sources)]

    async def silent() -> None:
        feed.interrupt()

    receiver = LayerReceiver(options, feed.take, silent)
    await receiver.join()
    tasks = [asyncio.create_task(receiver.run())]
    tasks += [asyncio.create_task(pump(source, LayerSink(alias))) for source in made]
    try:
        yield Process(log, feed, layer, made)
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.close()


async def until(condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 15) -> None:
    """Waits for a condition in the database."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s} s for {what}") from None


async def take(subscriber: Subscriber, count: int, timeout_s: float = 20) -> list[int]:
    """The next `count` events' ids, then nothing more that is already there."""
    seen: list[int] = []
    try:
        async with asyncio.timeout(timeout_s):
            while len(seen) < count:
                seen += [event.id for event in (await subscriber.next(0.3)).events]
    except TimeoutError:
        raise AssertionError(f"{len(seen)} of {count} events came: {seen}") from None
    return seen


async def take_to_the_head(subscriber: Subscriber, head: Position) -> list[int]:
    """All events' ids until the subscriber's cursor says that it has come to `head`."""
    seen: list[int] = []
    async with asyncio.timeout(20):
        while Cursor.parse(subscriber.cursor).position < head:
            seen += [event.id for event in (await subscriber.next(0.3)).events]
    return seen


def in_order(connection: psycopg.Connection[TupleRow], tenant: str | None) -> list[int]:
    """What the log says, in its order."""
    rows = connection.execute("SELECT id FROM agent_events_read(%s, 1, 0, 1000000)", [tenant])
    return [row[0] for row in rows.fetchall()]


async def everything_sequenced(connection: psycopg.Connection[TupleRow]) -> Position:
    """Waits until the ledger has every committed event; returns the position behind it all."""

    async def complete() -> bool:
        row = connection.execute(
            "SELECT total = (SELECT count(*) FROM agent_events) FROM agent_events_head()"
        ).fetchone()
        return bool(row and row[0])

    await until(complete, "all events to be in the ledger")
    row = connection.execute("SELECT batch FROM agent_events_head()").fetchone()
    assert row is not None
    return Position(row[0] + 1)


async def write(dsn: str, seed: int, rounds: int = 40) -> None:
    """A producer: transactions of several events, some rolled back, some late."""
    dice = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for _ in range(rounds):
            for _ in range(dice.randint(1, 3)):
                await connection.execute(
                    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                    " VALUES (%s, %s, %s, '{}')",
                    [dice.choice((HARBOUR, MEADOW)), uuid.uuid4(), dice.choice(("a", "b"))],
                )
                if dice.random() < 0.3:
                    await connection.execute("SELECT pg_sleep(%s)", [dice.random() * 0.1])
            await (connection.rollback() if dice.random() < 0.2 else connection.commit())


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_layer_that_loses_repeats_and_reorders_costs_nobody_an_event(
    dsn: str, connect: Connect, seed: int
) -> None:
    layer = LossyLayer(seed)
    async with process(dsn, layer=layer, sources=2) as one:
        viewers: dict[Subscriber, str | None] = {
            await one.live((HARBOUR,)): HARBOUR,
            await one.live((MEADOW,)): MEADOW,
            await one.live((HARBOUR, MEADOW)): None,
            await one.live(None): None,
        }
        connection = connect()
        written = asyncio.gather(*(write(dsn, seed * 10 + n) for n in range(3)))
        seen: dict[Subscriber, list[int]] = {viewer: [] for viewer in viewers}

        async def follow(viewer: Subscriber) -> None:
            while not written.done():
                seen[viewer] += [event.id for event in (await viewer.next(0.1)).events]

        await asyncio.gather(*map(follow, viewers))
        await written
        head = await everything_sequenced(connection)
        for viewer, tenant in viewers.items():
            seen[viewer] += await take_to_the_head(viewer, head)
            assert seen[viewer] == in_order(connection, tenant)
    assert layer.lost
    assert layer.repeated
    assert layer.overtaken


async def test_the_last_window_lost_and_then_silence_is_found_by_the_next_tick(
    dsn: str, connect: Connect
) -> None:
    class Deaf(InMemoryChannelLayer):
        loses = 0

        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            if self.loses:
                self.loses -= 1
            else:
                await super().group_send(group, message)

    connection, layer = connect(), Deaf()
    options = replace(OPTIONS, tick_timeout_s=120)
    async with process(dsn, layer=layer, options=options) as one:
        viewer = await one.live((HARBOUR,))
        for _ in range(3):
            layer.loses = 1
            made = insert(connection, HARBOUR)
            assert await take(viewer, 1, timeout_s=10) == [made]


async def test_a_receiver_thrown_out_of_its_group_comes_back_and_misses_nothing(
    dsn: str, connect: Connect
) -> None:
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        connection = connect()
        before = insert(connection, HARBOUR)
        assert await take(viewer, 1) == [before]
        (channel,) = one.layer.groups[GROUP]
        one.layer._remove_from_groups(channel)  # as the layer does after `expiry`
        made = [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 3) == made
        await until(lambda: _is_member(one.layer, channel), "the receiver to join again")
        made = [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 3) == made


async def _is_member(layer: InMemoryChannelLayer, channel: str) -> bool:
    return channel in layer.groups.get(GROUP, ())


async def test_a_killed_listening_connection_is_replaced_and_nothing_is_lost(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    # (No poll would help.)
    options = replace(OPTIONS, poll_interval_s=60, tick_timeout_s=120)
    async with process(dsn, options=options) as one:
        viewer = await one.live((HARBOUR,))
        made, seen = [], []
        for _ in range(3):
            made += [insert(connection, HARBOUR) for _ in range(2)]
            await until(
                lambda: _rows(
                    connection,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                    " current_database() AND application_name = 'agent_events bus'",
                ),
                "the listening connection",
            )
            made += [insert(connection, HARBOUR) for _ in range(2)]
            seen += await take(viewer, len(made) - len(seen))
        assert seen == made == in_order(connection, HARBOUR)


async def test_killed_reading_connections_delay_events_and_lose_none(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        made = []
        for _ in range(3):
            made.append(insert(connection, HARBOUR))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                " current_database() AND pid <> pg_backend_pid()"
            )
            made.append(insert(connection, HARBOUR))
        assert await take(viewer, len(made)) == made


async def _rows(connection: psycopg.Connection[TupleRow], query: str) -> list[TupleRow]:
    return connection.execute(query).fetchall()


async def test_two_processes_see_the_same_though_one_of_them_sequences(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one, process(dsn) as other:
        viewers = [await one.live(None), await other.live(None)]
        await until(lambda: _rows(connection, _LEADERS), "somebody to lead")
        assert len(await _rows(connection, _LEADERS)) == 1
        made = [insert(connection, HARBOUR) for _ in range(10)]
        for viewer in viewers:
            assert await take(viewer, 10) == made


_LEADERS = """
    SELECT DISTINCT l.pid FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()
       AND a.application_name = 'agent_events bus'
"""


async def test_a_leader_that_does_nothing_delays_events_by_the_followers_patience_only(
    dsn: str, connect: Connect
) -> None:
    connection, sleeper = connect(), connect()
    sleeper.execute(LOCK)
    options = replace(OPTIONS, poll_interval_s=60, tick_timeout_s=120, follow_patience_s=0.1)
    async with process(dsn, options=options) as one:
        viewer = await one.live((HARBOUR,))
        for _ in range(3):
            made = [insert(connection, HARBOUR) for _ in range(3)]
            assert await take(viewer, 3, timeout_s=10) == made
        # Having stood in for the leader once, it waits again: it does not ask without end.
        asked = await _commits_of_the_database(connection)
        assert await viewer.next(1.0)
        assert await _commits_of_the_database(connection) - asked < 100


async def _commits_of_the_database(connection: psycopg.Connection[TupleRow]) -> int:
    """As far as the backends have told: each does so after a second at the latest, if busy."""
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_who_leads_next_closes_what_the_dead_leader_left(dsn: str, connect: Connect) -> None:
    connection = connect()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(process(dsn))
        await first.live(None)
        await until(lambda: _rows(connection, _LEADERS), "the first to lead")
        second = await stack.enter_async_context(process(dsn))
        viewer = await second.live(None)
        ((leader,),) = await _rows(connection, _LEADERS)
        made = [insert(connection, HARBOUR) for _ in range(3)]
        connection.execute("SELECT pg_terminate_backend(%s)", [leader])
        made += [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 6) == made

        async def somebody_else_leads() -> bool:
            pids = await _rows(connection, _LEADERS)
            return bool(pids) and pids != [(leader,)]

        await until(somebody_else_leads, "another to lead")


async def test_without_any_notification_the_poll_finds_the_events(
    dsn: str, connect: Connect
) -> None:
    connection = connect(autocommit=False)
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        connection.execute("SET LOCAL agent_events.quiet = on")
        made = insert(connection, HARBOUR)
        connection.commit()
        assert await take(viewer, 1) == [made]


async def test_a_commit_is_looked_for_once_and_what_a_full_batch_left_at_once(
    dsn: str, connect: Connect
) -> None:
    def looks() -> float:
        return metrics.OURS.get_sample_value("agent_events_append_duration_seconds_count") or 0

    connection = connect()
    options = replace(OPTIONS, poll_interval_s=60, tick_timeout_s=90, batch_limit=2)
    async with process(dsn, options=options) as one:
        viewer = await one.live((HARBOUR,))
        assert [insert(connection, HARBOUR)] == await take(viewer, 1)
        before = looks()
        for _ in range(5):
            assert [insert(connection, HARBOUR)] == await take(viewer, 1)
            await asyncio.sleep(10 * options.append_interval_s)  # in which nothing happens
        assert looks() - before == 5
        # Five that rang nothing, and one that rings: they are three batches.
        quiet = connect(autocommit=False)
        made = []
        for _ in range(5):
            quiet.execute("SET LOCAL agent_events.quiet = on")
            made.append(insert(quiet, HARBOUR))
            quiet.commit()
        made.append(insert(connection, HARBOUR))
        assert await take(viewer, 6) == made


async def test_a_transaction_too_large_for_a_window_is_read_from_the_log(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    options = replace(OPTIONS, slice_rows=10, batch_limit=25, page_rows=7)
    async with process(dsn, options=options) as one:
        viewers = {
            await one.live((HARBOUR,)): HARBOUR,
            await one.live(None): None,
            await one.live(None, Filter.of([], ["b"])): "b",
        }
        connection.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " SELECT %s, gen_random_uuid(), CASE n %% 2 WHEN 0 THEN 'a' ELSE 'b' END, '{}'"
            " FROM generate_series(1, 100) AS n",
            [HARBOUR],
        )
        for _ in range(10):
            insert(connection, MEADOW, kind="b")
        head = await everything_sequenced(connection)
        expected = {tenant: in_order(connection, tenant) for tenant in (HARBOUR, None)}
        expected["b"] = [
            row[0]
            for row in connection.execute(
                "SELECT id FROM agent_events_read(NULL, 1, 0, 1000, NULL, '{b}')"
                " WHERE tenant_id IS NOT NULL"
            ).fetchall()
        ]
        for viewer, key in viewers.items():
            assert await take_to_the_head(viewer, head) == expected[key]


async def test_a_subscriber_that_does_not_read_is_bounded_and_then_misses_nothing(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    options = replace(OPTIONS, queue_events=5, queue_bytes=800)
    async with process(dsn, options=options) as one:
        slow, quick = await one.live((HARBOUR,)), await one.live((HARBOUR,))
        made = []
        for _ in range(30):
            made.append(insert(connection, HARBOUR, payload='"' + "x" * 30 + '"'))
            assert await take(quick, 1) == made[-1:]
            assert slow._waiting <= 5
            assert slow._waiting_size <= 800
        assert await take(slow, 30) == made


async def test_what_is_pruned_before_it_was_read_is_said(dsn: str, connect: Connect) -> None:
    connection = connect()
    for _ in range(4):
        insert(connection, HARBOUR)
        connection.execute("SELECT agent_events_append()")
    ids = in_order(connection, HARBOUR)
    async with process(dsn, options=replace(OPTIONS, page_rows=1)) as one:
        viewer = await one.feed.subscribe((HARBOUR,), Filter(), "earliest")
        kinds, seen = [], []
        while not seen:
            seen += [event.id for event in (await viewer.next(5)).events]
        connection.execute("UPDATE agent_event_bus SET oldest = 4")
        connection.execute("DELETE FROM agent_event_batches WHERE n < 3")
        connection.execute("DELETE FROM agent_events WHERE id < %s", [ids[3]])
        while len(seen) < 2:
            update = await viewer.next(5)
            kinds.append(update.kind)
            seen += [event.id for event in update.events]
        assert Kind.TRUNCATED in kinds
        assert seen == [ids[0], ids[3]]


async def test_a_ledger_of_another_history_resets_everybody_and_goes_on(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        made = [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 3) == made
        # As after a failover that lost its tail: the same numbers, other batches.
        connection.execute("UPDATE agent_event_batches SET closed_at = closed_at + '1 ms'")
        async with asyncio.timeout(15):
            while (await viewer.next(1)).kind is not Kind.RESET:
                pass
        assert await take(viewer, 3) == made  # some minutes before its time
        made = [insert(connection, HARBOUR)]
        assert await take(viewer, 1) == made


async def test_a_leader_whose_next_batch_follows_another_history_does_not_believe_it(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    # (No poll would find it: the leader's own append must.)
    options = replace(OPTIONS, poll_interval_s=60, tick_timeout_s=120)
    async with process(dsn, options=options) as one:
        viewer = await one.live((HARBOUR,))
        made = [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 3) == made
        connection.execute("UPDATE agent_event_batches SET closed_at = closed_at + '1 ms'")
        made.append(insert(connection, HARBOUR))  # its batch has the number that is expected
        async with asyncio.timeout(15):
            while (await viewer.next(1)).kind is not Kind.RESET:
                pass
        assert await take(viewer, 4) == made


async def test_a_listener_that_hears_nothing_any_more_is_replaced_by_the_next_poll(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        # From inside: no other session can take a LISTEN away.
        source = one.sources[0]

        async def well() -> bool:
            return source._connection is not None

        await until(well, "a connection")
        listening = source._connection
        assert listening is not None
        await listening._bus.execute("UNLISTEN *")
        made = [insert(connection, HARBOUR) for _ in range(3)]
        assert await take(viewer, 3) == made

        async def replaced() -> bool:
            return source._connection not in (None, listening)

        await until(replaced, "another connection")
        assert source.state.doorbell is Doorbell.HEARD
        made = [insert(connection, HARBOUR)]
        assert await take(viewer, 1) == made


async def test_a_ledger_that_lost_its_tail_resets_everybody_and_goes_on(
    dsn: str, connect: Connect
) -> None:
    connection = connect()
    async with process(dsn) as one:
        viewer = await one.live((HARBOUR,))
        made = []
        for _ in range(5):
            made.append(insert(connection, HARBOUR))
            assert await take(viewer, 1) == made[-1:]
        connection.execute("DELETE FROM agent_event_batches WHERE n > 1")
        async with asyncio.timeout(15):
            while (await viewer.next(1)).kind is not Kind.RESET:
                pass
        assert await take(viewer, 5) == made
        made = [insert(connection, HARBOUR)]
        assert await take(viewer, 1) == made


_KEPT_WAITING = """
    SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'
"""


async def test_readers_in_any_number_keep_no_live_viewer_waiting_and_end_though_reads_are_slow(
    dsn: str, connect: Connect
) -> None:
    connection, holder = connect(), connect()
    made = [insert(connection, MEADOW, kind=kind) for kind in "ab" * 10]
    connection.execute("SELECT agent_events_append()")
    # Reading that tenant takes longer than a heartbeat, and does not end while a lock is held.
    holder.execute("SELECT pg_advisory_lock(4711)")
    connection.execute(
        f"""
        ALTER FUNCTION agent_events_page RENAME TO agent_events_page_at_once;
        CREATE FUNCTION agent_events_page(t uuid[], b bigint, i bigint, m integer,
            agents text[] DEFAULT NULL, types text[] DEFAULT NULL, budget integer DEFAULT NULL,
            not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL,
            texts text[] DEFAULT NULL, conditions jsonpath DEFAULT NULL)
        RETURNS SETOF agent_event_entry LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared(4711), pg_sleep(0.4)
              WHERE t = ARRAY['{MEADOW}'::uuid];
            RETURN QUERY SELECT * FROM agent_events_page_at_once(t, b, i, m, agents, types, budget,
                not_agents, not_types, texts, conditions);
        END $$
        """
    )
    options = replace(OPTIONS, read_pool_size=2, page_rows=100, tick_timeout_s=10)
    async with process(dsn, options=options) as one:
        live = await one.live((HARBOUR,))
        # (The chain of windows has begun: from here on it reads nothing.)
        event = insert(connection, HARBOUR)
        assert await take(live, 1) == [event]
        # Each with a filter of its own, so that no read is shared; each comes at 0.4 s, in turn.
        slow = [
            await one.feed.subscribe((MEADOW,), Filter.of(types=["a", f"no{n}"]), "earliest")
            for n in range(8)
        ]

        async def catch_up(subscriber: Subscriber) -> list[int]:
            return await take(subscriber, 10)

        catching_up = [asyncio.create_task(catch_up(subscriber)) for subscriber in slow]
        await until(lambda: _rows(connection, _KEPT_WAITING), "a read that waits")
        for _ in range(5):
            event = insert(connection, HARBOUR)
            assert await take(live, 1) == [event]
            assert one.sources[0].state.connected
        assert not any(task.done() for task in catching_up)
        holder.execute("SELECT pg_advisory_unlock(4711)")
        for seen in await asyncio.gather(*catching_up):
            assert seen == made[::2]


async def test_a_locked_ledger_leaves_no_sessions_behind_and_all_goes_on_after_it(
    dsn: str, connect: Connect
) -> None:
    connection, locker = connect(), connect(autocommit=False)
    options = replace(OPTIONS, query_timeout_s=0.5, tick_timeout_s=0.3)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with process(dsn, options=options) as one:
        viewers = [await one.live((str(uuid.UUID(int=n)),)) for n in range(1, 6)]
        pulling = [asyncio.create_task(take(viewer, 1, 30)) for viewer in viewers]
        locker.execute("LOCK TABLE agent_event_batches IN ACCESS EXCLUSIVE MODE")
        made = [insert(connection, str(uuid.UUID(int=n))) for n in range(1, 6)]
        counts = []
        for _ in range(40):
            counts += [row[0] for row in await _rows(connection, waiting)]
            await asyncio.sleep(0.1)

        async def waited_for() -> bool:
            return bool((await _rows(connection, waiting))[0][0])

        await until(waited_for, "them to wait for the lock, still")
        assert max(counts) <= 2 * OPTIONS.read_pool_size, counts
        locker.rollback()
        assert await asyncio.gather(*pulling) == [[event] for event in made]


async def test_what_a_lagging_replica_did_not_have_yet_is_not_passed_over(
    dsn: str, connect: Connect
) -> None:
    connection, replica = connect(), connect(autocommit=False)
    replica.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    async with process(dsn) as one:
        first = insert(connection, HARBOUR)
        await everything_sequenced(connection)
        # An old snapshot in place of a replica that lags: pages end at its head.
        replica.execute("SELECT FROM agent_event_batches")
        real = one.log.page

        async def lagging(tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
            page = await real(tenants, cursor, filter)
            head = replica.execute("SELECT batch, closed_at FROM agent_events_head()").fetchone()
            assert head is not None
            behind = Cursor(Position(head[0] + 1), int(head[1].timestamp() * 1000))
            if page.cursor.position <= behind.position:
                return page
            kept = [event for event in page.events if event.batch <= head[0]]
            return Page(Stretch(kept, str(behind)) if kept else None, behind, True)

        one.log.page = lagging  # type: ignore[method-assign]
        viewer = await one.feed.subscribe((HARBOUR,), Filter(), "earliest")
        second = insert(connection, HARBOUR)
        await everything_sequenced(connection)
        seen = await take(viewer, 1)
        for _ in range(5):  # heartbeats, which move a cursor on
            seen += [event.id for event in (await viewer.next(0.3)).events]
        assert seen == [first]
        one.log.page = real  # type: ignore[method-assign]
        assert await take(viewer, 1) == [second]


async def test_watching_ends_with_the_last_viewer(dsn: str) -> None:
    async with process(dsn) as one:
        assert one.feed.watched() == frozenset()
        first, second = await one.live((HARBOUR,)), await one.live((HARBOUR, MEADOW))
        assert one.feed.watched() == frozenset({HARBOUR, MEADOW})
        everything = await one.live(None)
        assert one.feed.watched() is None
        everything.close()
        second.close()
        second.close()
        assert one.feed.watched() == frozenset({HARBOUR})
        first.close()
        assert one.feed.watched() == frozenset()
