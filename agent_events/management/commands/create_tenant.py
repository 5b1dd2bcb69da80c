"""`manage.py create_tenant NAME [--id UUID] [--member USER ...]`."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError
from django.db import router, transaction

from agent_events.management.base import LogCommand, checked_name
from agent_events.models import Membership, Tenant


class Command(LogCommand):
    """Makes a tenant and its members, and prints the tenant's id. Safe to run again."""

    help = "Create a tenant (if it does not exist), add members to it, and print its id."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("name", help="what people call the tenant")
        parser.add_argument("--id", type=UUID, help="the tenant's id, as producers write it")
        parser.add_argument(
            "--member",
            action="append",
            default=[],
            metavar="USER",
            help="a user name that may see the tenant's events; may repeat",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Makes what is missing, all or nothing."""
        name, wanted = checked_name(Tenant, options["name"]), options["id"]
        users = get_user_model()._default_manager
        alias = router.db_for_write(Tenant)
        with transaction.atomic(using=alias):
            members = []
            for member in options["member"]:
                user = users.filter(**{users.model.USERNAME_FIELD: member}).first()
                if user is None:
                    raise CommandError(
                        f"There is no user {member!r}. Make one first: manage.py createsuperuser, "
                        "or in the admin."
                    )
                members.append(user)
            other = Tenant.objects.filter(id=wanted).exclude(name=name).first()
            if other is not None:
                raise CommandError(f"The id is that of tenant {other.name!r}.")
            defaults = {"id": wanted} if wanted else {}
            tenant, _ = Tenant.objects.get_or_create(name=name, defaults=defaults)
            if wanted and tenant.id != wanted:
                raise CommandError(f"The tenant {tenant.name!r} exists with the id {tenant.id}.")
            for user in members:
                Membership.objects.get_or_create(tenant=tenant, user=user)
        self.stdout.write(str(tenant.id))
