"""Waiting for conditions: tests never sleep for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LATE_S = 30.0  # for what should take a moment, on a machine that may be busy


def wait_until(
    predicate: Callable[[], T],
    timeout_s: float = LATE_S,
    what: str = "the condition",
    interval_s: float = 0.02,
) -> T:
    """Call `predicate` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within `timeout_s` seconds; the message names `what` and the
            last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what}; last value: {value!r}")
        time.sleep(interval_s)


async def until(
    predicate: Callable[[], T], timeout_s: float = LATE_S, interval_s: float = 0.01
) -> T:
    """`wait_until` for what happens in this event loop. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not (value := predicate()):
            await asyncio.sleep(interval_s)
        return value
