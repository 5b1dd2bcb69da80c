"""`manage.py create_api_key --tenant NAME_OR_ID --name NAME --scope publish [--expires 90d]`."""

from argparse import ArgumentParser
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError
from django.utils import timezone

from agent_events import keys
from agent_events.errors import InvalidAge
from agent_events.management.base import LogCommand, checked_name
from agent_events.models import ApiKey, Tenant
from agent_events.principals import Right
from agent_events.retention import parse_age


class Command(LogCommand):
    """Makes an API key and prints it, once. The words about it go to the standard error."""

    help = "Create an API key of a tenant and print it: it is shown this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("--tenant", required=True, metavar="NAME_OR_ID", help="whose key it is")
        parser.add_argument("--name", required=True, help="what it is for, as people call it")
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            choices=[right.value for right in keys.RIGHTS],
            help="what it may do; may repeat",
        )
        parser.add_argument(
            "--expires",
            metavar="AGE_OR_DATE",
            help="such as 90d, or 2027-01-31 (its last day); left out: when it is revoked",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Makes it. Raises CommandError where there is no such tenant, or no such time."""
        tenant = _tenant(options["tenant"])
        end = _end(options["expires"]) if options["expires"] else None
        name = checked_name(ApiKey, options["name"])
        key, text = keys.create(tenant, name, map(Right, options["scope"]), expires_at=end)
        until = f"until {end:%Y-%m-%d %H:%M %Z}" if end else "until it is revoked"
        self.stderr.write(
            f"A key of {tenant.name!r} that may {' and '.join(sorted(set(options['scope'])))}, "
            f"{until}. It is not shown again. To end it: manage.py revoke_api_key {key.prefix}"
        )
        self.stdout.write(text)


def _tenant(text: str) -> Tenant:
    try:
        by_id = Tenant.objects.filter(id=UUID(text)).first()
    except ValueError:
        by_id = None
    tenant = by_id or Tenant.objects.filter(name=text).first()
    if tenant is None:
        raise CommandError(
            f"No tenant has the name or id {text!r}. Make it first: manage.py create_tenant NAME"
        )
    return tenant


def _end(text: str) -> datetime:
    """When that is. Raises CommandError where it is none, or past."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    try:
        end = (
            timezone.now() + parse_age(text)
            if day is None
            else timezone.make_aware(datetime.combine(day, time.min)) + timedelta(days=1)
        )
    except (InvalidAge, OverflowError) as error:
        raise CommandError(
            f"--expires is {text!r}, expected an age such as 90d or a date such as 2027-01-31."
        ) from error
    if end <= timezone.now():
        raise CommandError(f"--expires is {text!r}, which is past.")
    return end
