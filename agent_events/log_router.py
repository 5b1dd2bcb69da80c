"""A database router for a log that is not in the database of everything else.

    AGENT_EVENTS = {"DATABASE": "events"}
    DATABASE_ROUTERS = [..., "agent_events.log_router.LogRouter"]

The log and the ledger go to that alias. Tenants, their members and their keys stay with the users
that they point to: no foreign key leads from one database to another.
"""

from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from agent_events.conf import get_settings

APP = "agent_events"
LOG_MODELS = frozenset({"agentevent", "batch", "eventkey"})


class LogRouter:
    """Sends the log's models to `AGENT_EVENTS["DATABASE"]`. The last of several routers.

    Where that is another alias than `default`, nothing else is migrated there, unless a router
    before this one says that it is. Of everything else it has no opinion.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """The log's alias for its models."""
        return get_settings().database if self._is_log(model) else None

    db_for_write = db_for_read

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        """The log's tables and functions there and nowhere else; there, nothing else."""
        alias = get_settings().database
        # The SQL of the log's migrations names no model.
        if app_label == APP and (model_name is None or model_name in LOG_MODELS):
            return db == alias
        return False if db == alias != DEFAULT_DB_ALIAS else None

    def _is_log(self, model: type[Model]) -> bool:
        return model._meta.app_label == APP and model._meta.model_name in LOG_MODELS
