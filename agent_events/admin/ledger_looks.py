"""Bounded looks at the ledger, by its primary key, as the admin shows them."""

from dataclasses import dataclass

from django.db import connections

from agent_events.conf import get_settings
from agent_events.models import Batch

PAGE_BATCHES = 100
"""Ledger rows a page."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row of the ledger; `events` is None where the row before it is gone."""

    batch: Batch
    events: int | None
    pruned: bool


@dataclass(frozen=True, slots=True)
class LedgerLook:
    """Ledger rows, newest first, and the batches from which on there are others."""

    rows: list[BatchRow]
    older: int | None  # before this batch
    newer: int | None  # after it


def page(*, before: int | None = None, after: int | None = None) -> LedgerLook:
    """The newest ledger rows before a batch, or the oldest after one. Raises django.db.Error."""
    batches = Batch.objects.using(get_settings().database)
    oldest = oldest_batch()
    # One row more tells whether more is there, and how many events the last row has.
    if after is not None:
        found = list(batches.filter(n__gt=after).order_by("n")[: PAGE_BATCHES + 1])
        more = len(found) > PAGE_BATCHES
        shown = found[:PAGE_BATCHES][::-1]
        known = [*shown, *batches.filter(n__lte=after).order_by("-n")[:1]]
        has_older = len(known) > len(shown)
        older = shown[-1].n if shown and has_older else (after + 1 if has_older else None)
        newer = shown[0].n if more else None
    else:
        if before is not None:
            batches = batches.filter(n__lt=before)
        known = list(batches.order_by("-n")[: PAGE_BATCHES + 1])
        shown = known[:PAGE_BATCHES]
        older = shown[-1].n if len(known) > PAGE_BATCHES else None
        newer = None if before is None else before - 1
        if newer is not None and not later_than(newer):
            newer = None
    totals = {batch.n: batch.total for batch in known}
    rows = [
        BatchRow(batch, _size(batch, totals.get(batch.n - 1)), batch.n < oldest) for batch in shown
    ]
    return LedgerLook(rows, older, newer)


def later_than(n: int) -> Batch | None:
    """The next row of the ledger. Raises django.db.Error."""
    return Batch.objects.using(get_settings().database).filter(n__gt=n).order_by("n").first()


def row_of(batch: Batch) -> BatchRow:
    """The same for one row. Raises django.db.Error."""
    ones = Batch.objects.using(get_settings().database)
    total = ones.filter(n=batch.n - 1).values_list("total", flat=True).first()
    return BatchRow(batch, _size(batch, total), batch.n < oldest_batch())


def oldest_batch() -> int:
    """The oldest batch whose events are kept. Raises django.db.Error."""
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute("SELECT oldest FROM agent_event_bus")
        return int(cursor.fetchone()[0])


def _size(batch: Batch, total_before: int | None) -> int | None:
    if batch.n == 0:
        return batch.total
    return None if total_before is None else batch.total - total_before
