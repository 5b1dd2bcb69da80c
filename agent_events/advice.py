"""One plain sentence about the throughput of the bus: is it fine, and if not, why? Pure.

What is broken is said by `problems`; this is about what is slow, or may become so.

A broker takes the fan-out off PostgreSQL: every process that listens is told of each batch, and
reads it. It takes off nothing else: events are inserted there, and batches closed, as before. So
it is advised where many processes read, and not where a lone one is at its end.
"""

from dataclasses import dataclass

from agent_events.conf import Settings
from agent_events.facts import Interval, Rates, Status, Waiter
from agent_events.problems import QUEUE_HALF, problems_of

WAITED_SHARE = 0.2
WAITED_LOOKS = 3
"""Waits are worth a word where so many looks saw them, and so many of all: commits that happen to
meet are no trouble."""
OTHERS_SHARE = 0.5
"""Of those who wait, more than so many that are not ours: theirs is the cause."""
LATE_S = 2.0
"""Events that wait for longer, and longer each second, come faster than batches are closed."""
GROWS = 0.2
"""So many seconds a second."""
BUSY_SHARE = 0.9
BUSY_LOOKS = 10
"""A sequencer that so many of so many looks saw at work has no room left."""
FAN_OUT_READS = 1_000.0
"""Reads a second, each of a batch by one of the processes that listen: past that a broker is worth
its keep. (One takes some 0.6 ms of PostgreSQL's CPU, with the notifications before it, as
`benchmarks.brokers` measures: more than half a core in all.)"""
SEVERAL = 2
"""So many processes read each batch, or more: a broker would take something off PostgreSQL."""
REMAINS = "What remains: a longer APPEND_INTERVAL_S, a faster disk, partitions: docs/scaling.md."
"""What helps where a broker does not."""


@dataclass(frozen=True, slots=True)
class Advice:
    """`code` is `fine`, `coalescing` (fine too), `waits`, `broker` or `limit`.

    `limit`: PostgreSQL is at its end, and a broker takes nothing off it (any more). `words` are a
    sentence or two.
    """

    code: str
    words: str

    @property
    def fine(self) -> bool:
        """Is there nothing to do?"""
        return self.code in ("fine", "coalescing")


def advice(
    status: Status, between: Interval, rate: Rates | None, settings: Settings
) -> Advice | None:
    """What to do about the throughput. None where nothing is known: `problems` says why then.

    `status` is the look after `between`; `rate` compares it with the one before.
    """
    if status.setup is None or not status.setup.readable or status.setup.standby:
        return None
    limit = _limit(status, between, rate, settings)
    if limit is not None:
        return limit
    waits = between.waits
    if waits.waited >= max(WAITED_LOOKS, WAITED_SHARE * waits.looks):
        share = waits.waited / waits.looks
        return Advice(
            "waits",
            f"Waits seen, because {_cause(status, between, rate, settings)} ({share:.0%} of "
            f"{waits.looks} looks saw commits wait for PostgreSQL's commit lock, {waits.most} at "
            f"most.)",
        )
    if status.queue_usage > QUEUE_HALF:
        return _of_a_full_queue(settings)
    readers = _readers(status, between)
    if rate is not None and rate.batches * readers > FAN_OUT_READS:
        return _of_fan_out(readers, rate.batches, settings)
    if problems_of(status):
        return Advice("fine", "No commit waits for another. See what is wrong, above.")
    if status.coalescer is not None:
        return Advice(
            "coalescing",
            "Coalescing, fine: producers do not ring, and no commit waits for another.",
        )
    if status.sequencer is None and not status.listeners:
        return Advice("fine", "Fine: no event waits, and no process closes batches now.")
    return Advice("fine", "Fine: each commit rings, and none waits for another.")


def _limit(
    status: Status, between: Interval, rate: Rates | None, settings: Settings
) -> Advice | None:
    """Where one PostgreSQL with what we do there is at its end; None where it is not."""
    if status.coalescer is None or rate is None:
        return None
    looks, busy = between.waits.looks, between.busy
    if status.waits_s > LATE_S and rate.waits_grow > GROWS:
        more = f"{status.behind:,}{'+' if status.behind_more else ''}"
        why = (
            f"events come faster than batches are closed, though producers do not ring: {more} "
            f"wait, for {status.waits_s:.0f} s, and longer each second."
        )
        until = "a faster disk, or fewer processes that read the log."
    elif busy is not None and busy >= BUSY_SHARE and looks >= BUSY_LOOKS and rate.events > 0:
        why = (
            f"the process that closes batches is at work {busy:.0%} of the time, at "
            f"{rate.events:,.0f} events/s."
        )
        until = "a longer APPEND_INTERVAL_S, or a faster disk."
    else:
        return None
    readers = _readers(status, between)
    if settings.broker_url:
        return Advice("limit", f"PostgreSQL is at its end, broker or not, because {why} {REMAINS}")
    if readers < SEVERAL:
        return Advice(
            "limit",
            f"PostgreSQL is at its end, because {why} A broker would not help: "
            f"{_counted(readers)} each batch there. {REMAINS}",
        )
    return Advice(
        "broker",
        f"Time for a broker, because {why} {_counted(readers)} each batch there, too. Until then: "
        f"{until}",
    )


def _readers(status: Status, between: Interval) -> int:
    """The processes that read each batch from PostgreSQL: those that listen, but for any that
    said that nobody there watches a tenant."""
    idle = {answer.backend for answer in between.answers or () if answer.watches == 0}
    return sum(session.pid not in idle for session in status.listeners)


def _of_fan_out(readers: int, batches: float, settings: Settings) -> Advice:
    why = (
        f"{_counted(readers)} each of {batches:,.0f} batches/s from PostgreSQL, which makes "
        f"{batches * readers:,.0f} reads/s."
    )
    if settings.broker_url:
        return Advice(
            "waits",
            f"More listen than need be: {why} With BROKER_URL only workers do, two or three: "
            "restart web processes that were started before it was set.",
        )
    return Advice(
        "broker",
        f"Time for a broker, because {why} With BROKER_URL one worker reads them for all. Until "
        "then: a longer APPEND_INTERVAL_S, which makes fewer batches.",
    )


def _of_a_full_queue(settings: Settings) -> Advice:
    why = (
        "because others keep the server's notification queue full, nothing rings, and events come "
        "by the poll."
    )
    if settings.broker_url:
        return Advice(
            "limit",
            f"A server of its own for the log, if this comes again: {why} The worker hears rings "
            "there, broker or not.",
        )
    return Advice("broker", f"Time for a broker, if this comes again: {why}")


def _counted(readers: int) -> str:
    return f"{readers:,} process{'es read' if readers != 1 else ' reads'}"


def _cause(status: Status, between: Interval, rate: Rates | None, settings: Settings) -> str:
    waits = between.waits
    if waits.others > OTHERS_SHARE:
        who = "; ".join(_named(one) for one in waits.waiters if not one.ours)
        return (
            f"others notify too, and the lock is one for the whole cluster: {who}. "
            "Have them notify once a transaction at most, or move them to another server."
        )
    if status.coalescer is not None:
        return (
            "some of our own still ring, though producers are spared it: they began before that, "
            "or write in another mode. Look again in a moment."
        )
    if status.sequencer is None:
        return (
            "each commit rings, and no process can spare producers that: none closes batches. "
            "Start manage.py listen_events (not through a pooler in transaction mode)."
        )
    if settings.mode == "ring":
        return (
            'each commit rings: AGENT_EVENTS["MODE"] is "ring". "auto" spares producers that '
            "under load."
        )
    heard = f"{between.rings / between.over_s:,.0f} rings/s are" if between.rings else "they are"
    return (
        f"each commit rings, and {heard} not taken for a load yet: producers are spared it past "
        f"COALESCE_ABOVE ({settings.coalesce_above:,.0f}), or where waits last. If they do last, "
        "lower it."
    )


def _named(one: Waiter) -> str:
    session = one.session
    name = session.application or "without application_name"
    return f"pid {session.pid} ({session.user}, {name}, database {one.database})"
