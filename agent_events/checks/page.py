"""Checks of what the live page needs, where the project has it: middleware, template, sign-in."""

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.contrib.staticfiles.storage import HashedFilesMixin, staticfiles_storage
from django.core.checks import CheckMessage, Error, Warning
from django.shortcuts import resolve_url
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.module_loading import import_string

_MIDDLEWARE = (SessionMiddleware, AuthenticationMiddleware)

_STORAGE = """\
# mysite/storage.py
class Storage(ManifestStaticFilesStorage):
    support_js_module_import_aggregation = True
# settings.py
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "mysite.storage.Storage"},
}"""


def is_routed() -> bool:
    """Did the project include agent_events.urls?"""
    if not getattr(settings, "ROOT_URLCONF", None):
        return False
    try:
        reverse("agent_events:feed")
    except NoReverseMatch:
        return False
    return True


def middleware(**kwargs: Any) -> Iterator[CheckMessage]:
    """E008: the page cannot know who is signed in."""
    if not is_routed():
        return
    given = [import_string(name) for name in settings.MIDDLEWARE]
    missing = [
        f"{wanted.__module__}.{wanted.__name__}"
        for wanted in _MIDDLEWARE
        if not any(isinstance(one, type) and issubclass(one, wanted) for one in given)
    ]
    if missing:
        yield Error(
            f"The live page asks who is signed in, and MIDDLEWARE lacks {' and '.join(missing)}.",
            hint="MIDDLEWARE = [..., " + ", ".join(f'"{name}"' for name in missing) + ", ...]",
            id="agent_events.E008",
        )


def template(**kwargs: Any) -> Iterator[CheckMessage]:
    """E009: the page has no template."""
    if not is_routed():
        return
    try:
        get_template("agent_events/feed.html")
    except TemplateDoesNotExist:
        yield Error(
            "The live page's template agent_events/feed.html is not found.",
            hint='TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", '
            '"APP_DIRS": True, ...}]',
            id="agent_events.E009",
        )


def login(**kwargs: Any) -> Iterator[CheckMessage]:
    """W007: whoever is not signed in is sent to a page that does not exist."""
    if not is_routed() or is_language_prefix_patterns_used(settings.ROOT_URLCONF)[0]:
        return  # (with language prefixes a middleware may find the page)
    page = reverse("agent_events:feed")
    try:
        url = resolve_url(settings.LOGIN_URL).partition("?")[0]
        if not url.startswith(get_script_prefix()) or url.startswith("//"):
            return  # another site's, or another application's on this one
        resolve("/" + url.removeprefix(get_script_prefix()))
    except (NoReverseMatch, Resolver404):
        yield Warning(
            f"The live page ({page}) sends whoever is not signed in to LOGIN_URL "
            f"({settings.LOGIN_URL}), and no view of this project is there.",
            hint='LOGIN_URL = "admin:login", or the name of a sign-in view of yours. Silence this '
            "where a proxy serves that address.",
            id="agent_events.W007",
        )


def modules(**kwargs: Any) -> Iterator[CheckMessage]:
    """W008: the page's ES modules import each other by names that do not change with them."""
    if not is_routed() or not apps.is_installed("django.contrib.staticfiles"):
        return
    storage = staticfiles_storage
    if isinstance(storage, HashedFilesMixin) and not storage.support_js_module_import_aggregation:
        yield Warning(
            "The storage of static files gives files names with hashes, but not within the imports "
            "of ES modules: after a deploy a browser may run new modules of the live page with old "
            "ones from its cache.",
            hint=_STORAGE,
            id="agent_events.W008",
        )
