"""`GET /metrics`: what Prometheus scrapes, of this process and of the database.

Deliberately an ASGI application beside the probes, and no Django view: it bears no session, and
must be answered while the database is away. It starts nothing: a process that nobody has asked for
a stream, or probed, says that it listens to nothing. No label names a tenant, a user or a host.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from django.core.exceptions import ImproperlyConfigured
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent_events.bus import current_bus
from agent_events.conf import get_settings
from agent_events.database import listener_dsn, log_dsn
from agent_events.database_metrics import database_metrics
from agent_events.errors import WrongDatabase
from agent_events.facts import Status
from agent_events.metrics import OURS, PREFIX
from agent_events.sources import Doorbell, SourceState
from agent_events.status import gather
from agent_events.watching import Observation, listeners, watch

logger = logging.getLogger("agent_events")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

LIMIT_S = 1.5
"""So long a scrape waits for the database; then it is answered without."""
WATCH_S = 0.3
"""So long of it is spent on who waits to commit, and where the other processes are."""
FRESH_S = 3.0
"""A look at the database serves for so long, however many scrape."""


async def metrics(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /metrics`, in the text format or OpenMetrics, whichever is asked for. Within 2 s.

    401 where `AGENT_EVENTS["METRICS_TOKEN"]` is set and the request does not bear it.
    """
    headers = dict(scope["headers"])
    if scope["method"] not in ("GET", "HEAD"):
        await _answer(scope, send, 405, b"Use GET.\n", [(b"allow", b"GET, HEAD")])
        return
    if not _may(headers.get(b"authorization", b"")):
        refusal = b"Send Authorization: Bearer and the METRICS_TOKEN of AGENT_EVENTS.\n"
        await _answer(scope, send, 401, refusal, [(b"www-authenticate", b"Bearer")])
        return
    seen = await _looker().answer()
    encode, content_type = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
    text = encode(_Everything(seen, _source_state()))
    await _answer(scope, send, 200, text, content_type=content_type.encode())


def _may(authorization: bytes) -> bool:
    token = get_settings().metrics_token
    scheme, _, given = authorization.strip().partition(b" ")
    # As bytes, and all of them, so that the time it takes tells nothing.
    return not token or (
        scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())
    )


class _Everything(Collector):
    """All that one scrape is told."""

    def __init__(self, seen: Observation | None, source: SourceState | None) -> None:
        self._seen = seen
        self._source = source

    def collect(self) -> Iterable[Metric]:
        yield from OURS.collect()
        yield from _source_metrics(self._source or SourceState())
        yield from database_metrics(self._seen)


def _source_metrics(source: SourceState) -> Iterator[Metric]:
    for name, words, value in (
        ("source_connected", "Is this process's listening connection well?", source.connected),
        (
            "source_hears",
            "Do notifications reach this process? If not, it polls.",
            source.connected and source.doorbell is Doorbell.HEARD,
        ),
        ("leads", "Does this process close the batches?", source.leads),
        (
            "coalescing",
            "Does this process close them by the clock, so that producers need not ring?",
            source.coalescing,
        ),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", words, value=float(value))


def _source_state() -> SourceState | None:
    try:
        return current_bus().source_state()
    except (ImproperlyConfigured, WrongDatabase):
        return None  # the look has said why


class _Looker:
    """One look at the database at a time, shared by all who scrape."""

    def __init__(self) -> None:
        self._look: asyncio.Task[Observation] | None = None
        self._looked_at = 0.0

    async def answer(self) -> Observation | None:
        """The last look while it is fresh, or a new one; None after LIMIT_S."""
        fresh = time.monotonic() - self._looked_at < FRESH_S
        if self._look is None or (self._look.done() and not fresh):
            self._look = asyncio.create_task(self._try(), name="agent_events metrics")
        # Not cancelled at the limit: the next scrape finds the look where this one left it.
        done, _ = await asyncio.wait({self._look}, timeout=LIMIT_S)
        return self._look.result() if done else None

    async def _try(self) -> Observation:
        try:
            return await _look()
        except (ImproperlyConfigured, WrongDatabase) as error:
            logger.error("No look at the database for /metrics: %s", error)
        except Exception:
            logger.exception("The look at the database for /metrics failed.")
        finally:
            self._looked_at = time.monotonic()
        return Observation(Status(unreachable="misconfigured"))


async def _look() -> Observation:
    """Deliberately no rates: Prometheus makes them, out of what only rises."""
    status = await gather(log_dsn(), timeout_s=LIMIT_S)
    if status.setup is None or not status.setup.readable:
        return Observation(status)
    between = await watch(
        listener_dsn(),
        WATCH_S,
        expected=[session.pid for session in status.listeners],
        within_s=WATCH_S,
    )
    return Observation(status, between, None, listeners(status, between, status))


_lookers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Looker] = WeakKeyDictionary()


def _looker() -> _Looker:
    return _lookers.setdefault(asyncio.get_running_loop(), _Looker())


async def _answer(
    scope: dict[str, Any],
    send: Send,
    status: int,
    text: bytes,
    more: Iterable[tuple[bytes, bytes]] = (),
    *,
    content_type: bytes = b"text/plain; charset=utf-8",
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(text)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})
