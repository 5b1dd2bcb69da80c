"""What somebody sees who has tried too many passwords. django-axes counts the tries."""

import math
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def locked_out(
    request: HttpRequest, answer: HttpResponse, credentials: dict[str, Any] | None
) -> HttpResponse:
    """A page in plain words in place of `answer`: 429, and when to try again.

    The same for a name that exists and one that does not.
    """
    wait_s = math.ceil(settings.AXES_COOLOFF_TIME.total_seconds())
    context = {"minutes": math.ceil(wait_s / 60)}
    page = render(request, "registration/locked_out.html", context, status=429)
    page["Retry-After"], page["Cache-Control"] = str(wait_s), "no-store"
    return page
