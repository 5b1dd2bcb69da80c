"""`GET /metrics`: what Prometheus scrapes, of this process and of the database.

Deliberately an ASGI application beside the probes, and no Django view: a scraper bears a token and
no session, and must be answered while the database is away. It starts nothing: a process that
nobody has asked for a stream, or probed, says that it listens to nothing. No label names a tenant,
a user or a host.
"""

import asyncio
import hmac
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent_events.access import admit
from agent_events.broker_status import leases_wanted, look
from agent_events.bus import current_bus
from agent_events.conf import get_settings
from agent_events.credentials import of_scope
from agent_events.database import listener_dsn, log_dsn
from agent_events.database_metrics import database_metrics
from agent_events.errors import AgentEventsError, NotSignedIn, WrongDatabase
from agent_events.facts import Status
from agent_events.metrics import OURS, PREFIX
from agent_events.principals import Right
from agent_events.requests import AWAY
from agent_events.responses import Receive, Send, refuse, respond
from agent_events.sources import BROKER, Doorbell, SourceState
from agent_events.status import gather
from agent_events.tasks import SharedLook
from agent_events.watching import Observation, listeners, watch

logger = logging.getLogger("agent_events")

LIMIT_S = 1.5
"""So long a scrape waits for the database; then it is answered without."""
BROKER_S = 0.5
"""So long of it may the broker take, or BROKER_TIMEOUT_S where that is less."""
WATCH_S = 0.3
"""So long of it is spent on who waits to commit, and where the other processes are."""
FRESH_S = 3.0
"""A look at the database serves for so long, however many scrape."""
WHO_S = 1.0
"""So long may the question take who asks, where no METRICS_TOKEN came."""

_HOW = (
    "Send Authorization: Bearer and the METRICS_TOKEN of AGENT_EVENTS, or sign in as a superuser."
)


async def metrics(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /metrics`, in the text format or OpenMetrics, whichever is asked for. Within 2 s.

    For whoever sends `AGENT_EVENTS["METRICS_TOKEN"]`, and for superusers. 401 or 403 for others;
    503 where only the database could tell who it is, and it is away.
    """
    headers = dict(scope["headers"])
    if scope["method"] not in ("GET", "HEAD"):
        await refuse(scope, send, 405, "Use GET.", headers={"Allow": "GET, HEAD"})
        return
    if not _has_token(headers.get(b"authorization", b"")):
        try:
            async with asyncio.timeout(WHO_S):
                await admit(of_scope(scope), Right.OPERATE)
        except NotSignedIn:
            await refuse(scope, send, 401, _HOW)
            return
        except (AgentEventsError, TimeoutError, *AWAY) as error:
            await refuse(scope, send, error)
            return
    seen = await _looker.answer()
    encode, content_type = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
    text = encode(_Everything(seen, _source_state()))
    await respond(scope, send, 200, text, [(b"content-type", content_type.encode())])


def _has_token(authorization: bytes) -> bool:
    token = get_settings().metrics_token
    scheme, _, given = authorization.strip().partition(b" ")
    # As bytes, and all of them, so that the time it takes tells nothing.
    same = hmac.compare_digest(given.strip(), token.encode())
    return bool(token) and scheme.lower() == b"bearer" and same


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
        (
            "source_connected",
            "Is this process's listening connection well, or its connection to the broker?",
            source.connected,
        ),
        (
            "source_hears",
            "Do notifications reach this process, or the broker's windows? If not, it polls.",
            source.connected
            and (source.heard if source.kind == BROKER else source.doorbell is Doorbell.HEARD),
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


async def _try() -> Observation:
    try:
        return await _look()
    except (ImproperlyConfigured, WrongDatabase) as error:
        logger.error("No look at the database for /metrics: %s", error)
    except Exception:
        logger.exception("The look at the database for /metrics failed.")
    return Observation(Status(unreachable="misconfigured"))


async def _look() -> Observation:
    """Deliberately no rates: Prometheus makes them, out of what only rises."""
    settings = get_settings()
    broker = await look(settings, within_s=BROKER_S)
    status = await gather(
        log_dsn(), timeout_s=LIMIT_S, leases=leases_wanted(settings), broker=broker
    )
    if status.setup is None or not status.setup.readable:
        return Observation(status)
    between = await watch(
        listener_dsn(),
        WATCH_S,
        expected=[session.pid for session in status.listeners],
        within_s=WATCH_S,
    )
    return Observation(status, between, None, listeners(status, between, status))


_looker = SharedLook("agent_events metrics", _try, fresh_s=FRESH_S, limit_s=LIMIT_S)
