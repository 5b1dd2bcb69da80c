"""What the page of the bus shows, made from a look: words, figures, points of charts, rows."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

from agent_events.admin.bus_history import Moment
from agent_events.advice import advice
from agent_events.conf import get_settings
from agent_events.facts import Listener, Session, Status, Waiter
from agent_events.findings import behind_in_words
from agent_events.problems import problems_of
from agent_events.watching import Observation

RECENT_MS = 10_000
"""A batch that was handed over before that says nothing of how quick it is now."""

ClosedAt = Callable[[Iterable[int]], dict[int, int]]
"""When batches were closed, in ms since 1970."""


def answer(look: Observation, closed_at: ClosedAt) -> dict[str, Any]:
    """All that the page asks for, but the past."""
    status = look.status
    at_ms = round(status.counters.at_s * 1_000) if status.counters else None
    delay_ms = _delay_ms(look.listeners, closed_at, at_ms)
    return {
        "at_ms": at_ms,
        "advice": _words(look),
        "problems": [
            {"code": one.code, "message": one.message, "hint": one.hint}
            for one in problems_of(status, look.between)
        ],
        "figures": _figures(look, delay_ms) if status.head else [],
        "points": _points(look, delay_ms) if status.head else {},
        "tables": {
            "listeners": [_listener_row(one, status) for one in look.listeners],
            "waiters": [_waiter_row(one) for one in look.between.waits.waiters],
            "writers": [[_session(one), _seconds(one.open_s)] for one in status.writers],
        },
    }


def past(course: list[Moment]) -> dict[str, list[list[float]]]:
    """Points of the charts that the ledger has the past of: [ms since 1970, how many a second]."""
    steps = [
        (after.at_ms, (after.at_ms - before.at_ms) / 1_000, before, after)
        for before, after in pairwise(course)
    ]
    return {
        "events": [[at, (after.events - before.events) / s] for at, s, before, after in steps],
        "batches": [[at, (after.batch - before.batch) / s] for at, s, before, after in steps],
    }


def _words(look: Observation) -> str:
    given = advice(look.status, look.between, look.rates, get_settings())
    unheard = look.between.trouble
    words = [given.words] if given else []
    if unheard:
        words.append(f"Nothing can be heard, so the processes' answers are missing: {unheard}.")
    return " ".join(words)


def _figures(look: Observation, delay_ms: float | None) -> list[list[str]]:
    """Triples: what it is, its value, a note."""
    status, rates, waits = look.status, look.rates, look.between.waits
    assert status.head is not None
    sequencer, coalescer = status.sequencer, status.coalescer
    by = "nobody closes batches" if sequencer is None else f"batches by pid {sequencer.pid}"
    if coalescer is not None and (sequencer is None or coalescer.pid != sequencer.pid):
        by += f", producers silenced by pid {coalescer.pid}"
    return [
        ["Mode", status.mode, by],
        ["Events", _rate(rates.events if rates else None), "a second"],
        ["Batches", _rate(rates.batches if rates else None), "a second"],
        [
            "Commits",
            _rate(rates.commits if rates else None),
            "a second, of the database, reads too",
        ],
        ["Notifications", _rate(rates.notifications if rates else None), "a second, the bus's own"],
        [
            "Behind",
            f"{status.behind:,}{'+' if status.behind_more else ''}",
            f"events in no batch, {_seconds(status.waits_s)}" if status.behind else "events",
        ],
        [
            "Handover",
            "-" if delay_ms is None else f"{delay_ms:,.0f} ms" if delay_ms >= 1 else "< 1 ms",
            "from a batch's close to a process",
        ],
        ["Waiting to commit", f"{waits.most:,}", f"sessions at once, {_seconds(waits.longest_s)}"],
        ["Notification queue", f"{status.queue_usage:.1%}", "full"],
        ["Listening", f"{len(status.listeners):,}", "processes"],
        [
            "Head",
            f"{status.head.batch:,}",
            f"{status.head.total:,} events, {_seconds(status.head.closed_s)} ago",
        ],
        *_publishing(status),
        ["Size", _bytes(status.log_bytes), f"and the ledger {_bytes(status.ledger_bytes)}"],
    ]


def _publishing(status: Status) -> Iterator[list[str]]:
    """Of a broker, or a shared channel layer: how it does, and who publishes."""
    broker = status.broker
    if broker is not None:
        lag = max((one.lag or 0 for one in broker.shards), default=0)
        where = f"{broker.kind} at {broker.host}"
        if broker.trouble:
            yield ["Broker", "away", where]
        else:
            yield [
                "Broker",
                "reachable",
                f"{where}, {behind_in_words(lag) if lag else 'at the head'}",
            ]
    if status.shards:
        publish = sum(bool(one.shards) for one in status.publishers)
        standing = len(status.publishers) - publish
        yield ["Publishing", f"{publish:,}", f"workers, and {standing:,} that stand by"]


def _points(look: Observation, delay_ms: float | None) -> dict[str, float | None]:
    return {
        "events": look.rates.events if look.rates else None,
        "batches": look.rates.batches if look.rates else None,
        "delay": delay_ms,
        "waiting": look.status.behind,
        "waiters": look.between.waits.most,
        "queue": look.status.queue_usage * 100,
    }


def _delay_ms(
    processes: Iterable[Listener], closed_at: ClosedAt, at_ms: int | None
) -> float | None:
    """From the close of its last batch until a process had it: the slowest. Clocks may differ."""
    handed = [
        (one.answer.batch, one.answer.at_ms)
        for one in processes
        if one.answer and one.answer.batch is not None and one.answer.at_ms is not None
        if at_ms is not None and one.answer.at_ms > at_ms - RECENT_MS
    ]
    closed = closed_at({batch for batch, _ in handed})
    return max(
        (max(0, at - closed[batch]) for batch, at in handed if batch in closed), default=None
    )


def _listener_row(one: Listener, status: Status) -> list[str]:
    answer, session = one.answer, one.session
    does = ["listens"]
    if status.sequencer and status.sequencer.pid == session.pid:
        does = ["closes batches"]
    if status.coalescer and status.coalescer.pid == session.pid:
        does.append("by the clock")
    if answer is None:
        return ["does not answer", _session(session), "-", "-", "-", " ".join(does)]
    watched = "all" if answer.watches is None else f"{answer.watches:,}"
    lag = "-" if one.lag is None else f"{one.lag:,}"
    if one.lag and one.silent_s is not None:
        lag += f" batches, silent for {_seconds(one.silent_s)}"
    return [
        f"pid {answer.process} on {answer.host}",
        _session(session),
        "-" if answer.batch is None else f"{answer.batch:,}",
        lag,
        watched,
        " ".join(does),
    ]


def _waiter_row(one: Waiter) -> list[str]:
    whose = "writes events" if one.ours else "somebody else's notifications"
    return [_session(one.session), one.database, _seconds(one.waits_s), whose]


def _session(session: Session) -> str:
    words = [f"pid {session.pid}", session.user, session.application, session.client or "local"]
    return ", ".join(word for word in words if word)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1_000:,.0f} ms" if value < 1 else f"{value:,.0f} s"


def _bytes(count: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return (
        f"{count:,.0f} {units[0]}" if count >= 10 or units[0] == "B" else f"{count:,.1f} {units[0]}"
    )
