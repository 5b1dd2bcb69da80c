"""What can be known about the bus. `status` and `watching` gather it; `problems`, `advice` judge.

A `Status` is of one moment, from the database (and, where there is one, the broker's newest marks).
An `Interval` was watched for a while.
"""

from dataclasses import dataclass
from datetime import datetime

from agent_events.database import OLDEST_SERVER
from agent_events.deliveries import Answer

BOUND = 10_000
"""Events that are counted, of those that wait."""

FAULTS = {
    "empty": "The ledger (agent_event_batches) is empty, and with it the order of the log is gone.",
    "ahead": (
        "The ledger was copied from another cluster: it has seen transactions that this one has "
        "not had yet, so no batch can be closed."
    ),
    "overtaken": (
        "The ledger was copied from another cluster, and this one has had more transactions since "
        "then: events written meanwhile fell into old batches, and nobody was shown them."
    ),
    "rows ahead": (
        "Events bear transaction ids that this cluster has not had yet: they were copied without "
        "their ledger. Nobody was shown them."
    ),
}
"""What may be wrong with the ledger, as `agent_events_fault` calls it, in words."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The server, and what the migrations and the role's rights amount to on it."""

    server_version: int  # 180004 is 18.4
    standby: bool
    missing: tuple[str, ...]  # tables and functions that are not there
    rows_hidden: bool  # row-level security hides rows from this role
    rights_lacking: tuple[str, ...]  # such as "INSERT ON agent_event_batches"
    trigger: str  # pg_trigger.tgenabled; "" where there is none
    sequence_cache: int
    unapplied: tuple[str, ...] = ()  # migrations

    @property
    def schema_hidden(self) -> bool:
        """May this role not see what is there, so that it is missing only to this role?"""
        return any(right.startswith("USAGE ON SCHEMA ") for right in self.rights_lacking)

    @property
    def readable(self) -> bool:
        """Can the ledger be looked into?"""
        wrong = self.missing or self.rows_hidden or self.rights_lacking
        return self.server_version >= OLDEST_SERVER and not wrong


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to the server, as it sees it.

    None where there is none, and where this role may not see it: `client` (an address), `open_s`
    (how long its transaction is open, in seconds), `connected_s` (how long ago it connected, in
    seconds; of those that publish alone).
    """

    pid: int
    user: str
    application: str
    client: str | None
    open_s: float | None
    connected_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared transaction that wrote events, and waits for its COMMIT PREPARED."""

    gid: str
    owner: str
    open_s: float


@dataclass(frozen=True, slots=True)
class Head:
    """The last closed batch."""

    batch: int
    total: int  # events in all batches
    closed_at: datetime
    closed_s: float  # how long ago


@dataclass(frozen=True, slots=True)
class Shard:
    """How far a shard of the broker is. None where the broker has no mark in it.

    `lag`, `late_s` and `foreign` compare its newest mark with the ledger.
    """

    number: int
    batch: int | None  # the last batch that its newest mark tells of
    closed_at_ms: int | None  # when that was closed, as the mark says
    lag: int | None = None  # batches of the ledger after it
    late_s: float = 0.0  # how long ago the first of those was closed
    foreign: bool = False  # its newest mark is of another ledger
    log: str = ""  # whose that mark is, as `Log.identity` has it; empty where it does not say so


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker, as whoever looks reaches it."""

    kind: str  # "nats" or "redis"
    host: str  # without user and password; words where that is not known
    trouble: str = ""  # why it does not answer, in words; empty where it does
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True, slots=True)
class Publisher:
    """A worker that publishes, or stands by to do so: the session that holds its leases."""

    session: Session
    shards: tuple[int, ...]  # that it publishes; none: it stands by


@dataclass(frozen=True, slots=True)
class Counters:
    """What only ever grows, to be compared with a later look."""

    at_s: float  # the server's clock, in seconds since 1970
    commits: int  # of this database, everybody's; sessions report theirs once a second


@dataclass(frozen=True, slots=True)
class Status:
    """How the bus does. Whatever could not be looked at is None, 0 or empty."""

    unreachable: str = ""  # why the database does not answer
    setup: Setup | None = None
    head: Head | None = None
    fault: str = ""  # what is wrong with the ledger: a key of FAULTS
    oldest_batch: int | None = None  # the oldest whose events are kept
    behind: int = 0  # events committed and in no batch: BOUND at most
    behind_more: bool = False  # there are more than BOUND
    waits_s: float = 0.0  # for how long the oldest of them waits, at most
    late_s: float = 0.0  # how long ago the batch after the one asked about was closed
    sequencer: Session | None = None  # who has the lock of whoever closes batches
    coalescer: Session | None = None  # who has K: while somebody does, producers do not ring
    counters: Counters | None = None
    listeners: tuple[Session, ...] = ()
    queue_usage: float = 0.0  # 0 to 1
    queue_suspects: tuple[Session, ...] = ()  # the oldest transactions, where it is filling
    writers: tuple[Session, ...] = ()  # open transactions that wrote events, oldest first
    prepared: tuple[Prepared, ...] = ()
    sees_sessions: bool = True  # may this role see how long others' transactions are open?
    ledger_bytes: int = 0
    log_bytes: int = 0
    shards: int = 0  # in how many shards workers publish; 0: each process listens by itself
    publishers: tuple[Publisher, ...] = ()
    broker: Broker | None = None  # None: there is none, or nobody looked

    @property
    def mode(self) -> str:
        """Who says when to look for new events: `ringing`, each commit; `coalescing`, the clock."""
        return "ringing" if self.coalescer is None else "coalescing"

    @property
    def unpublished(self) -> tuple[int, ...]:
        """The shards that no worker publishes."""
        held = {shard for one in self.publishers for shard in one.shards}
        return tuple(shard for shard in range(self.shards) if shard not in held)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waited for PostgreSQL's lock of notifying commits, one of the whole cluster.

    `ours`: it wrote events, or is a listening connection of this bus; else somebody else notifies.
    """

    session: Session
    database: str
    ours: bool
    looks: int  # in how many it was seen waiting
    waits_s: float  # the longest, as seen


@dataclass(frozen=True, slots=True)
class CommitWaits:
    """Who waits for that lock, by many short looks: a single one sees little of short waits."""

    looks: int = 0
    waited: int = 0  # the looks that saw somebody wait
    most: int = 0  # sessions at once
    longest_s: float = 0.0
    waiters: tuple[Waiter, ...] = ()  # who was seen most often first, a few of them
    waiting: int = 0  # all different ones
    others: float = 0.0  # the share of them that are not ours, as often as they were seen
    holder: Waiter | None = None  # for whom the longest wait was


@dataclass(frozen=True, slots=True)
class Interval:
    """What was seen and heard for a while, by short looks and over a connection that listens.

    None where nothing could be heard (`trouble` says why, in words): `rings`, `told`, `answers`.
    """

    over_s: float = 0.0
    waits: CommitWaits = CommitWaits()
    busy: float | None = None  # the share of looks that saw the sequencer's session at work
    rings: int | None = None  # notifications of agent_events
    told: int | None = None  # and of agent_events_batch
    answers: tuple[Answer, ...] | None = None  # of the processes that were asked where they are
    own_commits: int = 0  # what the looking itself committed
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """How much happens in a second, from two looks. None where it is not known."""

    commits: float  # of this database, everybody's
    events: float  # that came into a batch
    batches: float
    notifications: float | None  # of agent_events and agent_events_batch
    waits_grow: float  # by how many seconds a second the oldest event in no batch gets older


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens, and how far it is."""

    session: Session
    answer: Answer | None  # None: it did not answer
    lag: int | None = None  # batches that it has not handed over
    silent_s: float | None = None  # how long ago it handed over the last one
