"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class AgentEventsConfig(AppConfig):
    """A durable, real-time event bus for AI agents in the project's own PostgreSQL."""

    name = "agent_events"
    verbose_name = _("Agent events")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the system checks, and what `migrate` does besides."""
        from agent_events.checks import register_all  # needs the models

        register_all()
        post_migrate.connect(_write_settings, sender=self)


def _write_settings(*, using: str, **_: Any) -> None:
    from agent_events.conf import get_settings
    from agent_events.database import WRITE_SETTINGS_SQL

    settings, connection = get_settings(), connections[using]
    if using != settings.database or connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('agent_event_bus') IS NOT NULL")
        if cursor.fetchone()[0]:  # (it may have been a migration back)
            cursor.execute(WRITE_SETTINGS_SQL, {"bodies": settings.tenant_bodies})
