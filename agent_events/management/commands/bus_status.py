"""`manage.py bus_status`: how the bus does, what is wrong first. Exit status 0, 1 or 2."""

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from agent_events.advice import Advice, advice
from agent_events.broker_status import leases_wanted, look
from agent_events.conf import get_settings
from agent_events.database import listener_dsn, log_dsn
from agent_events.errors import WrongDatabase
from agent_events.findings import Problem
from agent_events.journey import verdict
from agent_events.management import report
from agent_events.management.base import LogCommand
from agent_events.problems import problems_of
from agent_events.tracing import trace
from agent_events.watching import Observation, observe

PROBLEMS, NO_BUS = 1, 2  # and 0: nothing is wrong
NO_BUS_CODES = ("unreachable", "not_migrated")
PATIENCE_S = 1.5
"""Events that wait are looked at again after this time: somebody may just have been slow."""
WATCH_S = 2.0
CLEAR = "\x1b[H\x1b[J"
"""Begins a terminal's screen anew."""


class Command(LogCommand):
    """Looks, tells, and exits: 0 all is well, 1 something is wrong, 2 there is no bus."""

    help = (
        "Tell how the bus does, what is wrong first. It looks for a second.\n\n"
        "Exit status: 0 nothing is wrong, 1 something is (with --trace: the event should have "
        "come further), 2 the database is away, not migrated or wrongly configured."
    )
    requires_system_checks = []  # what they would say about the database is said here

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """The parser; the help keeps its lines."""
        kwargs.setdefault("formatter_class", RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        either = parser.add_mutually_exclusive_group()
        either.add_argument(
            "--watch",
            nargs="?",
            type=_seconds,
            const=WATCH_S,
            metavar="SECONDS",
            help=f"go on until Ctrl-C, each {WATCH_S:g} s or SECONDS: in place on a terminal, else "
            "a line each time",
        )
        either.add_argument(
            "--trace",
            type=_id,
            metavar="ID",
            help="follow one event: stored, in which batch, delivered by which process when",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Prints and exits."""
        try:
            dsn, listen = log_dsn(), listener_dsn()
        except (ImproperlyConfigured, WrongDatabase) as error:
            raise CommandError(str(error), returncode=NO_BUS) from error
        try:
            if options["trace"] is not None:
                self._trace(dsn, listen, options["trace"], as_json=options["json"])
            elif options["watch"] is not None:
                asyncio.run(self._watch(dsn, listen, options["watch"], as_json=options["json"]))
            else:
                self._once(dsn, listen, as_json=options["json"])
        except BrokenPipeError:
            # Whoever read our lines has gone; Python would complain once more at its exit.
            sys.stdout = None

    def _once(self, dsn: str, listen: str, *, as_json: bool) -> None:
        seen = asyncio.run(_observe(dsn, listen, patience_s=PATIENCE_S))
        problems, advised = _judge(seen)
        if as_json:
            self.stdout.write(report.as_json(seen, problems, advised))
        else:
            self.stdout.write(self._page(seen, problems, advised))
        _exit(problems)

    async def _watch(self, dsn: str, listen: str, seconds: float, *, as_json: bool) -> None:
        in_place = not as_json and sys.stdout.isatty()
        loop = asyncio.get_running_loop()
        seen: Observation | None = None
        while True:
            began = loop.time()
            before = seen.status if seen is not None else None
            seen = await _observe(dsn, listen, seconds, before=before)
            problems, advised = _judge(seen)
            if as_json:
                text = report.as_json(seen, problems, advised, indent=None)
            elif in_place:
                text = f"{CLEAR}{_now()}\n{self._page(seen, problems, advised)}"
            else:
                text = f"{_now()} {report.one_line(seen, problems, advised)}"
            self.stdout.write(text)
            self.stdout.flush()
            # (Where the database is away, nothing has taken that long.)
            await asyncio.sleep(began + seconds - loop.time())

    def _trace(self, dsn: str, listen: str, id: int, *, as_json: bool) -> None:
        settings = get_settings()
        leases = leases_wanted(settings)
        journey = asyncio.run(trace(dsn, listen, id, leases=leases, look=partial(look, settings)))
        if journey.stored is None and journey.gap is None:
            problems = problems_of(journey.status)
            if as_json:
                self.stdout.write(report.problems_as_json(problems))
            for problem in problems if not as_json else ():
                self.stdout.write(self._told(problem))
            _exit(problems)
        found = verdict(journey)
        if as_json:
            self.stdout.write(report.trace_as_json(journey, found))
        else:
            style = self.style.ERROR if found.stopped else self.style.SUCCESS
            self.stdout.write(style(found.words))
            for name, text in report.trace_lines(journey):
                self.stdout.write(f"{name:<14}{text}")
        if found.stopped:
            sys.exit(PROBLEMS)

    def _page(self, seen: Observation, problems: list[Problem], advised: Advice | None) -> str:
        told = [self._told(problem) for problem in problems]
        if not problems:
            told.append(self.style.SUCCESS("Nothing is wrong."))
        if advised is not None:
            told.append(advised.words if advised.fine else self.style.WARNING(advised.words))
        if seen.status.setup is not None:
            told += ["", *(f"{name:<14}{text}" for name, text in report.lines(seen))]
        return "\n".join(told)

    def _told(self, problem: Problem) -> str:
        return f"{self.style.ERROR(problem.code)}: {problem.message}\n    {problem.hint}"


async def _observe(dsn: str, listen: str, *args: Any, **kwargs: Any) -> Observation:
    """`observe`, the broker too."""
    settings = get_settings()
    leases = leases_wanted(settings)
    return await observe(dsn, listen, *args, **kwargs, leases=leases, look=partial(look, settings))


def _judge(seen: Observation) -> tuple[list[Problem], Advice | None]:
    problems = problems_of(seen.status, seen.between)
    return problems, advice(seen.status, seen.between, seen.rates, get_settings())


def _exit(problems: list[Problem]) -> None:
    if any(problem.code in NO_BUS_CODES for problem in problems):
        sys.exit(NO_BUS)
    if problems:
        sys.exit(PROBLEMS)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.1 <= (seconds := float(text)) <= 3_600:
            return seconds
    raise ArgumentTypeError(f"expected 0.1 to 3600 seconds, got {text!r}")


def _id(text: str) -> int:
    with suppress(ValueError):
        if abs(id := int(text)) < 2**63:  # bigint
            return id
    raise ArgumentTypeError(f"expected the id of an event, got {text!r}")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
