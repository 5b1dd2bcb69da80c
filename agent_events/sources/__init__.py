"""Where windows come from. A source yields them in order; its reader applies the one rule."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from agent_events.window import Window


class Doorbell(Enum):
    """Do this source's own rings arrive? A window comes without them too, a poll later."""

    UNKNOWN = "unknown"  # not tried yet
    HEARD = "heard"
    DEAF = "deaf"  # a pooler in transaction mode is in between: it polls


BROKER = "broker"
"""The kind of a source that reads from one."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source does, for whoever asks whether this process is well."""

    kind: str = "postgres"  # or BROKER
    connected: bool = False
    heard: bool = True  # has it handed anything over lately? (A broker may be well, and silent.)
    doorbell: Doorbell = Doorbell.UNKNOWN
    leads: bool = False  # closes batches for everybody
    coalescing: bool = False  # by the clock: producers do not ring
    batch: int | None = None  # the last one handed over
    trouble: str = ""  # what is wrong, in words


class Source(Protocol):
    """An endless supply of windows, each once and in order as far as this source can tell."""

    @property
    def state(self) -> SourceState:
        """How it does now."""
        ...

    def windows(self) -> AsyncGenerator[Window, None]:
        """Yields windows until cancelled. Mends its own connections; ends only by cancellation."""
        ...


class Sink(Protocol):
    """Takes windows and passes them on. May drop, repeat and reorder: the receiver notices."""

    async def send(self, window: Window) -> None:
        """Passes one window on."""
        ...
