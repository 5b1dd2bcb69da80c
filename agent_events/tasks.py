"""Ending asyncio tasks so that they end."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.5


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks until each of them has ended, however.

    Until, for one cancellation may be lost: before Python 3.12 `asyncio.wait_for`, with which
    psycopg waits, swallows one that comes just as the wait is over. What they raise is nobody's.
    """
    tasks = list(tasks)
    running = {task for task in tasks if not task.done()}
    for task in running:
        if not task.cancelling():  # else it is closing its connection: leave it the time
            task.cancel()
    while running:
        _, running = await asyncio.wait(running, timeout=AGAIN_S)
        for task in running:
            task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asked for, or asyncio would say that nobody did
