"""Who waits for PostgreSQL's lock of notifying commits, and how often.

It is one lock of the whole cluster, "of database 0", held from before each commit that notifies to
its end, WAL flush included. Waits for it are short, so it is looked at often. It shows in pg_locks,
and as `wait_event_type = 'Lock'`, `wait_event = 'object'`; never as an LWLock.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent_events.database import COMMIT_LOCK_SQL
from agent_events.facts import CommitWaits, Session, Waiter
from agent_events.status import SESSION_SQL

MOST_WAITERS = 5
"""So many of those who wait are named."""

# One scan of pg_locks, and nothing more where nobody waits: it takes locks of PostgreSQL's own.
# Whoever inserted into the log holds a lock on it until its transaction ends.
LOOK_SQL = f"""
    WITH l AS MATERIALIZED (
        SELECT pid, granted, waitstart, locktype FROM pg_locks
         WHERE {COMMIT_LOCK_SQL}
            OR (locktype = 'relation' AND relation = 'agent_events'::regclass
                AND mode = 'RowExclusiveLock'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    ), waiting AS (
        SELECT l.granted,
               coalesce(extract(epoch FROM clock_timestamp() - l.waitstart), 0)::float8 AS waits_s,
               coalesce(a.datname, '') AS database,
               a.application_name = %(bus)s AND a.datname = current_database()
               OR EXISTS (SELECT FROM l AS w WHERE w.pid = l.pid AND w.locktype = 'relation')
                   AS ours,
               {SESSION_SQL}
          FROM l JOIN pg_stat_activity AS a ON a.pid = l.pid
         WHERE l.locktype = 'object'
           AND EXISTS (SELECT FROM l AS w WHERE w.locktype = 'object' AND NOT w.granted)
    )
    SELECT (SELECT state = 'active' FROM pg_stat_activity WHERE pid = %(leader)s), waiting.*
      FROM (SELECT 1) AS one LEFT JOIN waiting ON true
"""


class Looks:
    """Many looks at the commit lock, made into one account."""

    def __init__(self) -> None:
        self._looks = self._waited = self._most = 0
        self._longest_s = 0.0
        self._seen: dict[int, Waiter] = {}
        self._times: Counter[int] = Counter()
        self._holder: Waiter | None = None
        self._active: list[bool] = []

    def take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """The rows of `LOOK_SQL`."""
        self._looks += 1
        if rows and rows[0][0] is not None:
            self._active.append(rows[0][0])
        waiting = [row[1:] for row in rows if row[1] is False]
        holding = [row[1:] for row in rows if row[1] is True]
        if not waiting:
            return
        self._waited += 1
        self._most = max(self._most, len(waiting))
        for row in waiting:
            one = _waiter(row)
            pid = one.session.pid
            self._times[pid] += 1
            before = self._seen.get(pid)
            if before is None or one.waits_s > before.waits_s:
                self._seen[pid] = one
        longest_s = max(row[1] for row in waiting)
        if longest_s >= self._longest_s:
            self._longest_s = longest_s
            self._holder = _waiter(holding[0]) if holding else None

    def waits(self) -> CommitWaits:
        """The account."""
        seen = [
            Waiter(one.session, one.database, one.ours, self._times[pid], one.waits_s)
            for pid, one in self._seen.items()
        ]
        seen.sort(key=lambda one: (-one.looks, -one.waits_s))
        total = sum(one.looks for one in seen)
        others = sum(one.looks for one in seen if not one.ours)
        return CommitWaits(
            looks=self._looks,
            waited=self._waited,
            most=self._most,
            longest_s=self._longest_s,
            waiters=tuple(seen[:MOST_WAITERS]),
            waiting=len(seen),
            others=others / total if total else 0.0,
            holder=self._holder,
        )

    def busy(self) -> float | None:
        """The share of looks in which the sequencer's session was at work; None: not to be seen."""
        return sum(self._active) / len(self._active) if self._active else None


def _waiter(row: tuple[Any, ...]) -> Waiter:
    _, waits_s, database, ours, *session = row
    return Waiter(Session(*session), database, bool(ours), 1, max(0.0, waits_s))
