"""Two doors that make secrets out of an identity: stream tokens, and tickets.

`POST /api/agents/tokens`: a backend asks with its key, and hands the token to a browser, which may
then see one tenant, or some agents and types of it, for some minutes. `POST /api/agents/tickets`:
a browser exchanges what it has for a text that may stand in one URL. docs/access.md shows both.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from agent_events import origins
from agent_events.access import admit
from agent_events.bodies import ClientLeft, body_of
from agent_events.conf import Settings, get_settings
from agent_events.credentials import of_scope
from agent_events.errors import AgentEventsError, LimitReached
from agent_events.filters import Filter
from agent_events.principals import Principal, Right
from agent_events.rates import Rates
from agent_events.requests import AWAY
from agent_events.responses import JSON, Receive, Send, refuse, respond
from agent_events.tokens import make_ticket, make_token, require_maker

BODY_BYTES = 8_192
"""Bytes of a request at most."""
BODY_TIMEOUT_S = 10.0
"""So long may its body take."""
DEFAULT_MINUTES = 10
"""Minutes of life of a token that asks for no other."""
MADE_PER_S = 20.0
"""Tokens and tickets a second that one principal may ask for, in each process."""

_rates = Rates(MADE_PER_S)

Wish = TypeVar("Wish", bound=msgspec.Struct)


class TokenWish(msgspec.Struct, forbid_unknown_fields=True):
    """What a token shall be good for. `tenant` may be left out by whoever has exactly one."""

    tenant: str | None = None
    agents: list[str] = []
    types: list[str] = []
    minutes: int | None = None


class TicketWish(msgspec.Struct, forbid_unknown_fields=True):
    """A ticket is as good as whoever asks: there is nothing to wish for."""


class _Wrong(Exception):
    """The body is not what it should be: 400 where it cannot be read, else 422."""

    def __init__(self, status: int, words: str, field: str | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.field = field


async def tokens(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`POST /api/agents/tokens`: `{"tenant"?, "agents"?, "types"?, "minutes"?}`, all optional.

    201 with `{"token", "expiresAt", "tenant", "agents", "types"}`.
    """
    await _make(scope, receive, send, TokenWish, require_maker, _token)


async def tickets(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`POST /api/agents/tickets`, without a body: 201 with `{"ticket", "expiresInS"}`."""
    await _make(scope, receive, send, TicketWish, _anybody, _ticket)


def _token(principal: Principal, wish: TokenWish) -> dict[str, Any]:
    minutes = _minutes(wish, get_settings())
    tenant = principal.only_tenant() if wish.tenant is None else principal.tenant(wish.tenant)
    filter = principal.filter(Filter.of(wish.agents, wish.types))
    made = make_token(principal, tenant, filter, minutes * 60)
    expires_at = datetime.fromtimestamp(made.expires_at, UTC).isoformat(timespec="milliseconds")
    return {
        "token": made.text,
        "expiresAt": expires_at.replace("+00:00", "Z"),
        "tenant": str(tenant),
        "agents": filter.agents,
        "types": filter.types,
    }


def _ticket(principal: Principal, wish: TicketWish) -> dict[str, Any]:
    made = make_ticket(principal)
    return {"ticket": made.text, "expiresInS": round(made.expires_at - time.time(), 3)}


def _anybody(principal: Principal) -> None:
    """Whoever may subscribe may have a ticket."""


def _minutes(wish: TokenWish, settings: Settings) -> int:
    most = settings.token_minutes
    minutes = min(DEFAULT_MINUTES, most) if wish.minutes is None else wish.minutes
    if not 1 <= minutes <= most:
        raise _Wrong(
            422,
            f"minutes is {minutes}, expected a whole number from 1 to {most} (TOKEN_MINUTES).",
            "minutes",
        )
    return minutes


async def _make(
    scope: dict[str, Any],
    receive: Receive,
    send: Send,
    kind: type[Wish],
    require: Callable[[Principal], None],
    make: Callable[[Principal, Wish], dict[str, Any]],
) -> None:
    no = partial(refuse, scope, send)
    if scope["method"] != "POST":
        await no(405, "Use POST.", headers={"Allow": "POST"})
        return
    try:
        principal = await _admitted(scope)
        require(principal)  # before anything is read: what they may is asked first
        body = await body_of(
            scope["headers"],
            receive,
            most_bytes=BODY_BYTES,
            timeout_s=BODY_TIMEOUT_S,
            limit="the most here.",
        )
        made = make(principal, _read(body, kind))
    except ClientLeft:
        return
    except _Wrong as error:
        await no(error.status, str(error), field=error.field)
    except (AgentEventsError, *AWAY) as error:
        await no(error)
    else:
        await respond(
            scope, send, 201, msgspec.json.encode(made), [(b"content-type", JSON.encode())]
        )


async def _admitted(scope: dict[str, Any]) -> Principal:
    credentials = of_scope(scope)
    principal = await admit(credentials, Right.SUBSCRIBE)
    origins.check(scope, credentials)
    if wait_s := _rates.take(principal.id, 1, time.monotonic()):
        raise LimitReached(
            f"{principal.id} asked for more than {MADE_PER_S:g} tokens or tickets a second.", wait_s
        )
    return principal


def _read(body: bytes, kind: type[Wish]) -> Wish:
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        # "Expected `int`, got `str` - at `$.minutes`", "Object contains unknown field `minute`"
        named = re.search(r"(?:at `\$\.|unknown field `)(\w+)", str(error))
        raise _Wrong(422, f"{error}.", named[1] if named else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong(400, f"The body is not JSON: {error}.") from error
