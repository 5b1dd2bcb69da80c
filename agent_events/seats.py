"""A live stream's place with the guard: whose it is, what it shows, when it ends."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from agent_events.conf import get_settings
from agent_events.credentials import Credentials, Via
from agent_events.errors import RightLacking, UnknownTenant
from agent_events.filters import Filter
from agent_events.principals import Principal, Right
from agent_events.subscriber import Kind, Subscriber
from agent_events.window import Tenants

GRACE_S = 0.5
"""How long a stream may take to end by itself before it is cut off."""
GOODBYE_S = 0.5
"""How long one that was cut off may take to say why."""

_WORDS = {
    "expired": "What this stream was opened with has expired. Come back with another token or key.",
    "revoked": "What this stream was opened with, or whoever made it, is not valid any more.",
    "signed_out": "You are signed out. Sign in again.",
    "not_yours": "A tenant of this stream is not yours any more.",
}


class Keeper(Protocol):
    """Who has the seats: the guard."""

    def move(self, seat: "Seat", credentials: Credentials, principal: Principal) -> None:
        """The seat is of these from now on. Raises LimitReached."""
        ...

    def forget(self, seat: "Seat") -> None:
        """The seat is free."""
        ...


class Stop(NamedTuple):
    """Why a stream ends; `reason` is a word for scripts, `message` is for people."""

    reason: str
    message: str


class Seat:
    """A live stream's place. Made by `Guard.seat`; `leave` it at the end.

    Attributes:
        stopped: why the stream may not go on. Its door looks after each update, and shows nothing
            more.
        expires_at: when it ends, in Unix seconds; None: when it is taken away.
    """

    # As many of them as there are streams, for most of which nothing ever happens.
    __slots__ = (
        "_guard",
        "_only",
        "_subscriber",
        "_task",
        "_timer",
        "credentials",
        "expires_at",
        "filter",
        "holder",
        "stopped",
        "tenants",
    )

    def __init__(
        self,
        guard: Keeper,
        credentials: Credentials,
        principal: Principal,
        tenants: Tenants,
        filter: Filter,
    ) -> None:
        self._guard = guard
        self.credentials = credentials
        self.holder = principal.id
        self.tenants = tenants
        self.filter = filter
        self.expires_at = principal.expires_at
        self.stopped: Stop | None = None
        self._only = principal.only
        self._subscriber: Subscriber | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, subscriber: Subscriber, task: "asyncio.Task[Any]") -> None:
        """From now on: what to wake and, where that does not help, what to cancel."""
        self._subscriber, self._task = subscriber, task
        if self.stopped is not None:
            self._interrupt()
        else:
            self._wind()

    def refilter(self, asked: Filter) -> Filter:
        """`asked` within what may be seen, which the stream shows from now on.

        Raises RightLacking.
        """
        self.filter = asked.within(self._only)
        return self.filter

    def renew(self, credentials: Credentials, principal: Principal) -> None:
        """Goes on by these credentials, with the same tenants and filter; its client is told.

        Raises RightLacking and UnknownTenant where they do not cover these, LimitReached where
        they are of somebody else who has too many streams.
        """
        self.require(principal)
        if self.stopped is not None:
            return  # while these were looked up
        self._guard.move(self, credentials, principal)
        self.seen(principal)
        if self._subscriber is not None:
            self._subscriber.tell(Kind.RENEWED)

    def seen(self, principal: Principal) -> None:
        """A look found this principal, who may go on."""
        if self.stopped is not None:
            return  # the timer is that of its end
        self._only = principal.only
        if principal.expires_at != self.expires_at:
            self.expires_at = principal.expires_at
            self._wind()

    def stop(self, reason: str, message: str = "") -> None:
        """It may not go on."""
        if self.stopped is None:
            self.stopped = Stop(reason, message or _WORDS[reason])
            self._interrupt()

    def said_with(self, kind: Kind) -> dict[str, Any]:
        """What its client is told beside an update of this kind."""
        if kind not in (Kind.EXPIRING, Kind.RENEWED):
            return {}
        if self.expires_at is None:
            return {"expiresAt": None}
        at = datetime.fromtimestamp(self.expires_at, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {"expiresAt": at.replace("+00:00", "Z")}
        if kind is Kind.EXPIRING:
            said["inS"] = max(0, round(self.expires_at - time.time()))
        return said

    def require(self, principal: Principal) -> None:
        """Raises RightLacking or UnknownTenant where a stream like this is not theirs."""
        principal.require(Right.SUBSCRIBE)
        if self.tenants is None:
            if not principal.everything:
                raise UnknownTenant(_WORDS["not_yours"])
        elif not all(principal.may_see(UUID(tenant)) for tenant in self.tenants):
            raise UnknownTenant(_WORDS["not_yours"])
        # (What it shows is within `_only` anyway; to compare the patterns takes far longer.)
        if principal.only != self._only and not principal.only.covers(self.filter):
            raise RightLacking("Not all that this stream shows is yours to see.")

    def gone(self) -> None:
        """Nobody presents its credentials any more."""
        if self.expires_at is not None and self.expires_at <= time.time():
            self.stop("expired")
        else:
            self.stop("signed_out" if self.credentials.via is Via.SESSION else "revoked")

    def leave(self) -> None:
        """The stream has ended."""
        self._unwind()
        self._subscriber = self._task = None  # a renewal that is on its way winds no timer
        self._guard.forget(self)

    def _interrupt(self) -> None:
        self._unwind()
        if self._subscriber is not None and self._task is not None:
            self._subscriber.tell(Kind.STOPPED)
            self._timer = self._task.get_loop().call_later(GRACE_S, self._task.cancel)

    def _wind(self) -> None:
        """Sets the timer for what comes next by the clock."""
        self._unwind()
        if self.expires_at is not None and self._subscriber is not None:
            soon_s = self.expires_at - time.time() - get_settings().expiring_s
            self._timer = asyncio.get_running_loop().call_later(max(soon_s, 0), self._expiring)

    def _expiring(self) -> None:
        if self._subscriber is not None:
            self._subscriber.tell(Kind.EXPIRING)
        self._expire()

    def _expire(self) -> None:
        assert self.expires_at is not None
        left_s = self.expires_at - time.time()
        if left_s > 0:  # the timer's clock is another
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expire)
        else:
            self.stop("expired")

    def _unwind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
