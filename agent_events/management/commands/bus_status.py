"""`manage.py bus_status`: how the bus does, what is wrong first. Exit status 0, 1 or 2."""

import asyncio
import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from agent_events.database import log_dsn
from agent_events.errors import WrongDatabase
from agent_events.facts import BOUND, Prepared, Session, Status
from agent_events.management.base import LogCommand
from agent_events.problems import Problem, problems_of
from agent_events.status import gather

PROBLEMS, NO_BUS = 1, 2  # and 0: nothing is wrong
NO_BUS_CODES = ("unreachable", "not_migrated")
PATIENCE_S = 1.5
"""Events that wait are looked at again after this time: somebody may just have been slow."""


class Command(LogCommand):
    """Looks once, tells, and exits: 0 all is well, 1 something is wrong, 2 there is no bus."""

    help = (
        "Tell how the bus does, what is wrong first.\n\n"
        "Exit status: 0 nothing is wrong, 1 something is, 2 the database is away, not migrated "
        "or wrongly configured."
    )
    requires_system_checks = []  # what they would say about the database is said here

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """The parser; the help keeps its lines."""
        kwargs.setdefault("formatter_class", RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prints and exits."""
        try:
            dsn = log_dsn()
        except (ImproperlyConfigured, WrongDatabase) as error:
            raise CommandError(str(error), returncode=NO_BUS) from error
        status = asyncio.run(gather(dsn, patience_s=PATIENCE_S))
        problems = problems_of(status)
        if options["json"]:
            self.stdout.write(as_json(status, problems))
        else:
            self._tell(status, problems)
        if any(problem.code in NO_BUS_CODES for problem in problems):
            sys.exit(NO_BUS)
        if problems:
            sys.exit(PROBLEMS)

    def _tell(self, status: Status, problems: list[Problem]) -> None:
        for problem in problems:
            self.stdout.write(f"{self.style.ERROR(problem.code)}: {problem.message}")
            self.stdout.write(f"    {problem.hint}")
        if not problems:
            self.stdout.write(self.style.SUCCESS("Nothing is wrong."))
        if status.setup is None:
            return
        self.stdout.write("")
        for name, text in lines(status):
            self.stdout.write(f"{name:<14}{text}")


def as_json(status: Status, problems: list[Problem]) -> str:
    """All facts and problems as one JSON object; times in seconds, sizes in bytes."""
    told = asdict(status)
    told["problems"] = [{**asdict(problem), "part": problem.part.value} for problem in problems]
    return json.dumps(told, default=lambda value: value.isoformat(), indent=2)


def lines(status: Status) -> Iterator[tuple[str, str]]:
    """What is known, as names and words."""
    setup, head = status.setup, status.head
    assert setup is not None
    kind = "standby" if setup.standby else "primary"
    major, minor = divmod(setup.server_version, 10_000)
    yield "server", f"PostgreSQL {major}.{minor}, {kind}"
    if not setup.readable:
        return
    if head is not None:
        yield (
            "head",
            f"batch {head.batch:,}, {head.total:,} events, closed {duration(head.closed_s)} ago",
        )
    more = f"{BOUND:,}+" if status.behind_more else f"{status.behind:,}"
    yield "behind", f"{more} events" + (f", {duration(status.waits_s)}" if status.behind else "")
    yield "sequencer", session(status.sequencer) if status.sequencer else "none"
    yield from _list("listeners", [session(one) for one in status.listeners])
    yield "queue", f"{status.queue_usage:.0%} full"
    yield from _list("open writers", [session(one) for one in status.writers])
    if not status.sees_sessions and status.writers:
        yield "", "GRANT pg_read_all_stats TO <this role>; shows since when they are open"
    if status.prepared:
        yield from _list("prepared", [_prepared(one) for one in status.prepared])
    if head is not None and status.oldest_batch is not None:
        kept = head.batch - status.oldest_batch + 1
        yield (
            "ledger",
            f"batches {status.oldest_batch:,} to {head.batch:,} ({kept:,}), "
            f"{size(status.ledger_bytes)}",
        )
    yield "log", size(status.log_bytes)


def session(one: Session) -> str:
    """A connection, on one line."""
    open_for = "" if one.open_s is None else f", open for {duration(one.open_s)}"
    who = f"{one.user}@{one.client or 'local'}"
    return f"pid {one.pid}, {who}, {one.application or 'no application_name'}{open_for}"


def _prepared(one: Prepared) -> str:
    return f"'{one.gid}' of {one.owner}, {duration(one.open_s)}"


def _list(name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts or ["none"]):
        yield ("" if number else name), text


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"
