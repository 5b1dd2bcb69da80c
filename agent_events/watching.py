"""What cannot be seen at one look: rates, short waits, and where each process is."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from agent_events.asking import ANSWER_S, Hearing, hearing
from agent_events.commit_lock import LOOK_SQL, Looks
from agent_events.database import BATCH_CHANNEL, BUS_APPLICATION, DOORBELL_CHANNEL
from agent_events.deliveries import Answer
from agent_events.errors import in_a_line
from agent_events.facts import (
    Broker,
    Head,
    Interval,
    Listener,
    Rates,
    Session,
    Status,
)
from agent_events.status import gather

LOOK_EVERY_S = 0.05
"""Looks at the commit lock are this far apart."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Two looks and what was watched between them. `status` is the later one."""

    status: Status
    between: Interval = field(default_factory=Interval)
    rates: Rates | None = None
    listeners: tuple[Listener, ...] = ()


async def observe(
    dsn: str,
    listener_dsn: str,
    seconds: float = ANSWER_S,
    *,
    before: Status | None = None,
    patience_s: float = 0.0,
    leases: Sequence[str] = (),
    look: Callable[[], Awaitable[Broker | None]] | None = None,
) -> Observation:
    """Looks, watches for `seconds`, and looks again.

    `listener_dsn` is where to listen. `before`: an earlier look, which is made here if it is not
    given. `patience_s`, `leases`: as for `gather`. `look` says how the broker does, behind the
    watch; it raises nothing. Never raises psycopg.Error.
    """
    if before is None or before.counters is None:
        before = await gather(dsn, leases=leases)
    if before.counters is None:
        return Observation(replace(before, broker=await look() if look else None))
    between = await watch(
        listener_dsn,
        seconds,
        expected=[session.pid for session in before.listeners],
        leader=before.sequencer.pid if before.sequencer is not None else None,
    )
    broker = await look() if look else None  # right before the ledger, with which it is compared
    after = await gather(dsn, patience_s=patience_s, leases=leases, broker=broker)
    return Observation(
        after, between, rates(before, after, between), listeners(before, between, after)
    )


async def watch(
    dsn: str,
    seconds: float,
    *,
    expected: Collection[int] = (),
    leader: int | None = None,
    within_s: float = ANSWER_S,
) -> Interval:
    """Watches for `seconds`: asks the processes, hears what is rung, looks at the commit lock.

    `dsn` is where to listen; `expected` the backends of the processes that should answer, for which
    it waits `within_s` at most; `leader` the sequencer's. Never raises psycopg.Error: `trouble`.
    """
    began = time.monotonic()
    looks = Looks()
    ear: Hearing | None = None
    trouble = ""
    try:
        async with hearing(dsn, (DOORBELL_CHANNEL, BATCH_CHANNEL)) as ear:
            await ear.ask()
            trouble = ear.trouble
            began = time.monotonic()
            while (passed_s := time.monotonic() - began) < max(seconds, 0.001) or (
                not trouble and passed_s < within_s and not ear.answers.keys() >= set(expected)
            ):
                looks.take(await ear.rows(LOOK_SQL, {"leader": leader, "bus": BUS_APPLICATION}))
                await ear.hear(LOOK_EVERY_S)
    except (psycopg.Error, OSError, TimeoutError) as error:
        trouble = in_a_line(error)
    over_s = time.monotonic() - began
    if ear is None:
        await asyncio.sleep(max(0.0, seconds - over_s))
        return Interval(over_s=max(seconds, over_s), trouble=trouble)
    return Interval(
        over_s=over_s,
        waits=looks.waits(),
        busy=looks.busy(),
        rings=None if ear.deaf else ear.heard[DOORBELL_CHANNEL],
        told=None if ear.deaf else ear.heard[BATCH_CHANNEL],
        answers=None if ear.trouble else tuple(ear.answers[pid] for pid in sorted(ear.answers)),
        own_commits=ear.statements,
        trouble=trouble,
    )


def rates(before: Status, after: Status, between: Interval) -> Rates | None:
    """What happened between two looks, a second. None where one of them saw nothing.

    Also None where the ledger became another one.
    """
    if before.head is None or after.head is None or not before.counters or not after.counters:
        return None
    passed_s = after.counters.at_s - before.counters.at_s
    batches = after.head.batch - before.head.batch
    events = after.head.total - before.head.total
    if passed_s <= 0 or batches < 0 or events < 0:
        return None
    # The looks themselves: what was watched, and `after`. (`before` is not counted in either.)
    commits = after.counters.commits - before.counters.commits - between.own_commits
    heard = None
    if between.rings is not None and between.told is not None and between.over_s > 0:
        heard = (between.rings + between.told) / between.over_s
    return Rates(
        commits=max(0, commits) / passed_s,
        events=events / passed_s,
        batches=batches / passed_s,
        notifications=heard,
        waits_grow=(after.waits_s - before.waits_s) / passed_s,
    )


def listeners(before: Status, between: Interval, after: Status) -> tuple[Listener, ...]:
    """Each process that listened all the while, with its answer.

    How far it is behind is told from `before`, the look just before it was asked: what was closed
    since then it need not have.
    """
    answers = {answer.backend: answer for answer in between.answers or ()}
    still = {session.pid for session in after.listeners}
    return tuple(
        _listener(session, answers.get(session.pid), before.head)
        for session in before.listeners
        if session.pid in still
    )


def _listener(session: Session, answer: Answer | None, head: Head | None) -> Listener:
    if answer is None or answer.batch is None or head is None:
        return Listener(session, answer)
    silent_s = (answer.now_ms - answer.at_ms) / 1_000 if answer.at_ms is not None else None
    return Listener(session, answer, max(0, head.batch - answer.batch), silent_s)
