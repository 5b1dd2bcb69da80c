"""Mending the ledger after a restore: what is wrong, and the cure. On Django's connection.

The SQL (`agent_events_fault`, `agent_events_mend`) decides and does; here it gets the transaction
ids that it needs, and the time.
"""

from collections.abc import Callable
from typing import NamedTuple

from django.db import connections, transaction

from agent_events.conf import get_settings

BURN_IDS = 200_000
"""Transaction ids used up at a time: about a second."""
LOOKS = 1_000
"""How many of the newest events are looked at: some milliseconds."""
MANY_LOOKS = 100_000
"""The same for whoever asks because something is wrong: about a second."""

CURES = {
    "empty": (
        "A new ledger is made from the events, in the order of their transactions. Cursors of the "
        "lost one say `reset`, and go on some minutes before their time."
    ),
    "ahead": (
        "Each batch gets a new transaction id, and its events with it. Every cursor stays valid. "
        "What is in no batch yet comes in the next one."
    ),
    "overtaken": (
        "Each batch gets a new transaction id, and its events with it. Every cursor stays valid. "
        "What fell into old batches comes in the next one."
    ),
    "rows ahead": "They come in the next batch. Every cursor stays valid.",
}
"""What `mend` does about it, in words."""

COPIED = ("ahead", "overtaken")
"""The faults whose cure writes every event anew."""


class Mended(NamedTuple):
    """What was done: `batches` with their `events` have their place; `waiting` ones come next."""

    batches: int
    events: int
    waiting: int


def fault(looks: int = LOOKS) -> str | None:
    """What is wrong with the ledger, a key of `FAULTS`; None where nothing is.

    Looks at the head and at the newest `looks` events. Raises django.db.Error.
    """
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute("SELECT agent_events_fault(%s)", [looks])
        found: str | None = cursor.fetchone()[0]
    return found


def ids_lacking() -> int:
    """How many transaction ids a copied ledger lacks: `mend` uses them up first.

    Raises django.db.Error.
    """
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute("SELECT agent_events_mend_lacks()")
        return int(cursor.fetchone()[0])


def mend(progress: Callable[[int, int], None] = lambda done, of: None) -> Mended | None:
    """Mends whatever `fault` may find, all or nothing; None where that was nothing.

    Not inside a transaction. `progress` is told how many transaction ids are used up, of how many.
    The bus stands still meanwhile; producers do not wait. Raises django.db.Error.
    """
    alias = get_settings().database
    if fault(MANY_LOOKS) in COPIED:
        lacking = ids_lacking()
        for done in range(0, lacking, BURN_IDS):
            with connections[alias].cursor() as cursor:
                cursor.execute("CALL agent_events_burn(%s)", [min(BURN_IDS, lacking - done)])
            progress(min(done + BURN_IDS, lacking), lacking)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")  # it writes every event anew
        cursor.execute("SELECT fault, batches, events, waiting FROM agent_events_mend()")
        found, *counts = cursor.fetchone()
    return None if found is None else Mended(*counts)
