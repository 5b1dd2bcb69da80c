"""A look at the bus for the admin's page, shared by all who have it open in this process."""

import threading
import time
from functools import partial

from asgiref.sync import async_to_sync

from agent_events.broker_status import leases_wanted, look
from agent_events.conf import get_settings
from agent_events.database import listener_dsn, log_dsn
from agent_events.errors import WrongDatabase
from agent_events.facts import Status
from agent_events.watching import Observation, observe

WATCH_S = 0.8
"""So long a look listens, for the processes' answers too, and watches the commit lock."""
FRESH_S = 1.0
"""A look serves for so long, however many have the page open."""
KEPT_S = 15.0
"""Rates are since the look before, if that is not older."""


class _Shared:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._look: Observation | None = None
        self._looked_at = 0.0

    def latest(self) -> Observation:
        with self._lock:
            age_s = time.monotonic() - self._looked_at
            if self._look is None or age_s > FRESH_S:
                before = self._look.status if self._look and age_s < KEPT_S else None
                self._look = async_to_sync(_look)(before)
                self._looked_at = time.monotonic()
            return self._look

    def forget(self) -> None:
        with self._lock:
            self._look = None


_shared = _Shared()


def latest_look() -> Observation:
    """The last look of this process while it is fresh, or a new one. Never raises psycopg.Error."""
    return _shared.latest()


def forget() -> None:
    """The next look is the first one: the database may be another (in a test)."""
    _shared.forget()


async def _look(before: Status | None) -> Observation:
    settings = get_settings()
    try:
        return await observe(
            log_dsn(),
            listener_dsn(),
            WATCH_S,
            before=before,
            leases=leases_wanted(settings),
            look=partial(look, settings),
        )
    except WrongDatabase as error:
        return Observation(Status(unreachable=str(error)))
