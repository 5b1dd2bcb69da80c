"""What `/metrics` says of the whole database: a look at it, as Prometheus' metrics. No I/O.

Every process says the same of it, so these are to be taken once: `max(...)`, not `sum(...)`.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent_events.facts import Listener, Status
from agent_events.metrics import PREFIX
from agent_events.problems import problems_of
from agent_events.watching import Observation


def database_metrics(seen: Observation | None) -> Iterator[Metric]:
    """The metrics of one look. None: it did not end in time."""
    up = seen is not None and seen.status.setup is not None
    yield _gauge("database_up", "Did the database answer in time?", up)
    if seen is None:
        return
    status = seen.status
    yield _problems(seen)
    if status.setup is None or not status.setup.readable:
        return
    yield from _of_the_log(status)
    yield from _of_processes(status)
    yield from _of_publishing(status)
    if seen.between.answers is not None:
        yield from _of_their_answers(seen.listeners)
    waits = seen.between.waits
    yield _gauge(
        "commit_waiters",
        "Sessions of the whole server that waited at once for PostgreSQL's lock of notifying "
        "commits: the most, of some looks.",
        waits.most,
    )
    yield _gauge("commit_wait_seconds", "The longest that one of them waited.", waits.longest_s)
    yield _gauge(
        "notification_queue_usage_ratio",
        "How full PostgreSQL's notification queue is; past 0.5 nothing is rung.",
        status.queue_usage,
    )


def _of_the_log(status: Status) -> Iterator[Metric]:
    if status.head is not None:
        yield _counter("ledger_batches", "Batches of the log, over all time.", status.head.batch)
        yield _counter("ledger_events", "Events in all batches, over all time.", status.head.total)
        yield _gauge(
            "head_age_seconds", "How long ago the last batch was closed.", status.head.closed_s
        )
    if status.counters is not None:
        yield _counter(
            "commits", "Commits of this database, of everybody.", status.counters.commits
        )
    yield _gauge(
        "waiting_events",
        "Events that are committed and in no batch; 10,000 at most.",
        status.behind,
    )
    yield _gauge("waiting_seconds", "How long the oldest of them has waited.", status.waits_s)
    writers = [one.open_s for one in status.writers if one.open_s is not None]
    yield _gauge(
        "oldest_writer_seconds",
        "For how long the oldest open transaction that wrote events has been open.",
        max(writers, default=0.0),
    )
    yield _gauge(
        "prepared_transactions",
        "Prepared transactions that wrote events; 20 at most.",
        len(status.prepared),
    )
    yield _gauge("log_bytes", "Size of the table of events, with its indexes.", status.log_bytes)
    yield _gauge("ledger_bytes", "Size of the ledger, with its index.", status.ledger_bytes)


def _of_their_answers(listeners: Sequence[Listener]) -> Iterator[Metric]:
    answered = [one for one in listeners if one.answer is not None]
    yield _gauge(
        "silent_listeners",
        "Processes that listen, and did not say at once where they are.",
        len(listeners) - len(answered),
    )
    yield _gauge(
        "lag_batches",
        "Batches that the process furthest behind has not handed over, of those that said so.",
        max((one.lag or 0 for one in answered), default=0),
    )


def _of_processes(status: Status) -> Iterator[Metric]:
    yield _gauge("listeners", "Processes that listen to the database.", len(status.listeners))
    yield _gauge(
        "sequencers",
        "Processes that have the lock of whoever closes batches: 1, or 0.",
        status.sequencer is not None,
    )
    yield _gauge(
        "database_coalescing",
        "Does some process close batches by the clock, so that producers do not ring?",
        status.coalescer is not None,
    )


def _of_publishing(status: Status) -> Iterator[Metric]:
    yield _gauge(
        "publishers",
        "Workers that publish to the broker, or to the shared channel layer.",
        sum(bool(one.shards) for one in status.publishers),
    )
    yield _gauge("unpublished_shards", "Shards that no worker publishes.", len(status.unpublished))
    shards = status.broker.shards if status.broker is not None else ()
    yield _gauge(
        "broker_lag_batches",
        "Batches that the broker does not have yet, of the shard furthest behind.",
        max((one.lag or 0 for one in shards), default=0),
    )


def _problems(seen: Observation) -> Metric:
    """One series a problem, while it lasts; the codes are those of `bus_status`."""
    found = GaugeMetricFamily(
        f"{PREFIX}_problem", "What is wrong, by bus_status's code.", labels=("code", "part")
    )
    for problem in problems_of(seen.status, seen.between):
        found.add_metric((problem.code, problem.part.value), 1)
    return found


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, value=float(value))


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", words, value=float(value))
