"""What is wrong with a broker, or with those who publish, in words. Facts in, words out: no I/O.

All of it only delays: events stay in the log, and web processes that hear nothing read it.
"""

from collections.abc import Iterator, Sequence

from agent_events.asking import POOLED
from agent_events.facts import Interval, Shard, Status
from agent_events.findings import Part, Problem, session_in_words

UNPUBLISHED_S = 5.0
"""A batch that the broker has not had for longer than this waits for somebody who does not come."""


def broker_problems(status: Status) -> Iterator[Problem]:
    """A broker that does not answer."""
    broker = status.broker
    if broker is not None and broker.trouble:
        yield Problem(
            "broker_away",
            Part.DOORBELL,
            f"The broker ({broker.kind or 'unknown'} at {broker.host}) does not answer: "
            f"{broker.trouble}. Nothing is lost: web processes read events from the log, every "
            "TICK_TIMEOUT_S; but one that was started with an address that is none serves no "
            "stream.",
            "Start it: all go on by themselves. Or correct "
            'AGENT_EVENTS["BROKER_URL"], and restart web processes and workers: manage.py check '
            "says what an address lacks.",
        )


def publishing_problems(status: Status, between: Interval | None) -> Iterator[Problem]:
    """Whatever is wrong between the log and a broker that answers, or a shared channel layer."""
    broker, free = status.broker, status.unpublished
    if broker is not None and broker.trouble:
        return
    # Behind a pooler in transaction mode workers publish without a lease.
    if free and not (between is not None and between.trouble == POOLED):
        which = "" if len(free) == status.shards else f"{_shards_in_words(free)} of {status.shards}"
        where = "to the broker" if broker is not None else "to the shared channel layer"
        standing = [session_in_words(one.session) for one in status.publishers if not one.shards]
        there = f" Connected, but standing by: {'; '.join(standing)}." if standing else ""
        yield Problem(
            "nobody_publishes",
            Part.DOORBELL,
            f"No worker publishes {f'{which} ' if which else ''}{where}: web processes read events "
            f"from the log, every TICK_TIMEOUT_S.{there}",
            "See their logs, which say what they cannot reach. Where these say nothing, they "
            "publish elsewhere: BROKER_NAME, BROKER_SHARDS and the kind of broker (BROKER_URL) "
            "must be the same everywhere."
            if standing
            else "Start manage.py listen_events. Of several, others take over what one leaves.",
        )
    if broker is None:
        return
    foreign = tuple(one.number for one in broker.shards if one.foreign)
    if foreign:
        yield Problem(
            "broker_foreign",
            Part.DOORBELL,
            f"What the broker has in {_shards_in_words(foreign)} is of another log, or of this one "
            "before it was restored.",
            "Where logs share a broker, give each a BROKER_NAME of its own. After a restore: "
            "restart whoever publishes.",
        )
    late = [
        one
        for one in broker.shards
        if one.late_s > UNPUBLISHED_S and not one.foreign and one.number not in free
    ]
    old = _published_for_long(status)
    empty = tuple(one.number for one in broker.shards if one.batch is None and one.number in old)
    if late or empty:
        lacking = {*empty, *(one.number for one in late)}
        by = [session_in_words(one.session) for one in status.publishers if {*one.shards} & lacking]
        yield Problem(
            "broker_behind",
            Part.DOORBELL,
            " ".join([*_late_in_words(late), *_empty_in_words(empty)])
            + f" Who publishes: {'; '.join(by)}.",
            "See its log, which says what the broker refuses. Where it says nothing, it may reach "
            "another server than this one (BROKER_URL), or this one drops what it is sent (Redis: "
            "maxmemory-policy noeviction). Or restart it, and another worker takes over: SELECT "
            "pg_terminate_backend(<pid>); ends its lease.",
        )


def _published_for_long(status: Status) -> set[int]:
    """The shards that somebody publishes who is no newcomer."""
    return {
        shard
        for one in status.publishers
        for shard in one.shards
        if (one.session.connected_s or 0.0) > UNPUBLISHED_S
    }


def _late_in_words(late: Sequence[Shard]) -> Iterator[str]:
    if late:
        worst = max(late, key=lambda one: one.late_s)
        which = _shards_in_words(tuple(one.number for one in late))
        lag = worst.lag or 0
        newest = "batch" if lag == 1 else f"{lag:,} batches"
        since = "which was" if lag == 1 else "the first of them"
        yield (
            f"The broker lacks the newest {newest} of the log in {which}, {since} closed "
            f"{worst.late_s:,.0f} s ago."
        )


def _empty_in_words(empty: tuple[int, ...]) -> Iterator[str]:
    if empty:
        yield f"The broker has nothing of the log in {_shards_in_words(empty)}."


def _shards_in_words(shards: tuple[int, ...]) -> str:
    return f"shard{'' if len(shards) == 1 else 's'} {', '.join(map(str, shards))}"
