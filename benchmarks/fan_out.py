"""Deliveries a second to 200 WebSockets on one process, beside the usual way with Channels.

Ours: 200 clients of one tenant, who acknowledge each frame; a producer inserts many rows a
statement, at most some thousand events ahead of the slowest client. Everything must arrive. The
usual way: 200 consumers in a group, one `group_send` an event, on the same in-memory layer, fed by
a LISTEN client of the seed's trigger in the same process. It is measured twice: with a producer
that stays so little ahead that the layer drops nothing (capacity: 100 messages a consumer), which
is its figure; and with one that does not wait, to count what it drops without a word.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.clients import Audience, Target
from benchmarks.cluster import BARE_TABLE, SEED_TRIGGER, TENANT, cluster, wait_until
from benchmarks.frame import Chart, Part, Row, alone, at_least, medians, take_turns
from benchmarks.producers import Order, Producer
from benchmarks.servers import SERVERS, USUAL, Site, make_user, serving

CLIENTS = 200
ROWS, WINDOW = 100, 4_000
"""Ours: events a statement, and how far the producer may be ahead of the slowest client."""
USUAL_WINDOW = 50
"""The usual way: half of the layer's capacity."""
FLOOD_RATE = 2_000.0
"""Events a second that the producer who does not wait inserts, for the usual way."""
SETTLE_S = 1.0
DRAIN_TIMEOUT_S = 180.0


@dataclass
class Hall:
    """Clients in place on one server process, and a database to insert into."""

    dsn: str
    site: Site
    audience: Audience

    def steady(self, order: Order) -> float:
        """Deliveries a second in the midst of a run, all of which arrive, once.

        Raises TimeoutError, RuntimeError.
        """
        before = max(self.audience.counts)
        producer = Producer(self.dsn, order, self.audience.counts).start()
        time.sleep(SETTLE_S)  # connections, caches and queues as they stay
        had, began = self._had(), time.monotonic()
        time.sleep(order.seconds - 2 * SETTLE_S)
        delivered, seconds = self._had() - had, time.monotonic() - began
        made = producer.result()
        self.audience.caught_up(before + made.stored, DRAIN_TIMEOUT_S)
        if max(self.audience.counts) > before + made.stored:
            raise RuntimeError("a client had events twice")
        return delivered / seconds

    def lost(self, order: Order) -> float:
        """Which part of the deliveries never came, once nothing more comes."""
        before = self._had()
        made = Producer(self.dsn, order).start().result()
        self._quiet()
        return 1 - (self._had() - before) / (made.stored * len(self.audience.counts))

    def _had(self) -> int:
        return sum(self.audience.counts)

    def _quiet(self) -> None:
        last = [-1.0, 0.0]

        def still() -> bool:
            had, now = self._had(), time.monotonic()
            if had != last[0]:
                last[:] = [had, now]
            return now - last[1] > 1.0

        wait_until(still, DRAIN_TIMEOUT_S, "deliveries to end")


@contextmanager
def ours(dsn: str, server: str, clients: int) -> Iterator[Hall]:
    """Our stream on a server."""
    with serving(dsn, server) as site:
        target = Target(site, f"/ws/agents/stream?tenant={TENANT}")
        with Audience(target, clients) as audience:
            yield Hall(dsn, site, audience)


@contextmanager
def usual(dsn: str, server: str, clients: int) -> Iterator[Hall]:
    """One `group_send` an event on a server."""
    with serving(dsn, server, USUAL, signed_in=False) as site:
        target = Target(site, "/ws/usual", events=False, live=False)
        with Audience(target, clients) as audience:
            yield Hall(dsn, site, audience)


def measure(quick: bool) -> Part:
    """The table of deliveries a second."""
    clients, seconds, repeats = (5, 2.2, 1) if quick else (CLIENTS, 6.0, 3)
    rows, aims, notes = [], [], []
    samples: dict[str, list[float]] = {}
    bars: dict[str, dict[str, float]] = {}
    with (
        cluster() as server,
        server.database(migrate=True) as log,
        server.database(BARE_TABLE, SEED_TRIGGER) as seed,
    ):
        make_user(log)
        for kind in SERVERS[:1] if quick else SERVERS:
            with ours(log, kind, clients) as one, usual(seed, kind, clients) as other:
                taken = take_turns(
                    {
                        f"{kind}: ours": lambda: one.steady(
                            Order(None, seconds, ROWS, WINDOW, connections=2)
                        ),
                        f"{kind}: usual": lambda: other.steady(
                            Order(None, seconds, 1, USUAL_WINDOW, connections=4)
                        ),
                    },
                    repeats,
                )
                lost = other.lost(Order(FLOOD_RATE, seconds / 6, 1))
            figures = medians(taken)
            us, them = figures[f"{kind}: ours"], figures[f"{kind}: usual"]
            samples |= taken
            rows.append(
                Row(f"{clients} WebSockets, {kind}", "deliveries/s", us, {"group_send": them})
            )
            aims.append(at_least(f"deliveries/s, {kind}", us / them, 25.0, "x group_send"))
            notes.append(
                f"{kind}: nothing of ours was lost. One `group_send` an event lost "
                f"{lost:.0%} of the deliveries when {FLOOD_RATE:,.0f} events/s were inserted."
            )
            bars[kind] = {"ours": us, "group_send": them}
    return Part(
        "Deliveries to 200 WebSockets",
        __doc__.split("\n\n", 1)[1].strip(),
        rows,
        aims,
        [Chart("Deliveries to 200 WebSockets", "deliveries/s", bars, log=True)],
        notes,
        samples,
    )


if __name__ == "__main__":
    alone(measure)
