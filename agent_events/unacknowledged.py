"""How much of what was sent over a WebSocket its client has not acknowledged."""

import asyncio


class Unacknowledged:
    """What was sent and not yet acknowledged, in bytes."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._sent: list[tuple[str, int]] = []
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None  # while somebody waits for it

    def sent(self, cursor: str, size: int) -> None:
        """A frame of `size` bytes went out; the client will acknowledge it by its cursor."""
        self._sent.append((cursor, size))
        self._bytes += size

    def acknowledge(self, cursor: str) -> None:
        """The client has this frame and all before it.

        Only a cursor that was sent counts: a client cannot acknowledge what it has not read.
        """
        places = (n for n, (sent, _) in enumerate(self._sent, 1) if sent == cursor)
        count = next(places, 0)
        self._bytes -= sum(size for _, size in self._sent[:count])
        del self._sent[:count]
        if self._bytes < self._window_bytes and self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def room(self, timeout_s: float) -> None:
        """Waits until the next frame may go, however large it is. Raises TimeoutError."""
        if self._bytes < self._window_bytes:
            return
        self._room = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._room
        finally:
            self._room = None
