"""What can be known about the bus from the database. `status` gathers it, `problems` judges it."""

from dataclasses import dataclass
from datetime import datetime

from agent_events.database import OLDEST_SERVER

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
    (how long its transaction is open, in seconds).
    """

    pid: int
    user: str
    application: str
    client: str | None
    open_s: float | None


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
    sequencer: Session | None = None  # who has the lock
    listeners: tuple[Session, ...] = ()
    queue_usage: float = 0.0  # 0 to 1
    queue_suspects: tuple[Session, ...] = ()  # the oldest transactions, where it is filling
    writers: tuple[Session, ...] = ()  # open transactions that wrote events, oldest first
    prepared: tuple[Prepared, ...] = ()
    sees_sessions: bool = True  # may this role see how long others' transactions are open?
    ledger_bytes: int = 0
    log_bytes: int = 0
