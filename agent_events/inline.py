"""Which payloads travel on the streams, and where the others are."""

import sys
from contextvars import copy_context
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.urls import NoReverseMatch, reverse, set_script_prefix

from agent_events.conf import get_settings
from agent_events.wire import Inline


@lru_cache(maxsize=4)
def inline(root_path: str = "") -> Inline:
    """As the settings and the routes say, on a site that is below `root_path` for its server.

    Where no event has an address (the project does not include `agent_events.urls`), every payload
    travels: it could be had nowhere else.
    """
    name = (django_settings.FORCE_SCRIPT_NAME or root_path).rstrip("/")
    try:
        # What is made here is shared by streams of all requests: Django's prefix of the one that
        # happens to come first does not serve, and is left as it is.
        address = copy_context().run(_address, name)
    except NoReverseMatch:
        return Inline(sys.maxsize, "")
    return Inline(get_settings().inline_payload_bytes, address)


def _address(name: str) -> str:
    set_script_prefix(f"{name}/")
    return reverse("agent_events:event", args=["0"]).removesuffix("0")


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("AGENT_EVENTS", "FORCE_SCRIPT_NAME", "ROOT_URLCONF"):
        inline.cache_clear()


setting_changed.connect(_forget)
