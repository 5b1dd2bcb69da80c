"""The address that says what each agent is at."""

from typing import Any

from agent_events.agents_now import MINUTES, MOST_AGENTS, MOST_EVENTS, MOST_HUMAN
from agent_events.conf import Settings
from agent_events.contract import reading
from agent_events.contract.pieces import EITHER_WAY, answer, json_of, operation, refusals
from agent_events.contract.schemas import (
    AGENT,
    CURSOR,
    EVENT,
    TENANT,
    Schema,
    one_object,
    ref,
    stream_event,
    text,
    whole,
)


def paths() -> dict[str, Any]:
    """Their part of `paths`."""
    return {"/api/agents/now": {"get": _now()}}


def schemas(settings: Settings) -> dict[str, Schema]:
    """Their part of `components.schemas`."""
    events: Schema = {"type": "array", "items": ref("GlancedEvent")}
    count = whole(minimum=0)
    glance = one_object(
        {
            "agentId": text(format="uuid"),
            "tenantId": text(format="uuid"),
            "minutes": {
                "type": "array",
                "items": {"type": "array", "items": count, "minItems": 3, "maxItems": 3},
                "description": f"Of the last {MINUTES} minutes: the minute (since 1970, by "
                "`createdAt`), events, errors among them.",
            },
            "events": {
                **events,
                "description": "Oldest first: the last of each kind that its state needs, what it "
                "has open, its last error, its last event.",
            },
        }
    )
    return {
        "GlancedEvent": stream_event(settings),
        "Glance": glance,
        "AgentsNow": one_object(
            {
                "time": whole("The server's clock, in ms since 1970."),
                "cursor": ref("Cursor"),
                "lookedAt": whole("So many events were read.", minimum=0, maximum=MOST_EVENTS),
                "since": whole(
                    "The oldest of them came then, in ms since 1970; 0: all there are were read."
                ),
                "agents": {"type": "array", "items": ref("Glance"), "maxItems": MOST_AGENTS},
                "human": {
                    **events,
                    "maxItems": MOST_HUMAN,
                    "description": "The newest `needs_human`, `escalation` and `human.answered`, "
                    "oldest first, however old; but for questions of runs that have ended.",
                },
            }
        ),
    }


def _now() -> dict[str, Any]:
    glance = {
        "agentId": AGENT,
        "tenantId": TENANT,
        "minutes": [[29497680, 3, 0], [29497681, 12, 1]],
        "events": [EVENT],
    }
    return operation(
        "agentsNow",
        reading.TAG,
        "What each agent is at",
        f"A bounded look at the newest {MOST_EVENTS:,} events of the tenants. All who ask for the "
        "same within a second share it.",
        {
            "200": answer(
                "The agents that were heard of, the last one first.",
                json_of(
                    ref("AgentsNow"),
                    example={
                        "time": 1769860860123,
                        "cursor": CURSOR,
                        "lookedAt": 15,
                        "since": 0,
                        "agents": [glance],
                        "human": [],
                    },
                ),
            ),
            **refusals("BadRequest", "NotSignedIn", "Forbidden", "NotFound", "Unavailable"),
        },
        parameters=[
            reading.tenant("agents"),
        ],
        security=EITHER_WAY,
    )
