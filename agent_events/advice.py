"""One plain sentence about the throughput of the bus: is it fine, and if not, why? Pure.

What is broken is said by `problems`; this is about what is slow, or may become so.
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


@dataclass(frozen=True, slots=True)
class Advice:
    """`code` is `fine`, `coalescing` (fine too), `waits` or `broker`; `words` a sentence or two."""

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
    limit = _limit(status, between, rate)
    if limit:
        return Advice("broker", f"Time for a broker, because {limit}")
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
        return Advice(
            "broker",
            "Time for a broker, if this comes again: because others keep the server's notification "
            "queue full, nothing rings, and events come by the poll.",
        )
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


def _limit(status: Status, between: Interval, rate: Rates | None) -> str:
    """Why one PostgreSQL with what we do there is at its end; empty where it is not."""
    if status.coalescer is None or rate is None:
        return ""
    if status.waits_s > LATE_S and rate.waits_grow > GROWS:
        more = f"{status.behind:,}{'+' if status.behind_more else ''}"
        return (
            f"events come faster than batches are closed, though producers do not ring: {more} "
            f"wait, for {status.waits_s:.0f} s, and longer each second. Until then: a faster disk, "
            "or fewer processes that read the log (a shared channel layer)."
        )
    looks = between.waits.looks
    busy = between.busy
    if busy is not None and busy >= BUSY_SHARE and looks >= BUSY_LOOKS and rate.events > 0:
        return (
            f"the process that closes batches is at work {busy:.0%} of the time, at "
            f"{rate.events:,.0f} events/s. Until then: a longer APPEND_INTERVAL_S, or a faster "
            "disk."
        )
    return ""


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
