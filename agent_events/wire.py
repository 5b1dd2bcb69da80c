"""An event as the world sees it: JSON, a WebSocket frame, a Server-Sent Events block. Pure.

The payload is PostgreSQL's own JSON text from end to end, never through a Python float: live,
history, page and SQL agree byte for byte.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agent_events.position import Cursor, Position


@dataclass(frozen=True)
class Event:
    """One event of the log at its place in the order.

    `closed_at_ms` is that of its batch (ms since 1970); `created_at` is RFC 3339 in UTC with
    microseconds, or '' where the producer stored an infinite time.
    """

    batch: int
    closed_at_ms: int
    id: int
    tenant_id: str
    agent_id: str
    type: str
    payload_text: str
    created_at: str

    @cached_property
    def json(self) -> str:
        """The event on the wire, everywhere."""
        return (
            f'{{"id":{self.id},"tenantId":"{self.tenant_id}","agentId":"{self.agent_id}",'
            f'"type":{json.dumps(self.type, ensure_ascii=False)},"payload":{self.payload_text},'
            f'"createdAt":{json.dumps(self.created_at or None)}}}'
        )

    @property
    def payload(self) -> Any:
        """The payload as Python values."""
        return json.loads(self.payload_text)

    @property
    def position(self) -> Position:
        """The position right after this event."""
        return Position(self.batch, self.id)

    @property
    def cursor(self) -> str:
        """The cursor right after this event."""
        return str(Cursor(self.position, self.closed_at_ms))


def frame(kind: str, **fields: Any) -> str:
    """A WebSocket frame other than `events`."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def events_frame(events: Iterable[Event], cursor: str) -> str:
    """A WebSocket frame of events in log order; `cursor` resumes after all of them."""
    return f'{{"type":"events","events":[{",".join(e.json for e in events)}],"cursor":"{cursor}"}}'


def sse_event(event: Event) -> str:
    """An event as an unnamed message: `es.onmessage = m => JSON.parse(m.data)` is a whole client.

    It bears its own cursor: a connection cut in the middle of a batch must not repeat events.
    (PostgreSQL's JSON text has no raw line break, so one `data:` line holds it; WHATWG HTML,
    section 9.2.6.)
    """
    return f"id: {event.cursor}\ndata: {event.json}\n\n"


def sse_named(kind: str, cursor: str | None = None, **fields: Any) -> str:
    """All that is no event is a named one, which `onmessage` does not see."""
    head = f"id: {cursor}\n" if cursor else ""
    if cursor:
        fields = {"cursor": cursor, **fields}
    return f"{head}event: {kind}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n"
