"""One live subscriber, in a process of its own, that counts: `python -m benchmarks.subscriber`.

`ours TENANT` subscribes as an application does (`agent_events.subscribe`; it closes the batches
where nobody else does). `listen TENANT` is a bare psycopg connection that LISTENs to the tenant's
channel. Both print `live` when nothing that comes from then on is missed, and for each line on
standard input how many events have come.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.cluster import TENANT, environment, process, wait_until

CAUGHT_UP_S = 60.0


class Counting:
    """A subscriber process, as its starter sees it."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running

    def count(self) -> int:
        """How many events it has had by now."""
        assert self._running.stdin is not None
        self._running.stdin.write("\n")
        self._running.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        """The next line that it prints. Raises RuntimeError where it has ended."""
        assert self._running.stdout is not None
        if not (line := self._running.stdout.readline()):
            raise RuntimeError("the subscriber has ended by itself")
        return line

    def expect(self, count: int) -> None:
        """Waits until it has had so many events. Raises RuntimeError for fewer, and for more."""
        try:
            wait_until(lambda: self.count() >= count, CAUGHT_UP_S, f"{count} events")
        except TimeoutError as error:
            raise RuntimeError(f"{error}: the subscriber has had {self.count()}") from error
        if (had := self.count()) != count:
            raise RuntimeError(f"the subscriber has had {had} events where {count} were written")


@contextmanager
def subscriber(
    dsn: str,
    *,
    how: str = "ours",
    tenant: str = TENANT,
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Counting]:
    """A subscriber that is live.

    Args:
        how: "ours", or "listen" for a bare LISTEN connection.
        env: environment variables of its process.
        settings: the product's settings in its process, such as `MODE="coalesce"`.
    """
    command = [sys.executable, "-m", "benchmarks.subscriber", how, tenant]
    with process(command, {**environment(dsn, **settings), **(env or {})}) as running:
        counting = Counting(running)
        if (said := counting.line()) != "live\n":
            raise RuntimeError(f"the subscriber said {said!r}, not that it is live")
        yield counting


async def _ours(tenant: str) -> None:
    import django

    django.setup()
    from agent_events import subscribe

    count = 0

    def tell() -> None:
        if not os.read(0, 1024):
            os._exit(0)  # whoever asked has gone
        print(count, flush=True)

    async with subscribe(tenant) as events:
        asyncio.get_running_loop().add_reader(0, tell)
        print("live", flush=True)
        async for _ in events:
            count += 1


def _listen(dsn: str, tenant: str) -> None:
    count = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'LISTEN "agent_event_{tenant}"'.encode())
        print("live", flush=True)
        while True:
            ready, _, _ = select.select([0, connection.fileno()], [], [])
            if connection.fileno() in ready:
                count += sum(1 for _ in connection.notifies(timeout=0))
            if 0 in ready:
                if not os.read(0, 1024):
                    return
                print(count, flush=True)


if __name__ == "__main__":
    way, of_tenant = sys.argv[1:]
    if way == "ours":
        asyncio.run(_ours(of_tenant))
    else:
        _listen(os.environ["DATABASE_URL"], of_tenant)
