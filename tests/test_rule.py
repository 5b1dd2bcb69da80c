"""The one rule, pure: no database, no socket, no waiting.

The real feed and its subscribers over a log in memory. A machine commits batches, lets two sources
read them, loses, repeats and reorders what they send, holds and fails reads of the log, lets time
pass and viewers come and go. Whatever it does, every subscriber gets exactly its events, each
once, in log order, and every cursor it is told is a place where it can go on.
"""

from __future__ import annotations

import asyncio
import selectors
import uuid
from bisect import bisect_right
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent_events.conf import Settings
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.log import Log, Page, Resolved
from agent_events.position import EARLIEST, LATEST, Cursor, Position, Verdict, judge
from agent_events.stretch import Stretch
from agent_events.subscriber import Kind, Subscriber, Update
from agent_events.window import Tenants, Window
from agent_events.wire import Event

T = TypeVar("T")

HARBOUR, MEADOW, SUMMIT = TENANTS = tuple(str(uuid.UUID(int=n)) for n in (1, 2, 3))
AGENT = str(uuid.UUID(int=9))
KINDS = ("run", "message")
Covers = str | tuple[str, ...]
COVERS: tuple[Covers, ...] = ("watched", "watched", "watched", "watched", (), (HARBOUR,))
SMALL = Settings(page_rows=3, queue_events=4, queue_bytes=1_000, heartbeat_s=10.0)


def test_a_slice_that_ends_before_the_position_is_dropped() -> None:
    assert judge(Position(5), 3, 4) is Verdict.DROP
    assert judge(Position(5, 17), 3, 4) is Verdict.DROP


def test_a_slice_that_reaches_over_the_position_is_delivered() -> None:
    assert judge(Position(5), 5, 5) is Verdict.DELIVER
    assert judge(Position(5), 3, 8) is Verdict.DELIVER


def test_a_slice_beyond_the_position_or_a_position_within_a_batch_sends_to_the_log() -> None:
    assert judge(Position(5), 6, 8) is Verdict.READ
    assert judge(Position(5, 17), 5, 8) is Verdict.READ


def test_a_tick_is_dropped_by_who_has_come_so_far_and_sends_others_to_the_log() -> None:
    assert judge(Position(6), 6, 5) is Verdict.DROP
    assert judge(Position(5), 6, 5) is Verdict.READ
    assert judge(Position(5, 17), 6, 5) is Verdict.READ


class HandClock(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until it is moved by hand."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Runs whatever can run now, and what that makes ready."""
        for _ in range(100):
            self.call_soon(self.stop)
            self.run_forever()
            due = self._scheduled and self._scheduled[0].when() <= self.now  # type: ignore[attr-defined]
            if not self._ready and not due:  # type: ignore[attr-defined]
                return
        raise AssertionError("something spins")

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that waits for nothing."""
        task = self.create_task(work)
        self.settle()
        return task.result()


class MemoryLog:
    """A log in memory. A read sees what was committed when it began, and ends when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = [[]]  # batch 0 is empty
        self.reads: list[tuple[int, asyncio.Future[None]]] = []
        self.holds: set[str] = set()  # which reads wait until they are let
        self._last_id = 0

    @property
    def head(self) -> int:
        return len(self.batches) - 1

    def commit(self, events: list[tuple[str, str]]) -> None:
        """Closes a batch. Ids are no order: those of later batches may be lower."""
        n = len(self.batches)
        ids = range(self._last_id + 1, self._last_id + 1 + len(events))
        self._last_id += len(events)
        shift = 1_000 if n % 2 else 0
        self.batches.append(
            [
                event(n, shift + id_, tenant, kind)
                for id_, (tenant, kind) in zip(ids, events, strict=True)
            ]
        )

    def cursor(self, position: Position) -> Cursor:
        return Cursor(position, closed_ms(position.last_batch))

    def window(self, first: int, last: int, covers: frozenset[str] | None) -> tuple[Event, ...]:
        return tuple(
            event
            for batch in self.batches[first : last + 1]
            for event in batch
            if covers is None or event.tenant_id in covers
        )

    async def _until_let(self, what: str) -> int:
        head = self.head
        if what in self.holds:
            gate = asyncio.get_running_loop().create_future()
            self.reads.append((head, gate))
            await gate
        return head

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        head = await self._until_let("page")
        position = cursor.position
        assert cursor == self.cursor(position), "a cursor of no batch was given out"
        covers = None if tenants is None else frozenset(tenants)
        found = [
            event
            for event in self.window(position.batch, head, covers)
            if event.position > position and filter.matches(event)
        ][: SMALL.page_rows]
        if len(found) == SMALL.page_rows:
            return page(found, self.cursor(found[-1].position), False)
        return page(found, self.cursor(Position(head + 1)), True)

    async def resolve(self, text: str) -> Resolved:
        head = await self._until_let("resolve")
        if text == LATEST:
            return Resolved(self.cursor(Position(head + 1)), "")
        if text == EARLIEST:
            return Resolved(self.cursor(Position(1)), "")
        cursor = Cursor.parse(text)
        assert cursor == self.cursor(cursor.position), "a cursor of no batch was given out"
        assert cursor.position.batch <= head + 1
        return Resolved(cursor, "")


def event(batch: int, id_: int, tenant: str, kind: str) -> Event:
    text = (
        f'{{"id":{id_},"tenantId":"{tenant}","agentId":"{AGENT}","type":"{kind}",'
        '"payload":{},"createdAt":null}'
    )
    return Event(batch, closed_ms(batch), id_, text)


def page(events: list[Event], cursor: Cursor, at_head: bool) -> Page:
    return Page(Stretch(events, str(cursor)) if events else None, cursor, at_head)


def closed_ms(n: int) -> int:
    return 1_000_000 + 1_000 * n


@dataclass(eq=False)
class Viewer:
    """A subscriber, what it was given, and what it should be given."""

    log: MemoryLog
    tenants: Tenants
    filter: Filter
    asked: str
    eager: bool = True  # asks for more as soon as it has something
    subscribing: asyncio.Task[Subscriber] | None = None
    received: list[Event] = field(default_factory=list)
    cursor: str = ""
    start: Position | None = None
    pulling: asyncio.Task[Update] | None = None

    @property
    def subscriber(self) -> Subscriber | None:
        if self.subscribing is None or not self.subscribing.done():
            return None
        subscriber = self.subscribing.result()
        if self.start is None:
            self.cursor = str(subscriber._cursor)
            self.start = subscriber._cursor.position
        return subscriber

    def expected(self) -> list[Event]:
        assert self.start is not None
        return [
            event
            for event in self.log.window(self.start.batch, self.log.head, None)
            if event.position > self.start
            and (self.tenants is None or event.tenant_id in self.tenants)
            and self.filter.matches(event)
        ]

    def look(self) -> None:
        """Takes what has arrived, and checks the promise at this very moment."""
        if self.subscriber is None or self.pulling is None or not self.pulling.done():
            return
        update = self.pulling.result()
        self.pulling = None
        assert (update.kind is Kind.EVENTS) == bool(update.events)
        self.received += update.events
        assert update.cursor >= self.cursor, "a cursor went back"
        self.cursor = update.cursor
        # Whoever goes on from a cursor misses nothing and has nothing twice.
        position = Cursor.parse(update.cursor).position
        expected = self.expected()
        before = bisect_right([event.position for event in expected], position)
        assert self.received == expected[:before], (update.kind, position)


class OneRule(RuleBasedStateMachine):
    """Two sources, a lossy way, a slow log, viewers that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = HandClock()
        self.log = MemoryLog()
        self.feed = Feed(cast(Log, self.log), SMALL)
        self.sources = [0, 0]  # the last batch that each has handed over
        self.on_the_way: list[str] = []
        self.viewers: list[Viewer] = []
        self.old_cursors: list[str] = []
        self.failed = False

    # Producers.

    @rule(events=st.lists(st.tuples(st.sampled_from(TENANTS), st.sampled_from(KINDS)), max_size=6))
    def commit(self, events: list[tuple[str, str]]) -> None:
        self.log.commit(events)

    # Sources and the way from them.

    @rule(
        which=st.sampled_from((0, 1)),
        most=st.integers(1, 4),
        covers=st.sampled_from(COVERS),
        fate=st.sampled_from(("arrives", "arrives", "is on the way", "is lost")),
    )
    def a_source_reads(
        self, which: int, most: int = 4, covers: Covers = "watched", fate: str = "arrives"
    ) -> None:
        first = self.sources[which] + 1
        last = min(self.log.head, self.sources[which] + most)
        if last < first:
            return
        named = self.feed.watched() if covers == "watched" else frozenset(covers)
        self.sources[which] = last
        window = Window(
            first,
            last,
            closed_ms(first - 1),
            closed_ms(last),
            named,
            self.log.window(first, last, named),
        ).to_text()
        if fate == "arrives":
            self.feed.take(Window.from_text(window))
            self.loop.settle()
        elif fate == "is on the way":
            self.on_the_way.append(window)

    @rule(which=st.sampled_from((0, 1)))
    def a_source_ticks(self, which: int) -> None:
        self.on_the_way.append(self._tick(self.sources[which]))

    @rule(which=st.sampled_from((0, 1)))
    def a_source_begins_anew(self, which: int) -> None:
        self.sources[which] = self.log.head

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), again=st.booleans())
    def a_window_arrives(self, data: st.DataObject, again: bool) -> None:
        place = data.draw(st.integers(0, len(self.on_the_way) - 1), label="place")
        self.feed.take(Window.from_text(self.on_the_way[place]))
        if not again:
            del self.on_the_way[place]
        self.loop.settle()

    @precondition(lambda self: self.on_the_way)
    @rule()
    def all_arrive_in_order(self) -> None:
        for text in self.on_the_way:
            self.feed.take(Window.from_text(text))
        self.on_the_way.clear()
        self.loop.settle()

    @precondition(lambda self: self.on_the_way)
    @rule()
    def the_last_window_is_lost(self) -> None:
        self.on_the_way.pop()

    @rule()
    def no_word_for_long(self) -> None:
        self.feed.interrupt()
        self.loop.settle()

    @rule(
        events=st.lists(
            st.tuples(st.sampled_from((HARBOUR, MEADOW)), st.sampled_from(KINDS)), min_size=1
        ),
        covers=st.sampled_from(COVERS),
    )
    def events_come_straight_through(self, events: list[tuple[str, str]], covers: Covers) -> None:
        self.log.commit(events[:6])
        self.a_source_reads(0, covers=covers)

    # The log.

    @rule(holds=st.sampled_from(((), (), ("page",), ("page", "resolve"))))
    def the_log_becomes_slow_or_quick(self, holds: tuple[str, ...]) -> None:
        self.log.holds = set(holds)

    @precondition(lambda self: self.log.reads)
    @rule(data=st.data(), fails=st.sampled_from((False, False, False, True)))
    def a_read_ends(self, data: st.DataObject, fails: bool) -> None:
        place = data.draw(st.integers(0, len(self.log.reads) - 1), label="read")
        _, gate = self.log.reads.pop(place)
        if gate.done():
            return
        if fails and self._nobody_is_subscribing():
            gate.set_exception(psycopg.OperationalError("the server closed the connection"))
        else:
            gate.set_result(None)
        self.loop.settle()

    @precondition(lambda self: self.log.reads)
    @rule()
    def all_reads_end(self) -> None:
        while self.log.reads:
            _, gate = self.log.reads.pop(0)
            if not gate.done():
                gate.set_result(None)
            self.loop.settle()

    # Viewers.

    @precondition(lambda self: len(self.viewers) < 5)
    @rule(
        tenants=st.sampled_from(
            ((HARBOUR,), (HARBOUR,), (HARBOUR,), (MEADOW,), (HARBOUR, MEADOW), None)
        ),
        kinds=st.sampled_from(((), (), (), ("run",), ("mess*",))),
        eager=st.booleans(),
        data=st.data(),
    )
    def somebody_comes(
        self, tenants: Tenants, kinds: tuple[str, ...], eager: bool, data: st.DataObject
    ) -> None:
        asked = data.draw(st.sampled_from((LATEST, EARLIEST, *self.old_cursors)), label="cursor")
        self.come(Viewer(self.log, tenants, Filter(types=kinds), asked, eager))

    @precondition(lambda self: self.viewers)
    @rule(data=st.data(), pulls=st.integers(1, 6))
    def somebody_pulls(self, data: st.DataObject, pulls: int) -> None:
        viewer = data.draw(st.sampled_from(range(len(self.viewers))), label="viewer")
        for _ in range(pulls):
            self.pull(self.viewers[viewer])

    @rule()
    def everybody_pulls(self) -> None:
        for viewer in self.viewers:
            self.pull(viewer)

    @rule(seconds=st.sampled_from((0.05, 11.0)))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.settle()

    @precondition(lambda self: any(v.subscriber for v in self.viewers))
    @rule(data=st.data())
    def somebody_goes(self, data: st.DataObject) -> None:
        viewer = data.draw(st.sampled_from(range(len(self.viewers))), label="viewer")
        if self.viewers[viewer].subscriber is None:
            return
        self._leave(self.viewers.pop(viewer))

    def come(self, viewer: Viewer) -> None:
        viewer.subscribing = self.loop.create_task(
            self.feed.subscribe(viewer.tenants, viewer.filter, viewer.asked)
        )
        self.viewers.append(viewer)
        self.loop.settle()

    # What must be true.

    @invariant()
    def each_has_exactly_its_events_up_to_its_cursor(self) -> None:
        self.failed = True
        for viewer in self.viewers:
            viewer.look()
            while viewer.eager and viewer.subscriber and viewer.pulling is None:
                self.pull(viewer)
        self.failed = False

    def teardown(self) -> None:
        try:
            if not self.failed:  # else the second failure would hide the first
                self._settle_all()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.settle()
            self.loop.close()

    def _settle_all(self) -> None:
        """All that was on its way is lost, then silence: only ticks, and reads that end."""
        self.on_the_way.clear()
        self.log.holds.clear()
        self.all_reads_end()
        self.feed.take(Window.from_text(self._tick(self.log.head)))
        end = Position(self.log.head + 1)
        for viewer in self.viewers:
            for _ in range(200):
                self.pull(viewer)
                # A heartbeat after a tick says: whoever resumes here reads nothing again.
                if viewer.cursor and Cursor.parse(viewer.cursor).position >= end:
                    break
                self.loop.now += SMALL.heartbeat_s + 1
                self.loop.settle()
                viewer.look()
            assert viewer.received == viewer.expected()
            assert Cursor.parse(viewer.cursor).position >= end

    def pull(self, viewer: Viewer) -> None:
        viewer.look()
        subscriber = viewer.subscriber
        if subscriber is not None and viewer.pulling is None:
            viewer.pulling = self.loop.create_task(subscriber.next(SMALL.heartbeat_s))
            self.loop.settle()
            viewer.look()

    def _leave(self, viewer: Viewer) -> None:
        viewer.look()
        if viewer.pulling is not None:
            viewer.pulling.cancel()
        subscriber = viewer.subscriber
        assert subscriber is not None
        if viewer.cursor:
            self.old_cursors.append(viewer.cursor)
        subscriber.close()
        self.loop.settle()

    def _nobody_is_subscribing(self) -> bool:
        # A door answers "try again" to a first read that fails: nothing of ours to check.
        return all(viewer.subscriber for viewer in self.viewers)

    def _tick(self, n: int) -> str:
        return Window(n + 1, n, closed_ms(n), closed_ms(n), frozenset()).to_text()


def test_a_read_that_began_before_a_window_does_not_answer_who_comes_after_it() -> None:
    machine = OneRule()
    machine.log.holds = {"page", "resolve"}
    first, second = (
        Viewer(machine.log, (HARBOUR,), Filter(), asked) for asked in (LATEST, EARLIEST)
    )
    machine.come(first)
    machine.all_reads_end()
    machine.pull(first)  # its read sees an empty log
    machine.log.commit([(HARBOUR, "run")])
    machine.a_source_reads(0)
    machine.come(second)
    machine.log.reads.pop()[1].set_result(None)
    machine.loop.settle()
    machine.pull(second)
    machine.all_reads_end()
    machine.pull(second)
    machine.time_passes(11.0)
    machine.teardown()


def live_viewer(machine: OneRule) -> Viewer:
    """A viewer at the head of an unbroken chain of windows, who does not ask for more."""
    viewer = Viewer(machine.log, (HARBOUR,), Filter(), EARLIEST, eager=False)
    machine.come(viewer)
    machine.log.commit([(HARBOUR, "run")])
    machine.a_source_reads(0)
    for _ in range(2):
        machine.pull(viewer)
    assert viewer.received == viewer.expected()
    return viewer


def test_a_read_cut_off_by_a_heartbeat_is_done_again() -> None:
    machine = OneRule()
    viewer = live_viewer(machine)
    machine.log.commit([(HARBOUR, "run")] * 5)  # more than the queue holds
    machine.a_source_reads(0)
    machine.log.holds = {"page"}
    machine.pull(viewer)
    machine.time_passes(11.0)
    viewer.look()
    assert len(viewer.received) == 1
    machine.teardown()


def test_a_slice_of_another_log_is_not_taken_for_the_next_of_this_one() -> None:
    """Two logs under one name on one broker, say: production, and a copy of it."""
    machine = OneRule()
    viewer = live_viewer(machine)

    def a_copy_is_heard(n: int) -> None:
        alien = event(n, 90_000 + n, HARBOUR, "run")._replace(closed_at_ms=7_000 + n)
        machine.feed.take(Window(n, n, 6_999 + n, 7_000 + n, None, (alien,)))
        for _ in range(3):
            machine.pull(viewer)
            machine.time_passes(2.0)  # the log is not as far as they say: it is read again

    machine.log.commit([(HARBOUR, "run")])
    a_copy_is_heard(2)  # it does not follow, so everybody reads the log
    assert viewer.received == viewer.expected()
    a_copy_is_heard(3)  # it follows the one before, and not what was read
    assert [event.batch for event in viewer.received] == [1, 2]
    machine.log.commit([(HARBOUR, "run")])
    a_copy_is_heard(4)
    assert viewer.received == viewer.expected()
    assert [event.batch for event in viewer.received] == [1, 2, 3]
    machine.teardown()


def test_a_window_that_overlaps_what_was_read_gives_only_the_rest() -> None:
    machine = OneRule()
    viewer = live_viewer(machine)
    assert viewer.subscriber is not None
    viewer.subscriber.fall_behind()
    machine.log.holds = {"page"}
    machine.log.commit([(HARBOUR, "run")])
    machine.pull(viewer)  # reads batch 2
    machine.log.commit([(HARBOUR, "run")])
    machine.a_source_reads(0)  # batches 2 and 3
    machine.all_reads_end()
    for _ in range(3):
        machine.pull(viewer)
    assert [event.batch for event in viewer.received] == [1, 2, 3]
    machine.teardown()


def test_a_window_that_overlaps_the_one_before_gives_only_the_rest() -> None:
    machine = OneRule()
    viewer = live_viewer(machine)
    machine.log.commit([(HARBOUR, "run")])
    machine.a_source_reads(0)  # batch 2
    machine.log.commit([(HARBOUR, "run")])
    machine.a_source_reads(1)  # batches 1 to 3
    for _ in range(3):
        machine.pull(viewer)
    assert [event.batch for event in viewer.received] == [1, 2, 3]
    machine.teardown()


def test_a_window_that_covers_some_of_the_tenants_is_not_enough() -> None:
    window = Window(5, 5, 0, 1, frozenset({HARBOUR, SUMMIT}))
    assert window.has_all_of((HARBOUR,))
    assert not window.has_all_of((HARBOUR, MEADOW))
    assert not window.has_all_of(None)
    tick = Window(6, 5, 1, 1, frozenset())
    assert tick.has_all_of((HARBOUR, MEADOW))
    assert tick.has_all_of(None)


TestOneRule = OneRule.TestCase
TestOneRule.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
