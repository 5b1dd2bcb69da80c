"""Who publishes, and how far the broker is behind the ledger: the statements, and what they mean.

`status` runs them. Pure.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent_events.database import HELD_SQL
from agent_events.facts import Broker, Head, Shard
from agent_events.log import MS_SQL, OID_SQL

PRUNED_S = 3_600.0
"""A batch that the ledger has no row of any more was closed at least so long ago."""

# The VALUES: a shard and the key of its lease, each.
_PUBLISHERS = """
    WITH held AS (
        SELECT lease.shard, l.pid
          FROM (VALUES {}) AS lease (shard, key)
          JOIN pg_locks AS l ON {}
    ), holder AS MATERIALIZED (
        SELECT pid, array_agg(shard ORDER BY shard) AS shards FROM held GROUP BY pid
    )
    SELECT coalesce(h.shards, '{{}}'), {},
           extract(epoch FROM clock_timestamp() - a.backend_start)::float8
      FROM pg_stat_activity AS a LEFT JOIN holder AS h ON h.pid = a.pid
     WHERE a.datname = current_database() AND (a.application_name = %s OR h.pid IS NOT NULL)
     ORDER BY a.pid
"""
# Of each shard's newest mark: its batch as the ledger has it, and the one after it; the database,
# which every role may know of what `Log.identity` has.
MARKS_SQL = f"""
    SELECT {MS_SQL.format("own.closed_at")},
           extract(epoch FROM clock_timestamp() - next.closed_at)::float8,
           {OID_SQL}
      FROM unnest(%s::bigint[]) WITH ORDINALITY AS m (n, place)
      LEFT JOIN agent_event_batches AS own ON own.n = m.n
      LEFT JOIN agent_event_batches AS next ON next.n = m.n + 1
     ORDER BY m.place
"""


def publishers_sql(leases: Sequence[str], session: str) -> str:
    """SQL: the shards that a session publishes, and the session. Takes its application.

    `leases` are their keys, as of `publisher_keys`; `session` is the SQL of a session's columns but
    the last (`connected_s`, which is added), of a row `a` of pg_stat_activity.
    """
    keys = ", ".join(f"({shard}, {key})" for shard, key in enumerate(leases))
    held = HELD_SQL.format(mode="ExclusiveLock", key="lease.key")
    return _PUBLISHERS.format(keys, held, session)


def compare(broker: Broker, head: Head, of_ledger: Sequence[Sequence[Any]]) -> Broker:
    """The broker beside the ledger, which was looked at later: no mark of ours is ahead of that.

    `of_ledger` are the rows of MARKS_SQL.
    """
    pairs = zip(broker.shards, of_ledger, strict=True)
    return replace(broker, shards=tuple(_compare(shard, head, *row) for shard, row in pairs))


def _compare(
    shard: Shard, head: Head, closed_at_ms: int | None, late_s: float | None, oid: int
) -> Shard:
    if shard.batch is None:
        return shard
    foreign = (
        shard.batch > head.batch
        or closed_at_ms not in (None, shard.closed_at_ms)
        or shard.log.rpartition("/")[2] not in ("", str(oid))
    )
    lag = max(0, head.batch - shard.batch)
    if lag and late_s is None:
        late_s = PRUNED_S
    return replace(shard, lag=lag, late_s=max(0.0, late_s or 0.0), foreign=foreign)
