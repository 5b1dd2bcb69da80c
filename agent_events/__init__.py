"""Events of AI agents from the PostgreSQL you have to every screen that watches, in one order."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_events.publishing import NewEvent, apublish, publish, publish_many
    from agent_events.subscription import subscribe
    from agent_events.subscription_sync import subscribe_sync

__all__ = ["NewEvent", "apublish", "publish", "publish_many", "subscribe", "subscribe_sync"]

_HOME = {"subscribe": "subscription", "subscribe_sync": "subscription_sync"}


def __getattr__(name: str) -> Any:
    # Lazily: Django imports this package before its apps are ready.
    if name in __all__:
        return getattr(import_module(f"agent_events.{_HOME.get(name, 'publishing')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
