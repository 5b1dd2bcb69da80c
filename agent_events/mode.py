"""How the log is sequenced now, decided from what was heard and closed. Pure: time is handed in.

    RINGING ----- many commits ring, or wait for each other -----> COALESCING
       ^                                                               |
       +-- all that began in silence have ended -- DRAINING <-- quiet -+

Ringing is the quickest way while commits are few. But each notifying commit of the cluster runs
alone, so past some rate producers are spared it, and batches are closed by the clock. A transaction
that was spared may commit long after: DRAINING goes on looking until none of them is left.
"""

from collections import deque
from enum import Enum

from agent_events.conf import Settings

RING_RATE_S = 0.25
"""The rate of rings is that of the last so many seconds: a sudden load is noticed at once."""
EVENT_RATE_S = 2.0
"""The rate of events is that of the last so many: a short pause of the load ends nothing."""
WAITED = 5
"""So many looks at the commit lock that find two commits waiting, or more, are no accident,"""
WAITS_S = 1.0
"""within this time."""
WATCHED = 10
"""The commit lock is looked at where more than this part of `coalesce_above` ring."""
STEADY = 0.8
"""Ringing begins again at this share of the rate at which it ended, or less: else it would flap."""
FIRST_DRAIN_S = 0.01
LAST_DRAIN_S = 0.25
"""How far apart the looks of DRAINING are, from the first to all after the last."""


class Mode(Enum):
    """Who says when to look for new events."""

    RINGING = "ringing"  # each commit
    COALESCING = "coalescing"  # the clock
    DRAINING = "draining"  # each commit, and the clock for those that will not


class Rate:
    """How many a second, over the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._counts: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, now: float, count: int) -> None:
        """`count` of them came at `now` (monotonic seconds)."""
        if count:
            self._counts.append((now, count))
            self._sum += count
            self.at(now)  # so that what nobody asks for does not grow either

    def at(self, now: float) -> float:
        """The rate at `now`."""
        while self._counts and self._counts[0][0] <= now - self._window_s:
            self._sum -= self._counts.popleft()[1]
        return self._sum / self._window_s


class Pace:
    """The mode of the process that closes batches. It begins by draining: whoever did it before may
    have left transactions that were spared the ringing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rings = Rate(RING_RATE_S)
        self._events = Rate(EVENT_RATE_S)
        self._waits: deque[float] = deque(maxlen=WAITED)
        self._since = 0.0
        self._ring_below = 0.0
        self._drain_s = FIRST_DRAIN_S
        self.mode = Mode.DRAINING

    def rung(self, now: float, count: int) -> None:
        """The doorbell was heard `count` times."""
        self._rings.add(now, count)

    def closed(self, now: float, events: int) -> None:
        """A batch of so many events was closed."""
        self._events.add(now, events)

    def saw_waiting(self, now: float, commits: int) -> None:
        """So many commits waited for the commit lock, at one look."""
        if commits >= 2:
            self._waits.append(now)

    def watch_waits(self, now: float) -> bool:
        """Is it worth looking who waits for the commit lock?

        With a slow disk it is too short for everybody far below `coalesce_above`.
        """
        return (
            self.mode is not Mode.COALESCING
            and self._settings.mode == "auto"
            and self._rings.at(now) > self._settings.coalesce_above / WATCHED
        )

    def should_coalesce(self, now: float) -> bool:
        """Ringing or draining: is it time to spare producers the ringing?"""
        if self._settings.mode != "auto":
            return self._settings.mode == "coalesce"
        waits = len(self._waits) == WAITED and now - self._waits[0] < WAITS_S
        return waits or self._rings.at(now) > self._settings.coalesce_above

    def should_ring(self, now: float) -> bool:
        """Coalescing: is it time to let producers ring again?"""
        if self._settings.mode != "auto":
            return self._settings.mode == "ring"
        return now - self._since >= EVENT_RATE_S and self._events.at(now) < self._ring_below

    def coalesce(self, now: float) -> None:
        """Producers are silent from here on."""
        # Where it began at a lower rate, because commits waited, it ends at a lower one too.
        above = self._settings.coalesce_above
        share = min(self._settings.ring_below / above, STEADY)
        self._ring_below = share * min(above, max(above / WATCHED, self._rings.at(now)))
        self._since = now
        self._waits.clear()
        self.mode = Mode.COALESCING

    def drain(self) -> None:
        """They ring again, but for transactions that looked before."""
        self._drain_s = FIRST_DRAIN_S
        self.mode = Mode.DRAINING

    def next_drain_s(self) -> float:
        """How long until the next look for those."""
        wait_s = self._drain_s
        self._drain_s = min(2 * wait_s, LAST_DRAIN_S)
        return wait_s

    def ring(self) -> None:
        """All of those have ended."""
        self.mode = Mode.RINGING
