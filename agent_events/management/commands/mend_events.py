"""`manage.py mend_events [--dry-run]`: after a restore into another cluster."""

from argparse import ArgumentParser
from typing import Any

from agent_events import mending
from agent_events.facts import FAULTS
from agent_events.management.base import LogCommand


class Command(LogCommand):
    """Says what is wrong with the ledger, and mends it. Safe to run at any time, and again."""

    help = "Mend the ledger after rows were restored or copied from another PostgreSQL cluster."
    stopped = "Stopped. Nothing is mended by half: run it again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what is wrong and what would be done"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Mends what is wrong, all or nothing."""
        found = mending.fault(mending.MANY_LOOKS)
        if found is None:
            self.stdout.write("Nothing to mend.")
            return
        self.stdout.write(f"{FAULTS[found]}\n{mending.CURES[found]}")
        if found in mending.COPIED:
            lacking = mending.ids_lacking()
            self.stdout.write(
                "It takes as long as writing every event anew"
                + (f", and {lacking:,} transaction ids are used up first." if lacking else ".")
            )
        if options["dry_run"]:
            self.stdout.write("Nothing was changed (--dry-run).")
            return
        self.stdout.flush()
        mended = mending.mend(self._progress)
        if mended is None:
            self.stdout.write("Nothing to mend any more: somebody else did.")
            return
        self.stdout.write(
            "Mended. "
            f"Events that have their place: {mended.events:,}, in batches: {mended.batches:,}. "
            f"Events that come in the next batch: {mended.waiting:,}."
            if mended.batches
            else f"Mended. Events that come in the next batch: {mended.waiting:,}."
        )

    def _progress(self, done: int, of: int) -> None:
        self.stdout.write(f"{done:,} of {of:,} transaction ids")
