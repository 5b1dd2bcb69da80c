"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AgentEventsConfig(AppConfig):
    """A durable, real-time event bus for AI agents in the project's own PostgreSQL."""

    name = "agent_events"
    verbose_name = _("Agent events")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the system checks."""
        from agent_events.checks import register_all  # needs the models

        register_all()
