"""The addresses that give out tokens and tickets."""

from typing import Any

from agent_events.conf import Settings
from agent_events.contract.pieces import EITHER_WAY, answer, json_of, operation, refusals
from agent_events.contract.schemas import (
    AGENT,
    TENANT,
    Schema,
    either,
    one_object,
    patterns,
    ref,
    text,
    whole,
)
from agent_events.grants import DEFAULT_MINUTES

TAG = "Credentials"


def paths(settings: Settings) -> dict[str, Any]:
    """Their part of `paths`."""
    return {
        "/api/agents/tokens": {"post": _tokens(settings)},
        "/api/agents/tickets": {"post": _tickets(settings)},
    }


def schemas(settings: Settings) -> dict[str, Schema]:
    """Their part of `components.schemas`."""

    most = settings.token_minutes
    minutes = whole("Minutes of life.", minimum=1, maximum=most, default=min(DEFAULT_MINUTES, most))
    tenant = text("Left out: the only one that is yours.", format="uuid")
    return {
        "TokenRequest": one_object(
            {
                "tenant": either(tenant),
                "agents": patterns("An agent, or a prefix of its id that ends in `*`."),
                "types": patterns("A type, or a prefix that ends in `*`."),
                "minutes": either(minutes),
            },
            required=[],
        ),
        "Token": one_object(
            {
                "token": text("Send it as `Authorization: Bearer`.", pattern="^aet\\."),
                "expiresAt": text(format="date-time"),
                "tenant": text(format="uuid"),
                "agents": {"type": "array", "items": text()},
                "types": {"type": "array", "items": text()},
            }
        ),
        "Ticket": one_object(
            {
                "ticket": text("Send it as `?ticket=` to the stream, once.", pattern="^aek\\."),
                "expiresInS": {"type": "number", "exclusiveMinimum": 0},
            }
        ),
    }


def _tokens(settings: Settings) -> dict[str, Any]:
    asked = {"tenant": TENANT, "agents": [AGENT], "minutes": 10}
    given = {
        "token": "aet.eyJ0Ijoi.MTc2.c2ln",
        "expiresAt": "2026-01-31T12:10:00Z",
        "tenant": TENANT,
        "agents": [AGENT],
        "types": [],
    }
    return operation(
        "createToken",
        TAG,
        "A stream token, for somebody else's browser",
        "It may see events of one tenant, or of some of its agents and types only, for up to "
        f"{settings.token_minutes} minutes, and as long as whoever made it may. A token cannot "
        "make another.",
        {
            "201": answer("The token.", json_of(ref("Token"), example=given)),
            **refusals(
                "BadRequest",
                "NotSignedIn",
                "Forbidden",
                "NotFound",
                "TooSlow",
                "TooLarge",
                "Unprocessable",
                "TooMany",
                "Unavailable",
            ),
        },
        requestBody={
            "required": False,
            "content": {"application/json": {"schema": ref("TokenRequest"), "example": asked}},
        },
        security=EITHER_WAY,
    )


def _tickets(settings: Settings) -> dict[str, Any]:
    return operation(
        "createTicket",
        TAG,
        "A ticket, for one stream's URL",
        "For a client that can send neither headers nor cookies, such as a bare `EventSource` on "
        f"another origin. It works once, within {settings.ticket_s:g} s.",
        {
            "201": answer(
                "The ticket.",
                json_of(
                    ref("Ticket"),
                    example={"ticket": "aek.eyJ0Ijoi.MTc2.c2ln", "expiresInS": settings.ticket_s},
                ),
            ),
            **refusals(
                "BadRequest",
                "NotSignedIn",
                "Forbidden",
                "TooSlow",
                "TooLarge",
                "Unprocessable",
                "TooMany",
                "Unavailable",
            ),
        },
        security=EITHER_WAY,
    )
