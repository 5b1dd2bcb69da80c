"""Where the site is, and where its Django views are, for what answers beside Django."""

from contextvars import copy_context

from django.conf import settings
from django.urls import reverse, set_script_prefix


def script_name(root_path: str) -> str:
    """What the site is below: "", or "/agents"; `root_path` is what the server says."""
    return (settings.FORCE_SCRIPT_NAME or root_path).rstrip("/")


def address_of(name: str, view: str, *args: str) -> str:
    """The address of a view on a site that is below `name`. Raises NoReverseMatch.

    Django's own idea of that, which is that of the request at work, is left as it is.
    """

    def found() -> str:
        set_script_prefix(f"{name}/")
        return reverse(view, args=args)

    return copy_context().run(found)
