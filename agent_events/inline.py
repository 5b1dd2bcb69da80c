"""Which payloads travel on the streams, and where the others are."""

import sys
from functools import lru_cache
from typing import Any

from django.core.signals import setting_changed
from django.urls import NoReverseMatch

from agent_events.addresses import address_of, script_name
from agent_events.conf import get_settings
from agent_events.wire import Inline


@lru_cache(maxsize=4)
def inline(root_path: str = "") -> Inline:
    """As the settings and the routes say, on a site that is below `root_path` for its server.

    Where no event has an address (the project does not include `agent_events.urls`), every payload
    travels: it could be had nowhere else.
    """
    try:
        address = address_of(script_name(root_path), "agent_events:event", "0").removesuffix("0")
    except NoReverseMatch:
        return Inline(sys.maxsize, "")
    return Inline(get_settings().inline_payload_bytes, address)


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("AGENT_EVENTS", "FORCE_SCRIPT_NAME", "ROOT_URLCONF"):
        inline.cache_clear()


setting_changed.connect(_forget)
