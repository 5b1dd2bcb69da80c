"""One thing that is wrong with the bus, and how a session is named in it. Pure."""

from dataclasses import dataclass
from enum import Enum

from agent_events.facts import Session


class Part(Enum):
    """What a problem takes away."""

    DATA = "data"  # nothing moves, or nothing can be read
    DOORBELL = "doorbell"  # events come by the poll, later
    EVENTS = "events"  # some events wait, or come in another order


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` never changes; `hint` says what to do."""

    code: str
    part: Part
    message: str
    hint: str


def behind_in_words(lag: int) -> str:
    """How many batches somebody is behind the ledger."""
    return f"{lag:,} batch{'' if lag == 1 else 'es'} behind"


def session_in_words(session: Session) -> str:
    """Who it is, for whoever looks for it in pg_stat_activity."""
    what = [
        f"user {session.user}",
        session.application or "without application_name",
        session.client or "local",
    ]
    if session.open_s is not None:
        what.append(f"open for {session.open_s:,.0f} s")
    return f"pid {session.pid} ({', '.join(what)})"
