"""`manage.py prune_events --older-than 7d [--dry-run]`."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from agent_events import retention
from agent_events.errors import InvalidAge
from agent_events.facts import FAULTS
from agent_events.management.base import LogCommand
from agent_events.mending import fault

BAR_WIDTH = 30
MOST_STEP = 2**31 - 1
LONGEST_PAUSE_S = 86_400.0


class Command(LogCommand):
    """Deletes old events, in steps; may be interrupted and run again at any time."""

    help = "Delete the events of batches that were closed longer ago than --older-than."
    stopped = "Stopped. Nothing was deleted."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument(
            "--older-than",
            required=True,
            metavar="AGE",
            help="such as 7d: a number and s, m, h, d or w",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only say how much would be deleted"
        )
        parser.add_argument(
            "--step",
            type=int,
            default=retention.STEP_ROWS,
            metavar="EVENTS",
            help=f"events a transaction at most ({retention.STEP_ROWS:,})",
        )
        parser.add_argument(
            "--pause",
            type=float,
            default=0.0,
            metavar="SECONDS",
            help="wait so long between two of them (0)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Deletes what is due, or says how much that is."""
        if not 1 <= options["step"] <= MOST_STEP:
            raise CommandError(f"--step takes 1 to {MOST_STEP:,} events; got {options['step']}.")
        if not 0 <= options["pause"] <= LONGEST_PAUSE_S:  # which NaN is not either
            raise CommandError(
                f"--pause takes 0 to {LONGEST_PAUSE_S:,.0f} seconds; got {options['pause']}."
            )
        try:
            age = retention.parse_age(options["older_than"])
            if found := fault():
                raise CommandError(f"{FAULTS[found]} Mend it first: manage.py mend_events")
            closed_before = retention.before(age)
            due = retention.prunable(closed_before)
            if options["dry_run"]:
                self.stdout.write(f"Would delete {_amount(due.events, due.batches)}.")
                return
            steps = retention.prune(
                closed_before, step_rows=options["step"], pause_s=options["pause"]
            )
            self._run(steps, due)
            for _ in retention.forget_keys(step_rows=options["step"], pause_s=options["pause"]):
                pass
        except InvalidAge as error:
            raise CommandError(f"--older-than: {error}") from error

    def _run(self, steps: Any, due: retention.Prunable) -> None:
        self.stopped = "Stopped. Run it again to go on from there."
        progress = _Progress(self.stdout, due.events)
        events = batches = 0
        try:
            for step in steps:
                events += step.events
                batches += step.batches
                progress.show(events)
        except KeyboardInterrupt:
            progress.end()
            self.interrupted(
                f"Stopped after {_amount(events, batches)}. Run it again to go on from there."
            )
        progress.end()
        self.stdout.write(f"Deleted {_amount(events, batches)}.")


class _Progress:
    """A bar on a terminal; elsewhere a line for each tenth."""

    def __init__(self, out: OutputWrapper, total: int) -> None:
        self._out = out
        self._total = max(total, 1)
        self._bar = out.isatty()
        self._tenth = 0

    def show(self, done: int) -> None:
        share = min(done / self._total, 1.0)
        text = f"{share:4.0%}  {done:,} of {self._total:,} events"
        if self._bar:
            bar = "#" * int(share * BAR_WIDTH)
            self._out.write(f"\r[{bar:<{BAR_WIDTH}}] {text}", ending="")
            self._out.flush()
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            self._out.write(text.strip())

    def end(self) -> None:
        if self._bar:
            self._out.write("")


def _amount(events: int, batches: int) -> str:
    return (
        f"{events:,} event{'' if events == 1 else 's'} in "
        f"{batches:,} batch{'' if batches == 1 else 'es'}"
    )
