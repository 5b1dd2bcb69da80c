"""The guard: all live streams of the process, and whether each may go on.

Who opened a stream is asked again every few seconds, all of them in one go, so that the cost is a
few statements however many streams there are; without any there is none. What has a time to end
ends by the clock, not by the look. A stream that may not go on is woken, and its door says why; one
that is stuck (its client reads nothing, its log does not answer) is cut off a moment later.

While the database cannot be asked, streams go on: it would end all of them at once for a moment's
trouble, and most often the log, which is what they would show, is away then too. What has a time
to end still ends.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from agent_events import access
from agent_events.conf import DEFAULT_RESOLVER, get_settings
from agent_events.credentials import Credentials, Via
from agent_events.errors import (
    AgentEventsError,
    LimitReached,
    NotSignedIn,
    RightLacking,
    UnknownTenant,
    in_a_line,
)
from agent_events.filters import Filter
from agent_events.lookups import Lookups
from agent_events.principals import Principal
from agent_events.seats import Seat
from agent_events.tasks import OfLoop
from agent_events.window import Tenants

logger = logging.getLogger("agent_events")

LOOK_SHARE = 0.4
"""Of REVOKE_WITHIN_S: between two looks, and for a look at most. The rest is for saying it."""
TOO_MANY_S = 10.0
"""When to try again who has too many streams."""
MOST_ASKED_AT_ONCE = 20
"""Calls at the same time of a resolver of the application's own."""


class Guard:
    """All seats of an event loop, and the task that looks at them."""

    def __init__(self) -> None:
        self._seats: dict[Credentials, dict[Seat, None]] = {}  # (sets, in the order they came)
        self._streams: Counter[str] = Counter()  # by principal
        self._watch: asyncio.Task[None] | None = None
        self._lookups = Lookups(1, "agent_events guard")
        self._skipped: set[Credentials] = set()  # by the look before, for want of time
        self._said = self._trouble = False  # in the looks before, and in this one

    def seat(
        self, credentials: Credentials, principal: Principal, tenants: Tenants, filter: Filter
    ) -> Seat:
        """A stream of these tenants and this filter begins, as `principal` was allowed.

        Raises LimitReached where there are too many of this principal.
        """
        self._refuse_one_more(principal.id)
        seat = Seat(self, credentials, principal, tenants, filter)
        self._add(seat)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_on(), name="agent_events guard")
        return seat

    def move(self, seat: Seat, credentials: Credentials, principal: Principal) -> None:
        """The seat is of these from now on. Raises LimitReached."""
        if principal.id != seat.holder:
            self._refuse_one_more(principal.id)
        if self._has(seat, seat.credentials):
            self.forget(seat)
            seat.credentials, seat.holder = credentials, principal.id
            self._add(seat)

    def forget(self, seat: Seat) -> None:
        """The seat is free."""
        of_these = self._seats.get(seat.credentials, {})
        if seat not in of_these:
            return
        del of_these[seat]
        if not of_these:
            del self._seats[seat.credentials]
        self._streams[seat.holder] -= 1
        if not self._streams[seat.holder]:
            del self._streams[seat.holder]

    def _add(self, seat: Seat) -> None:
        self._seats.setdefault(seat.credentials, {})[seat] = None
        self._streams[seat.holder] += 1

    def _refuse_one_more(self, holder: str) -> None:
        most = get_settings().streams_per_principal
        if self._streams[holder] >= most:
            raise LimitReached(
                f"{holder} has {most} streams open here, and AGENT_EVENTS"
                f'["STREAMS_PER_PRINCIPAL"] is {most}. Close one, or try again later.',
                TOO_MANY_S,
            )

    async def _look_on(self) -> None:
        """Looks again and again for as long as there is a stream."""
        try:
            while True:
                await asyncio.sleep(get_settings().revoke_within_s * LOOK_SHARE)
                if not self._seats:
                    return
                self._trouble = False
                try:
                    await self._look()
                except Exception as error:
                    self._complain(error)
                self._said = self._trouble
        finally:
            self._watch = None

    async def _look(self) -> None:
        # Those of now: an answer that was on its way when a stream began says nothing about it.
        seats = {credentials: list(these) for credentials, these in self._seats.items()}
        # First who had no turn the last time: else it would always be the same who have none.
        asked = sorted(seats, key=lambda one: one not in self._skipped)
        answers = await self._answers(asked)
        for credentials, answer in list(answers.items()):
            there = [seat for seat in seats[credentials] if self._has(seat, credentials)]
            self._judge(there, answer)
            await asyncio.sleep(0)  # others have their turn, however many these are

    def _has(self, seat: Seat, credentials: Credentials) -> bool:
        return seat in self._seats.get(credentials, ())

    async def _answers(self, asked: Sequence[Credentials]) -> Mapping[Credentials, access.Answer]:
        """Who presents each of these now. Raises whatever says that it cannot be known."""
        settings = get_settings()
        limit_s = settings.revoke_within_s * LOOK_SHARE
        if settings.principal_resolver == DEFAULT_RESOLVER:
            return await self._resolved(asked, limit_s)
        # Tickets are ours whoever resolves the rest: asked in the usual way, they would be spent.
        tickets = [one for one in asked if one.via is Via.TICKET]
        others = [one for one in asked if one.via is not Via.TICKET]
        found: dict[Credentials, access.Answer] = {}
        turns = asyncio.Semaphore(MOST_ASKED_AT_ONCE)
        self._skipped = set(others)

        async def ask_ourselves() -> None:
            try:
                found.update(await self._resolved(tickets, limit_s))
            except Exception as error:
                self._complain(error)

        async def ask(one: Credentials) -> None:
            async with turns:
                self._skipped.discard(one)
                try:
                    found[one] = await access.look(one)
                except AgentEventsError as error:
                    found[one] = error
                except Exception as error:
                    self._complain(error)

        questions = [ask(one) for one in others] + ([ask_ourselves()] if tickets else [])
        _, late = await asyncio.wait(map(asyncio.ensure_future, questions), timeout=limit_s)
        for task in late:
            task.cancel()
        if late:
            self._complain(TimeoutError(f"{len(late)} answers took more than {limit_s:g} s"))
        return found

    async def _resolved(
        self, asked: Sequence[Credentials], limit_s: float
    ) -> Mapping[Credentials, access.Answer]:
        # In a thread of the guard's own: behind those who come it would have to wait for its turn.
        return await self._lookups.run(partial(access.resolve_all, asked, again=True), limit_s)

    def _judge(self, seats: Sequence[Seat], answer: access.Answer) -> None:
        for seat in seats:
            try:
                if not isinstance(answer, Principal):
                    raise answer.with_traceback(None)  # of several seats
                if answer.id != seat.holder:
                    raise NotSignedIn  # somebody else by now
                seat.require(answer)
                seat.seen(answer)
            except NotSignedIn:
                seat.gone()
            except UnknownTenant:
                seat.stop("not_yours")
            except RightLacking as error:
                seat.stop("right_lacking", str(error))
            except Exception as error:  # one odd answer must not save all others
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Says once that nobody can be asked, until it goes well again."""
        self._trouble = True
        if not self._said:
            self._said = True
            logger.warning(
                "Who is streaming cannot be looked up (%s): what is revoked meanwhile goes on "
                "until it can.",
                in_a_line(error),
            )


_guards: OfLoop[Guard] = OfLoop()


def current_guard() -> Guard:
    """The guard of the running event loop."""
    return _guards.get(Guard)
