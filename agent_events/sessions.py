"""Django's sessions, read and never changed: who is signed in.

`django.contrib.auth.get_user` asks the same for one request, and ends a session or gives it a new
key where it sees fit. A door that has no response to set a cookie in must do neither.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cached_db import SessionStore as CachedDbStore
from django.contrib.sessions.backends.db import SessionStore as DbStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.crypto import constant_time_compare

MOST_KEY_CHARS = 200
"""Longer ones are no key: caches refuse them. But a session that is its own key has up to 4 KiB."""
MOST_COOKIE_CHARS = 4_096

_LOADED_FROM_TABLE = (DbStore.load, CachedDbStore.load)


def users_of(session_keys: Iterable[str]) -> dict[str, Any]:
    """The user of each of these sessions that is alive; of others nothing.

    One query for the sessions, where they are in the database, and one for the users, where they
    sign in with a ModelBackend.
    """
    sessions = {
        key: data for key, data in _data_of(session_keys).items() if _backend_of(data) is not None
    }
    users = _users({(_backend_of(data), data.get(SESSION_KEY)) for data in sessions.values()})
    found = {key: users.get((_backend_of(d), d.get(SESSION_KEY))) for key, d in sessions.items()}
    return {key: user for key, user in found.items() if user and _is_verified(user, sessions[key])}


def is_key(text: str) -> bool:
    """Might it be the key of a session?

    Other text reaches no store: PostgreSQL has no U+0000, caches refuse spaces, and Django answers
    500 for such a cookie.
    """
    longest = MOST_COOKIE_CHARS if issubclass(_store(), CookieStore) else MOST_KEY_CHARS
    return re.fullmatch(f"[!-~]{{8,{longest}}}", text) is not None


def _store() -> type[SessionBase]:
    found: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return found


def _data_of(session_keys: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """What is in those sessions that are alive."""
    store, keys = _store(), {key for key in session_keys if is_key(key)}
    if not keys:
        return {}
    if issubclass(store, DbStore) and store.load in _LOADED_FROM_TABLE:
        rows = store.get_model_class()._default_manager.filter(
            session_key__in=keys, expire_date__gt=timezone.now()
        )
        return {row.session_key: row.get_decoded() for row in rows}
    still = _unchanging(store)
    return {key: still(key).load() for key in keys}


def _unchanging(store: type[SessionBase]) -> type[SessionBase]:
    """The same store, which writes nothing: some make a new session where one has expired."""

    def nothing(self: SessionBase, *args: Any, **kwargs: Any) -> None:
        """Left as it is."""

    return type(store.__name__, (store,), dict.fromkeys(("create", "save", "delete"), nothing))


def _backend_of(data: Mapping[str, Any]) -> str | None:
    """The backend that signed them in, while it is one of the project's."""
    path = data.get(BACKEND_SESSION_KEY)
    return path if path in settings.AUTHENTICATION_BACKENDS else None


def _users(wanted: set[tuple[Any, Any]]) -> dict[tuple[Any, Any], Any]:
    """The users, by their backend and what the session calls them."""
    model = get_user_model()
    pks = {}
    for backend, text in wanted:
        try:
            pks[backend, text] = model._meta.pk.to_python(text)
        except ValidationError:  # signed in under another user model
            continue
    backends = {path: load_backend(path) for path, _ in pks}
    # A backend with a way of its own is asked for each user.
    plain = {
        path
        for path, one in backends.items()
        if getattr(type(one), "get_user", None) is ModelBackend.get_user
    }
    together = {pk for (path, _), pk in pks.items() if path in plain}
    rows = model._default_manager.in_bulk(together) if together else {}
    users = {}
    for (path, text), pk in pks.items():
        their: Any = backends[path]
        if path not in plain:
            users[path, text] = their.get_user(pk)
        elif (user := rows.get(pk)) and their.user_can_authenticate(user):
            users[path, text] = user
    return users


def _is_verified(user: Any, data: Mapping[str, Any]) -> bool:
    """Was the session begun with the password that they have now?"""
    if not hasattr(user, "get_session_auth_hash"):
        return True
    given = data.get(HASH_SESSION_KEY) or ""
    # (The fallbacks: SECRET_KEY was rotated since.)
    return constant_time_compare(given, user.get_session_auth_hash()) or any(
        constant_time_compare(given, fallback) for fallback in user.get_session_auth_fallback_hash()
    )
