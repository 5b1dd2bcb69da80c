"""How the bus does: facts from the database, over one connection, by bounded looks.

How the broker does is found elsewhere (`broker_status`), and compared with the ledger here.

Nothing is counted that grows: no count of a table, no scan. What the facts mean: `problems`.
"""

import asyncio
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from django.conf import settings as django_settings
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from agent_events import migrations
from agent_events.database import (
    BUS_APPLICATION,
    COALESCING_KEY,
    CONNECT,
    HELD_SQL,
    PUBLISHER_APPLICATION,
    SEQUENCER_KEY,
    severed_after,
)
from agent_events.facts import (
    BOUND,
    Broker,
    Counters,
    Head,
    Prepared,
    Publisher,
    Session,
    Setup,
    Status,
)
from agent_events.published import MARKS_SQL, compare, publishers_sql

LOOKS = 200
"""How many of the newest events are compared with the ledger: some milliseconds."""
TIMEOUT_S = 5.0
"""How long a look may take, unless told otherwise."""

# One row, whatever is or is not there: also for Django's connection, at a check.
SETUP_SQL = """
    SELECT current_setting('server_version_num')::integer,
           pg_is_in_recovery(),
           ARRAY(SELECT name FROM unnest(ARRAY['agent_events', 'agent_event_batches',
                                               'agent_event_bus']) AS t (name)
                  WHERE to_regclass(name) IS NULL)
           || ARRAY(SELECT name || '()' FROM unnest(ARRAY[
                        'agent_events_append', 'agent_events_fault', 'agent_events_head',
                        'agent_events_page', 'agent_events_page_back', 'agent_events_contains',
                        'agent_events_window',
                        'agent_events_ranges', 'agent_events_spans', 'agent_events_ring',
                        'agent_events_bodies', 'agent_events_coalescing_key',
                        'agent_events_reach', 'agent_events_tell', 'agent_events_time',
                        'agent_events_json', 'agent_events_live',
                        'agent_events_sequence']) AS t (name)
                     WHERE to_regproc(name) IS NULL)
           || ARRAY(SELECT 'column ' || name || ' (made by an earlier checkout: start '
                           'anew (make run: delete DATA_DIR, .data by default))'
                      FROM (VALUES
                        ('agent_event_bus.taken_over',
                         NOT EXISTS (SELECT FROM pg_attribute
                                      WHERE attrelid = to_regclass('agent_event_bus')
                                        AND attname = 'taken_over' AND NOT attisdropped)
                         AND to_regclass('agent_event_bus') IS NOT NULL),
                        ('agent_events_append().more',
                         EXISTS (SELECT FROM pg_proc
                                  WHERE oid = to_regproc('agent_events_append')
                                    AND 'more' <> ALL (proargnames)))
                      ) AS t (name, lacking)
                     WHERE lacking),
           EXISTS (SELECT FROM unnest(ARRAY['agent_events', 'agent_event_batches',
                                            'agent_event_bus']) AS t (name)
                    WHERE row_security_active(to_regclass(name)::oid)),
           ARRAY(SELECT privilege || ' ON ' || name
                   FROM (VALUES ('SELECT', 'agent_events'), ('SELECT', 'agent_event_batches'),
                                ('INSERT', 'agent_event_batches'), ('SELECT', 'agent_event_bus'))
                        AS t (privilege, name)
                  WHERE NOT has_table_privilege(to_regclass(name)::oid, privilege))
           || ARRAY(SELECT 'USAGE ON SCHEMA ' || quote_ident(n.nspname)
                      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                     WHERE c.relname = 'agent_events' AND to_regclass('agent_events') IS NULL
                       AND NOT has_schema_privilege(n.oid, 'USAGE')
                       AND n.nspname IN (SELECT btrim(name, ' "') FROM string_to_table(
                               replace(current_setting('search_path'), '$user', current_user),
                               ',') AS t (name))),
           coalesce((SELECT tgenabled::text FROM pg_trigger
                      WHERE tgrelid = to_regclass('agent_events')
                        AND tgname = 'agent_events_ring'), ''),
           coalesce((SELECT max(s.seqcache)
                       FROM pg_depend AS d JOIN pg_sequence AS s ON s.seqrelid = d.objid
                      WHERE d.classid = 'pg_class'::regclass
                        AND d.refclassid = 'pg_class'::regclass
                        AND d.refobjid = to_regclass('agent_events')), 1),
           coalesce(has_table_privilege(to_regclass('django_migrations')::oid, 'SELECT'), false)
"""
APPLIED_SQL = "SELECT name FROM django_migrations WHERE app = 'agent_events'"

# For this transaction: a statement that waits gives up, and stale statistics mislead no plan.
_LIMITS = """
    SELECT set_config('statement_timeout', %s, true), set_config('enable_seqscan', 'off', true),
           set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)
"""
_HEAD = """
    SELECT b.n, b.total, b.closed_at,
           extract(epoch FROM clock_timestamp() - b.closed_at)::float8
      FROM agent_event_batches AS b ORDER BY b.n DESC LIMIT 1
"""
# What the next append would find: of the transactions that ran at the head those that do not run
# now, and all since; each range by the index on (tx, id). The age: since `created_at` (a
# transaction's start), and not from before the head, which did not see them yet.
_BEHIND = """
    WITH head AS MATERIALIZED (
        SELECT seen, closed_at, pg_current_snapshot() AS now_seen
          FROM agent_event_batches ORDER BY n DESC LIMIT 1
    ), waiting AS MATERIALIZED (
        SELECT e.created_at
          FROM head CROSS JOIN LATERAL pg_snapshot_xip(head.seen) AS late (x)
         CROSS JOIN LATERAL (
            SELECT created_at FROM agent_events WHERE tx = late.x LIMIT %(most)s) AS e
         WHERE pg_visible_in_snapshot(late.x, head.now_seen)
        UNION ALL
        SELECT e.created_at
          FROM head CROSS JOIN LATERAL agent_events_ranges(
                   head.now_seen, pg_snapshot_xmax(head.seen)) AS r
         CROSS JOIN LATERAL (
            SELECT created_at FROM agent_events WHERE tx >= r.lo AND tx < r.hi
             LIMIT %(most)s) AS e
         LIMIT %(most)s
    )
    SELECT count(*),
           coalesce(extract(epoch FROM clock_timestamp() - min(w.created_at)
                                                             FILTER (WHERE isfinite(w.created_at))
                    ), 0)::float8,
           coalesce(extract(epoch FROM clock_timestamp()
                                     - (SELECT closed_at FROM head)), 0)::float8
      FROM waiting AS w
"""
_LATE = """
    SELECT extract(epoch FROM clock_timestamp() - closed_at)::float8
      FROM agent_event_batches WHERE n = %s + 1
"""
# A `Session`, of a row `a` of pg_stat_activity.
SESSION_SQL = """
    a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), host(a.client_addr),
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8
"""
# (Producers look at K, shared, all the time.)
_LISTENERS = f"""
    WITH held AS (
        SELECT lock.name, l.pid
          FROM (VALUES ('sequencer', {SEQUENCER_KEY}), ('K', {COALESCING_KEY})) AS lock (name, key)
          JOIN pg_locks AS l ON {HELD_SQL.format(mode="ExclusiveLock", key="lock.key")}
    ), holder AS MATERIALIZED (SELECT pid, array_agg(name) AS names FROM held GROUP BY pid)
    SELECT coalesce('sequencer' = ANY (h.names), false), coalesce('K' = ANY (h.names), false),
           a.application_name = %s, {SESSION_SQL}
      FROM pg_stat_activity AS a LEFT JOIN holder AS h ON h.pid = a.pid
     WHERE a.datname = current_database() AND (a.application_name = %s OR h.pid IS NOT NULL)
     ORDER BY a.pid
"""
# An INSERT holds this lock until its transaction ends.
_WRITERS = f"""
    SELECT {SESSION_SQL}
      FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
     WHERE l.locktype = 'relation' AND l.relation = 'agent_events'::regclass
       AND l.database = a.datid AND l.mode = 'RowExclusiveLock' AND l.granted
     ORDER BY a.xact_start NULLS LAST LIMIT 20
"""
_PREPARED = """
    SELECT p.gid, p.owner::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8
      FROM pg_prepared_xacts AS p
     WHERE p.database = current_database()
       AND EXISTS (SELECT FROM pg_locks AS own JOIN pg_locks AS l USING (virtualtransaction)
                    WHERE own.locktype = 'transactionid' AND own.transactionid = p.transaction
                      AND own.pid IS NULL AND l.pid IS NULL
                      AND l.locktype = 'relation' AND l.relation = 'agent_events'::regclass)
     ORDER BY p.prepared LIMIT 20
"""
_SERVER = """
    SELECT pg_notification_queue_usage(), pg_has_role('pg_read_all_stats', 'USAGE'),
           (SELECT oldest FROM agent_event_bus),
           pg_total_relation_size('agent_event_batches'),
           -- (A partitioned table's own size is 0, and a plain one has no such tree.)
           pg_total_relation_size('agent_events') + (
               SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
                 FROM pg_partition_tree('agent_events')),
           extract(epoch FROM clock_timestamp())::float8,
           (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())
"""
# Of the whole cluster: the queue is one for all of its databases.
_SUSPECTS = f"""
    SELECT {SESSION_SQL} FROM pg_stat_activity AS a
     WHERE a.xact_start < clock_timestamp() - interval '10 seconds' AND a.pid <> pg_backend_pid()
       AND a.backend_type = 'client backend'
     ORDER BY a.xact_start LIMIT 3
"""


def setup_of(row: Sequence[Any], applied: Iterable[str] | None) -> Setup:
    """From the row of SETUP_SQL (without its last column) and the names of APPLIED_SQL.

    `applied` is None where nobody knows: no table of migrations.
    """
    version, standby, missing, hidden, lacking, trigger, cache = row
    return Setup(
        version,
        standby,
        tuple(missing),
        hidden,
        tuple(lacking),
        trigger,
        cache,
        _unapplied(applied) if applied is not None else (),
    )


def _unapplied(applied: Iterable[str]) -> tuple[str, ...]:
    if "agent_events" in getattr(django_settings, "MIGRATION_MODULES", {}):
        return ()
    known = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    return tuple(sorted(known - set(applied)))


async def gather(
    dsn: str,
    *,
    timeout_s: float = TIMEOUT_S,
    after: int | None = None,
    patience_s: float = 0.0,
    leases: Sequence[str] = (),
    broker: Broker | None = None,
) -> Status:
    """Looks once. `late_s` is of the batch after `after`.

    `leases`: keys of the shards that workers publish: who does is looked up. `broker`: how it did
    just before, to be compared with the ledger.

    Where events wait for longer than `patience_s`, looks again after that time, if it is not 0:
    of a long transaction that has just committed, the events look old. Never raises psycopg.Error:
    that is `unreachable`. `timeout_s`: for the connection, and for each look.
    """
    try:
        async with asyncio.timeout(timeout_s):
            connection = await AsyncConnection.connect(
                dsn, **CONNECT, application_name="agent_events status"
            )
        async with connection:
            status = await _look(connection, timeout_s, after, leases, broker)
            if status.behind and 0 < patience_s < status.waits_s:
                await asyncio.sleep(patience_s)
                status = await _look(connection, timeout_s, after, leases, broker)
    except (psycopg.Error, OSError) as error:
        why = " ".join(str(error).split()) or f"no answer within {timeout_s:g} s"
        return Status(unreachable=why, shards=len(leases), broker=broker)
    return status


async def _look(
    connection: AsyncConnection[TupleRow],
    timeout_s: float,
    after: int | None,
    leases: Sequence[str],
    broker: Broker | None,
) -> Status:
    async def rows(query: str, params: Any = ()) -> list[TupleRow]:
        return await (await connection.execute(query, params)).fetchall()

    with severed_after(connection, timeout_s):
        async with connection.transaction():
            await rows(_LIMITS, (str(int(timeout_s * 1_000)),))
            ((*setup_row, has_migrations),) = await rows(SETUP_SQL)
            applied = [name for (name,) in await rows(APPLIED_SQL)] if has_migrations else None
            setup = setup_of(setup_row, applied)
            if not setup.readable:
                return Status(setup=setup, shards=len(leases), broker=broker)
            ((usage, sees, oldest, ledger_bytes, log_bytes, *counted),) = await rows(_SERVER)
            ((behind, created_s, closed_s),) = await rows(_BEHIND, {"most": BOUND + 1})
            listening = await rows(_LISTENERS, (BUS_APPLICATION, BUS_APPLICATION))
            ((fault,),) = await rows("SELECT agent_events_fault(%s)", (LOOKS,))
            status = Status(
                setup=setup,
                fault=fault or "",
                head=next((Head(*row) for row in await rows(_HEAD)), None),
                oldest_batch=oldest,
                behind=min(behind, BOUND),
                behind_more=behind > BOUND,
                # A backlog of which batches are being closed is as old as its first event.
                waits_s=max(0.0, created_s if behind > BOUND else min(created_s, closed_s)),
                sequencer=next((Session(*row[3:]) for row in listening if row[0]), None),
                coalescer=next((Session(*row[3:]) for row in listening if row[1]), None),
                listeners=tuple(Session(*row[3:]) for row in listening if row[2]),
                counters=Counters(*counted),
                queue_usage=usage,
                writers=tuple(Session(*row) for row in await rows(_WRITERS)),
                prepared=tuple(Prepared(*row) for row in await rows(_PREPARED)),
                sees_sessions=sees,
                ledger_bytes=ledger_bytes,
                log_bytes=log_bytes,
                shards=len(leases),
                broker=broker,
            )
            if usage > 0:
                suspects = tuple(Session(*row) for row in await rows(_SUSPECTS))
                status = replace(status, queue_suspects=suspects)
            if after is not None:
                late = await rows(_LATE, (after,))
                status = replace(status, late_s=late[0][0] if late else 0.0)
            if leases:
                found = await rows(publishers_sql(leases, SESSION_SQL), (PUBLISHER_APPLICATION,))
                publishers = tuple(Publisher(Session(*row[1:]), tuple(row[0])) for row in found)
                status = replace(status, publishers=publishers)
            if broker is not None and broker.shards and status.head is not None:
                of_ledger = await rows(MARKS_SQL, ([shard.batch for shard in broker.shards],))
                status = replace(status, broker=compare(broker, status.head, of_ledger))
            return status
