"""What each look of the admin costs on a log of ten million events: time, blocks, plans.

`python -m benchmarks.admin_plans` fills a database of its own (`admin_log`) and prints two tables:
each look's time and what its statements touch, and how rows are found inside them; then the plans.
Nothing is compared and nothing is judged: tests/test_plans.py does that, on fewer events.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.admin_log import RARE, fill
from benchmarks.cluster import cluster, environment, manage
from project.embedded import EmbeddedPostgres

TIMES = 5
"""How often a look is timed, after one that is not."""
EVENTS, TENANTS = "/admin/agent_events/agentevent/", "/admin/agent_events/tenant/"
BLOCK = 8_192


class Look(NamedTuple):
    """Something that somebody opens."""

    name: str
    open: Callable[[], Any]


class Cost(NamedTuple):
    """What it took: the median in ms, statements about the log, blocks, scans; its largest plan."""

    ms: float
    statements: int
    blocks: int
    scans: list[Scan]
    plan: str


class Scan(NamedTuple):
    """How rows were found in a transaction, inside functions too."""

    by: str  # an index, or a table that was read as a whole
    times: int
    rows: int
    whole: bool


# So far, of what is not in the statistics yet: the difference of two tells what was between.
_SCANS = """
    SELECT relname, pg_stat_get_xact_numscans(oid), pg_stat_get_xact_tuples_returned(oid),
           relkind = 'r'
      FROM pg_class
     WHERE oid IN ('agent_events'::regclass, 'agent_event_batches'::regclass)
        OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (
                       'agent_events'::regclass, 'agent_event_batches'::regclass))
     ORDER BY relname
"""


def looks() -> list[Look]:
    """All of them, as a superuser's. Django must be set up."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    from agent_events import history
    from agent_events.filters import Filter
    from agent_events.models import Batch, Tenant
    from agent_events.position import LATEST

    client = Client(SERVER_NAME="localhost")
    client.force_login(get_user_model().objects.get(username="root"))
    tenant = Tenant.objects.get(name="Harbour")
    newest = history.read((str(tenant.pk),), Filter(), LATEST, newest_first=True, limit=1).events[0]
    head = Batch.objects.latest("n")
    middle = str(history.start_of(head.n // 2))
    at = Batch.objects.get(n=head.n // 2)
    inside = history.read((str(tenant.pk),), Filter(), middle, newest_first=True, limit=1).events[0]

    def get(path: str, **query: Any) -> Any:
        answer = client.get(path, query)
        assert answer.status_code == 200, answer.content
        return answer

    def page(name: str, **query: Any) -> Look:
        return Look(name, lambda: get(EVENTS, **query))

    def export(name: str, url: str, **posted: Any) -> Look:
        def run() -> int:
            answer: Any = client.post(url, posted) if posted else client.get(url)
            assert answer.status_code == 200
            return sum(map(len, answer.streaming_content))

        return Look(name, run)

    everything = {"action": "export_jsonl", "select_across": "1"}
    theirs = {"tenant": tenant.pk}
    return [
        page("the list"),
        page("the list, of a tenant", **theirs),
        page("an older page", before=middle),
        page("an older page, of a tenant", before=middle, **theirs),
        page("by agent", agent=newest.agent_id),
        page("by agent, of its tenant", agent=newest.agent_id, **theirs),
        page("by type", type="error"),
        page("by type, one event has it (looks at 40,000)", type=RARE),
        page("by payload path", where="tokens > 1900"),
        page("by payload path, one run", where=f"run_id = {newest.payload['run_id']}", **theirs),
        page("by payload path, none has it (looks at 40,000)", where="tokens > 5000"),
        page("by text", text="lazy dog, the"),
        page("up to a time", until=at.closed_at.strftime("%Y-%m-%dT%H:%M:%S")),
        page("a batch", batch=head.n // 2),
        Look("one event, with its agent and run", lambda: get(f"{EVENTS}{inside.id}/change/")),
        Look("the newest event, likewise", lambda: get(f"{EVENTS}{newest.id}/change/")),
        Look("the ledger", lambda: get("/admin/agent_events/batch/")),
        Look("tenants", lambda: get(TENANTS)),
        Look("one tenant", lambda: get(f"{TENANTS}{tenant.pk}/change/")),
        export("export of 10,000 events", "/api/agents/export?limit=10000"),
        export("export of 10,000, CSV", "/api/agents/export?limit=10000&format=csv"),
        export("export of one batch, from the list", f"{EVENTS}?batch={head.n // 2}", **everything),
    ]


def cost_of(look: Look) -> Cost:
    """Opens it some times for the clock; then once with each statement explained."""
    look.open()
    spent = []
    for _ in range(TIMES):
        began = time.perf_counter()
        look.open()
        spent.append((time.perf_counter() - began) * 1_000)
    return _explained(look, statistics.median(spent))


def _explained(look: Look, ms: float) -> Cost:
    """In a transaction, whose scans are counted; its statements then run once more, explained."""
    from django.db import connection, transaction
    from django.test.utils import CaptureQueriesContext

    with transaction.atomic(), connection.cursor() as cursor:
        before = _scans(cursor)
        with CaptureQueriesContext(connection) as queries:
            look.open()
        scans = [
            one._replace(times=one.times - was.times, rows=one.rows - was.rows)
            for was, one in zip(before, _scans(cursor), strict=True)
            if one.times > was.times
        ]
        found = [q["sql"] for q in queries if "agent_event" in q["sql"]]
        blocks, largest, plan = 0, -1, ""
        for sql in found:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY OFF) {sql}")
            lines = [line for (line,) in cursor.fetchall()]
            touched = _blocks(lines)
            blocks += touched
            if touched > largest:
                largest, plan = touched, "\n".join(lines)
    return Cost(ms, len(found), blocks, scans, plan)


def _scans(cursor: Any) -> list[Scan]:
    cursor.execute(_SCANS)
    return [Scan(*row) for row in cursor.fetchall()]


def _blocks(plan: list[str]) -> int:
    """The first line about buffers is the whole statement's."""
    for line in plan:
        if "Buffers: shared" in line:
            return sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", line))
    return 0


@contextmanager
def log_of(rows: int, data_dir: Path | None) -> Iterator[str]:
    """The DSN of a database with so many events; kept in `data_dir`, where one is given."""
    if data_dir is None:
        with cluster() as made, made.database(migrate=True) as dsn:
            fill(dsn, rows, _say)
            yield dsn
        return
    server = EmbeddedPostgres(data_dir)
    server.start()
    try:
        _create(server)
        dsn = server.dsn("log")
        manage("migrate", "--verbosity=0", dsn=dsn)
        fill(dsn, rows, _say)
        yield dsn
    finally:
        server.stop()


def _create(server: EmbeddedPostgres) -> None:
    import psycopg

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
        if admin.execute("SELECT FROM pg_database WHERE datname = 'log'").fetchone() is None:
            admin.execute("CREATE DATABASE log")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admin_plans", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--data-dir", type=Path, help="keep the database here, and use it again")
    asked = parser.parse_args()
    with log_of(asked.rows, asked.data_dir) as dsn:
        os.environ.update(environment(dsn))
        import django

        django.setup()
        _people()
        _report(asked.rows)


def _people() -> None:
    from django.contrib.auth import get_user_model

    from agent_events.models import Tenant

    if not get_user_model().objects.filter(username="root").exists():
        get_user_model().objects.create_superuser("root")
    for n, name in enumerate(("Harbour", "Meadow", "Quarry", "Orchard", "Foundry", "Lagoon"), 1):
        Tenant.objects.get_or_create(id=f"{n:032x}", defaults={"name": name})


def _report(rows: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_size_pretty(pg_total_relation_size('agent_events')),"
            " (SELECT total FROM agent_event_batches ORDER BY n DESC LIMIT 1),"
            " (SELECT n FROM agent_event_batches ORDER BY n DESC LIMIT 1),"
            " current_setting('server_version')"
        )
        size, total, batches, version = cursor.fetchone()
    print(f"\n{total:,} events in {batches:,} batches, {size} with indexes, PostgreSQL {version}\n")
    costs = []
    print("| look | ms | statements | blocks | MiB |\n|---|---:|---:|---:|---:|")
    for look in looks():
        cost = cost_of(look)
        costs.append((look, cost))
        print(
            f"| {look.name} | {cost.ms:,.0f} | {cost.statements} | {cost.blocks:,} "
            f"| {cost.blocks * BLOCK / 1_048_576:,.1f} |",
            flush=True,
        )
    print("\n| look | by which index, how often: rows |\n|---|---|")
    for look, cost in costs:
        found = "; ".join(f"{one.by} {one.times:,}: {one.rows:,}" for one in cost.scans)
        print(f"| {look.name} | {found} |")
    whole = {one.by for _, cost in costs for one in cost.scans if one.whole}
    print(f"\nRead as a whole: {', '.join(sorted(whole)) or 'no table'}.")
    for look, cost in costs:
        print(f"\n{look.name}: its largest statement\n\n{cost.plan}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
