"""Checks of the database itself: by `check --database <alias>`, and before each `migrate`.

Warnings where a migration may be what mends it: an error would keep `migrate` from running.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError, connections

from agent_events.checks.configuration import valid_settings
from agent_events.facts import Setup
from agent_events.problems import setup_problems
from agent_events.status import APPLIED_SQL, SETUP_SQL, setup_of

IDS = {
    "old_server": (Error, "agent_events.E010"),
    "standby": (Error, "agent_events.E011"),
    "not_migrated": (Warning, "agent_events.W009"),
    "rows_hidden": (Warning, "agent_events.W010"),
    "rights_lacking": (Warning, "agent_events.W011"),
    "no_trigger": (Warning, "agent_events.W012"),
    "sequence_cache": (Warning, "agent_events.W013"),
}
"""Which check tells which problem: those that can be seen without the ledger."""

FIRST_TABLE = "agent_events"


def state(databases: Sequence[str] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """What `bus_status` would find wrong with the server, the migrations and the role."""
    conf = valid_settings()
    if conf is None or conf.database not in (databases or ()):
        return
    if conf.database not in connections or connections[conf.database].vendor != "postgresql":
        return  # E003 and E004
    try:
        setup = _setup(conf.database)
    except DatabaseError:
        return  # whoever runs the check meets it next
    before_first_migrate = FIRST_TABLE in setup.missing and not setup.schema_hidden
    for problem in setup_problems(setup):
        kind, id = IDS[problem.code]
        if kind is Error or not before_first_migrate:
            yield kind(problem.message, hint=problem.hint, id=id)


def _setup(alias: str) -> Setup:
    with connections[alias].cursor() as cursor:
        cursor.execute(SETUP_SQL)
        *row, has_migrations = cursor.fetchone()
        applied = None
        if has_migrations:
            cursor.execute(APPLIED_SQL)
            applied = [name for (name,) in cursor.fetchall()]
    return setup_of(row, applied)
