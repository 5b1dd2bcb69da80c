"""A warning that many cause at the same time, and that one line of the log is enough for."""

import logging
import time

from agent_events.errors import in_a_line

logger = logging.getLogger("agent_events")

EVERY_S = 10.0
"""Whoever has no database comes back every few seconds, all of them: the log says it this often."""


class Seldom:
    """A warning that is given EVERY_S apart at most."""

    def __init__(self, words: str) -> None:
        """`words` have a `%s` for what the error says."""
        self._words = words
        self._said_at = float("-inf")

    def warn(self, error: Exception) -> None:
        """Warns, unless it did so a moment ago."""
        now = time.monotonic()
        if now - self._said_at >= EVERY_S:
            self._said_at = now
            logger.warning(self._words, in_a_line(error))
