"""Positions in the log, cursors as text, and the one rule. Pure: no clock, no I/O.

The log is ordered by (batch, id), see docs/ledger.md. A position says where to read on: in batch
n after `after_id`; behind the whole of batch n it is (n + 1, 0). Comparing positions is comparing
pairs. A cursor is a position as a client keeps it, with the time of the last batch that it has
events of, by which a server recognises its own history.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from agent_events.errors import InvalidCursor

EARLIEST = "earliest"
LATEST = "latest"

_CURSOR = re.compile(r"([0-9a-f]{12})-([0-9a-f]{16})-(0|[1-9a-f][0-9a-f]{0,11})", re.ASCII)
MOST_ID = 2**63 - 1
"""A PostgreSQL `bigint`."""


class Position(NamedTuple):
    """Where to read on: in `batch` after the event `after_id` (0: from the batch's start)."""

    batch: int
    after_id: int = 0

    @property
    def last_batch(self) -> int:
        """The last batch that a reader at this position has events of."""
        return self.batch if self.after_id else self.batch - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position and the `closed_at`, in ms since 1970, of its `last_batch`.

    As text: 12 hex digits of the batch, 16 of the id, the time in hex. It sorts as text as it
    does as a position, and needs no escaping in a URL or a header.
    """

    position: Position
    closed_at_ms: int

    def __str__(self) -> str:
        batch, after_id = self.position
        return f"{batch:012x}-{after_id:016x}-{self.closed_at_ms:x}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor that `text` spells.

        Raises InvalidCursor for anything that `str(cursor)` cannot have made.
        """
        found = _CURSOR.fullmatch(text)
        if found:
            batch, after_id, closed_at_ms = (int(part, 16) for part in found.groups())
            if batch >= 1 and after_id <= MOST_ID:
                return cls(Position(batch, after_id), closed_at_ms)
        raise InvalidCursor(
            f"{text[:64]!r} is no cursor. Send one back exactly as it was received "
            f"(<batch>-<id>-<time>, in hex), or {EARLIEST!r} or {LATEST!r}."
        )


class Verdict(Enum):
    """What a receiver does with a slice."""

    DROP = "drop"  # it has all of it
    DELIVER = "deliver"  # from its batch on; then it stands at (last + 1, 0)
    READ = "read"  # something before it is missing: read the log from the position


def judge(position: Position, first: int, last: int) -> Verdict:
    """The one rule, for a receiver at `position` and a slice of batches `first` to `last`.

    A slice holds all events of its tenants in those batches. An empty one (`first == last + 1`)
    says that the log has come to `last`. Drops, repeats, reordering, two sources, restarts and
    slow readers are all this rule.
    """
    if last < position.batch:
        return Verdict.DROP
    if first <= position.batch and not position.after_id:
        return Verdict.DELIVER
    return Verdict.READ
