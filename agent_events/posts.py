"""The door for whoever publishes over HTTP: `POST /api/agents/events`.

An ASGI application, as the streams are: a request holds no thread and no database connection
while it waits for its commit, so that many can share one.
"""

import asyncio
import json
import time
from functools import partial
from typing import Any

from agent_events import origins
from agent_events.accepting import accept, event_headers, request_key, rows_of
from agent_events.access import admit
from agent_events.bodies import ClientLeft, body_of
from agent_events.conf import get_settings
from agent_events.credentials import of_scope
from agent_events.errors import AgentEventsError, LimitReached
from agent_events.intake import current_intake
from agent_events.principals import Right
from agent_events.rates import Rates
from agent_events.requests import AWAY
from agent_events.responses import Receive, Send, refuse, respond
from agent_events.tasks import OfLoop
from agent_events.writing import Written

LARGE_BYTES = 65_536
"""A longer body is read in a thread."""
BODY_TIMEOUT_S = 30.0
"""So long the body of a request may take to come."""

_rates: OfLoop[Rates] = OfLoop()


async def publish(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """One event or a list of them, in our own form or as CloudEvents; docs/publishing.md.

    Answers 201 with `{"ids": [...], "duplicates": [places]}` once they are committed, 200 where
    all of them were known by their keys.
    """
    if scope["method"] != "POST":
        await refuse(scope, send, 405, "Use POST.", headers={"Allow": "POST"})
        return
    try:
        written = await _published(scope, receive)
    except ClientLeft:
        return
    except (AgentEventsError, *AWAY) as error:
        await refuse(scope, send, error)
        return
    known = [place for place, one in enumerate(written) if one.known]
    body = json.dumps({"ids": [one.id for one in written], "duplicates": known}).encode()
    status = 200 if len(known) == len(written) else 201
    await respond(scope, send, status, body, [(b"content-type", b"application/json")])


async def _published(scope: dict[str, Any], receive: Receive) -> list[Written]:
    settings = get_settings()
    credentials = of_scope(scope)
    principal = await admit(credentials, Right.PUBLISH)
    origins.check(scope, credentials)
    headers = event_headers(scope["headers"])
    key = request_key(scope["headers"])
    _count(principal.id, 0, settings.post_rate)  # whoever must wait sends nothing in vain
    body = await body_of(
        scope["headers"],
        receive,
        most_bytes=settings.post_bytes,
        timeout_s=BODY_TIMEOUT_S,
        limit="which is what POST_BYTES lets through. Send the events in several requests.",
    )
    read = partial(
        accept,
        headers,
        body,
        most_events=settings.post_events,
        most_payload_bytes=settings.post_payload_bytes,
    )
    # A large one is looked at for some tenths of a second: the streams of this process go on.
    posted = await asyncio.to_thread(read) if len(body) > LARGE_BYTES else read()
    rows = rows_of(posted, principal, key)
    _count(principal.id, len(rows), settings.post_rate)
    return await current_intake().write(rows)


def _count(who: str, events: int, per_s: float) -> None:
    wait_s = _rates.get(lambda: Rates(per_s)).take(who, events, time.monotonic())
    if wait_s:
        raise LimitReached(
            f"{who} publishes more than {per_s:g} events a second, which is what POST_RATE lets "
            "through. Nothing was stored: send it again later.",
            retry_after_s=wait_s,
        )
