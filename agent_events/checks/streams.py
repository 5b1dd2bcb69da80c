"""Checks of the ASGI application: do both streams' addresses lead to the bus?"""

from collections.abc import Iterator
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.handlers.asgi import ASGIHandler
from django.urls.exceptions import Resolver404
from django.utils.module_loading import import_string

from agent_events.consumers import StreamConsumer
from agent_events.sse import stream

DOORS = (("websocket", "ws/agents/stream"), ("http", "api/agents/stream"))
MOST_LAYERS = 50  # an application that wraps itself must not hold the check

_HINT = (
    "In asgi.py, after get_asgi_application(): from agent_events import routing; application = "
    "routing.application(django_application). A project that only publishes silences this."
)


def routes(**kwargs: Any) -> Iterator[CheckMessage]:
    """E006: no application. E007: it does not lead to the streams."""
    name = getattr(settings, "ASGI_APPLICATION", None)
    if not name:
        yield Error(
            "ASGI_APPLICATION is not set.",
            hint='ASGI_APPLICATION = "mysite.asgi.application"',
            id="agent_events.E006",
        )
        return
    try:
        application = import_string(name)
    except Exception as error:  # the module runs, and may raise anything
        yield Error(
            f"ASGI_APPLICATION ({name}) cannot be imported: {type(error).__name__}: {error}",
            hint="Correct the name, or the module: python -c 'import <module>' shows where.",
            id="agent_events.E006",
        )
        return
    missing = [
        f"/{path} ({kind})" for kind, path in DOORS if leads(application, kind, path) is False
    ]
    if missing:
        yield Error(
            f"ASGI_APPLICATION ({name}) does not lead to the streams: {', '.join(missing)}.",
            hint=_HINT,
            id="agent_events.E007",
        )


def leads(application: Any, kind: str, path: str) -> bool | None:
    """Does the application pass a request of this kind and path to a stream? None: who knows.

    Follows the routers of Channels as they would route, and wrappers that name what they wrap.
    """
    for _ in range(MOST_LAYERS):
        consumer = getattr(application, "consumer_class", None)
        if application is stream:
            return True
        if isinstance(consumer, type):
            return issubclass(consumer, StreamConsumer)
        if isinstance(application, ProtocolTypeRouter):
            application = application.application_mapping.get(kind)
            if application is None:
                return False
        elif isinstance(application, URLRouter):
            found = _routed(application, path)
            if found is None:
                return False
            application, path = found
        elif (inner := _wrapped(application)) is not None:
            application = inner
        else:
            return False if isinstance(application, ASGIHandler) else None
    return None


def _routed(router: URLRouter, path: str) -> tuple[Any, str] | None:
    for route in router.routes:
        try:
            match = route.pattern.match(path.lstrip("/"))
        except Resolver404:
            continue
        if match:
            return route.callback, match[0]
    return None


def _wrapped(application: Any) -> Any:
    """What a middleware holds: the usual names."""
    for name in ("inner", "application", "app"):
        inner = getattr(application, name, None)
        if callable(inner):
            return inner
    return None
