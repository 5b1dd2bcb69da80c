"""Reading the log: 10 million rows beside 10,000.

Both logs have the same shape: 1,000 tenants, of which one has a row in ten and one a row in 1,000,
in transactions and batches of 1,000 rows. The first event: from before a WebSocket client connects
(sign-in by session included) to its first frame with events, from the log's beginning and from its
middle, the two logs in turns. Out of the log: `Log.page`, page after page, as subscribers read,
without a socket. To a client: one event stream (SSE), which the server ends after some MiB, and
which goes on by `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg.sql import SQL, Literal

from agent_events.conf import Settings
from agent_events.filters import Filter
from agent_events.log import Log
from agent_events.position import Cursor, Position
from benchmarks.clients import Target, connect
from benchmarks.cluster import TENANT, Cluster, cluster
from benchmarks.frame import Chart, Part, Row, alone, at_least, at_most, medians, take_turns
from benchmarks.servers import SERVERS, Site, make_user, serving

LARGE, SMALL, BATCH = 10_000_000, 10_000, 1_000
RARE = "5eed0000-0000-4000-8000-00000000ace5"
"""The tenant with one row in 1,000; TENANT has one in ten."""
TENANTS = {"1 row in 10": TENANT, "1 row in 1,000": RARE}
WRITERS = 2
FIRST_REPEATS = 15

_INDEXES = """
    SELECT indexdef FROM pg_indexes
     WHERE tablename = 'agent_events' AND indexname IN {}
"""
_SECONDARY = ("agent_events_tenant_tx_id", "agent_events_tx_id")
# Each transaction a batch's worth of rows. (A DO block may commit where it is no part of another
# transaction.)
_FILL = """
DO $$
BEGIN
    FOR number IN {first}..{last} LOOP
        INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
        SELECT CASE WHEN i % 1000 = 0 THEN {rare}::uuid
                    WHEN i % 10 = 1 THEN {tenant}::uuid
                    ELSE ('00000000-0000-4000-8000-' || lpad((i % 998)::text, 12, '0'))::uuid END,
               {agent}, 'turn_complete', '{{"tokens": 142, "latency": 820}}'
          FROM generate_series(number * {batch} + 1, (number + 1) * {batch}) AS i;
        COMMIT;
    END LOOP;
END $$
"""


@dataclass(frozen=True)
class Filled:
    """A database with so many events, and the cursor at their middle."""

    dsn: str
    events: int
    middle: str


@contextmanager
def filled(server: Cluster, events: int) -> Iterator[Filled]:
    """A log of so many events, made as fast as PostgreSQL can and vacuumed."""
    with server.database(migrate=True) as dsn:
        make_user(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            indexes = connection.execute(
                SQL(_INDEXES).format(SQL("({})").format(SQL(",").join(map(Literal, _SECONDARY))))
            ).fetchall()
            for name in _SECONDARY:
                connection.execute(f"DROP INDEX {name}".encode())
            connection.execute("ALTER TABLE agent_events DISABLE TRIGGER USER")
            _fill(dsn, events // BATCH)
            connection.execute("SET maintenance_work_mem = '1GB'")
            for (definition,) in indexes:
                connection.execute(definition.encode())
            connection.execute("ALTER TABLE agent_events ENABLE TRIGGER USER")
            connection.execute("VACUUM ANALYZE agent_events")
            while connection.execute(f"SELECT n FROM agent_events_append({BATCH})").fetchone():
                pass
            connection.execute("VACUUM ANALYZE agent_event_batches")
            row = connection.execute(
                """
                SELECT n, floor(extract(epoch FROM closed_at) * 1000)::bigint, total
                  FROM agent_event_batches
                 WHERE n = (SELECT max(n) / 2 FROM agent_event_batches)
                """
            ).fetchone()
            head = connection.execute("SELECT total FROM agent_events_head()").fetchone()
            assert row is not None
            if head != (events,):
                raise RuntimeError(f"the ledger counts {head} events, expected {events}")
        server.settle()
        yield Filled(dsn, events, str(Cursor(Position(row[0] + 1), row[1])))


def _fill(dsn: str, batches: int) -> None:
    parts = min(WRITERS, batches)
    failures: list[BaseException] = []

    def write(part: int) -> None:
        first, last = batches * part // parts, batches * (part + 1) // parts - 1
        text = SQL(_FILL).format(
            first=Literal(first),
            last=Literal(last),
            batch=Literal(BATCH),
            rare=Literal(RARE),
            tenant=Literal(TENANT),
            agent=Literal("5eed0000-0000-4000-8000-000000000001"),
        )
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(text)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def first_event_ms(site: Site, tenant: str, cursor: str) -> float:
    """From connecting to the first events, in ms."""
    began = time.perf_counter()
    target = Target(site, f"/ws/agents/stream?tenant={tenant}&cursor={cursor}")
    one, buffer = connect(target)
    with one:
        while b'"tenantId' not in buffer:
            data = one.recv(1 << 20)
            if not data:
                raise RuntimeError(f"no events: {bytes(buffer)!r}")
            buffer += data
    return (time.perf_counter() - began) * 1_000


def out_of_the_log(dsn: str, tenant: str, expected: int, most_s: float) -> float:
    """Events a second by `Log.page`, from the beginning to the end, or for so long."""

    async def read() -> float:
        log = Log(dsn, Settings())
        await log.open()
        try:
            cursor = (await log.resolve("earliest")).cursor
            began, found, at_head = time.perf_counter(), 0, False
            while not at_head and time.perf_counter() - began < most_s:
                page = await log.page((tenant,), cursor, Filter())
                found, cursor, at_head = found + len(page.events), page.cursor, page.at_head
            seconds = time.perf_counter() - began
        finally:
            await log.close()
        if at_head and found != expected:
            raise RuntimeError(f"{found} events came out of the log, expected {expected}")
        return found / seconds

    return asyncio.run(read())


def to_event_stream(site: Site, tenant: str, events: int) -> float:
    """Events a second to one SSE client, from the beginning, which comes back where it is ended."""
    target = Target(site, f"/api/agents/stream?tenant={tenant}", websocket=False)
    cursor, found = b"earliest", 0
    began = time.perf_counter()
    while found < events:
        one, buffer = connect(target, f"Last-Event-ID: {cursor.decode()}\r\n")
        with one:
            data = b"..."
            while data and found < events and not buffer.endswith(b"\r\n0\r\n\r\n"):
                data = one.recv(1 << 20)
                buffer += data
                whole, mark, rest = buffer.rpartition(b"\n\n")
                if not mark:
                    continue
                buffer = rest
                found += whole.count(b"\ndata: ") - whole.count(b"\nevent: ")
                if (at := whole.rfind(b"id: ")) >= 0:
                    cursor = bytes(whole[at + 4 : whole.index(b"\n", at)])
    return found / (time.perf_counter() - began)


def measure(quick: bool) -> Part:
    """The table of replays."""
    large_events = 20_000 if quick else LARGE
    stream_events, most_s = (2_000, 0.5) if quick else (200_000, 20.0)
    began = time.monotonic()
    with (
        cluster(max_wal_size="8GB") as server,
        filled(server, SMALL) as small,
        filled(server, large_events) as large,
    ):
        print(f"  {time.monotonic() - began:.0f} s to fill", file=sys.stderr)
        repeats = 1 if quick else FIRST_REPEATS
        servers = SERVERS[:1] if quick else SERVERS
        return _measure(large, small, stream_events, most_s, repeats, servers)


def _measure(
    large: Filled,
    small: Filled,
    stream_events: int,
    most_s: float,
    repeats: int,
    servers: Sequence[str],
) -> Part:
    size = f"{large.events:,} rows"
    beside = f"{small.events:,} rows"
    rows, aims, samples = [], [], dict[str, list[float]]()
    with serving(large.dsn) as site, serving(small.dsn) as other:
        worst = 0.0
        for whose, tenant in TENANTS.items():
            for where in ("beginning", "middle"):
                cases = {
                    name: partial(
                        first_event_ms,
                        at,
                        tenant,
                        "earliest" if where == "beginning" else log.middle,
                    )
                    for name, at, log in ((size, site, large), (beside, other, small))
                }
                taken = take_turns(cases, repeats)
                figures = medians(taken)
                what = f"first event from the {where}, tenant with {whose}"
                rows.append(Row(what, "ms", figures[size], {beside: figures[beside]}))
                samples |= {f"{what}: {name}": values for name, values in taken.items()}
                worst = max(worst, figures[size] - figures[beside])
        aims.append(at_most(f"first event, behind that of {beside}", worst, 20.0, "ms"))

    for whose, tenant in TENANTS.items():
        share = 10 if tenant == TENANT else 1_000
        taken = take_turns(
            {
                name: partial(out_of_the_log, log.dsn, tenant, log.events // share, most_s)
                for name, log in ((size, large), (beside, small))
            },
            min(repeats, 3),
        )
        figures = medians(taken)
        what = f"out of the log, tenant with {whose} ({large.events // share:,} events)"
        rows.append(Row(what, "events/s", figures[size], {beside: figures[beside]}))
        samples |= {f"{what}: {name}": values for name, values in taken.items()}
        if tenant == TENANT:
            aims.append(at_least("out of the log", figures[size], 100_000.0, "events/s"))

    for kind in servers:
        with serving(large.dsn, kind) as site:
            speeds = [to_event_stream(site, TENANT, stream_events) for _ in range(2)]
        what = f"to one SSE client, {kind} ({stream_events:,} events)"
        samples[what] = speeds
        rows.append(Row(what, "events/s", statistics.median(speeds)))
        aims.append(at_least(f"to one SSE client, {kind}", rows[-1].ours, 20_000.0, "events/s"))
    return Part(
        "Reading the log",
        __doc__.split("\n\n", 1)[1].strip(),
        rows,
        aims,
        [
            Chart(
                "First event",
                "ms",
                {r.what.removeprefix("first event "): {size: r.ours, **r.beside} for r in rows[:4]},
                better="shorter",
            )
        ],
        [
            f"Of {beside}, the tenant with 1 row in 1,000 has one page: its rate is that of a "
            "round trip."
        ],
        samples,
    )


if __name__ == "__main__":
    alone(measure)
