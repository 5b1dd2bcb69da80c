"""The way of one event, and where it stopped. Facts in, words out: no I/O (`tracing` gathers)."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from agent_events.deliveries import Answer
from agent_events.facts import FAULTS, Broker, Listener, Session, Status
from agent_events.findings import session_in_words

CLOCKS_MS = 2_000
"""A process whose clock is further off has its times corrected; of less, the way is a part."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A committed event."""

    tenant: str
    agent: str
    type: str
    created_at: str  # RFC 3339: the beginning of its transaction, or what the producer wrote
    tx: int
    tx_ahead: bool  # of a transaction id that this cluster has not had yet


@dataclass(frozen=True, slots=True)
class Gap:
    """What is known of an id that no committed event has."""

    last: int | None  # the last id that was handed out, None where nobody knows or none was
    before: int | None  # the next smaller id of an event that is kept
    after: int | None
    around: tuple[str, str]  # their `created_at`, empty where there is none
    pruned: bool  # were events ever pruned?


@dataclass(frozen=True, slots=True)
class Journey:
    """All that is known about one event."""

    id: int
    status: Status
    stored: Stored | None = None
    gap: Gap | None = None  # where it is not stored
    pruned: bool = False  # its batch was, though its row is there
    batch: int | None = None
    closed_at: datetime | None = None
    closed_at_ms: int | None = None
    cursor: str = ""  # right behind it
    clock_ms: int = 0  # the server's clock, as the processes answered
    listeners: tuple[Listener, ...] = ()
    trouble: str = ""  # why nobody could be asked
    broker: Broker | None = None  # what it has of the tenant's shard; None: there is none

    @property
    def published(self) -> bool:
        """Has the broker its batch?"""
        shards = self.broker.shards if self.broker is not None else ()
        return any(one.batch is not None and one.batch >= (self.batch or 0) for one in shards)


class Step(Enum):
    """How far an event came at one process."""

    DELIVERED = "delivered"
    FORGOTTEN = "handed over; it is forgotten when, and to whom"
    NOT_WATCHED = "handed over without this tenant's events"
    LATER = "began later"
    BEHIND = "behind"
    SILENT = "does not answer"


STOPPED = (Step.BEHIND, Step.SILENT)
"""The steps that it should have left behind."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the event is: `code` never changes; `stopped`: it should have come further."""

    code: str
    words: str
    stopped: bool


def step_of(listener: Listener, batch: int) -> Step:
    """How far batch `batch` came at a process."""
    answer = listener.answer
    if answer is None:
        return Step.SILENT
    if answer.delivered_ms is not None:
        return Step.NOT_WATCHED if answer.covered is False else Step.DELIVERED
    if answer.batch is None or answer.batch < batch:
        return Step.BEHIND
    if answer.began is not None and answer.began > batch:
        return Step.LATER
    return Step.FORGOTTEN


def delay_ms(journey: Journey, answer: Answer) -> int | None:
    """How long after its batch was closed the event was handed over, in ms; None: nobody knows.

    The server's clock against the process's, so 0 where they differ a little the other way.
    """
    if answer.delivered_ms is None or journey.closed_at_ms is None:
        return None
    ahead_ms = answer.now_ms - journey.clock_ms
    corrected_ms = answer.delivered_ms - (ahead_ms if abs(ahead_ms) > CLOCKS_MS else 0)
    return max(0, corrected_ms - journey.closed_at_ms)


def step_in_words(journey: Journey, listener: Listener) -> str:
    """A process and how far the event came there, on one line."""
    answer = listener.answer
    if answer is None:
        if journey.trouble:
            return f"backend {listener.session.pid}: could not be asked"
        return f"backend {listener.session.pid}: does not answer (frozen, or behind a pooler)"
    assert journey.batch is not None
    who = f"process {answer.process} on {answer.host}, backend {answer.backend}: "
    step = step_of(listener, journey.batch)
    if step in (Step.DELIVERED, Step.NOT_WATCHED):
        how = "delivered" if step is Step.DELIVERED else step.value
        when = f"{how}, {delay_ms(journey, answer)} ms after its batch was closed"
        if step is Step.NOT_WATCHED:
            when += " (nobody there watched it, or there was too much: subscribers read the log)"
        return who + when
    if step is Step.BEHIND:
        at = "at no batch yet" if answer.batch is None else f"at batch {answer.batch:,}"
        return f"{who}is behind, {at}"
    if step is Step.LATER:
        return f"{who}began later, at batch {answer.began:,}; its subscribers read the log"
    return f"{who}handed over, so long ago that it is forgotten when"


def verdict(journey: Journey) -> Verdict:
    """Where the event is, or where it stopped, in a sentence."""
    if journey.stored is None:
        return _of_no_row(journey)
    if journey.pruned:
        return Verdict("pruned", "It was pruned: no reader gets it any more.", stopped=True)
    if journey.batch is None:
        return _of_no_batch(journey)
    return _of_a_batch(journey, journey.batch)


def _of_no_row(journey: Journey) -> Verdict:
    gap, status = journey.gap, journey.status
    assert gap is not None
    if journey.id < 1:
        return Verdict("unknown", "No event ever has this id: they begin with 1.", stopped=True)
    if gap.last is not None and journey.id > gap.last:
        words = f"No event has this id yet: the last that was handed out is {gap.last:,}."
        return Verdict("unknown", words, stopped=True)
    if gap.last is None and gap.before is None and gap.after is None:
        return Verdict("unknown", "The log is empty, and no id was handed out.", stopped=True)
    if gap.pruned and gap.before is None:
        words = "No event has this id, and older ones were pruned: it was pruned too, or rolled"
        return Verdict("pruned", f"{words} back long ago.", stopped=True)
    open_ones = [session_in_words(one) for one in status.writers]
    open_ones += [f"prepared transaction '{one.gid}' of {one.owner}" for one in status.prepared]
    if open_ones:
        words = (
            "No committed event has this id. Its transaction is still open, and is one of these, "
            f"or it was rolled back: {'; '.join(open_ones)}."
        )
        return Verdict("open", words, stopped=True)
    words = (
        "No committed event has this id, and no transaction that wrote events is open: its "
        "transaction was rolled back, or its INSERT failed."
    )
    return Verdict("rolled_back", words, stopped=True)


def _of_no_batch(journey: Journey) -> Verdict:
    status = journey.status
    assert journey.stored is not None
    committed = "It is committed, and in no batch yet"
    if status.fault:
        words = f"{committed}, because none can be closed. {FAULTS[status.fault]}"
        return Verdict("ledger", f"{words} manage.py mend_events mends it.", stopped=True)
    if journey.stored.tx_ahead:
        words = f"{committed}: it bears the id of a transaction that has not been yet."
        return Verdict("ledger", f"{words} manage.py mend_events mends it.", stopped=True)
    if status.sequencer is None and not status.listeners:
        words = f"{committed}, because no process that would close one is connected."
        return Verdict("nobody_sequences", f"{words} Start manage.py listen_events.", stopped=True)
    leader = status.sequencer
    who = session_in_words(leader) if leader is not None else "nobody"
    words = f"{committed}: it waits for the next append. Who leads: {who}."
    return Verdict("waiting", words, stopped=True)


def _of_a_batch(journey: Journey, batch: int) -> Verdict:
    in_batch = f"It is in batch {batch:,}"
    if journey.trouble:
        words = f"{in_batch}. The processes could not be asked: {journey.trouble}."
        return Verdict("not_asked", words, stopped=False)
    if journey.broker is not None:
        return _of_a_broker(journey, journey.broker, in_batch)
    steps = [(one, step_of(one, batch)) for one in journey.listeners]
    delivered = sum(step is Step.DELIVERED for _, step in steps)
    stopped = [_stop(one) for one, step in steps if step in STOPPED]
    if stopped:
        words = (
            f"{in_batch}, and was delivered by {delivered} of {len(steps)} processes. It stopped "
            f"at: {'; '.join(stopped)}."
        )
        return Verdict("undelivered", words, stopped=True)
    if delivered:
        return Verdict("delivered", f"{in_batch}, and was delivered.", stopped=False)
    if any(step is Step.FORGOTTEN for _, step in steps):
        words = f"{in_batch}, and was handed over so long ago that nobody knows any more to whom."
        return Verdict("forgotten", words, stopped=False)
    if not steps:
        words = f"{in_batch}. No process listens now; whoever asks gets it from the log."
        return Verdict("nobody_listens", words, stopped=False)
    words = (
        f"{in_batch}. No process that listens now carried it: nobody watched its tenant, or they "
        "began later. Whoever asks gets it from the log."
    )
    return Verdict("not_watched", words, stopped=False)


def _of_a_broker(journey: Journey, broker: Broker, in_batch: str) -> Verdict:
    """Web processes read the broker, and cannot be asked; who listens is a worker."""
    if journey.published:
        words = f"{in_batch}, and the broker has it, where web processes read it."
        return Verdict("published", words, stopped=False)
    meanwhile = (
        "Web processes that hear nothing read it from the log, within TICK_TIMEOUT_S or two."
    )
    if broker.trouble:
        words = f"{in_batch}. The broker, which may have it, does not answer: {broker.trouble}."
        return Verdict("broker_away", f"{words} {meanwhile}", stopped=True)
    if not journey.status.publishers:
        words = f"{in_batch}, which the broker does not have: no worker publishes."
    else:
        words = f"{in_batch}, which the broker does not have yet."
    return Verdict("unpublished", f"{words} {meanwhile}", stopped=True)


def _stop(listener: Listener) -> str:
    answer = listener.answer
    if answer is None:
        return f"{_who(listener.session)}, which does not answer (frozen, or behind a pooler)"
    return f"process {answer.process} on {answer.host}, which is behind, at batch {answer.batch}"


def _who(session: Session) -> str:
    return f"backend {session.pid} ({session.client or 'local'})"
