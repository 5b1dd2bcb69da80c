"""What a commit costs PostgreSQL, all of its processes together, beside a bare table.

CPU time, which noise hardly moves, of every process of the server: producers' sessions, the closing
of batches, the reading for a subscriber, WAL writer, checkpoints, autovacuum. "ours" coalesces and
has one subscriber that gets every event. Between it and the bare table stand the parts: the bare
table with our CHECK; our table without its trigger; with the trigger, while its lock K is held and
nobody closes batches; and with batches closed and nobody who watches. And, the other way, our table
when each commit rings.
"""

from __future__ import annotations

from functools import partial

import psycopg

from agent_events.database import COALESCING_KEY
from benchmarks.cluster import BARE_TABLE, TENANT, cluster
from benchmarks.frame import Chart, Part, Row, alone, at_most, medians, take_turns
from benchmarks.load import pgbench
from benchmarks.subscriber import subscriber

CONNECTIONS, SECONDS, REPEATS = 32, 4.0, 3
OURS, BARE = "ours: coalescing, all included", "bare table"
CHECK_TYPE = "the CHECK of event_type"
INDEXES = "and column tx, two indexes"
LOOK = "and the trigger's look at K"
APPENDS = "and batches closed, nobody watches"
RINGING = "each commit rings, one subscriber"
NOBODY = "00000000-0000-4000-8000-000000000000"
NO_TRIGGER = "DROP TRIGGER agent_events_ring ON agent_events"


def measure(quick: bool) -> Part:
    """A row for each part, the last but one for the whole."""
    connections, seconds, repeats = (2, 0.2, 1) if quick else (CONNECTIONS, SECONDS, REPEATS)

    def unwatched(dsn: str) -> float:
        return pgbench(server, dsn, connections, seconds).cpu_us

    def held(dsn: str) -> float:
        with psycopg.connect(dsn, autocommit=True) as holder:
            holder.execute(f"SELECT pg_advisory_lock({COALESCING_KEY})".encode())
            return unwatched(dsn)

    def watched(dsn: str, tenant: str, mode: str) -> float:
        with subscriber(dsn, tenant=tenant, MODE=mode) as watching:
            load = pgbench(server, dsn, connections, seconds)
            watching.expect(load.written if tenant == TENANT else 0)
        return load.cpu_us

    with (
        cluster() as server,
        server.database(migrate=True) as ours,
        # Nobody closes batches there: its backlog is nobody else's.
        server.database(migrate=True) as unread,
        server.database(NO_TRIGGER, migrate=True) as indexes,
        server.database(BARE_TABLE) as bare,
        server.database(BARE_TABLE, *_checks(ours)) as checked,
    ):
        samples = take_turns(
            {
                BARE: partial(unwatched, bare),
                CHECK_TYPE: partial(unwatched, checked),
                INDEXES: partial(unwatched, indexes),
                LOOK: partial(held, unread),
                APPENDS: partial(watched, ours, NOBODY, "coalesce"),
                OURS: partial(watched, ours, TENANT, "coalesce"),
                RINGING: partial(watched, ours, TENANT, "ring"),
            },
            repeats,
        )
    figures = medians(samples)
    aim = at_most(
        "PostgreSQL's CPU a commit, coalescing, all included",
        figures[OURS] / figures[BARE],
        1.4,
        "x the bare table",
        hope=1.25,
    )
    parts = [CHECK_TYPE, INDEXES, LOOK, APPENDS, OURS, RINGING]
    return Part(
        "PostgreSQL's own CPU a commit",
        f"CPU time of all of PostgreSQL's processes while pgbench inserts from {connections} "
        "connections, for each commit. Each line has all that the line above it has, but for the "
        "last one, where each commit rings instead. (What a line adds is what it costs.) "
        f"Turns: {repeats}, of {seconds:g} s each after a second that does not count.",
        [Row(name, "µs of CPU a commit", figures[name], {BARE: figures[BARE]}) for name in parts],
        [aim],
        [
            Chart(
                "PostgreSQL's CPU a commit",
                "µs",
                {name: {"CPU": figures[name]} for name in [BARE, *parts]},
                better="shorter",
            )
        ],
        samples=samples,
    )


def _checks(dsn: str) -> list[str]:
    """What adds our table's CHECK constraints to another one."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT format('ALTER TABLE agent_events ADD %s', pg_get_constraintdef(oid))"
            "  FROM pg_constraint WHERE conrelid = 'agent_events'::regclass AND contype = 'c'"
        ).fetchall()
    return [statement for (statement,) in found]


if __name__ == "__main__":
    alone(measure)
