"""What an idle subscriber costs in memory, beside connections that do nothing at all.

2,000 clients connect to a fresh server process and say nothing; the figure is the process's memory
with them less that before the first, for each (private pages: USS). Ours has subscribed and is
live. Beside it, on the same server, behind the same middleware and signed in too: an
`AsyncWebsocketConsumer` that only accepts, and a streaming ASGI response that only begins. What is
the same for any number of clients is warmed up first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import psutil

from benchmarks.clients import Audience, Target, many_files
from benchmarks.cluster import TENANT, cluster
from benchmarks.frame import Aim, Chart, Part, Row, alone, at_most, medians, take_turns
from benchmarks.servers import OURS, SERVERS, USUAL, make_user, serving

CLIENTS = 2_000
WARM_UP = 20
STEADY_S = 1.0
STEADY_KIB = 64
STEADY_TIMEOUT_S = 20.0
MOST_KIB, MOST_RATIO = 60.0, 1.5


def per_client_kib(
    dsn: str, server: str, application: str, path: str, websocket: bool, clients: int
) -> float:
    """KiB of the server's private memory for each of so many idle clients."""
    with serving(dsn, server, application) as site:
        ours = application == OURS
        target = Target(site, path, websocket=websocket, events=ours, live=ours)
        with Audience(target, WARM_UP):
            before = _settled(site.pid)
            with Audience(target, clients):
                return (_settled(site.pid) - before) / clients


def _settled(pid: int) -> float:
    """KiB of private memory, once it grows no more."""
    deadline = time.monotonic() + STEADY_TIMEOUT_S
    last = -1.0
    while True:
        now = psutil.Process(pid).memory_full_info().uss / 1_024
        if abs(now - last) < STEADY_KIB or time.monotonic() > deadline:
            return now
        last = now
        time.sleep(STEADY_S)


def measure(quick: bool) -> Part:
    """The table of KiB a client."""
    many_files()
    clients, repeats = (5, 1) if quick else (CLIENTS, 1)
    stream = f"?tenant={TENANT}"
    doors = {
        "WebSocket": (f"/ws/agents/stream{stream}", "/ws/empty", "an empty consumer"),
        "SSE": (f"/api/agents/stream{stream}", "/stream/empty", "an empty stream"),
    }
    rows, aims, samples = [], list[Aim](), dict[str, list[float]]()
    bars: dict[str, dict[str, float]] = {}
    with cluster() as server, server.database(migrate=True) as dsn:
        make_user(dsn)
        for kind in SERVERS[:1] if quick else SERVERS:
            for door, (ours, empty, name) in doors.items():
                cases: dict[str, Callable[[], float]] = {
                    who: partial(per_client_kib, dsn, kind, app, path, door == "WebSocket", clients)
                    for who, app, path in (("ours", OURS, ours), (name, USUAL, empty))
                }
                taken = take_turns(cases, repeats)
                figures = medians(taken)
                us, them = figures["ours"], figures[name]
                rows.append(Row(f"{door}, {kind}", "KiB a client", us, {"does nothing": them}))
                samples |= {f"{door}, {kind}: {who}": values for who, values in taken.items()}
                bars[f"{door}, {kind}"] = {"ours": us, "does nothing": them}
                aims.append(at_most(f"{door}, {kind}", us, MOST_KIB, "KiB"))
                aims.append(at_most(f"{door}, {kind}", us / them, MOST_RATIO, f"x {name}"))
    return Part(
        f"Memory of {clients:,} idle subscribers",
        __doc__.split("\n\n", 1)[1].strip(),
        rows,
        aims,
        [Chart("Memory of an idle subscriber", "KiB", bars, better="shorter")],
        [],
        samples,
    )


if __name__ == "__main__":
    alone(measure)
