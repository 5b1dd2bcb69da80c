"""Events of AI agents from the PostgreSQL you have to every screen that watches, in one order."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_events.publishing import NewEvent, apublish, publish, publish_many

__all__ = ["NewEvent", "apublish", "publish", "publish_many"]


def __getattr__(name: str) -> Any:
    # Lazily: Django imports this package before its apps are ready.
    if name in __all__:
        from agent_events import publishing

        return getattr(publishing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
