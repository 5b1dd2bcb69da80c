"""How much each principal may publish: a bucket of tokens for each. Pure: the time is handed in."""

from collections import OrderedDict

MOST_KNOWN = 10_000
"""So many principals are remembered: the one that was there least lately is forgotten, and begins
with a full bucket."""


class Rates:
    """Lets `per_s` a second through for each principal, and a second's worth at once.

    Whoever has anything left may take more than that, and waits for longer afterwards: a list of
    events passes as a whole.
    """

    def __init__(self, per_s: float, most_known: int = MOST_KNOWN) -> None:
        """`per_s`: tokens a second."""
        self._per_s = per_s
        self._most_known = most_known
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at this time

    def take(self, who: str, count: int, now_s: float) -> float:
        """Takes `count` tokens; returns 0, or in how many seconds to come back. `now_s` rises."""
        full = max(self._per_s, 1.0)
        left, at = self._left.pop(who, (full, now_s))
        left = min(full, left + (now_s - at) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._left[who] = (left if wait_s else left - count), now_s
        if len(self._left) > self._most_known:
            self._left.popitem(last=False)
        return wait_s
