"""Redis Streams as a broker: one stream for each shard, `<name>:<shards>:<shard>`.

An entry has the fields `t` (the tenant, empty for a mark), `k` (the parcel's key) and `b` (its
body). Redis does not know the keys: what is sent twice is there twice, and readers drop it by the
one rule. Needs Redis 5 or later, one server of it (with replicas or without), no Redis Cluster.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from agent_events.brokers.parcels import Mark, Parcel
from agent_events.brokers.redis_line import Command, Line
from agent_events.conf import Settings

logger = logging.getLogger("agent_events")

BODY_LIMIT = 524_288
"""Bytes of an entry's body at most: Redis takes more, but memory here is counted in such."""
SEND_BYTES = 1_048_576
SEND_ENTRIES = 500
"""So much goes to the server before its answers are awaited."""
ENTRY_BYTES = 64
"""What an entry costs the server besides its texts, about."""
READ_ENTRIES = 128
"""Entries that one read brings at most, of all shards together."""
BLOCK_S = 1.0
"""A silent read ends after this; then the streams' ends are looked at."""
UNUSED_S = 86_400
"""A stream that nothing is added to for so long goes: of another name, say, or number of shards."""
LOOK_BACK_ENTRIES = 2_000
LOOK_BACK_BYTES = 16_777_216
"""So far back from a stream's end its newest mark is looked for."""

Entry = tuple[bytes, dict[bytes, bytes]]


def key_of(settings: Settings, shard: int) -> str:
    """The name of a shard's stream."""
    return f"{settings.broker_name}:{settings.broker_shards}:{shard}"


class Outlet:
    """The sending end: see `brokers.Outlet`."""

    limit = BODY_LIMIT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line = Line(settings)
        self._tallies: dict[int, Tally] = {}

    async def open(self, *, change: bool = True) -> None:
        """Connects. Streams are made by the first entry. Raises BrokerAway."""
        self._tallies = {}
        await self._line.open()

    async def last(self, shard: int) -> Mark | None:
        """The newest mark among the last entries of a shard's stream. Raises BrokerAway.

        None where there is none, or none so near to the end: the log knows the rest.
        """
        key = key_of(self._settings, shard)
        end, count, entries, size = b"+", 1, 0, 0
        while entries < LOOK_BACK_ENTRIES and size < LOOK_BACK_BYTES:
            [page] = await self._line.ask([("XREVRANGE", key, end, "-", "COUNT", count)])
            for id, fields in map(_entry_of, page):
                body = fields.get(b"b", b"")
                size += len(body)
                if fields.get(b"t") == b"":
                    try:
                        return Mark.parse(body)
                    except (ValueError, TypeError, RecursionError):
                        pass  # a stranger's
                end = _before(id)
            if len(page) < count:
                return None
            entries += count
            count = 16  # the newest is nearly always a mark
        return None

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Adds them, a shard's in this order; old ones go. Raises BrokerAway."""
        for batch in _in_batches(parcels):
            for shard in {parcel.shard for parcel in batch} - self._tallies.keys():
                self._tallies[shard] = await self._tally_of(shard)
            marked = sorted({parcel.shard for parcel in batch if parcel.is_mark})
            stay = [("EXPIRE", key_of(self._settings, shard), UNUSED_S) for shard in marked]
            await self._line.ask([*map(self._add, batch), *stay])

    async def close(self) -> None:
        """Closes the connection."""
        await self._line.close()

    def _add(self, parcel: Parcel) -> Command:
        size = len(parcel.body) + len(parcel.tenant) + len(parcel.key) + ENTRY_BYTES
        kept = self._tallies[parcel.shard].add(size)
        key = key_of(self._settings, parcel.shard)
        # "~": whole nodes of the stream alone are dropped, which costs next to nothing.
        add = ("XADD", key, "MAXLEN", "~", kept, "*")
        return (*add, "t", parcel.tenant, "k", parcel.key, "b", parcel.body)

    async def _tally_of(self, shard: int) -> "Tally":
        """What a stream holds already, by others: their number, and what they cost together."""
        key = key_of(self._settings, shard)
        [entries] = await self._line.ask([("XLEN", key)])
        used = 0
        if entries:
            [used] = await self._line.ask([("MEMORY", "USAGE", key)])
        share = self._settings.broker_bytes // self._settings.broker_shards
        return Tally(share, self._settings.broker_messages, entries, used or 0)


class Tally:
    """How many of a stream's newest entries fit into its bounds. Pure.

    Args:
        most_bytes: what they may cost together.
        most: how many they may be.
        entries: those that are there already, `used` bytes together, taken for equal.
    """

    def __init__(self, most_bytes: int, most: int, entries: int = 0, used: int = 0) -> None:
        self._most_bytes = most_bytes
        self._most = most
        self._each = used / entries if entries else 0.0
        self._before = entries
        self._sizes: deque[int] = deque()
        self._own = 0

    def add(self, size: int) -> int:
        """One more entry, of `size` bytes; returns how many to keep, itself among them."""
        self._sizes.append(size)
        self._own += size
        while len(self) > 1 and (len(self) > self._most or self._bytes > self._most_bytes):
            if self._before:
                self._before -= 1
            else:
                self._own -= self._sizes.popleft()
        return len(self)

    @property
    def _bytes(self) -> float:
        return self._before * self._each + self._own

    def __len__(self) -> int:
        """The entries that are kept."""
        return self._before + len(self._sizes)


class Inlet:
    """The receiving end: see `brokers.Inlet`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line = Line(settings)
        self._watched: frozenset[int] = frozenset()
        self._tenants: frozenset[bytes] | None = frozenset()
        self._places: dict[int, bytes] = {}  # the id of the last entry read
        self._looked_at = 0.0
        self._complained = False

    async def open(self) -> None:
        """Connects; goes on after the last parcel that it gave. Raises BrokerAway."""
        await self._line.open()
        await self._look()

    async def watch(self, shards: frozenset[int], tenants: frozenset[str] | None) -> None:
        """See `brokers.Inlet`. A shard not watched before begins at its end. Raises BrokerAway."""
        self._watched = shards
        self._tenants = None if tenants is None else frozenset(map(str.encode, tenants))
        self._places = {shard: id for shard, id in self._places.items() if shard in shards}
        if shards - self._places.keys():
            await self._look()

    async def forget(self) -> None:
        """It goes on at the streams' ends. Raises BrokerAway."""
        self._places = {}
        await self._look()

    async def next(self, timeout_s: float) -> list[Parcel]:
        """See `brokers.Inlet`. Raises BrokerAway."""
        until = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            if not self._watched:
                await self._line.ask([("PING",)])
                await asyncio.sleep(min(left_s, BLOCK_S))
            elif parcels := await self._read(min(left_s, BLOCK_S)):
                return parcels
            if time.monotonic() >= until:
                return []

    async def close(self) -> None:
        """Closes the connection. The places stay."""
        await self._line.close()

    async def _read(self, block_s: float) -> list[Parcel]:
        """One read of what there is for us; looks at the streams' ends where there is nothing."""
        if self._watched - self._places.keys():
            await self._look()
        shards = {key_of(self._settings, shard): shard for shard in sorted(self._watched)}
        count = max(8, READ_ENTRIES // len(shards))
        block = ("BLOCK", max(1, int(block_s * 1000))) if block_s else ()
        places = [self._places[shard] for shard in shards.values()]
        read: Command = ("XREAD", "COUNT", count, *block, "STREAMS", *shards, *places)
        [streams] = await self._line.ask([read], block_s)
        parcels: list[Parcel] = []
        for key, entries in streams or ():
            shard = shards[key.decode()]
            for id, fields in map(_entry_of, entries):
                self._places[shard] = id
                if parcel := self._parcel(shard, fields):
                    parcels.append(parcel)
        if not streams and time.monotonic() - self._looked_at >= BLOCK_S:
            await self._look()
        return parcels

    async def _look(self) -> None:
        """Sees to it that no place is beyond its stream's end, where nothing would ever come.

        That is so where the stream was deleted, or is another server's, whose clock is behind.
        Begun at its new end: what came meanwhile is a gap, which the reader fills from the log.
        """
        shards = sorted(self._watched)
        ends = [key_of(self._settings, shard) for shard in shards]
        pages = await self._line.ask(("XREVRANGE", key, "+", "-", "COUNT", 1) for key in ends)
        self._looked_at = time.monotonic()
        for shard, page in zip(shards, pages, strict=True):
            end = bytes(page[0][0]) if page else b"0-0"
            if shard not in self._places or _number(self._places[shard]) > _number(end):
                self._places[shard] = end

    def _parcel(self, shard: int, fields: dict[bytes, bytes]) -> Parcel | None:
        """An entry as a parcel; None for what nobody here wants, and for a stranger's."""
        try:
            tenant = fields[b"t"]
            if tenant and self._tenants is not None and tenant not in self._tenants:
                return None
            return Parcel(shard, tenant.decode(), fields[b"k"].decode(), fields[b"b"])
        except (KeyError, UnicodeDecodeError):
            if not self._complained:
                self._complained = True
                logger.error(
                    "The Redis stream %s has an entry that is not ours; it is skipped, and so are "
                    "others like it. Let nobody else write there, or change BROKER_NAME.",
                    key_of(self._settings, shard),
                )
            return None


def _entry_of(raw: Any) -> Entry:
    """An entry as the protocol has it: its id, and its fields and values by turns (or nothing)."""
    id, flat = raw
    flat = flat or ()
    return bytes(id), dict(zip(flat[::2], flat[1::2], strict=False))


def _number(id: bytes) -> tuple[int, int]:
    milliseconds, sequence = id.split(b"-")
    return int(milliseconds), int(sequence)


def _before(id: bytes) -> bytes:
    """The end of a range that stops just before an entry. (Redis before 6.2 knows no "(".)"""
    milliseconds, sequence = _number(id)
    if sequence:
        return b"%d-%d" % (milliseconds, sequence - 1)
    return b"%d" % max(0, milliseconds - 1)


def _in_batches(parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
    """Stretches of them that are sent at once."""
    batch: list[Parcel] = []
    size = 0
    for parcel in parcels:
        batch.append(parcel)
        size += len(parcel.body)
        if size >= SEND_BYTES or len(batch) >= SEND_ENTRIES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
