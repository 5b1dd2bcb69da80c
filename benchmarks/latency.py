"""How long an event takes from its INSERT to a client, beside a bare LISTEN client.

Ours: from just before a producer sends its INSERT to when a WebSocket client has read the frame,
through a Daphne process that closes the batches itself, or through a second one that does not.
Beside it: a psycopg client that listens to the seed's trigger, which notifies for each row: the
shortest way that there is. Both run on one server, in turns; the producer is another process and
sends at even distances, whatever the answers do: single-row commits up to 5,000 events/s, at 15,000
ten rows a statement. Of 100 subscribers four measure, in a process of their own. On the page in
Chromium a row counts when it is in the document, at the next frame of the screen.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks import chromium
from benchmarks.clients import Audience, Listener, Target
from benchmarks.cluster import BARE_TABLE, SEED_TRIGGER, TENANT, cluster
from benchmarks.frame import Chart, Part, Row, alone, at_most
from benchmarks.producers import Made, Order, insert
from benchmarks.servers import Site, leads, make_user, serving

LAYOUTS = ("one process", "second process")
BARE, PAGE = "bare LISTEN client", "page"
RATES = {50: 1, 600: 1, 5_000: 1, 15_000: 10}
"""Events a second, and how many a statement."""
CONNECTIONS = 16
"""The producer's: each waits for its commit before it sends again."""
MEASURING = 4
"""So many of 100 clients measure, in a process of their own; the others only read."""
PAGE_RATE, PAGE_ROWS = 20, 60
"""Events a second to the page in Chromium, and how many of them."""
WARM_UP_NS = 500_000_000
DRAIN_TIMEOUT_S = 120.0


@dataclass
class Taken:
    """What the repeats of one case gave: quantiles in ms, and how the producer kept its pace."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    behind: list[Made] = field(default_factory=list)

    def add(self, delays_ns: Sequence[int], cpu_us: float = 0.0) -> None:
        """One repeat's delays."""
        ranked = sorted(delays_ns)
        self.p50.append(ranked[len(ranked) // 2] / 1e6)
        self.p99.append(ranked[int(len(ranked) * 0.99)] / 1e6)
        self.cpu_us.append(cpu_us)


Results = dict[tuple[str, int, int], Taken]
"""By the layout or the alternative, the subscribers, and events a second."""


class Case:
    """Clients in place, and a producer to run against them."""

    def __init__(
        self,
        dsn: str,
        measuring: Audience,
        others: Audience | None = None,
        site: Site | None = None,
    ) -> None:
        """`site`: whose CPU time is taken."""
        self._dsn = dsn
        self._measuring = measuring
        self._others = others
        self._site = site

    def run(self, rate: int, seconds: float, into: Taken) -> None:
        """Inserts at a rate, waits until everything has come, and adds what the clients noted."""
        self._measuring.delays()  # forget what came before
        before = self._had()
        cpu_s = self._site.cpu_s() if self._site else 0.0
        began = time.monotonic_ns()
        made = insert(self._dsn, Order(rate, seconds, RATES[rate], connections=CONNECTIONS))
        for clients, had in before:
            clients.caught_up(had + made.stored, DRAIN_TIMEOUT_S)
        spent_s = (self._site.cpu_s() if self._site else 0.0) - cpu_s
        sent, delays = self._measuring.delays()
        into.add(
            [d for s, d in zip(sent, delays, strict=True) if s > began + WARM_UP_NS],
            spent_s * 1e6 / made.events,
        )
        if not made.kept(rate):
            into.behind.append(made)

    def _had(self) -> list[tuple[Audience, int]]:
        audiences = [self._measuring] + ([self._others] if self._others else [])
        return [(clients, max(clients.counts)) for clients in audiences]


@contextmanager
def watching(dsn: str, site: Site, subscribers: int) -> Iterator[Case]:
    """So many WebSockets on a site."""
    target = Target(site, f"/ws/agents/stream?tenant={TENANT}")
    with ExitStack() as stack:
        measuring = min(subscribers, MEASURING)
        first = stack.enter_context(Audience(target, measuring, measuring))
        others = None
        if subscribers > measuring:
            others = stack.enter_context(Audience(target, subscribers - measuring))
        yield Case(dsn, first, others, site)


def measure(quick: bool) -> Part:
    """The table of delays."""
    rates = (600,) if quick else tuple(RATES)
    counts = (1,) if quick else (1, 100)
    seconds, repeats = (0.5, 1) if quick else (3.0, 3)
    taken: Results = {}
    with cluster() as server, ExitStack() as stack:
        ours = stack.enter_context(server.database(migrate=True))
        seed = stack.enter_context(server.database(BARE_TABLE, SEED_TRIGGER))
        make_user(ours)
        first = stack.enter_context(serving(ours))
        bare = stack.enter_context(Listener(seed, f"agent_event_{TENANT}"))
        for layout in LAYOUTS:
            site = first if layout == LAYOUTS[0] else stack.enter_context(serving(ours))
            if not leads(ours, first):
                raise RuntimeError("the first server should close the batches, and does not")
            for count in counts:
                with watching(ours, site, count) as case:
                    cases = {(layout, count): case}
                    if (layout, count) == (LAYOUTS[0], 1):
                        cases[BARE, 1] = Case(seed, bare)
                    _take_turns(cases, rates, seconds, repeats, taken)
        why = chromium.missing()
        if not why:
            page = stack.enter_context(serving(ours, debug=True))
            into = taken[PAGE, 1, PAGE_RATE] = Taken()
            into.add(chromium.delays_ns(ours, page, PAGE_RATE, 5 if quick else PAGE_ROWS))
    return _part(taken, rates, counts, why)


def _take_turns(
    cases: Mapping[tuple[str, int], Case],
    rates: Sequence[int],
    seconds: float,
    repeats: int,
    taken: Results,
) -> None:
    for turn in range(repeats):
        for rate in rates:
            order = list(cases.items())
            for (name, clients), case in order if turn % 2 else order[::-1]:
                into = taken.setdefault((name, clients, rate), Taken())
                case.run(rate, seconds, into)
                print(
                    f"  {name}, {_people(clients)}, {rate}/s: p50 {into.p50[-1]:.2f} ms, "
                    f"p99 {into.p99[-1]:.2f} ms, {into.cpu_us[-1]:.0f} us of the server's CPU "
                    f"an event, {len(into.behind)} times behind",
                    file=sys.stderr,
                    flush=True,
                )


def _part(taken: Results, rates: Sequence[int], counts: Sequence[int], no_page: str) -> Part:
    p50, p99 = (
        {key: statistics.median(getattr(one, quantile)) for key, one in taken.items()}
        for quantile in ("p50", "p99")
    )
    rows, notes = [], []
    bars: dict[str, dict[str, float]] = {}
    for name, figures in (("p50", p50), ("p99", p99)):
        for rate in rates:
            bare = {BARE: figures[BARE, 1, rate]}
            for layout in LAYOUTS:
                for count in counts:
                    what = f"{rate:,} events/s, {_people(count)}, {layout}: {name}"
                    rows.append(Row(what, "ms", figures[layout, count, rate], bare))
            bars[f"{rate:,} events/s, {name}"] = {
                "ours": figures[LAYOUTS[0], 1, rate],
                f"ours, {_people(counts[-1])}": figures[LAYOUTS[0], counts[-1], rate],
                **bare,
            }
        if not no_page:
            what = f"{PAGE_RATE} events/s, a row on the page in Chromium: {name}"
            rows.append(Row(what, "ms", figures[PAGE, 1, PAGE_RATE]))
    if no_page:
        notes.append(f"A row on the page in Chromium: not measured, {no_page}.")
    for (who, count, rate), one in taken.items():
        if one.behind:
            slowest = min(made.rate for made in one.behind)
            notes.append(
                f"{rate:,} events/s, {_people(count)}, {who}: the producer did not keep its pace "
                f"in {len(one.behind)} of {len(one.p50)} repeats ({slowest:,.0f} events/s)."
            )
    aims = [
        at_most(
            "p50 at 600 events/s",
            p50[LAYOUTS[0], 1, 600] / p50[BARE, 1, 600],
            3.0,
            "x the bare client",
        )
    ]
    for rate, bound in ((600, 25.0), (5_000, 100.0)):
        if rate in rates:
            figure = p99[LAYOUTS[0], 1, rate]
            aims.append(at_most(f"p99 at {rate:,} events/s", figure, bound, "ms"))
    return Part(
        "From INSERT to the client",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        rows,
        aims,
        [Chart("From INSERT to the client", "ms", bars, better="shorter", log=True)],
        notes,
        {
            f"{who}, {count}, {rate}/s: {name}": getattr(one, name)
            for (who, count, rate), one in taken.items()
            for name in ("p50", "p99", "cpu_us")
        },
    )


def _people(count: int) -> str:
    return "1 subscriber" if count == 1 else f"{count} subscribers"


if __name__ == "__main__":
    alone(measure)
