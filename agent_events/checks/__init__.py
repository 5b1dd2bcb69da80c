"""Django's system checks: every misconfiguration that can be seen, before it is met.

`manage.py check --tag agent_events` runs these alone. docs/checks.md lists them. A check never
raises: one that fails itself says so (W001).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register

from agent_events.checks import broker, configuration, database, page, streams

logger = logging.getLogger("agent_events")

Check = Callable[..., Iterator[CheckMessage]]
TAG = "agent_events"

STATIC: Sequence[Check] = (
    configuration.settings,
    configuration.resolver,
    configuration.database,
    configuration.routers,
    configuration.apps,
    configuration.layer,
    configuration.intervals,
    broker.address,
    broker.files,
    broker.unused,
    streams.routes,
    streams.probes,
    page.middleware,
    page.template,
    page.login,
    page.modules,
)


def register_all() -> None:
    """Registers every check; called once the apps are loaded."""
    for check in STATIC:
        register(_guarded(check), TAG)
    register(_guarded(configuration.pooler), TAG, deploy=True)
    register(_guarded(broker.in_the_open), TAG, deploy=True)
    register(_guarded(database.state), TAG, Tags.database)


def _guarded(check: Check) -> Callable[..., list[CheckMessage]]:
    """As Django wants it: a list, and whatever happens no exception."""

    @wraps(check)
    def guarded(
        app_configs: Any = None, databases: Sequence[str] | None = None, **kwargs: Any
    ) -> list[CheckMessage]:
        try:
            return list(check(databases=databases))
        except Exception as error:
            logger.debug("The check %s failed.", check.__qualname__, exc_info=True)
            return [
                Warning(
                    f"The check {check.__module__}.{check.__name__} failed: "
                    f"{type(error).__name__}: {error}",
                    hint="Nothing is known to be wrong. Please report it.",
                    id="agent_events.W001",
                )
            ]

    return guarded
