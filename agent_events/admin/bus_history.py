"""How many events and batches there were of late, out of the ledger: by bounded look-ups."""

from collections.abc import Iterable
from typing import NamedTuple

from django.db import connections, transaction

from agent_events.conf import get_settings
from agent_events.models import Batch

STEP_S = 10
"""Points are so far apart, in seconds, at full multiples of it: two looks find the same ones."""
POINTS = 60

# `closed_at` rises with n, so the batch of a moment is found by bisection, for all moments side by
# side: about 20 steps of 60 look-ups by the primary key. Pruned rows are before all moments.
_COURSE = """
    WITH RECURSIVE head AS MATERIALIZED (
        SELECT n FROM agent_event_batches ORDER BY n DESC LIMIT 1
    ), moment (at) AS (
        SELECT date_bin(step, clock_timestamp(), 'epoch') - i * step
          FROM CAST(%(step_s)s || ' s' AS interval) AS step, generate_series(0, %(points)s) AS i
    ), search (at, lo, hi) AS (
        SELECT at, 0::bigint, n + 1 FROM moment, head
        UNION ALL
        SELECT at, CASE WHEN later THEN lo ELSE middle + 1 END,
                   CASE WHEN later THEN middle ELSE hi END
          FROM search
         CROSS JOIN LATERAL (SELECT (lo + hi) / 2) AS m (middle)
         CROSS JOIN LATERAL (SELECT coalesce(
                   (SELECT closed_at > at FROM agent_event_batches WHERE n = middle), false)
               ) AS l (later)
         WHERE lo < hi
    )
    SELECT floor(extract(epoch FROM at) * 1000)::bigint, b.n, b.total
      FROM search JOIN agent_event_batches AS b ON b.n = lo - 1
     WHERE lo = hi ORDER BY at
"""


class Moment(NamedTuple):
    """The last batch closed by `at_ms` (ms since 1970), and the events up to and with it."""

    at_ms: int
    batch: int
    events: int


def course() -> list[Moment]:
    """The last POINTS * STEP_S seconds, oldest first; shorter where the ledger begins later.

    Raises django.db.Error.
    """
    alias = get_settings().database
    with transaction.atomic(alias), connections[alias].cursor() as cursor:
        # Statistics from when the ledger was small must not make each look-up a scan.
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL jit = off")
        cursor.execute(_COURSE, {"step_s": STEP_S, "points": POINTS})
        return [Moment(*row) for row in cursor.fetchall()]


def closed_at(batches: Iterable[int]) -> dict[int, int]:
    """When these batches were closed, in ms since 1970; of those that are there."""
    wanted = Batch.objects.using(get_settings().database).filter(n__in=sorted(batches))
    return {n: int(at.timestamp() * 1_000) for n, at in wanted.values_list("n", "closed_at")}
