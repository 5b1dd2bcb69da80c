"""Retention: old events go, batch by batch, in steps that nobody waits for. On Django's connection.

What is old is said by the time at which its batch was closed, never by `created_at`, which is the
producer's to write. Each step is a transaction of its own, so that it may stop after any of them,
and goes on where it stopped.
"""

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connections

from agent_events.conf import get_settings
from agent_events.errors import InvalidAge

STEP_ROWS = 10_000
"""Events a step, unless told otherwise: a fraction of a second's work."""
LONGEST_DAYS = 36_500

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


# (A subquery that cannot become a join: the index of created_at, and so many rows at most. With
# clock_timestamp(), which may change from row to row, the index would be read to its end.)
OLD_KEYS_SQL = """
    DELETE FROM agent_event_keys AS k WHERE k.ctid = ANY (ARRAY(
        SELECT o.ctid FROM agent_event_keys AS o
         WHERE o.created_at < statement_timestamp() - make_interval(secs => %s)
         ORDER BY o.created_at LIMIT %s))
"""


class Prunable(NamedTuple):
    """What there is to delete."""

    events: int
    batches: int


class Step(NamedTuple):
    """What one step deleted: events, whole batches as readers see it, idempotency keys."""

    events: int
    batches: int
    keys: int
    more: bool


def parse_age(text: str) -> timedelta:
    """What `7d` means: a number and one of s, m, h, d, w. Raises InvalidAge."""
    found = re.fullmatch(r"(\d{1,12})([smhdw])", text.strip(), re.ASCII)
    if found:
        try:
            age = timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            age = timedelta.max
        if age <= timedelta(days=LONGEST_DAYS):
            return age
    raise InvalidAge(
        f"{text!r} is no age. Expected a number and a unit (s, m, h, d or w), such as 7d or 12h, "
        f"and {LONGEST_DAYS:,} days at most."
    )


def before(age: timedelta) -> datetime:
    """The time that was so long ago, by the clock that dates batches. Raises django.db.Error."""
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(
            "SELECT clock_timestamp() - make_interval(secs => %s)", [age.total_seconds()]
        )
        found: datetime = cursor.fetchone()[0]
    return found


def prunable(closed_before: datetime) -> Prunable:
    """What `prune` would delete. Changes nothing. Raises django.db.Error."""
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute("SELECT events, batches FROM agent_events_prunable(%s)", [closed_before])
        return Prunable(*cursor.fetchone())


def prune(
    closed_before: datetime, *, step_rows: int = STEP_ROWS, pause_s: float = 0.0
) -> Iterator[Step]:
    """Deletes the events of batches closed before that time, oldest first, a step for each `next`.

    `step_rows` events a step at most; `pause_s` seconds between two steps, for a database that has
    other things to do. Cursors of what is gone say `truncated`. Raises django.db.Error: also where
    the ledger must be mended first.
    """
    more = True
    while more:
        with connections[get_settings().database].cursor() as cursor:
            cursor.execute(
                "SELECT events, batches, keys, more FROM agent_events_prune(%s, %s)",
                [closed_before, step_rows],
            )
            step = Step(*cursor.fetchone())
        yield step
        more = step.more
        if more and pause_s:
            time.sleep(pause_s)


def forget_keys(*, step_rows: int = STEP_ROWS, pause_s: float = 0.0) -> Iterator[int]:
    """Deletes idempotency keys older than KEYS_KEPT_S, oldest first: how many, for each `next`.

    Their events stay. (The keys of events that are pruned go with them.) Raises django.db.Error.
    """
    settings = get_settings()
    gone = step_rows
    while gone >= step_rows:
        with connections[settings.database].cursor() as cursor:
            cursor.execute(OLD_KEYS_SQL, [settings.keys_kept_s, step_rows])
            gone = cursor.rowcount
        yield gone
        if gone >= step_rows and pause_s:
            time.sleep(pause_s)
