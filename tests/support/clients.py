"""Django test clients that are signed in. (For tests on Django's own connection: `django_on`.)"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client


def client_of(user: Any) -> Client:
    """Signed in as this user."""
    client = Client()
    client.force_login(user)
    return client


def staff(name: str, *permissions: str) -> Client:
    """Signed in as a new member of the staff who has these permissions."""
    user = get_user_model().objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return client_of(user)
