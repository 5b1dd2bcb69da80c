"""Who asks, and what they may do. Every door asks here; the default is no.

`resolve` is the default of `AGENT_EVENTS["PRINCIPAL_RESOLVER"]`: it knows Django's sessions, API
keys, stream tokens and tickets. A resolver of the application's own takes its place wholly, and may
call it for whatever is not its own. docs/access.md shows both.
"""

import asyncio
import inspect
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import Any

from asgiref.sync import async_to_sync
from django.db import OperationalError
from django.http import HttpRequest
from django.utils.module_loading import import_string

from agent_events import keys, members, sessions, tokens
from agent_events.conf import DEFAULT_RESOLVER, get_settings
from agent_events.credentials import Credentials, Via, of_request
from agent_events.errors import AgentEventsError, NotSignedIn
from agent_events.lookups import Lookups
from agent_events.principals import Principal, Right

Answer = Principal | AgentEventsError
"""Who it is, or why nobody."""

FRESH_S = 2.0
"""A key or token that was looked up serves for so long without another look."""
MOST_FRESH = 10_000
MOST_LOOKUPS = 3
"""Threads of a process that look up who asks, and database connections that they have at most."""

_lookups = Lookups(MOST_LOOKUPS, "agent_events access")
_HOW = (
    "Sign in first, or send a key or a token: Authorization: Bearer <key>. "
    "What was sent may have expired, or have been revoked."
)


def resolve(credentials: Credentials) -> Principal:
    """Who presents this. Raises NotSignedIn. Blocks: it asks the database."""
    return _principal(resolve_all([credentials])[credentials])


def resolve_all(asked: Sequence[Credentials], *, again: bool = False) -> dict[Credentials, Answer]:
    """Who presents each of these, or why nobody: a few statements, however many they are.

    `again`: they were let in before, and are looked at again: a ticket is not spent twice.
    """
    answers: dict[Credentials, Answer] = {}
    by_text = [one for one in asked if one.via not in (Via.SESSION, Via.TICKET, Via.NOTHING)]
    known = keys.principals([one.secret for one in by_text if keys.is_key(one.secret)])
    known |= tokens.principals([one.secret for one in by_text if tokens.is_token(one.secret)])
    answers |= {one: known.get(one.secret, NotSignedIn(_HOW)) for one in by_text}
    tickets = [one.secret for one in asked if one.via is Via.TICKET]
    spent = tokens.ticket_principals(tickets, spend=not again)
    answers |= {one: spent[one.secret] for one in asked if one.via is Via.TICKET}
    signed_in = _signed_in(asked)
    theirs = members.principals_of(signed_in.values())
    for one in asked:
        if one.via in (Via.SESSION, Via.NOTHING):
            user = signed_in.get(one)
            answers[one] = theirs.get(user.pk if user else None, NotSignedIn(_HOW))
    return answers


def _signed_in(asked: Sequence[Credentials]) -> dict[Credentials, Any]:
    """The user behind each of these that came with a session, or whom Django's middleware found."""
    live = sessions.users_of(one.secret for one in asked if one.via is Via.SESSION and not one.user)
    found = {one: one.user or live.get(one.secret) for one in asked}
    return {one: user for one, user in found.items() if user and user.is_authenticated}


async def admit(credentials: Credentials, right: Right) -> Principal:
    """The principal behind these, who has this right. The question that every ASGI door asks.

    Raises NotSignedIn, and RightLacking, which names the right. A key or token that was let in
    serves for FRESH_S without another look.
    """
    principal = _fresh.get(credentials)
    if principal is None:
        principal = await look(credentials)
        _fresh.put(credentials, principal)
    principal.require(right)
    return principal


async def look(credentials: Credentials) -> Principal:
    """Who it is now, past what is remembered.

    Raises NotSignedIn; django.db.OperationalError where that takes longer than QUERY_TIMEOUT_S.
    """
    settings = get_settings()
    if settings.principal_resolver == DEFAULT_RESOLVER and _is_hopeless(credentials):
        raise NotSignedIn(_HOW)
    resolver = import_string(settings.principal_resolver)
    limit_s = settings.query_timeout_s
    if not inspect.iscoroutinefunction(resolver):
        return _principal(await _lookups.run(partial(resolver, credentials), limit_s))
    try:
        async with asyncio.timeout(limit_s):
            return _principal(await resolver(credentials))
    except TimeoutError as error:
        raise OperationalError(f"who asks was not found out within {limit_s:g} s") from error


def _is_hopeless(credentials: Credentials) -> bool:
    """Need nobody be asked to tell that this is nobody?"""
    if credentials.via in (Via.SESSION, Via.TICKET):
        return False
    text = credentials.secret
    return not (credentials.user or keys.is_key(text) or tokens.is_token(text))


def admit_request(request: HttpRequest, right: Right) -> Principal:
    """`admit` for a Django view, which is synchronous."""
    credentials = of_request(request)
    resolver = import_string(get_settings().principal_resolver)
    if inspect.iscoroutinefunction(resolver):
        resolver = async_to_sync(resolver)
    principal = _principal(resolver(credentials))
    principal.require(right)
    return principal


def _principal(answer: Answer | None) -> Principal:
    if answer is None:
        raise NotSignedIn(_HOW)
    if isinstance(answer, Exception):
        raise answer
    if answer.expires_at is not None and answer.expires_at <= time.time():
        raise NotSignedIn(_HOW)
    return answer


class _Fresh:
    """Who was let in a moment ago. Sessions are not remembered: who signed out is out at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._until: OrderedDict[Credentials, tuple[Principal, float]] = OrderedDict()

    def get(self, credentials: Credentials) -> Principal | None:
        with self._lock:
            principal, until = self._until.get(credentials, (None, 0.0))
        if principal is None or time.monotonic() >= until:
            return None
        if principal.expires_at is not None and principal.expires_at <= time.time():
            return None
        return principal

    def put(self, credentials: Credentials, principal: Principal) -> None:
        if credentials.via in (Via.SESSION, Via.TICKET, Via.NOTHING):
            return
        with self._lock:
            self._until[credentials] = principal, time.monotonic() + FRESH_S
            self._until.move_to_end(credentials)
            while len(self._until) > MOST_FRESH:
                self._until.popitem(last=False)


_fresh = _Fresh()
