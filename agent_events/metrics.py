"""What this process counts and measures, for Prometheus. The other figures: `metrics_door`.

Cheap on purpose: something is counted for each window, batch or update, never for each event. The
objects are on prometheus-client's default registry, so that a project which answers that one by
itself has them too; OURS has them alone, for `/metrics`. No label names a tenant, a user or a host.
"""

import math
import time
from datetime import datetime

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from agent_events.window import Window

PREFIX = "agent_events"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms, in seconds: a ring takes milliseconds, a poll a second."""

OURS = CollectorRegistry()
"""What `/metrics` answers: these, and the process's own. Not what a project counts besides, whose
labels may name its customers."""


def _counter(name: str, words: str, *labels: str) -> Counter:
    return Counter(name, words, labels, namespace=PREFIX)


def _histogram(name: str, words: str) -> Histogram:
    return Histogram(name, words, namespace=PREFIX, unit="seconds", buckets=BUCKETS_S)


# The source.
DOORBELLS = _counter("doorbells", "Notifications of producers that this process heard.")
SOURCE_CONNECTIONS = _counter("source_connections", "Listening connections that were opened.")
SOURCE_FAILURES = _counter("source_failures", "Listening connections that failed, or did not open.")

# Closing batches.
BATCHES_CLOSED = _counter("batches_closed", "Batches that this process closed.")
EVENTS_CLOSED = _counter("events_closed", "Events in the batches that this process closed.")
BATCHES_TOLD = _counter("batches_told", "Batches that this process told the other processes of.")
APPEND_DURATION = _histogram(
    "append_duration", "How long an attempt to close a batch took, whether or not it found events."
)

# From the source to the feed.
WINDOWS = _counter("windows", "Windows of whole batches that were handed to this process's feed.")
WINDOW_EVENTS = _counter("window_events", "Events in the windows that were handed to the feed.")
LAST_BATCH = Gauge(
    "last_batch",
    "How far in the log this process's feed is; NaN until it has heard of it.",
    namespace=PREFIX,
)
LAST_BATCH.set(math.nan)
HANDOVER_DELAY = _histogram(
    "handover_delay",
    "From when a window's last batch was closed, by the database's clock, until this process's "
    "feed had it, by this machine's; 0 where the clocks say less.",
)
EVENT_DELAY = _histogram(
    "event_delay",
    "From created_at of a window's last event (its transaction's start, unless the producer set "
    "another) until this process's feed had it; 0 where the clocks say less.",
)

# From the feed to the subscribers.
LOG_READS = _counter("log_reads", "Pages of the log that were read for subscribers to catch up.")
QUEUE_OVERFLOWS = _counter(
    "queue_overflows", "Subscribers whose queue was full: it was forgotten, and the log read."
)
_SUBSCRIBERS = Gauge("subscribers", "Open streams.", ["door"], namespace=PREFIX)
_OPENED = _counter("streams_opened", "Streams that began.", "door")
_DELIVERED = _counter("events_delivered", "Events that were handed to a stream's client.", "door")

# From a worker to the broker (or to a shared layer).
RELAY_WINDOWS = _counter("relay_windows", "Windows that this process published.")
RELAY_PARCELS = _counter("relay_parcels", "Messages in which it did: slices and marks.")
RELAY_BYTES = _counter("relay_bytes", "Bytes of those messages' bodies.")
RELAY_FAILURES = _counter("relay_failures", "Times that publishing failed; it is tried again.")
RELAY_SKIPPED = _counter(
    "relay_skipped_batches",
    "Batches that this process did not publish, since it was too far behind; web processes read "
    "them from the log.",
)
RELAY_SHARDS = Gauge(
    "relay_shards", "Shards that this process publishes now; 0: it stands by.", namespace=PREFIX
)

# From the broker to a web process.
BROKER_WINDOWS = _counter("broker_windows", "Windows that came from the broker, ticks too.")
BROKER_LOST = _counter(
    "broker_lost", "Of those, windows whose slices did not all come: the log was read instead."
)
BROKER_FAILURES = _counter(
    "broker_failures", "Connections to the broker that failed, or did not open."
)

_ALL = (
    DOORBELLS,
    SOURCE_CONNECTIONS,
    SOURCE_FAILURES,
    BATCHES_CLOSED,
    EVENTS_CLOSED,
    BATCHES_TOLD,
    APPEND_DURATION,
    WINDOWS,
    WINDOW_EVENTS,
    LAST_BATCH,
    HANDOVER_DELAY,
    EVENT_DELAY,
    LOG_READS,
    QUEUE_OVERFLOWS,
    RELAY_WINDOWS,
    RELAY_PARCELS,
    RELAY_BYTES,
    RELAY_FAILURES,
    RELAY_SKIPPED,
    RELAY_SHARDS,
    BROKER_WINDOWS,
    BROKER_LOST,
    BROKER_FAILURES,
    _SUBSCRIBERS,
    _OPENED,
    _DELIVERED,
)
for _collector in (*_ALL, PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
    OURS.register(_collector)


class Door:
    """What one way out counts."""

    def __init__(self, name: str) -> None:
        self._subscribers = _SUBSCRIBERS.labels(name)
        self._opened = _OPENED.labels(name)
        self._delivered = _DELIVERED.labels(name)

    def opened(self) -> None:
        """A stream began."""
        self._opened.inc()
        self._subscribers.inc()

    def closed(self) -> None:
        """It ended."""
        self._subscribers.dec()

    def delivered(self, events: int) -> None:
        """So many events went to its client."""
        self._delivered.inc(events)


WEBSOCKET = Door("websocket")
SSE = Door("sse")
PYTHON = Door("python")
"""`subscribe` and `subscribe_sync`."""


def appended(duration_s: float, rows: int, *, told: bool) -> None:
    """An attempt to close a batch took so long, and found `rows` events; 0: it closed none.

    `told`: it told the other processes at once.
    """
    APPEND_DURATION.observe(duration_s)
    if rows:
        BATCHES_CLOSED.inc()
        EVENTS_CLOSED.inc(rows)
    if told:
        BATCHES_TOLD.inc()


def handed_over(window: Window) -> None:
    """The feed was given this window. One without batches only says how far the log is."""
    LAST_BATCH.set(window.last)
    if window.first > window.last:
        return
    now_s = time.time()
    WINDOWS.inc()
    HANDOVER_DELAY.observe(max(0.0, now_s - window.closed_at_ms / 1_000))
    if window.events:
        WINDOW_EVENTS.inc(len(window.events))
        created_s = _seconds(window.events[-1].created_at)
        if created_s is not None:
            EVENT_DELAY.observe(max(0.0, now_s - created_s))


def _seconds(created_at: str | None) -> float | None:
    """An event's time as seconds since 1970; None where Python has no such time."""
    try:
        return datetime.fromisoformat(created_at or "").timestamp()
    except (ValueError, OverflowError):
        return None
