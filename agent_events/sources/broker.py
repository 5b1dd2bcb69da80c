"""A broker as a source: what workers publish there, as windows. No connection listens.

Promises: it goes on after the last parcel it had, whatever happens to the broker; a failure is said
once, and its end; its memory is bounded. Leaves to others: noticing what was lost on the way (the
one rule), and reading the log while nothing comes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import psycopg
from psycopg_pool import PoolTimeout

from agent_events import metrics
from agent_events.backoff import Backoff
from agent_events.brokers import Inlet
from agent_events.brokers.assembly import Assembly
from agent_events.brokers.parcels import Parcel, shard_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from agent_events.outage import Outage
from agent_events.sources import BROKER, SourceState
from agent_events.tasks import end
from agent_events.window import Window

logger = logging.getLogger("agent_events")

LOOK_S = 0.1
"""So long at most until a tenant that somebody begins to watch is asked for."""
MANY_TENANTS = 200
"""A process in which more than these are watched is sent every tenant's slices."""
MOST_WAIT_S = 2.0
"""The longest wait before the next try to connect."""
REVIEW_S = 60.0
"""Tenants that nobody watches any more are sent for so long: viewers come back."""
IDENTITY_S = 10.0
"""How often the log is asked which one it is: it may have moved to another server."""


async def _nobody_knows() -> str:
    return ""


class BrokerSource:
    """Yields windows as a broker brings them.

    `watched` returns the tenants whose events are wanted, or None for all; `identity` which log
    they are of, as `Log.identity`.
    """

    def __init__(
        self,
        inlet: Inlet,
        settings: Settings,
        watched: Callable[[], frozenset[str] | None],
        identity: Callable[[], Awaitable[str]] = _nobody_knows,
    ) -> None:
        self._inlet = inlet
        self._settings = settings
        self._watched = watched
        self._identity = identity
        self._assembly = Assembly()
        self._connected = False
        self._heard_at = float("-inf")
        self._batch: int | None = None
        self._trouble = ""
        self._outage = Outage(
            "The broker failed (%s); trying until it is back. Meanwhile events are read from the "
            f"log, each {settings.tick_timeout_s:g} s.",
            "The broker is back after %.1f s.",
        )
        self._said_bad = False
        self._said_other = False

    @property
    def state(self) -> SourceState:
        """How it does now."""
        return SourceState(
            kind=BROKER,
            connected=self._connected,
            heard=time.monotonic() - self._heard_at < self._settings.tick_timeout_s,
            batch=self._batch,
            trouble=self._trouble,
        )

    async def windows(self) -> AsyncGenerator[Window, None]:
        """Yields windows until cancelled; connects again with backoff, and goes on where it was."""
        learning = asyncio.create_task(self._learn_identity(), name="agent_events identity")
        try:
            async with aclosing(self._windows()) as windows:
                async for window in windows:
                    yield window
        finally:
            await end([learning])

    async def _windows(self) -> AsyncGenerator[Window, None]:
        backoff = Backoff(most_s=MOST_WAIT_S)
        while True:
            try:
                await self._inlet.open()
                async with aclosing(self._follow()) as windows:
                    async for window in windows:
                        backoff.reset()
                        yield window
            except BrokerAway as error:
                self._trouble = str(error)
                metrics.BROKER_FAILURES.inc()
                self._outage.failed(error)
                await asyncio.sleep(backoff.next_s())
            finally:
                self._connected = False
                await self._inlet.close()

    async def _follow(self) -> AsyncGenerator[Window, None]:
        watching: tuple[frozenset[int], frozenset[str] | None] | None = None
        reviewed_at = silent_since = opened_at = time.monotonic()
        if opened_at - self._heard_at > self._settings.tick_timeout_s:
            await self._forget()
        while True:
            now = time.monotonic()
            tenants = self._wanted()
            if now - reviewed_at < REVIEW_S and watching is not None:
                tenants = _with(tenants, watching[1])
            else:
                reviewed_at = now
            asked = self._shards(tenants), tenants
            if asked != watching:
                await self._inlet.watch(*asked)
                self._assembly.watch(*asked)
                watching = asked
            parcels = await self._inlet.next(LOOK_S)
            # (One that is connected and gets nothing may be about to fail again.)
            if parcels or time.monotonic() - opened_at > 2 * self._settings.broker_timeout_s:
                self._connected, self._trouble = True, ""
                self._outage.over()
            for parcel in parcels:
                window = self._take(parcel)
                if window is not None:
                    self._heard_at = silent_since = time.monotonic()
                    self._batch = window.last
                    yield window
            if time.monotonic() - silent_since > self._settings.tick_timeout_s:
                silent_since = time.monotonic()
                await self._forget()

    async def _learn_identity(self) -> None:
        """Beside the windows: what comes while nobody knows is taken as it is."""
        while True:
            with suppress(psycopg.Error, PoolTimeout, OSError):
                self._assembly.log = await self._identity()
            await asyncio.sleep(IDENTITY_S)

    async def _forget(self) -> None:
        """Nothing came for so long that everybody has read the log: what is older is of no use."""
        self._assembly.forget()
        await self._inlet.forget()

    def _wanted(self) -> frozenset[str] | None:
        tenants = self._watched()
        return None if tenants is not None and len(tenants) > MANY_TENANTS else tenants

    def _shards(self, tenants: frozenset[str] | None) -> frozenset[int]:
        """Whose marks are needed; one at least, to hear how far the log has come."""
        shards = self._settings.broker_shards
        if tenants is None:
            return frozenset(range(shards))
        return frozenset({shard_of(tenant, shards) for tenant in tenants} or {0})

    def _take(self, parcel: Parcel) -> Window | None:
        try:
            window = self._assembly.take(parcel)
        except (TypeError, ValueError) as error:
            if not self._said_bad:
                self._said_bad = True
                logger.error("A message of the broker is not ours (%s); ignored.", error)
            return None
        if self._assembly.met_other and not self._said_other:
            self._said_other = True
            logger.error(
                "The broker has what was published of another log, a copy of this one say, which "
                'is ignored. Give each log an AGENT_EVENTS["BROKER_NAME"] of its own.'
            )
        if window is not None:
            metrics.BROKER_WINDOWS.inc()
            if window.covers == frozenset() and window.first <= window.last:
                metrics.BROKER_LOST.inc()
        return window


def _with(tenants: frozenset[str] | None, before: frozenset[str] | None) -> frozenset[str] | None:
    """These, and those watched before as long as they are few."""
    if tenants is None or before is None:
        return None
    both = tenants | before
    return both if len(both) <= MANY_TENANTS else tenants
