"""Commits a second with somebody watching, beside a bare table and the usual per-row trigger.

"ours" is the product's table while one subscriber, in a process of its own, gets every event (and
closes the batches: nobody else is there). "bare" is a table of the same columns and a primary key,
without trigger, extra column or extra index, which nobody watches. "per-row trigger" is that table
with the usual recipe, a `pg_notify` for each row, and one connection that LISTENs. Afterwards both
watchers must have had every event, once, or the row fails.
"""

from __future__ import annotations

from functools import partial

from benchmarks.cluster import BARE_TABLE, SEED_TRIGGER, Cluster, cluster
from benchmarks.frame import Aim, Chart, Part, Row, alone, at_least, medians, take_turns
from benchmarks.load import pgbench
from benchmarks.subscriber import subscriber

CONNECTIONS = (1, 8, 32, 64)
SECONDS, REPEATS = 4.0, 3
BARE, SEED = "bare table", "per-row trigger"


def measure(quick: bool) -> Part:
    """Rows for each number of connections."""
    levels = (2,) if quick else CONNECTIONS
    seconds, repeats = (0.2, 1) if quick else (SECONDS, REPEATS)
    samples: dict[str, list[float]] = {}
    rows, aims = list[Row](), list[Aim]()
    with (
        cluster() as server,
        server.database(migrate=True) as ours,
        server.database(BARE_TABLE) as bare,
        server.database(BARE_TABLE, SEED_TRIGGER) as seed,
    ):
        for connections in levels:
            turns = take_turns(
                {
                    "ours": partial(_watched, server, ours, "ours", connections, seconds),
                    BARE: partial(_unwatched, server, bare, connections, seconds),
                    SEED: partial(_watched, server, seed, "listen", connections, seconds),
                },
                repeats,
            )
            samples |= {f"{name}, {connections}": values for name, values in turns.items()}
            figures = medians(turns)
            beside = {name: figures[name] for name in (BARE, SEED)}
            what = f"{connections} connection{'s' if connections > 1 else ''}"
            rows.append(Row(what, "commits/s", figures["ours"], beside))
            aims += _aims(connections, figures)
    bars = {row.what: {"ours": row.ours, **row.beside} for row in rows}
    return Part(
        "Commits a second, with a live subscriber",
        _how(seconds, repeats),
        rows,
        aims,
        [Chart("Commits a second, with a live subscriber", "commits/s", bars)],
        samples=samples,
    )


def _how(seconds: float, repeats: int) -> str:
    return (
        "pgbench inserts single rows, each a commit of its own, prepared, as fast as it can. Ours: "
        "the product's table, one subscriber in another process that gets every event. Bare: the "
        "producers' columns and a primary key, nobody watches. Per-row trigger: the bare table and "
        "the usual recipe, `pg_notify` for each row, one connection that LISTENs. Both watchers "
        f"are counted: every event, each once. Turns: {repeats}, of {seconds:g} s each after a "
        "second that does not count."
    )


def _aims(connections: int, figures: dict[str, float]) -> list[Aim]:
    beside_bare = figures["ours"] / figures[BARE]
    if connections == 1:
        return [at_least("commits/s, 1 connection", beside_bare, 0.9, "x the bare table")]
    if connections < 32:
        return []
    what = f"commits/s, {connections} connections"
    beside_seed = figures["ours"] / figures[SEED]
    return [
        at_least(what, beside_bare, 0.75, "x the bare table", hope=0.85),
        at_least(what, beside_seed, 4, "x the per-row trigger"),
    ]


def _unwatched(server: Cluster, dsn: str, connections: int, seconds: float) -> float:
    return pgbench(server, dsn, connections, seconds).per_s


def _watched(server: Cluster, dsn: str, how: str, connections: int, seconds: float) -> float:
    with subscriber(dsn, how=how) as watching:
        load = pgbench(server, dsn, connections, seconds)
        watching.expect(load.written)
    return load.per_s


if __name__ == "__main__":
    alone(measure)
