"""Somebody else at a NATS server, for tests that have no event loop of their own at hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nats
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError

STREAM = "stranger"


class Stranger:
    """A client with JetStream, on a thread and a loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Any) -> None:
        self._loop = loop
        self._client = client
        self._stream = client.jetstream()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def fill(self) -> None:
        """Uses up the server's memory, in a stream of its own."""
        self._do(self._fill())

    async def _fill(self) -> None:
        await self._stream.add_stream(
            StreamConfig(name=STREAM, subjects=[STREAM], storage=StorageType.MEMORY)
        )
        for size in (500_000, 5_000, 500):
            try:
                while True:
                    await self._stream.publish(STREAM, b"x" * size)
            except APIError:
                continue

    def free(self) -> None:
        """Deletes that again."""
        self.delete(STREAM)

    def delete(self, name: str) -> None:
        """Deletes a stream."""
        self._do(self._stream.delete_stream(name))

    def stored(self, name: str) -> int:
        """How many messages a stream holds."""
        return int(self._do(self._stream.stream_info(name)).state.messages)

    def close(self) -> None:
        """Ends the connection."""
        self._do(self._client.close())


@contextmanager
def in_nats(url: str) -> Iterator[Stranger]:
    """Connected for the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        client = asyncio.run_coroutine_threadsafe(nats.connect(url), loop).result(10)
        stranger = Stranger(loop, client)
        yield stranger
        stranger.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
