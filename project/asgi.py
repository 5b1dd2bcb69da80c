"""The ASGI application: Django's pages, and beside them the streams.

The streams are no Django views: those would hold a thread and a database connection each.
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()  # loads the apps, which the imports below need

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.urls import URLPattern, re_path  # noqa: E402

from agent_events.routing import http_urlpatterns, websocket_urlpatterns  # noqa: E402

# Any: an ASGI application, which the stubs of Django's path() take for no view.
pages: Any = ASGIStaticFilesHandler(django_application) if settings.DEBUG else django_application

# Signed-in users are looked up for the streams alone: Django does it for its own pages.
streams = [
    URLPattern(route.pattern, AuthMiddlewareStack(route.callback), name=route.name)
    for route in http_urlpatterns
]

application = ProtocolTypeRouter(
    {
        "http": URLRouter([*streams, re_path("", pages)]),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
        ),
    }
)
