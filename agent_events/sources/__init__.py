"""Where windows come from. A source yields them in order; its reader applies the one rule."""

from collections.abc import AsyncGenerator
from typing import Protocol

from agent_events.window import Window


class Source(Protocol):
    """An endless supply of windows, each once and in order as far as this source can tell."""

    def windows(self) -> AsyncGenerator[Window, None]:
        """Yields windows until cancelled. Mends its own connections; ends only by cancellation."""
        ...


class Sink(Protocol):
    """Takes windows and passes them on. May drop, repeat and reorder: the receiver notices."""

    async def send(self, window: Window) -> None:
        """Passes one window on."""
        ...
