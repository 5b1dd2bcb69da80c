"""Checks of the ASGI application: do both streams' addresses lead to the bus?

And does it take the addresses of somebody else's views?
"""

from collections.abc import Iterator
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.handlers.asgi import ASGIHandler
from django.urls import ResolverMatch, resolve
from django.urls.exceptions import Resolver404
from django.utils.module_loading import import_string

from agent_events.consumers import StreamConsumer
from agent_events.health import healthz, readyz
from agent_events.metrics_door import metrics
from agent_events.sse import stream

DOORS = (("websocket", "ws/agents/stream"), ("http", "api/agents/stream"))
PROBES = (("healthz", healthz), ("readyz", readyz), ("metrics", metrics))
NO_VIEW = "noviewhasthisname"
"""What leads here matches anything, and is no view of a probe's address."""
MOST_LAYERS = 50  # an application that wraps itself must not hold the check

NOWHERE = object()

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


def probes(**kwargs: Any) -> Iterator[CheckMessage]:
    """W014: our probes, or our metrics, stand before views of the project."""
    try:
        application = import_string(settings.ASGI_APPLICATION)
    except Exception:  # E006 has said so
        return
    for path, probe in PROBES:
        match = _view_of(path)
        if match is not None and end_of(application, "http", path) is probe:
            yield Warning(
                f"/{path} leads to agent_events' own, and the project's view for it "
                f"({match.view_name}) is never reached.",
                hint="Give that view another address; or build asgi.py from "
                f"routing.http_urlpatterns, without the route named agent_events_{path}. Silence "
                "this where ours is meant.",
                id="agent_events.W014",
            )


def _view_of(path: str) -> ResolverMatch | None:
    """The project's view at this address; none that would be there for any other one too."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return None
    try:
        match = resolve(f"/{path}")
    except Resolver404:
        return None
    try:
        return match if resolve(f"/{NO_VIEW}").route != match.route else None
    except Resolver404:
        return match


def leads(application: Any, kind: str, path: str) -> bool | None:
    """Does the application pass a request of this kind and path to a stream? None: who knows."""
    end = end_of(application, kind, path)
    consumer = getattr(end, "consumer_class", None)
    if isinstance(consumer, type):
        return issubclass(consumer, StreamConsumer)
    if end is stream:
        return True
    return False if end is NOWHERE or isinstance(end, ASGIHandler) else None


def end_of(application: Any, kind: str, path: str) -> Any:
    """The application that a request of this kind and path comes to; NOWHERE where it is refused.

    Follows the routers of Channels as they would route, and wrappers that name what they wrap.
    None where that has no end.
    """
    for _ in range(MOST_LAYERS):
        if isinstance(getattr(application, "consumer_class", None), type):
            return application
        if isinstance(application, ProtocolTypeRouter):
            application = application.application_mapping.get(kind, NOWHERE)
        elif isinstance(application, URLRouter):
            application, path = _routed(application, path) or (NOWHERE, "")
        elif (inner := _wrapped(application)) is not None:
            application = inner
        else:
            return application
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
