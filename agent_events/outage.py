"""A failure that lasts: said when it begins, when its cause is another one, and when it is over."""

import logging
import re
import time

from agent_events.errors import in_a_line

logger = logging.getLogger("agent_events")

MOST_CAUSES = 5
"""So many causes of one failure are said at most."""
_VARIES = re.compile(r"0x[0-9a-fA-F]+|[0-9][0-9.,]*")
"""Durations, ports, addresses of objects: words that differ in these alone are the same cause."""


class Outage:
    """Whether something is failing, why, and for how long."""

    def __init__(self, began: str, over: str, level: int = logging.WARNING) -> None:
        """`began` is "<what> failed (%s)" and more, with a `%s` for what the error says.

        `over` has a `%.1f` for the seconds that it took. `level`: of the line when it begins.
        """
        self._began = began
        self._changed = f"{began.partition(' failed (')[0]} fails for another reason now (%s)."
        self._over = over
        self._level = level
        self._since: float | None = None
        self._said: set[str] = set()  # the causes

    @property
    def lasts(self) -> bool:
        """Has it failed, and is not over?"""
        return self._since is not None

    def failed(self, error: BaseException, *, traceback: bool = False) -> None:
        """Says so, unless this cause has been said: then only for whoever debugs.

        `traceback`: with that of the error.
        """
        words = in_a_line(error)
        cause = _VARIES.sub("0", words)
        if cause in self._said or len(self._said) >= MOST_CAUSES:
            logger.debug("Failed again (%s).", words)
            return
        self._said.add(cause)
        told = self._changed if self.lasts else self._began
        if self._since is None:
            self._since = time.monotonic()
        logger.log(self._level, told, words, exc_info=error if traceback else None)

    def over(self) -> None:
        """Says that it is over, where it was said to have begun."""
        if self._since is not None:
            logger.info(self._over, time.monotonic() - self._since)
        self._since = None
        self._said.clear()
