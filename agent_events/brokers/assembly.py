"""Parcels put together again: windows of the watched shards, as one chain. Pure.

A shard's windows follow each other by its marks. With several shards watched, a window is handed
over as far as all of them have come: one order for everybody, whoever published what.
"""

from dataclasses import dataclass, field

from agent_events.brokers.parcels import Mark, Parcel, Part, events_in
from agent_events.window import Window
from agent_events.wire import Event

UNMARKED = 4
"""Slices of so many windows may wait for their marks: two workers may send at the same time, for a
moment, and one of them may have died."""

PENDING_CHARS = 16_777_216
"""So much JSON of a shard may wait for the others; past that its readers go to the log."""


class Assembly:
    """One chain of windows from the parcels of the shards that are watched.

    Attributes:
        log: whose marks are taken (those that do not say it, too); empty: anybody's.
        met_other: did a mark of another log come?
    """

    def __init__(self) -> None:
        self.log = ""
        self.met_other = False
        self._tenants: frozenset[str] | None = frozenset()
        self._shards: dict[int, _Shard] = {}
        self._next = 0  # the batch after the last window handed over; 0: no chain yet
        self._end_ms = 0
        self._renewed: set[int] = set()  # shards whose last mark said that the ledger is another

    def watch(self, shards: frozenset[int], tenants: frozenset[str] | None) -> None:
        """Which shards' windows come, and whose events are wanted (None: everybody's)."""
        if self._tenants is not None and (tenants is None or not tenants <= self._tenants):
            for shard in self._shards.values():
                shard.lacks_from(self._next)  # what came of theirs was not kept
        self._tenants = tenants
        self._shards = {one: self._shards.get(one) or _Shard() for one in sorted(shards)}
        self._renewed &= shards

    def forget(self) -> None:
        """Nothing has come for long: whatever waits will not be needed, and a chain begins anew."""
        self._shards = {one: _Shard() for one in self._shards}
        self._next = 0

    def take(self, parcel: Parcel) -> Window | None:
        """The window that this parcel completes, if it does.

        Raises ValueError, TypeError for what is no parcel.
        """
        shard = self._shards.get(parcel.shard)
        if shard is None:
            return None
        if not parcel.is_mark:
            if self._tenants is None or parcel.tenant in self._tenants:
                shard.keep(parcel.tenant, Part.parse(parcel.body))
            return None
        mark = Mark.parse(parcel.body)
        if self.log and mark.log not in ("", self.log):
            self.met_other = True
            return None
        events = shard.events_of(mark, self._tenants)
        if len(self._shards) == 1:
            return self._window(mark, events)
        self._mind_history(parcel.shard, mark)
        if not self._shards[parcel.shard].advance(mark, events):
            self._next = 0
        return self._merged()

    def _mind_history(self, number: int, mark: Mark) -> None:
        """What came of another history is not put together with what comes of this one."""
        if not mark.restarted:
            self._renewed.discard(number)
        elif number not in self._renewed:
            old = self._shards.keys() - self._renewed
            self._shards |= {one: _Shard() for one in old}
            self._renewed.add(number)

    def _window(self, mark: Mark, events: list[Event] | None) -> Window:
        return Window(
            mark.first,
            mark.last,
            mark.before_ms,
            mark.closed_at_ms,
            self._tenants if events is not None else frozenset(),
            tuple(events or ()),
            mark.restarted,
        )

    def _merged(self) -> Window | None:
        """What all shards have come to; None where one of them is not as far, or says nothing."""
        shards = list(self._shards.values())
        if not all(shard.known for shard in shards):
            return None
        first, before_ms = self._next, self._end_ms
        if not first:
            latest = max(shards, key=lambda shard: shard.first)
            first, before_ms = latest.first, latest.before_ms
        slowest = min(shards, key=lambda shard: shard.last)
        last = slowest.last
        # A tick says that all of them are there: of a shard that is silent nothing is known.
        if last < first - 1 or (last == first - 1 and not all(shard.spoke for shard in shards)):
            return None
        whole = all(shard.covers(first, last) for shard in shards)
        end_ms = slowest.closed_at_ms
        events = [event for shard in shards for event in shard.taken(first, last, end_ms)]
        self._next, self._end_ms = last + 1, end_ms
        return Window(
            first,
            last,
            before_ms,
            end_ms,
            self._tenants if whole else frozenset(),
            tuple(sorted(events)) if whole else (),  # by batch, then (closed_at is the same) by id
            bool(self._renewed),
        )


@dataclass(slots=True)
class _Shard:
    """What came of one shard, and was not handed over yet."""

    # By window, then by tenant and in how many parts: two workers may cut it differently.
    slices: dict[tuple[int, int, int], dict[tuple[str, int], list[bytes]]] = field(
        default_factory=dict
    )
    known: bool = False
    spoke: bool = False  # a mark came since the last window was handed over
    first: int = 0  # the batches `first` to `last` follow each other
    last: int = 0
    before_ms: int = 0
    closed_at_ms: int = 0
    events: list[Event] = field(default_factory=list)
    lacking: list[tuple[int, int]] = field(default_factory=list)  # batches without their events
    size: int = 0  # of `events`, in characters of JSON

    def keep(self, tenant: str, part: Part) -> None:
        window = self.slices.setdefault((part.first, part.last, part.closed_at_ms), {})
        if len(self.slices) > UNMARKED:
            del self.slices[next(iter(self.slices))]
        texts = window.setdefault((tenant, part.parts), [])
        # (A repetition is dropped; a part that is missing leaves the slice short.)
        if part.place == len(texts):
            texts.append(part.text)

    def events_of(self, mark: Mark, tenants: frozenset[str] | None) -> list[Event] | None:
        """The wanted events of the window, in order; None where not all of them came."""
        came = self.slices.pop((mark.first, mark.last, mark.closed_at_ms), {})
        if mark.parts is None:
            return None
        events: list[Event] = []
        for tenant, parts in mark.parts.items():
            if tenants is not None and tenant not in tenants:
                continue
            texts = came.get((tenant, parts), [])
            if len(texts) != parts:
                return None
            events += events_in(b"".join(texts))
        events.sort()
        return events

    def advance(self, mark: Mark, events: list[Event] | None) -> bool:
        """Goes on to the window's end; False where something before it is missing."""
        # (An older one of a later time is of another history: the time rises with the number.)
        if self.known and mark.last < self.last and mark.closed_at_ms <= self.closed_at_ms:
            return True  # a repetition
        self.spoke = True
        follows = self.known and self._leads_to(mark)
        if not follows:
            self.known, self.first, self.before_ms = True, mark.first, mark.before_ms
            self.events, self.lacking, self.size = [], [], 0
        if events is None:
            self.lacking.append((mark.first, mark.last))
        else:
            fresh = [event for event in events if not follows or event.batch > self.last]
            self.events += fresh
            self.size += sum([len(event.json) for event in fresh])
        if self.size > PENDING_CHARS:
            self.lacking.append((self.events[0].batch, mark.last))
            self.events, self.size = [], 0
        self.last, self.closed_at_ms = mark.last, mark.closed_at_ms
        return follows

    def _leads_to(self, mark: Mark) -> bool:
        """Does it go on from here, in the same history as far as one can see?"""
        if mark.first == self.last + 1:
            return mark.before_ms == self.closed_at_ms
        if mark.last == self.last:
            return mark.closed_at_ms == self.closed_at_ms
        return mark.first <= self.last < mark.last

    def lacks_from(self, batch: int) -> None:
        """Of what waits here, from this batch on, some events are missing."""
        if self.known and self.last >= batch:
            self.lacking.append((batch, self.last))

    def covers(self, first: int, last: int) -> bool:
        """Are all events of these batches here?"""
        return not any(lo <= last and hi >= first for lo, hi in self.lacking)

    def taken(self, first: int, last: int, end_ms: int) -> list[Event]:
        """The events of these batches, which ended at `end_ms`; what is newer alone stays."""
        taken = [event for event in self.events if first <= event.batch <= last]
        self.spoke, self.first, self.before_ms = False, last + 1, end_ms
        self.events = [event for event in self.events if event.batch > last]
        self.size = sum([len(event.json) for event in self.events])
        self.lacking = [(lo, hi) for lo, hi in self.lacking if hi > last]
        return taken
