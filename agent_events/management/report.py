"""How `bus_status` says what it knows: as lines for people, as JSON for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from typing import Any

from agent_events.advice import Advice
from agent_events.facts import (
    BOUND,
    Broker,
    CommitWaits,
    Listener,
    Prepared,
    Publisher,
    Rates,
    Session,
    Shard,
    Status,
)
from agent_events.findings import Problem, behind_in_words
from agent_events.journey import Journey, Verdict, delay_ms, step_in_words, step_of
from agent_events.watching import Observation

LONG_S = 1.0


def as_json(
    seen: Observation, problems: list[Problem], advised: Advice | None, *, indent: int | None = 2
) -> str:
    """All facts and problems as one JSON object; times in seconds, sizes in bytes."""
    told = asdict(seen.status)
    told["mode"] = seen.status.mode if seen.status.counters is not None else None
    told["problems"] = [_problem(problem) for problem in problems]
    told["advice"] = asdict(advised) if advised is not None else None
    told["rates"] = asdict(seen.rates) if seen.rates is not None else None
    told["watched"] = asdict(seen.between)
    told["processes"] = [asdict(one) for one in seen.listeners]
    return json.dumps(told, default=_as_text, indent=indent)


def lines(seen: Observation) -> Iterator[tuple[str, str]]:
    """What is known, as names and words."""
    status = seen.status
    setup, head = status.setup, status.head
    assert setup is not None
    kind = "standby" if setup.standby else "primary"
    major, minor = divmod(setup.server_version, 10_000)
    yield "server", f"PostgreSQL {major}.{minor}, {kind}"
    if status.broker is not None:
        yield from _list("broker", list(_broker(status.broker)))
    if not setup.readable:
        return
    yield "mode", _mode(status)
    if head is not None:
        yield (
            "head",
            f"batch {head.batch:,}, {head.total:,} events, closed {duration(head.closed_s)} ago",
        )
    more = f"{BOUND:,}+" if status.behind_more else f"{status.behind:,}"
    yield "behind", f"{more} events" + (f", {duration(status.waits_s)}" if status.behind else "")
    if seen.rates is not None:
        yield "a second", rates_in_words(seen.rates)
    yield "sequencer", session(status.sequencer) if status.sequencer else "none"
    yield from _list("listeners", list(_listeners(seen)))
    if status.shards:
        yield from _list("publishers", [_publisher(one) for one in status.publishers])
    yield from _list("commit lock", list(waits_in_words(seen.between.waits)))
    yield from _list("queue", list(_queue(status)))
    yield from _list("open writers", list(_writers(status)))
    if not status.sees_sessions and status.writers:
        yield "", "GRANT pg_read_all_stats TO <this role>; shows since when they are open"
    if status.prepared:
        yield from _list("prepared", [_prepared(one) for one in status.prepared])
    if head is not None and status.oldest_batch is not None:
        kept = head.batch - status.oldest_batch + 1
        yield (
            "ledger",
            f"batches {status.oldest_batch:,} to {head.batch:,} ({kept:,}), "
            f"{size(status.ledger_bytes)}",
        )
    yield "log", size(status.log_bytes)


def one_line(seen: Observation, problems: list[Problem], advised: Advice | None) -> str:
    """The figures of this moment, for a file or a pipe that gets one line each time."""
    status, rate, waits = seen.status, seen.rates, seen.between.waits
    if status.setup is None or status.counters is None:
        return "; ".join(f"{problem.code}: {problem.message}" for problem in problems)
    more = f"{BOUND:,}+" if status.behind_more else f"{status.behind:,}"
    silent = sum(one.answer is None for one in seen.listeners)
    return ", ".join(
        [
            status.mode,
            rates_in_words(rate) if rate is not None else "no rates yet",
            f"{more} behind",
            f"{len(seen.listeners)} listeners" + (f" ({silent} silent)" if silent else ""),
            *([_broker_in_short(status.broker)] if status.broker is not None else ()),
            f"waits in {waits.waited} of {waits.looks} looks",
            f"queue {status.queue_usage:.0%}",
            *(problem.code for problem in problems),
            advised.words if advised is not None else "no advice",
        ]
    )


def rates_in_words(rate: Rates) -> str:
    """What happens in a second."""
    heard = "unknown" if rate.notifications is None else _count(rate.notifications)
    return (
        f"{_count(rate.commits)} commits/s, {_count(rate.events)} events/s, "
        f"{_count(rate.batches)} batches/s, {heard} notifications/s"
    )


def waits_in_words(waits: CommitWaits) -> Iterator[str]:
    """Who waits for the lock of notifying commits."""
    if not waits.looks:
        yield "not looked at"
    elif not waits.waited:
        yield f"nobody waits ({waits.looks} looks)"
    else:
        yield (
            f"waits in {waits.waited} of {waits.looks} looks, {waits.most} at most, of "
            f"{waits.waiting} sessions, for up to {waits.longest_s * 1_000:,.0f} ms:"
        )
        for one in waits.waiters:
            whose = "" if one.ours else ", not ours"
            yield f"{session(one.session)}, database {one.database}{whose}"
        if waits.waiting > len(waits.waiters):
            yield f"and {waits.waiting - len(waits.waiters)} more"


def session(one: Session) -> str:
    """A connection, on one line."""
    open_for = "" if one.open_s is None else f", open for {duration(one.open_s)}"
    who = f"{one.user}@{one.client or 'local'}"
    return f"pid {one.pid}, {who}, {one.application or 'no application_name'}{open_for}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def problems_as_json(problems: list[Problem]) -> str:
    """What is wrong, where no more can be said, as one JSON object."""
    return json.dumps({"problems": [_problem(problem) for problem in problems]}, indent=2)


def _problem(problem: Problem) -> dict[str, Any]:
    return {**asdict(problem), "part": problem.part.value}


def trace_as_json(journey: Journey, found: Verdict) -> str:
    """The way of one event as one JSON object."""
    told: dict[str, Any] = {"id": journey.id, "verdict": asdict(found)}
    for name in ("stored", "gap"):
        part = getattr(journey, name)
        told[name] = asdict(part) if part is not None else None
    told |= {
        "pruned": journey.pruned,
        "batch": journey.batch,
        "closed_at": journey.closed_at,
        "cursor": journey.cursor or None,
        "trouble": journey.trouble,
        "broker": asdict(journey.broker) if journey.broker is not None else None,
    }
    told["processes"] = [
        {
            **asdict(one),
            "step": step_of(one, journey.batch).name.lower(),
            "delay_ms": delay_ms(journey, one.answer) if one.answer is not None else None,
        }
        for one in journey.listeners
        if journey.batch is not None
    ]
    return json.dumps(told, default=_as_text, indent=2)


def trace_lines(journey: Journey) -> Iterator[tuple[str, str]]:
    """The way of one event, as names and words."""
    stored, gap = journey.stored, journey.gap
    if stored is not None:
        yield "event", f"{journey.id} of tenant {stored.tenant}, agent {stored.agent}"
        yield "type", stored.type if stored.type.isprintable() else repr(stored.type)
        yield "stored", f"{stored.created_at or 'at no time'}, by transaction {stored.tx}"
    if gap is not None:
        for name, id, at in zip(
            ("before it", "after it"), (gap.before, gap.after), gap.around, strict=True
        ):
            yield name, f"event {id}, {at}" if id is not None else "none"
    if journey.batch is not None and journey.closed_at is not None:
        yield "batch", f"{journey.batch:,}, closed {_time(journey.closed_at)}"
        yield "cursor", f"{journey.cursor} (right behind it)"
        words = [step_in_words(journey, one) for one in journey.listeners]
        yield from _list("processes", words)
        if journey.broker is not None:
            yield from _list("broker", list(_broker(journey.broker)))


def _mode(status: Status) -> str:
    holder, leader = status.coalescer, status.sequencer
    if holder is None:
        return "ringing: each commit says when to look"
    who = "the sequencer" if leader is not None and leader.pid == holder.pid else session(holder)
    return f"coalescing: producers do not ring; by {who}"


def _listeners(seen: Observation) -> Iterator[str]:
    if seen.between.answers is None:
        trouble = seen.between.trouble
        for one in seen.status.listeners:
            yield f"{session(one)}; could not be asked" + (f": {trouble}" if trouble else "")
        return
    for listener in seen.listeners:
        yield f"{session(listener.session)}; {_where(listener)}"


def _where(listener: Listener) -> str:
    answer = listener.answer
    if answer is None:
        return "does not answer (frozen, or behind a pooler)"
    who = f"process {answer.process} on {answer.host}"
    if answer.batch is None:
        return f"{who}, at no batch yet"
    if not listener.lag:
        return f"{who}, at the head"
    silent = listener.silent_s
    ago = f", the last {duration(silent)} ago" if silent is not None else ""
    return f"{who}, {behind_in_words(listener.lag)}, at {answer.batch:,}{ago}"


def _broker(broker: Broker) -> Iterator[str]:
    """Where it is; then, where it answers, what it has of each shard."""
    where = f"{broker.kind or 'unknown'} at {broker.host}"
    yield f"{where}, away: {broker.trouble}" if broker.trouble else f"{where}, reachable"
    for shard in broker.shards:
        yield f"shard {shard.number}: {_place(shard)}"


def _place(shard: Shard) -> str:
    if shard.batch is None:
        return "nothing yet"
    if shard.foreign:
        return f"at batch {shard.batch:,} of another log"
    if shard.lag is None:
        return f"at batch {shard.batch:,}"
    if not shard.lag:
        return "at the head"
    return (
        f"{behind_in_words(shard.lag)}, at {shard.batch:,}; the next was closed "
        f"{duration(shard.late_s)} ago"
    )


def _publisher(one: Publisher) -> str:
    numbers = ", ".join(map(str, one.shards))
    does = f"publishes shard {numbers}" if numbers else "stands by"
    return f"{session(one.session)}; {does}"


def _broker_in_short(broker: Broker) -> str:
    if broker.trouble:
        return "broker away"
    return f"broker {behind_in_words(max((one.lag or 0 for one in broker.shards), default=0))}"


def _queue(status: Status) -> Iterator[str]:
    yield f"{status.queue_usage:.0%} full"
    for one in status.queue_suspects:
        yield f"perhaps in its way: {session(one)}"


def _writers(status: Status) -> Iterator[str]:
    """Those that are open for a while: of a load there are always some."""
    # (Without a time, though times are to be seen, it has just ended.)
    unknown_s = LONG_S if status.sees_sessions else inf
    named = [
        one
        for one in status.writers
        if (one.open_s if one.open_s is not None else unknown_s) > LONG_S
    ]
    yield from map(session, named)
    if len(named) < len(status.writers):
        others = len(status.writers) - len(named)
        yield f"{others} open for less than {LONG_S:g} s"


def _prepared(one: Prepared) -> str:
    return f"'{one.gid}' of {one.owner}, {duration(one.open_s)}"


def _list(name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts or ["none"]):
        yield ("" if number else name), text


def _count(number: float) -> str:
    return f"{number:,.1f}" if 0 < number < 10 else f"{number:,.0f}"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
