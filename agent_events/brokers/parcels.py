"""Windows as messages of a broker, and whose shard a tenant is in. Pure.

A window travels as slices, one for each tenant that has events in it, and behind them a mark that
says which there were. A slice larger than a message may be goes in parts. With several shards each
has marks of its own: a reader of some shards learns all about those, and nothing of the others.

A slice's text has a line for each event, `<batch> <closed_at_ms> <id> <JSON>`; PostgreSQL's JSON
text has no raw line break. A part is a header line and a stretch of that text's bytes. A mark is
JSON.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent_events.window import Window
from agent_events.wire import Event

HEADER_BYTES = 128
"""A part's header line is shorter than this."""
MOST = 2**47
"""No batch and no time in ms is this large (a cursor has room for twice as much)."""


class Parcel(NamedTuple):
    """One message of a broker.

    `tenant` is empty for a mark. `key` is the same for the same slice whenever and by whomever it
    is sent: a broker that knows it drops the repetition. Empty: it is not to be dropped (a tick).
    """

    shard: int
    tenant: str
    key: str
    body: bytes

    @property
    def is_mark(self) -> bool:
        """Is it what follows the slices of a window?"""
        return not self.tenant


class Mark(NamedTuple):
    """What a window was, for one shard: its batches and times as in `Window`, and the parts that
    each tenant's slice has. `parts` is None where the window was too large to carry. `log` is whose
    window it was, as `Log.identity` has it; empty where that is not known.
    """

    first: int
    last: int
    before_ms: int
    closed_at_ms: int
    restarted: bool
    parts: dict[str, int] | None
    log: str = ""

    @classmethod
    def parse(cls, body: bytes) -> "Mark":
        """The mark of a parcel's body. Raises ValueError or TypeError for anything else."""
        try:
            mark = cls(*json.loads(body))
        except RecursionError as error:
            raise ValueError("a mark is nested deeply") from error
        numbers = (mark.first, mark.last, mark.before_ms, mark.closed_at_ms)
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("a mark holds no number where one belongs")
        if min(numbers) < 0 or max(numbers) >= MOST or mark.first > mark.last + 1:
            raise ValueError("a mark is of no batches that can be")
        if mark.parts is not None and not isinstance(mark.parts, dict):
            raise ValueError("a mark's parts are no dictionary")
        if not isinstance(mark.log, str):
            raise ValueError("a mark's log is no text")
        return mark


class Part(NamedTuple):
    """A piece of a tenant's slice of the window `first` to `last`, the `place`th of `parts`."""

    first: int
    last: int
    closed_at_ms: int
    place: int
    parts: int
    text: bytes

    @classmethod
    def parse(cls, body: bytes) -> "Part":
        """The part of a parcel's body. Raises ValueError for anything else."""
        header, found, text = body.partition(b"\n")
        if not found:
            raise ValueError("a slice's header line has no end")
        first, last, closed_at_ms, place, parts = map(int, header.split(b" "))
        return cls(first, last, closed_at_ms, place, parts, text)


def shard_of(tenant: str, shards: int) -> int:
    """The shard that a tenant's events travel in. (A UUID's end is as good as random.)"""
    return int(tenant[-4:], 16) % shards if shards > 1 else 0


def parcels_of(
    window: Window, wanted: frozenset[int], shards: int, limit: int, log: str = ""
) -> list[Parcel]:
    """A window of all tenants as what is sent for the `wanted` ones of so many shards.

    In the order in which it is to be sent; no body is longer than `limit` bytes. `log`: whose it
    is, as in `Mark`.
    """
    tenants = window.by_tenant if window.covers is None else {}
    whole = window.covers is None or window.first > window.last
    parts: dict[int, dict[str, int]] = {shard: {} for shard in sorted(wanted)}
    parcels: list[Parcel] = []
    for tenant, events in tenants.items():
        shard = shard_of(tenant, shards)
        if shard in parts:
            made = list(_slice(window, shard, shards, tenant, events, limit))
            parts[shard][tenant] = len(made)
            parcels += made
    for shard, counts in parts.items():
        mark = _mark(window, counts if whole else None, log)
        if len(mark) > limit:
            mark = _mark(window, None, log)
        tick = window.first > window.last
        key = "" if tick else _key(window, shards, f"mark {shard}")
        parcels.append(Parcel(shard, "", key, mark))
    return parcels


def _slice(
    window: Window, shard: int, shards: int, tenant: str, events: Sequence[Event], limit: int
) -> Iterator[Parcel]:
    text = "\n".join(
        [f"{event.batch} {event.closed_at_ms} {event.id} {event.json}" for event in events]
    ).encode()
    size = limit - HEADER_BYTES
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for place, piece in enumerate(pieces):
        numbers = (window.first, window.last, window.closed_at_ms, place, len(pieces))
        header = " ".join(map(str, numbers)).encode()
        key = _key(window, shards, f"{tenant} {place}/{len(pieces)}")
        yield Parcel(shard, tenant, key, b"%b\n%b" % (header, piece))


def _mark(window: Window, parts: dict[str, int] | None, log: str) -> bytes:
    mark = Mark(
        window.first,
        window.last,
        window.before_ms,
        window.closed_at_ms,
        window.restarted,
        parts,
        log,
    )
    return json.dumps(mark, separators=(",", ":")).encode()


def _key(window: Window, shards: int, what: str) -> str:
    # With the time: another history of the log has other batches of the same numbers. And with the
    # shards: while their number is changed, two workers send the same to different readers.
    return f"{shards} {window.first}-{window.last} {window.closed_at_ms:x} {what}"


def events_in(text: bytes) -> list[Event]:
    """The events of a slice whose parts are together again. Raises ValueError."""
    events = []
    for line in text.decode().split("\n"):
        batch, closed_at_ms, id, body = line.split(" ", 3)
        events.append(Event(int(batch), int(closed_at_ms), int(id), body))
    return events
