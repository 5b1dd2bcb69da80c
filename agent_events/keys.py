"""API keys: shown once, stored hashed, known by a readable prefix.

A key is `ae_<prefix>_<secret>`; the secret has 256 random bits. Its SHA-256 is what is stored: no
list of guesses leads back from it to such a key, so that a slow hash, which protects passwords
because people choose them, would only make every request slow.
"""

import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import django.db
from django.db import IntegrityError, connections, router, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import get_random_string

from agent_events.models import ApiKey, Tenant
from agent_events.principals import Principal, Right, TenantRef

logger = logging.getLogger("agent_events")

RIGHTS = (Right.PUBLISH, Right.SUBSCRIBE)
"""What a key may be given."""
USED_EVERY = timedelta(minutes=1)
"""`last_used_at` is as exact as this: a write for each request would cost more than the look."""

_TRIES = 5  # of 31^8 prefixes, to find one that is free
_PREFIX_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look alike
_FORM = re.compile(r"ae_([a-z0-9]{8})_[A-Za-z0-9_-]{43}")

_next_write = 0.0  # by time.monotonic(): after a write that failed


def create(
    tenant: Tenant,
    name: str,
    rights: Iterable[Right],
    expires_at: datetime | None = None,
    created_by: Any = None,
) -> tuple[ApiKey, str]:
    """Makes a key; returns its row, and the key itself, which nothing can show again.

    `created_by`: a user, where one did. Raises ValueError without a right, or with one that keys
    cannot have.
    """
    wanted = set(rights)
    if not wanted or not wanted <= set(RIGHTS):
        raise ValueError(f"A key has one or both of the rights {', '.join(RIGHTS)}.")
    key = ApiKey(
        tenant=tenant,
        name=name,
        may_publish=Right.PUBLISH in wanted,
        may_subscribe=Right.SUBSCRIBE in wanted,
        expires_at=expires_at,
        created_by=created_by,
    )
    return key, issue(key)


def new_prefix() -> str:
    """One that hardly any key has."""
    return get_random_string(8, _PREFIX_LETTERS)


def issue(key: ApiKey, prefix: str = "") -> str:
    """Gives a new row its prefix and hash, saves it, and returns the key itself, this once.

    Without a `prefix` it gets one that is free. Raises IntegrityError where another key has the
    `prefix`.
    """
    for left in reversed(range(1 if prefix else _TRIES)):
        key.prefix = prefix or new_prefix()
        text = f"ae_{key.prefix}_{secrets.token_urlsafe(32)}"
        key.hash = _hash(text)
        try:
            with transaction.atomic(using=router.db_for_write(ApiKey)):
                key.save(force_insert=True)
            break
        except IntegrityError:
            if not left or not ApiKey.objects.filter(prefix=key.prefix).exists():
                raise
    return text


def revoke(prefixes: Iterable[str]) -> int:
    """Ends these keys for good, and whatever they made; how many were alive."""
    living = ApiKey.objects.filter(prefix__in=list(prefixes), revoked_at=None)
    return living.update(revoked_at=timezone.now())


def is_key(text: str) -> bool:
    """Has it the form of a key?"""
    return _FORM.fullmatch(text) is not None


def principals(texts: Iterable[str]) -> dict[str, Principal]:
    """The principal of each of these that is a living key: one query, however many they are."""
    by_prefix: dict[str, list[str]] = {}
    for text in set(texts):
        if form := _FORM.fullmatch(text):
            by_prefix.setdefault(form[1], []).append(text)
    rows = _living(by_prefix)
    known = {
        text: row
        for row in rows
        for text in by_prefix[row.prefix]
        if hmac.compare_digest(_hash(text), row.hash)
    }
    _note_use(known.values())
    return {text: _principal(row) for text, row in known.items()}


def principals_by_id(ids: Iterable[str]) -> dict[str, Principal]:
    """The principal of each of these ids (`key:<prefix>`) that is a living key's."""
    rows = _living({id.removeprefix("key:") for id in ids})
    return {f"key:{row.prefix}": _principal(row) for row in rows}


def _living(prefixes: Iterable[str]) -> list[ApiKey]:
    wanted = list(prefixes)
    if not wanted:
        return []
    alive = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    found = ApiKey.objects.filter(alive, prefix__in=wanted, revoked_at=None)
    return list(found.select_related("tenant"))


def _principal(row: ApiKey) -> Principal:
    given = {Right.PUBLISH: row.may_publish, Right.SUBSCRIBE: row.may_subscribe}
    return Principal(
        id=f"key:{row.prefix}",
        name=row.name,
        rights=frozenset(right for right, has in given.items() if has),
        named=(TenantRef(row.tenant.id, row.tenant.name),),
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
    )


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _note_use(rows: Iterable[ApiKey]) -> None:
    """Writes `last_used_at` where it is due. Whether that works decides about nobody."""
    global _next_write
    now = timezone.now()
    due = [
        row.pk for row in rows if row.last_used_at is None or row.last_used_at <= now - USED_EVERY
    ]
    if not due or time.monotonic() < _next_write:
        return
    alias = router.db_for_write(ApiKey)
    features = connections[alias].features
    try:
        with transaction.atomic(using=alias):
            # One that somebody else is changing is left out: nobody's request waits for it.
            free = ApiKey.objects.using(alias).filter(pk__in=due)
            free = free.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
            pks = list(free.values_list("pk", flat=True))
            ApiKey.objects.using(alias).filter(pk__in=pks).update(last_used_at=now)
    except django.db.Error as error:
        _next_write = time.monotonic() + USED_EVERY.total_seconds()
        logger.warning("When keys were last used could not be noted: %s", type(error).__name__)
