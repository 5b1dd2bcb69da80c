"""Signing in to the demo with a known password, where nobody else can reach it."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.http import HttpRequest

DEMO_USERS = ("demo", "admin")


class DemoSignIn(ModelBackend):
    """Accepts demo/demo and admin/admin under DEBUG, from this machine.

    No password of theirs is stored: in the database these users have an unusable one, so that a
    database which leaves this machine takes no well-known password with it.
    """

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """The demo user, or None for anybody and anywhere else."""
        if password != username or not is_demo(request, {"username": username}):
            return None
        user = get_user_model()._default_manager.filter(username=username).first()
        if user is None or user.has_usable_password() or not user.is_active:
            return None
        return user


def is_demo(request: HttpRequest | None, credentials: dict[str, Any] | None) -> bool:
    """Does a demo user sign in? His password is no secret: no number of tries locks him out."""
    if not settings.DEBUG or (credentials or {}).get("username") not in DEMO_USERS:
        return False
    return request is not None and _from_this_machine(request)


def _from_this_machine(request: HttpRequest) -> bool:
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
