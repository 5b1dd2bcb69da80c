"""A TCP proxy that hands over all that it is given some time later, as a long way does."""

from __future__ import annotations

import asyncio
import time

from tests.support.proxy import Proxy


class SlowProxy(Proxy):
    """Passes bytes to one address, each `delay_s` seconds after they came; as many as come.

    Where `bytes_per_s` is not 0, so many a second each way.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.late = 0  # bytes that were handed over later

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(waiting, sink))
        try:
            while data := await source.read(65_536):
                if me in self._frozen:
                    self.swallowed += len(data)
                    continue
                self.passed += len(data)
                self.late += len(data) if self.delay_s else 0
                waiting.put_nowait((time.monotonic() + self.delay_s, data))
        except OSError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if me not in self._frozen:  # or its end would be news that the other end hears
                sink.close()

    async def _send(
        self, waiting: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            sink.write(data)
            await sink.drain()
