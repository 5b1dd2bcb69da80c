"""Keeping a rate: how many events are due now."""

from __future__ import annotations

import math

# A hiccup (a slow disk, a frozen process) is caught up with, but not one of an hour all at once.
LONGEST_CATCH_UP_S = 2.0


class Pacer:
    """Says how many events are due, so that the rate holds on average.

    Args:
        rate: events per second, greater than 0.
        now: the clock at the start, in seconds; any monotonic clock will do.
    """

    def __init__(self, rate: float, now: float) -> None:
        if not rate > 0 or math.isinf(rate):
            raise ValueError(f"the rate must be a number of events per second, not {rate}")
        self._rate = rate
        self._origin = now
        self._given = 0

    def due(self, now: float) -> int:
        """How many events to send now. What fell behind more than 2 s is dropped."""
        behind_s = now - self._origin - self._given / self._rate
        if behind_s > LONGEST_CATCH_UP_S:
            self._origin += behind_s - LONGEST_CATCH_UP_S
        count = math.floor((now - self._origin) * self._rate) - self._given
        self._given += max(count, 0)
        return max(count, 0)

    def next_at(self) -> float:
        """The time, on the same clock, at which the next event is due."""
        return self._origin + (self._given + 1) / self._rate
