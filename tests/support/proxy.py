"""A TCP proxy that can swallow packets, as a firewall does that forgot a connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict


class Proxy:
    """Passes bytes to one address until `freeze()`: from then on neither end hears the other."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._frozen: set[asyncio.Task[None]] = set()
        self._passing: dict[asyncio.Task[None], float] = {}  # since when
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self.refused = b""  # a connection that sends this is closed
        self.unanswered = b""  # one that sends this passes nothing, from then on
        self.passed = 0  # bytes, both ways
        self.swallowed = 0
        self.port = 0

    def freeze(self, older_than_s: float = 0.0) -> int:
        """The connections there are, of this age, pass nothing from now on; new ones do.

        Returns how many they are.
        """
        return asyncio.run_coroutine_threadsafe(self._freeze(older_than_s), self._loop).result(10)

    async def _freeze(self, older_than_s: float) -> int:
        latest = time.monotonic() - older_than_s
        chosen = {task for task, since in self._passing.items() if since <= latest}
        self._frozen |= chosen
        return len(chosen) // 2

    async def _serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        for task in list(self._passing):
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(w.wait_closed() for w in self._writers), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            await writer.wait_closed()
            return
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._passing[task] = time.monotonic()
            task.add_done_callback(self._passing.pop)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        try:
            while data := await source.read(65_536):
                if me in self._frozen:
                    self.swallowed += len(data)
                    continue
                if self.refused and self.refused in data:
                    break
                if self.unanswered and self.unanswered in data:
                    self._frozen.add(asyncio.current_task())
                    continue
                self.passed += len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            if me not in self._frozen:  # or its end would be news that the other end hears
                sink.close()

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Runs in a thread of its own."""
        started, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve(started, stop))
        )
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            self._loop.close()


@contextmanager
def proxy_to(dsn: str) -> Iterator[tuple[Proxy, str]]:
    """A running proxy to the server of `dsn`, and the connection string that goes through it."""
    parts = conninfo_to_dict(dsn)
    with Proxy(str(parts["host"]), int(str(parts["port"]))).running() as proxy:
        account = f"{parts['user']}:{quote(str(parts['password']))}"
        yield proxy, f"postgresql://{account}@127.0.0.1:{proxy.port}/{parts['dbname']}"
