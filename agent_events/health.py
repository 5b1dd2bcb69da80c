"""Two addresses for load balancers: does this process live, and is it of use?

Deliberately ASGI applications and no Django views: a probe bears no Host that ALLOWED_HOSTS knows
and no session, and must be answered while the database is away. The answers hold codes only: no
name of a host, a role or a database.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from agent_events.bus import Bus, current_bus, layer_is_shared
from agent_events.conf import Settings, get_settings
from agent_events.database import log_dsn
from agent_events.errors import WrongDatabase
from agent_events.facts import Status
from agent_events.findings import Part
from agent_events.outage import Outage
from agent_events.problems import problems_of
from agent_events.responses import Receive, Send, respond
from agent_events.sources import BROKER, Doorbell, SourceState
from agent_events.status import gather
from agent_events.tasks import SharedLook

LIMIT_S = 2.0
"""A probe is answered within this time, whatever hangs."""
CONNECTING_S = 1.0
"""So long of it may a source that was just started take to connect."""
FRESH_S = 1.0
"""An answer serves for so long: probes cost a connection a second, however many come."""
LATE_S = 5.0
"""A source that has not handed over a batch that was closed before that is stuck."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`data`: can this process deliver events? `doorbell`: does it learn of them at once?

    `doorbell` is "heard", "deaf" (it polls), "unknown" (not tried yet), or "none" (this process
    does not listen: windows come from a broker, or over a shared channel layer). `problems` are
    codes.
    """

    data: bool
    doorbell: str
    problems: tuple[str, ...]

    @property
    def state(self) -> str:
        """`ready`, `degraded` (ready, but slower) or `unready`."""
        if not self.data:
            return "unready"
        return "degraded" if self.problems else "ready"


async def healthz(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /healthz`: 200 as long as the process answers at all. Touches nothing."""
    await _answer(scope, send, 200, {"status": "alive"})


async def readyz(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /readyz`: 200 where this process can deliver events, 503 where not, within LIMIT_S.

    Starts the bus, so that a process that is probed is warm and takes its turn at closing batches.
    """
    if scope["method"] not in ("GET", "HEAD"):
        await _answer(scope, send, 405, {})
        return
    found = await readiness()
    body = {
        "status": found.state,
        "data": "ok" if found.data else "failing",
        "doorbell": found.doorbell,
        "problems": found.problems,
    }
    await _answer(scope, send, 200 if found.data else 503, body)


async def readiness() -> Readiness:
    """Can this process deliver events? Looked at once for all who ask at a time; never raises."""
    return await _prober.answer() or Readiness(False, "unknown", ("no_answer",))


def judge(
    status: Status,
    source: SourceState | None,
    *,
    shared: bool,
    layer_away: bool = False,
    poll_interval_s: float = 1.0,
) -> Readiness:
    """What the facts mean for this process. `source`: its own, None where it has none.

    `shared`: the layer reaches other processes, so that one of them listens. `layer_away`: this
    process cannot reach it. `status` was gathered with `after` the last batch of the source.
    """
    found = problems_of(status)
    data = [problem.code for problem in found if problem.part is Part.DATA]
    slower = [problem.code for problem in found if problem.part is Part.DOORBELL]
    behind = status.late_s > max(LATE_S, 3 * poll_interval_s)
    doorbell = "none"
    if source is not None and source.kind == BROKER:
        slower += _trouble_of_broker(source, behind=behind)
    elif source is not None:
        doorbell = source.doorbell.value
        if not source.connected:
            data.append("source_disconnected" if source.trouble else "source_connecting")
        elif behind:
            data.append("source_behind")
        if source.doorbell is Doorbell.DEAF:
            slower.append("doorbell_deaf")
    elif not shared:
        doorbell = "unknown"
        data.append("source_connecting")
    else:
        if layer_away:
            slower.append("layer_away")
        if status.setup is not None and status.setup.readable and not status.listeners:
            slower.append("nobody_listens")
    return Readiness(data=not data, doorbell=doorbell, problems=(*data, *slower))


def _trouble_of_broker(source: SourceState, *, behind: bool) -> list[str]:
    """What only delays: subscribers of a source that is silent read the log."""
    if not source.connected:
        return ["broker_away"]
    if not source.heard:
        return ["broker_silent"]
    return ["broker_behind"] if behind else []


async def _probe() -> Readiness:
    try:
        found = await _look()
    except (ImproperlyConfigured, WrongDatabase) as error:
        _outage.failed(error)
        code = "misconfigured"
    except Exception as error:
        _outage.failed(error, traceback=True)
        code = "failed"
    else:
        _outage.over()
        return found
    return Readiness(False, "unknown", (code,))


_outage = Outage(
    "The look for /readyz failed (%s): this process is not ready.",
    "The look for /readyz works again after %.1f s.",
    logging.ERROR,
)
_prober = SharedLook("agent_events readyz", _probe, fresh_s=FRESH_S, limit_s=LIMIT_S)


async def _look() -> Readiness:
    settings = get_settings()
    bus = current_bus()
    async with asyncio.timeout(LIMIT_S):  # a shared layer's server may be away
        await bus.start()
    source = await _connected(bus, settings)
    status = await gather(
        log_dsn(), timeout_s=LIMIT_S, after=source.batch if source is not None else None
    )
    return judge(
        status,
        source,
        shared=layer_is_shared(settings.channel_layer),
        layer_away=bus.layer_away,
        poll_interval_s=settings.poll_interval_s,
    )


async def _connected(bus: Bus, settings: Settings) -> SourceState | None:
    """The source's state, once it is connected, in trouble, or CONNECTING_S has passed.

    One that reads from a broker is connected once it has heard something.
    """
    until = time.monotonic() + CONNECTING_S
    while True:
        state = bus.source_state()
        settled = state is None or state.trouble or (state.connected and _has_begun(state))
        if settled or time.monotonic() > until:
            return state
        await asyncio.sleep(0.02)


def _has_begun(state: SourceState) -> bool:
    return state.kind != BROKER or state.batch is not None


async def _answer(scope: dict[str, Any], send: Send, status: int, body: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    if scope["method"] not in ("GET", "HEAD"):
        status, body = 405, {"error": "Use GET."}
        headers.append((b"allow", b"GET, HEAD"))
    await respond(scope, send, status, json.dumps(body).encode(), headers)
