"""What is wrong with the bus, and what to do about it, in words. Facts in, words out: no I/O."""

from collections.abc import Iterator

import django.db
import psycopg

from agent_events.broker_problems import broker_problems, publishing_problems
from agent_events.database import OLDEST_SERVER
from agent_events.facts import BOUND, FAULTS, Interval, Setup, Status
from agent_events.findings import Part, Problem, session_in_words

WAITS_S = 5.0
"""An event that is in no batch for longer than this waits for somebody who does not come."""
OPEN_S = 60.0
"""A transaction that wrote events and is open for longer than this was probably forgotten."""
STANDS_S = 1.0
"""A commit that waits for another one for longer than this waits for one that does not end."""
QUEUE_HALF = 0.5
"""Past this share of PostgreSQL's notification queue nothing is rung any more."""


_FAULTS = {
    "empty": ("ledger_empty", Part.DATA),
    "ahead": ("ledger_copied", Part.DATA),
    "overtaken": ("ledger_overtaken", Part.EVENTS),
    "rows ahead": ("rows_ahead", Part.EVENTS),
}
"""The code and the part of each of FAULTS."""


AWAY = "The database is away. Nothing is lost; try again in a moment."
_UNWELL: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (
        psycopg.errors.ObjectNotInPrerequisiteState,
        "Committed events are safe, but the ledger must be mended: manage.py mend_events",
    ),
    (
        psycopg.errors.InsufficientPrivilege,
        "The database role lacks a right: manage.py bus_status names those that this site needs.",
    ),
    (
        (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedFunction,
            psycopg.errors.UndefinedColumn,
        ),
        "The database is not migrated, or its role may not use the schema: manage.py migrate, or "
        "manage.py bus_status, which tells which.",
    ),
)
"""Errors of the server, and what each means to whoever asked."""


def trouble_of(error: Exception) -> str | None:
    """What an error of the database means, in words that anybody may see, and what to do.

    `error` is Django's or psycopg's. None where it is none that a healthy program meets.
    """
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    for kinds, words in _UNWELL:
        if isinstance(cause, kinds):
            return words
    away = (django.db.OperationalError, django.db.InterfaceError)
    if isinstance(error, (*away, psycopg.OperationalError, psycopg.InterfaceError)):
        return AWAY
    return None


def problems_of(status: Status, between: Interval | None = None) -> list[Problem]:
    """All that is wrong, the worst first. `between` is what was watched before `status`."""
    if status.setup is None:
        unreachable = Problem(
            "unreachable",
            Part.DATA,
            f"The database does not answer: {status.unreachable}.",
            "Start it, or correct DATABASES. Committed events are safe; streams go on by "
            "themselves.",
        )
        return [unreachable, *broker_problems(status)]
    found = setup_problems(status.setup)
    if status.setup.readable:
        found += _ledger_problems(status)
        found += _delivery_problems(status)
        found += _silence(status)
        found += _forgotten_transactions(status)
        found += publishing_problems(status, between)
    found += broker_problems(status)
    if between is not None:
        found += _standing_commits(between)
    worst_first = list(Part)
    return sorted(found, key=lambda problem: worst_first.index(problem.part))


def setup_problems(setup: Setup) -> list[Problem]:
    """What is wrong with the server, the migrations and the role's rights."""
    return [*_server_problems(setup), *_schema_problems(setup)]


def _server_problems(setup: Setup) -> Iterator[Problem]:
    if setup.server_version < OLDEST_SERVER:
        yield Problem(
            "old_server",
            Part.DATA,
            f"The server is PostgreSQL {setup.server_version // 10_000}; agent_events needs "
            f"{OLDEST_SERVER // 10_000} or later.",
            'Upgrade it, or name another database: AGENT_EVENTS = {"DATABASE": "<alias>"}.',
        )
    if setup.standby:
        yield Problem(
            "standby",
            Part.DATA,
            "The server is a standby: it takes no events, and nobody can close batches on it.",
            "Connect to the primary (HOST in DATABASES).",
        )
    if (setup.missing or setup.unapplied) and not setup.schema_hidden:
        lacks = [*setup.missing, *(f"migration {name}" for name in setup.unapplied)]
        yield Problem(
            "not_migrated",
            Part.DATA,
            f"The database lacks {', '.join(lacks)}.",
            # (A column: migrations of the same name made less of it then. No migration mends that.)
            "manage.py migrate (with --database ALIAS where the log is not in default)"
            if not any(one.startswith("column ") for one in setup.missing)
            else "It says what to do.",
        )
    if setup.rows_hidden:
        yield Problem(
            "rows_hidden",
            Part.DATA,
            "Row-level security hides rows from this role, and events that whoever closes a batch "
            "does not see would be lost for everybody: no batch is closed.",
            "ALTER ROLE <role> BYPASSRLS; or let it own the tables, without FORCE ROW LEVEL "
            "SECURITY.",
        )
    if setup.rights_lacking:
        yield Problem(
            "rights_lacking",
            Part.DATA,
            f"This role lacks {', '.join(setup.rights_lacking)}.",
            " ".join(f"GRANT {right} TO <role>;" for right in setup.rights_lacking),
        )


def _schema_problems(setup: Setup) -> Iterator[Problem]:
    if not setup.missing and setup.trigger not in ("O", "A"):
        state = "is disabled" if setup.trigger else "is not there"
        yield Problem(
            "no_trigger",
            Part.DOORBELL,
            f"The trigger agent_events_ring of agent_events {state}: nothing is rung, and events "
            "come by the poll.",
            "ALTER TABLE agent_events ENABLE TRIGGER agent_events_ring;"
            if setup.trigger
            else "SELECT agent_events_hang_doorbell();",
        )
    if setup.sequence_cache > 1:
        yield Problem(
            "sequence_cache",
            Part.EVENTS,
            f"Each session takes {setup.sequence_cache} ids of agent_events at a time: of "
            "transactions in one batch, the later one may come first.",
            "ALTER TABLE agent_events ALTER COLUMN id SET CACHE 1;",
        )


def _ledger_problems(status: Status) -> Iterator[Problem]:
    if status.fault:
        code, part = _FAULTS[status.fault]
        yield Problem(
            code,
            part,
            FAULTS[status.fault],
            "manage.py mend_events --dry-run says what it would do; docs/retention.md what to stop "
            "first.",
        )


def _delivery_problems(status: Status) -> Iterator[Problem]:
    waits = status.behind and status.waits_s > WAITS_S
    if waits and _can_append(status):
        many = f"More than {BOUND:,}" if status.behind_more else f"{status.behind:,}"
        events = f"{many} committed event{'' if many == '1' else 's'} in no batch yet, for "
        events += f"{status.waits_s:,.0f} s"
        if not status.listeners and status.sequencer is None:
            yield Problem(
                "nobody_sequences",
                Part.EVENTS,
                f"{events}, and no process that would close one is connected.",
                "Start manage.py listen_events."
                if status.shards
                else "Start manage.py listen_events, or a web process (it begins with its first "
                "subscriber, or at GET /readyz).",
            )
        else:
            leader = session_in_words(status.sequencer) if status.sequencer else "nobody"
            yield Problem(
                "behind",
                Part.EVENTS,
                f"{events}. The lock of whoever closes batches is held by: {leader}.",
                "If the number does not fall: SELECT pg_terminate_backend(<pid>); or close them "
                "by hand: SELECT n, rows FROM agent_events_append();",
            )
    if status.queue_usage > QUEUE_HALF:
        oldest = (
            "; ".join(session_in_words(one) for one in status.queue_suspects) or "none to be seen"
        )
        yield Problem(
            "queue_filling",
            Part.DOORBELL,
            f"PostgreSQL's notification queue is {status.queue_usage:.0%} full: nothing is rung, "
            "and events come by the poll. A connection that listens sits in a transaction. The "
            f"oldest transactions of the server: {oldest}.",
            "SELECT pg_terminate_backend(<pid>); of the one that listens",
        )


def _silence(status: Status) -> Iterator[Problem]:
    holder, leader = status.coalescer, status.sequencer
    if holder is not None and (leader is None or leader.pid != holder.pid):
        yield Problem(
            "silenced",
            Part.DOORBELL,
            "A session that does not close batches holds the lock K, so that no producer rings and "
            f"events come by the poll: {session_in_words(holder)}.",
            f"SELECT pg_terminate_backend({holder.pid});",
        )


def _standing_commits(between: Interval) -> Iterator[Problem]:
    waits = between.waits
    in_front = waits.holder.session.open_s if waits.holder is not None else None
    # (Of a long queue of quick ones the last waits as long.)
    if waits.longest_s > STANDS_S and (in_front is None or in_front > STANDS_S):
        holder = (
            f"{session_in_words(waits.holder.session)} in database {waits.holder.database}"
            if waits.holder is not None
            else "a session that has gone meanwhile"
        )
        yield Problem(
            "commits_stand",
            Part.EVENTS,
            f"Commits that notify wait for one that does not end, {waits.longest_s:,.1f} s by now, "
            f"{waits.most} of them: {holder}.",
            "See what it waits for (wait_event in pg_stat_activity): a disk that is full or slow, "
            "or a synchronous standby that is away.",
        )


def _forgotten_transactions(status: Status) -> Iterator[Problem]:
    old = [one for one in status.writers if one.open_s is not None and one.open_s > OPEN_S]
    if old:
        yield Problem(
            "long_transaction",
            Part.EVENTS,
            "Transactions that wrote events and are still open hold back their own events (and "
            f"nobody else's): {'; '.join(session_in_words(one) for one in old)}.",
            "Commit them, or: SELECT pg_terminate_backend(<pid>); which rolls back",
        )
    prepared = [one for one in status.prepared if one.open_s > OPEN_S]
    if prepared:
        named = ", ".join(f"'{one.gid}' of {one.owner}, {one.open_s:,.0f} s" for one in prepared)
        yield Problem(
            "prepared_transaction",
            Part.EVENTS,
            f"Prepared transactions hold back their own events (and nobody else's): {named}.",
            "COMMIT PREPARED '<gid>'; or ROLLBACK PREPARED '<gid>';",
        )


def _can_append(status: Status) -> bool:
    """Is nothing worse in the way, which is said already?"""
    ledger_well = not status.fault or _FAULTS[status.fault][1] is not Part.DATA
    return status.setup is not None and not status.setup.standby and ledger_well
