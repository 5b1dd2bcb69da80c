"""A strict Content-Security-Policy on every page: the sign-in, the admin and errors as the feed."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from agent_events.views import CONTENT_SECURITY_POLICY

# The developer's own error pages, under DEBUG alone, are made of inline scripts and styles.
_DEBUG_PAGES = (404, 500)


class ContentSecurityPolicy:
    """Django's middleware, the outermost one. A page that brings a policy of its own keeps it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer, with the feed's policy."""
        response = self.get_response(request)
        if not (settings.DEBUG and response.status_code in _DEBUG_PAGES):
            response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        return response
