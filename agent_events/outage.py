"""A failure that lasts: said once when it begins, and once when it is over."""

import logging
import time

from agent_events.errors import in_a_line

logger = logging.getLogger("agent_events")


class Outage:
    """Whether something is failing, and for how long."""

    def __init__(self, began: str, over: str) -> None:
        """`began` has a `%s` for what the error says, `over` a `%.1f` for the seconds it took."""
        self._began = began
        self._over = over
        self._since: float | None = None

    def failed(self, error: BaseException) -> None:
        """Says so, unless it has been said: then only for whoever debugs."""
        if self._since is not None:
            logger.debug("Failed again (%s).", in_a_line(error))
            return
        self._since = time.monotonic()
        logger.warning(self._began, in_a_line(error))

    def over(self) -> None:
        """Says that it is over, where it was said to have begun."""
        if self._since is not None:
            logger.info(self._over, time.monotonic() - self._since)
        self._since = None
