"""An event as the world sees it: JSON, a WebSocket frame, a Server-Sent Events block. Pure.

PostgreSQL writes its text (`ENTRY_SQL` of log.py), payload and all, and nothing here takes it apart
unless somebody asks: live, history, page and SQL agree byte for byte.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from agent_events.position import Position

FRAME_CHARS = 65_536
"""A frame of several events holds about so much: a client that renders in between stays
responsive. What Server-Sent Events are sent at once, likewise."""
PART_CHARS = 131_072
"""Escaped as JSON, a part stays below 1 MiB whatever its characters are (6 bytes each at most)."""

# Where the values stand in an event's JSON: from the end of its id on, and up to the last name.
_TENANT = len(',"tenantId":"')
_AGENT = _TENANT + 36 + len('","agentId":"')
_TYPE = _AGENT + 36 + len('","type":')
_PAYLOAD = len(',"payload":')
_CREATED = ',"createdAt":'
_DECODER = json.JSONDecoder()


class Event(NamedTuple):
    """One event of the log at its place in the order.

    `closed_at_ms` is that of its batch (ms since 1970); `json` is the event on the wire,
    everywhere. All else is cut out of it when it is asked for.
    """

    batch: int
    closed_at_ms: int
    id: int
    json: str

    @property
    def tenant_id(self) -> str:
        """The tenant's id."""
        start = self.json.index(",") + _TENANT
        return self.json[start : start + 36]

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        start = self.json.index(",") + _AGENT
        return self.json[start : start + 36]

    @property
    def type(self) -> str:
        """The event's type."""
        return self._type_and_end()[0]

    @property
    def payload_text(self) -> str:
        """The payload as PostgreSQL's JSON text."""
        _, end = self._type_and_end()
        return self.json[end + _PAYLOAD : self.json.rindex(_CREATED)]

    @property
    def created_at(self) -> str:
        """RFC 3339 in UTC with microseconds; '' where the producer stored an infinite time."""
        text = self.json[self.json.rindex(_CREATED) + len(_CREATED) : -1]
        return "" if text == "null" else text[1:-1]

    def _type_and_end(self) -> tuple[str, int]:
        found: tuple[str, int] = _DECODER.raw_decode(self.json, self.json.index(",") + _TYPE)
        return found

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
        # As `str(Cursor(...))` spells it, without making one: a replay asks for each event's.
        return f"{self.batch:012x}-{self.id:016x}-{self.closed_at_ms:x}"


class Inline(NamedTuple):
    """What of an event travels on streams: payloads of at most `payload_bytes` (as JSON text).

    Of a larger one the address of the event goes in its place: `address` and the event's id.
    """

    payload_bytes: int
    address: str

    def of(self, events: Sequence[Event], size: int) -> Sequence[Event]:
        """These events as they travel; `size` is their JSON's, in characters."""
        # A character is four bytes at most: events that are small together need no look at each.
        if size * 4 <= self.payload_bytes:
            return events
        return [self.without(event) if self._is_large(event) else event for event in events]

    def _is_large(self, event: Event) -> bool:
        size = len(event.json)
        return size * 4 > self.payload_bytes and (
            len(event.payload_text.encode()) > self.payload_bytes
        )

    def without(self, event: Event) -> Event:
        """The event with its address in place of its payload."""
        _, end = event._type_and_end()
        payload = f'{event.json[end : end + _PAYLOAD]}null,"payloadHref":"{self.address}{event.id}"'
        rest = event.json[event.json.rindex(_CREATED) :]
        return event._replace(json=f"{event.json[:end]}{payload}{rest}")


def frame(kind: str, **fields: Any) -> str:
    """A WebSocket frame other than `events`."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def events_frames(events: Sequence[Event], cursor: str) -> Iterator[tuple[str, str]]:
    """WebSocket frames of events in log order: pairs of a frame's text and its cursor.

    Each holds about FRAME_CHARS of events, or one; its cursor resumes after all of it, the last
    one's is `cursor`.
    """
    runs = list(_runs(events))
    for place, run in enumerate(runs):
        upto = cursor if place == len(runs) - 1 else run[-1].cursor
        bodies = ",".join([event.json for event in run])
        yield f'{{"type":"events","events":[{bodies}],"cursor":"{upto}"}}', upto


def sse_blocks(events: Sequence[Event]) -> Iterator[tuple[bytes, Sequence[Event]]]:
    """Events in log order as an event stream, in pieces of about FRAME_CHARS of them, or one.

    With each piece its events: a response may have to end within it.
    """
    for run in _runs(events):
        yield "".join(map(sse_event, run)).encode(), run


def sse_up_to(events: Sequence[Event], size: int) -> bytes:
    """The first of these events as an event stream: `size` bytes, passed by one event at most."""
    body = b""
    for event in events:
        body += sse_event(event).encode()
        if len(body) >= size:
            break
    return body


def _runs(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """The events cut into runs of about FRAME_CHARS."""
    start = size = 0
    for place, event in enumerate(events):
        size += len(event.json)
        if size > FRAME_CHARS and place > start:
            yield events[start:place]
            start, size = place, len(event.json)
    if start < len(events):
        yield events[start:]


def messages(text: str) -> Iterator[str]:
    """A frame as the messages that carry it: itself, or `part` frames where it is long.

    Servers refuse to send messages beyond a limit of theirs (Daphne: 1 MiB), and an event may be
    of any size. A client joins the `text` of parts up to the one whose `more` is false, and has
    the frame.
    """
    if len(text) <= PART_CHARS:
        yield text
        return
    for start in range(0, len(text), PART_CHARS):
        end = start + PART_CHARS
        yield frame("part", text=text[start:end], more=end < len(text))


def sse_event(event: Event) -> str:
    """An event as an unnamed message: `es.onmessage = m => JSON.parse(m.data)` is a whole client.

    It bears its own cursor: a connection cut in the middle of a batch must not repeat events.
    (PostgreSQL's JSON text has no raw line break, so one `data:` line holds it; WHATWG HTML,
    section 9.2.6.)
    """
    return f"id: {event.cursor}\ndata: {event.json}\n\n"


def sse_named(kind: str, cursor: str | None = None, /, **fields: Any) -> str:
    """All that is no event is a named one, which `onmessage` does not see."""
    head = f"id: {cursor}\n" if cursor else ""
    if cursor:
        fields = {"cursor": cursor, **fields}
    return f"{head}event: {kind}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n"
