"""The server's side of a client, in this process: what real sockets' buffers would hide."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.support.waiting import until


class Client:
    """The server's side of a client that takes `takes` messages, and no more."""

    def __init__(self, takes: int = sys.maxsize) -> None:
        self.sent: list[dict[str, Any]] = []
        self._takes = takes
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def say(self, **message: Any) -> None:
        """Something from the client."""
        self._said.put_nowait(message)

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's."""
        self.sent.append(message)
        if len(self.sent) > self._takes:
            await asyncio.Event().wait()

    async def receive(self) -> dict[str, Any]:
        """ASGI's."""
        return await self._said.get()

    async def has_got(self, count: int) -> None:
        """Waits until that many messages were sent to it."""
        await until(lambda: len(self.sent) >= count)
