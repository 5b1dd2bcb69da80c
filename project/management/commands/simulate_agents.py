"""`manage.py simulate_agents`: agents at work, to have something to look at."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, close_old_connections

from agent_events import publish_many
from agent_events.publishing import NewEvent
from project.demo_data import create_demo_tenants
from project.pacing import Pacer
from project.simulation import SimulatedEvent, tenant_agents, tenant_story

# Events that are due together go out together: at a high rate a statement each would be too slow.
LONGEST_SLEEP_S = 0.2  # so long may it take to notice a signal
SHORTEST_SLEEP_S = 0.005
LARGEST_BATCH = 500
RETRY_S = 1.0


class StopSignal:
    """Remembers that SIGTERM or SIGINT came.

    Not a threading.Event: setting one in a signal handler can deadlock with a wait on it.
    """

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.came = True


class Command(BaseCommand):
    """Publishes made-up agent runs at a steady rate until it is stopped."""

    help = "Publish believable events of simulated agents at a steady rate."

    def add_arguments(self, parser: CommandParser) -> None:
        """Rate, size and seed."""
        parser.add_argument(
            "--rate", type=float, default=5.0, help="events per second over all tenants (5)"
        )
        parser.add_argument("--tenants", type=int, default=2, help="how many tenants (2)")
        parser.add_argument("--agents", type=int, default=5, help="agents in each tenant (5)")
        parser.add_argument(
            "--duration", type=float, default=0.0, help="seconds; 0 is until stopped (0)"
        )
        parser.add_argument("--seed", type=int, default=1, help="another seed, other agents (1)")

    def handle(self, **options: Any) -> None:
        """Run until the duration is over, or SIGTERM or SIGINT comes."""
        for name in ("tenants", "agents"):
            if options[name] < 1:
                raise CommandError(f"--{name} must be at least 1")
        if options["duration"] < 0:
            raise CommandError("--duration must not be negative")
        try:
            pacer = Pacer(options["rate"], time.monotonic())
        except ValueError as error:
            raise CommandError(f"--rate: {error}") from error
        stopped = StopSignal()
        stories = _stories(options["tenants"], options["agents"], options["seed"])
        ends_at = time.monotonic() + (options["duration"] or float("inf"))
        published = 0
        while not stopped.came and (now := time.monotonic()) < ends_at:
            count = pacer.due(now)
            while count and not stopped.came:
                batch = [next(stories) for _ in range(min(count, LARGEST_BATCH))]
                published += self._publish(batch, stopped)
                count -= len(batch)
            sleep_s = min(pacer.next_at(), ends_at) - time.monotonic()
            time.sleep(min(max(sleep_s, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))
        self.stdout.write(f"{published} events published")

    def _publish(self, batch: list[NewEvent], stopped: StopSignal) -> int:
        """Publish once the database is there; how many events were published."""
        while not stopped.came:
            try:
                publish_many(batch)
            except (OperationalError, InterfaceError) as error:
                self.stderr.write(f"the database is away, trying again: {str(error).strip()}")
                close_old_connections()
                time.sleep(RETRY_S)
            else:
                return len(batch)
        return 0


def _stories(tenants: int, agents: int, seed: int) -> Iterator[NewEvent]:
    """The stories of all tenants, told in turns."""
    start = int(time.time())  # runs are numbered on from here, not from the beginning again
    told: list[tuple[uuid.UUID, Iterator[SimulatedEvent]]] = []
    for tenant in create_demo_tenants(tenants):
        story = tenant_story(tenant.name, tenant_agents(tenant.name, agents, seed), seed, start)
        told.append((tenant.id, story))
    while True:
        for tenant_id, story in told:
            event = next(story)
            yield NewEvent(tenant_id, event.agent_id, event.event_type, event.payload)
