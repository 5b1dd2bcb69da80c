"""`manage.py revoke_api_key PREFIX [PREFIX ...]`."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from agent_events import keys
from agent_events.management.base import LogCommand
from agent_events.models import ApiKey


class Command(LogCommand):
    """Ends API keys for good, and the tokens and streams that came from them. Safe to repeat."""

    help = "Revoke API keys, by their prefixes (ae_<prefix>_...). Their streams end in seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument(
            "prefix", nargs="+", help="the eight characters after ae_, as the admin lists them"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """All or none. Raises CommandError for a prefix that no key has."""
        wanted = {_prefix(text) for text in options["prefix"]}
        known = set(ApiKey.objects.filter(prefix__in=wanted).values_list("prefix", flat=True))
        if unknown := sorted(wanted - known):
            raise CommandError(f"No key has the prefix {', '.join(unknown)}. Nothing was revoked.")
        ended = keys.revoke(wanted)
        self.stdout.write(f"Revoked {ended}; {len(wanted) - ended} had been revoked before.")


def _prefix(text: str) -> str:
    """Of a prefix, or of `ae_<prefix>_...` as lists show it; no secret is repeated in an error."""
    return text.removeprefix("ae_")[:8]
