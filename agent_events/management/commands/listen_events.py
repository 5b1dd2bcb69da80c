"""`manage.py listen_events`: PostgreSQL to a broker or a channel layer, and a line per event."""

import asyncio
import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import CommandError
from django.db import connections
from django.utils.module_loading import import_string

from agent_events.bus import Bus, current_bus, layer_is_shared
from agent_events.conf import get_settings
from agent_events.errors import AgentEventsError
from agent_events.management.base import LogCommand, in_words
from agent_events.principals import Principal
from agent_events.requests import filter_of
from agent_events.subscriber import Kind
from agent_events.tasks import end
from agent_events.terminal import colours_of, line
from agent_events.window import Tenants

_FILTERS = {
    "agent": "print events of this agent; a prefix where it ends in *",
    "type": "print events of this type; a prefix where it ends in *",
    "not-agent": "print none of this agent; a prefix where it ends in *",
    "not-type": "print none of this type; a prefix where it ends in *",
    "text": "print only events with this text in their type or payload",
    "where": "print only events whose payload is so, such as 'tokens > 1000'",
}
_WORDS = {
    Kind.TRUNCATED: "What this cursor asks for was pruned; going on from the oldest event kept.",
    Kind.RESET: "This cursor is of another history; going on a few minutes before its time.",
}


class Command(LogCommand):
    """The worker: sequences, publishes to a broker or a shared layer, tails, serves if asked to."""

    help = (
        "Pass events from PostgreSQL to the broker, or to the shared channel layer, where the "
        "settings name one, and print them as they come. Run several: one leads, others stand by."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("--json", action="store_true", help="print events as JSON lines")
        parser.add_argument(
            "--tenant", action="append", default=[], help="print this tenant's only; may repeat"
        )
        for name, told in _FILTERS.items():
            parser.add_argument(
                f"--{name}", action="append", default=[], help=f"{told}; may repeat"
            )
        parser.add_argument(
            "--cursor", default="latest", help="print from here on: a cursor, earliest, latest"
        )
        parser.add_argument("--quiet", action="store_true", help="print no events")
        parser.add_argument(
            "--serve", metavar="HOST:PORT", help="serve the site from this process too"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until SIGINT or SIGTERM."""
        self.options = options
        self.cursor = options["cursor"]
        try:
            everyone = Principal(id="operator", rights=frozenset(), everything=True)
            self.tenants: Tenants = everyone.choose(options["tenant"])
            self.filter = filter_of(options)
            shared = layer_is_shared(get_settings().channel_layer)
            # A database that is not there is said at once; one that goes away later is waited for.
            connections[get_settings().database].ensure_connection()
            connections[get_settings().database].close()
            if options["serve"]:
                self._serve(*_host_and_port(options["serve"]))
            else:
                if not (shared or get_settings().broker_url):
                    self.stderr.write(
                        "The in-memory channel layer reaches this process only: web processes "
                        "listen to PostgreSQL by themselves. --serve HOST:PORT serves the site "
                        "from here."
                    )
                asyncio.run(self._listen())
        except AgentEventsError as error:
            raise CommandError(str(error)) from error
        except BrokenPipeError:
            # Whoever read our lines has gone; Python would complain once more at its exit.
            sys.stdout = None
        if not options["quiet"]:
            self.stderr.write(f"Stopped. Go on with --cursor {self.cursor}")

    async def _listen(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        bus = Bus(get_settings(), worker=True)
        tail = asyncio.create_task(self._tail(bus))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({tail, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if tail.done():
                tail.result()
        finally:
            await end([tail, stopped])
            await bus.stop()

    async def _tail(self, bus: Bus) -> None:
        if self.options["quiet"]:
            await bus.start()
            await asyncio.Event().wait()
        subscriber = await bus.subscribe(self.tenants, self.filter, self.cursor)
        colour = colours_of(os.environ, sys.stdout.isatty())
        try:
            self.cursor = subscriber.cursor
            while True:
                update = await subscriber.next(get_settings().heartbeat_s)
                for event in update.events:
                    text = event.json if self.options["json"] else line(event, colour=colour)
                    sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
                if update.kind in _WORDS:
                    self.stderr.write(_WORDS[update.kind])
                self.cursor = update.cursor
        finally:
            subscriber.close()

    def _serve(self, host: str, port: int) -> None:
        # Imported here: it installs Twisted's reactor, which nothing else of this command needs.
        from daphne.endpoints import build_endpoint_description_strings
        from daphne.server import Server

        tails = []

        async def tail() -> None:
            # The bus of the server's own loop: the doors below share it.
            try:
                await self._tail(current_bus(worker=True))
            except Exception as error:
                server.stop()
                raise CommandError(in_words(error)) from error

        def ready() -> None:
            self.stderr.write(f"Serving http://{host}:{port}/")
            tails.append(asyncio.get_event_loop().create_task(tail()))

        server = Server(
            import_string(django_settings.ASGI_APPLICATION),
            endpoints=build_endpoint_description_strings(host=host, port=port),
            ready_callable=ready,
        )
        server.run()
        for task in tails:
            if task.done() and not task.cancelled():
                task.result()
        if not server.listening_addresses:
            raise CommandError(f"{host}:{port} cannot be listened on; is another server there?")


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"--serve takes HOST:PORT, such as 127.0.0.1:8000; got {text!r}.")
    return host.strip("[]"), int(port)
