"""The ledger's promise, worked out by brute force: what the SQL functions are compared with.

Nothing here shares an idea with the SQL: for every batch the whole set of visible transactions is
built from the text of its snapshot, and a batch is the difference of two such sets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import psycopg

Position = tuple[int, int]
"""(batch, id); id 0 is the beginning of the batch."""


class Row(NamedTuple):
    """One row of agent_events, as far as order and filters go."""

    id: int
    tx: int
    tenant: str
    agent: str
    type: str


class Batch(NamedTuple):
    """One row of agent_event_batches; `seen` is the text of its snapshot."""

    n: int
    seen: str
    total: int
    closed_at: datetime


@dataclass(frozen=True)
class Oracle:
    """The whole log and the whole ledger, read once."""

    rows: Sequence[Row]
    batches: Sequence[Batch]
    placed: dict[int, int] = field(default_factory=dict)  # tx -> n, filled by `check`

    @classmethod
    def load(cls, connection: psycopg.Connection[Any]) -> Oracle:
        """Read everything in one snapshot, work out every batch, and check the promises."""
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            rows = connection.execute(
                "SELECT id, tx::text::bigint, tenant_id::text, agent_id::text, event_type"
                "  FROM agent_events ORDER BY id"
            ).fetchall()
            batches = connection.execute(
                "SELECT n, seen::text, total, closed_at FROM agent_event_batches ORDER BY n"
            ).fetchall()
        oracle = cls([Row(*row) for row in rows], [Batch(*batch) for batch in batches])
        oracle.check()
        return oracle

    def check(self) -> None:
        """Visibility only grows, no transaction is in two batches, totals count, time rises."""
        txs = sorted({row.tx for row in self.rows})
        sizes: dict[int, int] = {}
        for row in self.rows:
            sizes[row.tx] = sizes.get(row.tx, 0) + 1
        before: set[int] = set()
        for last, batch in zip([None, *self.batches], self.batches, strict=False):
            xmin, xmax, xip = batch.seen.split(":")
            assert int(xmin) <= int(xmax), batch
            running = {int(x) for x in xip.split(",") if x}
            visible = set(txs[: bisect_left(txs, int(xmax))]) - running
            assert before <= visible, f"batch {batch.n} forgot {sorted(before - visible)}"
            for tx in visible - before:
                self.placed[tx] = batch.n
            count = sum(sizes[tx] for tx in visible)
            assert batch.total == count, f"batch {batch.n}: total {batch.total}, counted {count}"
            if last is not None:
                assert batch.n == last.n + 1
                assert batch.closed_at - last.closed_at >= timedelta(milliseconds=1), batch
                assert visible - before, f"batch {batch.n} is empty"
            before = visible

    @property
    def head(self) -> int:
        """The last batch's number."""
        return self.batches[-1].n

    def closed_at(self, n: int) -> datetime:
        """When batch n was closed."""
        batch = self.batches[n - self.batches[0].n]
        assert batch.n == n
        return batch.closed_at

    @cached_property
    def order(self) -> list[tuple[Position, Row]]:
        """The whole log in its one order."""
        return sorted(
            ((self.placed[row.tx], row.id), row) for row in self.rows if row.tx in self.placed
        )

    @property
    def unplaced(self) -> list[Row]:
        """Committed rows that no batch has yet."""
        return [row for row in self.rows if row.tx not in self.placed]

    def batch_ids(self) -> dict[int, list[int]]:
        """For every batch its ids, in order."""
        found: dict[int, list[int]] = {batch.n: [] for batch in self.batches[1:]}
        for (n, id_), _ in self.order:
            found[n].append(id_)
        return found

    def wanted(
        self,
        tenants: Sequence[str] | None = None,
        agents: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Position]:
        """Positions of the events that pass, in order; None means any."""
        for position, row in self.order:
            if (
                (tenants is None or row.tenant in tenants)
                and (agents is None or any(_fits(row.agent, a) for a in agents))
                and (types is None or any(_fits(row.type, t) for t in types))
            ):
                yield position


def _fits(value: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return value[: len(pattern) - 1] == pattern[:-1]
    return value == pattern
