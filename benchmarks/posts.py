"""Posts a second over HTTP: one event each, from 64 clients at once, to one server process.

Ours: what waits while a commit is under way shares the next one. Beside it the same door without
sharing: a commit for each post, on 8 connections.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from functools import partial

from benchmarks.cluster import AGENT, PAYLOAD, ROOT, Cluster, cluster, environment
from benchmarks.frame import Chart, Part, Row, alone, medians, take_turns
from benchmarks.producers import SPAWN
from benchmarks.servers import SERVERS, Site, serving
from project.processes import end_with_parent

CLIENTS, SECONDS, REPEATS = 64, 4.0, 5
SETTLE_S = 0.5
RATE = 1_000_000.0
"""Events a second that a key may publish: not what is measured."""
ALONE = {"SHARED_POSTS": 1, "POST_CONNECTIONS": 8}
"""Without sharing: as many connections as a web process would have."""
READ_BYTES = 65_536


def measure(quick: bool) -> Part:
    """A row for each server."""
    clients, seconds, repeats = (4, 0.5, 1) if quick else (CLIENTS, SECONDS, REPEATS)
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    bars: dict[str, dict[str, float]] = {}
    with cluster() as server, server.database(migrate=True) as log:
        key = _key(log)
        for kind in SERVERS[:1] if quick else SERVERS:
            with (
                serving(log, kind, settings={"POST_RATE": RATE}, signed_in=False) as shared,
                serving(log, kind, settings={"POST_RATE": RATE, **ALONE}, signed_in=False) as apart,
            ):
                taken = take_turns(
                    {
                        f"{kind}: shared": partial(_per_s, server, shared, key, clients, seconds),
                        f"{kind}: alone": partial(_per_s, server, apart, key, clients, seconds),
                    },
                    repeats,
                )
            samples |= taken
            one, other = medians(taken).values()
            rows.append(Row(f"{kind}, {clients} clients", "posts/s", one, {"not shared": other}))
            bars[kind] = {"ours": one, "not shared": other}
    return Part(
        "Posts over HTTP",
        f"`POST /api/agents/events` with one event, from {clients} clients that wait for each "
        f"answer, for {seconds:g} s; beside it the same with a commit for each post "
        f"(`SHARED_POSTS` 1) on {ALONE['POST_CONNECTIONS']} connections. The answer comes after "
        f"the commit; the clients run on the same machine. Turns: {repeats}.",
        rows,
        charts=[Chart("One event a post", "posts/s", bars)],
        samples=samples,
    )


def _key(dsn: str) -> str:
    """An API key that may publish."""
    for command in (
        ["create_tenant", "Posts"],
        ["create_api_key", "--tenant=Posts", "--name=benchmark", "--scope=publish"],
    ):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=environment(dsn),
            check=True,
            capture_output=True,
            text=True,
        )
    return done.stdout.strip()


def _per_s(server: Cluster, site: Site, key: str, clients: int, seconds: float) -> float:
    """Answered posts a second, of clients in a process of their own."""
    server.settle()
    with SPAWN.Pool(1, initializer=end_with_parent) as pool:
        return pool.apply(_post, (site.port, key, clients, seconds))


def _post(port: int, key: str, clients: int, seconds: float) -> float:
    body = f'{{"agentId":"{AGENT}","type":"turn_complete","payload":{PAYLOAD}}}'
    request = (
        f"POST /api/agents/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    answered = 0
    with selectors.DefaultSelector() as ready:
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(request)
            ready.register(client, selectors.EVENT_READ, bytearray())
        began = time.perf_counter() + SETTLE_S
        until = began + seconds
        while (now := time.perf_counter()) < until:
            for chosen, _ in ready.select(until - now):
                client, had = chosen.fileobj, chosen.data
                assert isinstance(client, socket.socket)
                had += client.recv(READ_BYTES)
                if not had.endswith(b"]}"):  # the body's end
                    continue
                if not had.startswith(b"HTTP/1.1 201"):
                    raise RuntimeError(f"expected 201, got {bytes(had[:300])!r}")
                had.clear()
                answered += time.perf_counter() >= began
                client.sendall(request)
        for registered in list(ready.get_map().values()):
            assert isinstance(registered.fileobj, socket.socket)
            registered.fileobj.close()
    return answered / seconds


if __name__ == "__main__":
    alone(measure)
