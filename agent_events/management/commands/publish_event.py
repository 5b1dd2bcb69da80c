"""`manage.py publish_event --tenant --agent --type --payload`."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from agent_events.errors import InvalidEvent
from agent_events.management.base import LogCommand
from agent_events.publishing import publish


class Command(LogCommand):
    """Writes one event and prints its id."""

    help = "Write one event to the log, and print its id."
    stopped = "Stopped. Where no id was printed the event may be written or not."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("--tenant", required=True, help="the tenant's id, a UUID")
        parser.add_argument("--agent", required=True, help="the agent's id, a UUID")
        parser.add_argument("--type", required=True, help="such as turn.finished")
        parser.add_argument("--payload", default="{}", help="JSON; {} if left out")

    def handle(self, *args: Any, **options: Any) -> None:
        """Writes the event, or says what is wrong with it."""
        try:
            payload = json.loads(options["payload"])
        except ValueError as error:
            raise CommandError(f"--payload is not JSON: {error}") from error
        try:
            event_id = publish(options["tenant"], options["agent"], options["type"], payload)
        except InvalidEvent as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(event_id))
