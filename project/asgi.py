"""The ASGI application: Django's pages, and beside them the streams.

The streams are no Django views: those would hold a thread and a database connection each.
"""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
pages = get_asgi_application()  # loads the apps, which the imports below need

from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

from agent_events import routing  # noqa: E402

application = routing.application(ASGIStaticFilesHandler(pages) if settings.DEBUG else pages)
