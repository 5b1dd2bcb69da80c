"""Who asks: sessions of every kind, whatever is no identity, and a resolver of one's own."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agent_events import access, keys, sessions, tokens
from agent_events.credentials import Credentials, Via
from agent_events.errors import NotSignedIn
from agent_events.filters import Filter
from agent_events.models import Membership, Tenant
from agent_events.principals import Principal, Right
from tests.support.clients import client_of
from tests.support.database import ROOT

pytestmark = pytest.mark.django_db(transaction=True)

STORES = ("db", "cached_db", "cache", "file", "signed_cookies")


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A kind of sessions."""
    name = f"django.contrib.sessions.backends.{request.param}"
    with override_settings(SESSION_ENGINE=name, SESSION_FILE_PATH=str(tmp_path)):
        backend = import_module("django.contrib.sessions.backends.file")
        backend.SessionStore.__dict__.get("_storage_path") and delattr(
            backend.SessionStore, "_storage_path"
        )
        yield name


def person(name: str = "mara", **fields: Any) -> Any:
    return get_user_model().objects.create_user(name, **fields)


def session_of(client: Client) -> str:
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def signed_in(user: Any) -> str:
    """The key of a new session of this user."""
    return session_of(client_of(user))


def who(key: str) -> Any:
    return sessions.users_of([key]).get(key)


# Sessions


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_a_session_is_its_users_until_they_sign_out(store: str) -> None:
    user = person()
    client = client_of(user)
    key = session_of(client)
    assert who(key) == user
    client.logout()
    # (This one is stored in the browser alone.)
    assert who(key) == (user if store.endswith("signed_cookies") else None)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_a_changed_password_ends_sessions_and_a_rotated_secret_does_not(store: str) -> None:
    user = person()
    key = signed_in(user)
    old = settings.SECRET_KEY
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[old]):
        assert who(key) == user
    with override_settings(SECRET_KEY="new"):
        assert who(key) is None
    user.set_password("two")
    user.save()
    assert who(key) is None


@pytest.mark.parametrize("store", STORES, indirect=True)
@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "a" * 32,
        "a" * 5000,
        "\x00" * 32,
        "é" * 32,
        "../../../../etc/passwd",
        "a b\tc\nd e f",
    ],
)
def test_a_key_of_no_session_is_nobody(store: str, key: str) -> None:
    assert who(key) is None


@pytest.mark.parametrize("cookie", ['"abc\\000def12345"', '"a b c d e f g h"', "é" * 8, "x"])
def test_a_cookie_that_is_no_sessions_is_nobodys_at_djangos_views_too(
    client: Client, cookie: str
) -> None:
    # (With U+0000 in it Django's own store raises DataError, at whoever asks for `request.user`.)
    headers = {"Cookie": f"sessionid={cookie}"}
    assert client.get("/api/agents/events", headers=headers).status_code == 401
    assert client.get("/api/agents/events/1", headers=headers).status_code == 401
    page = client.get("/", headers=headers)
    assert (page.status_code, page["Location"]) == (302, "/accounts/login/?next=/")


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_an_expired_session_is_nobody_and_looking_changes_nothing(
    store: str, tmp_path: Path
) -> None:
    with override_settings(SESSION_COOKIE_AGE=1):
        key = signed_in(person())
        before = list(Session.objects.values())
        files = sorted(path.name for path in tmp_path.iterdir())
        Session.objects.update(expire_date=timezone.now())
        deadline = time.monotonic() + 10
        if store.endswith("db"):
            assert who(key) is None
        else:
            while who(key) is not None:
                assert time.monotonic() < deadline
    assert [row["session_data"] for row in Session.objects.values()] == [
        row["session_data"] for row in before
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_looking_at_a_live_session_changes_nothing() -> None:
    key = signed_in(person())
    before = list(Session.objects.values())
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert who(key)
    assert list(Session.objects.values()) == before


def test_whoever_is_inactive_or_gone_or_came_by_a_removed_backend_is_nobody() -> None:
    user = person()
    key = signed_in(user)
    with override_settings(AUTHENTICATION_BACKENDS=[f"{__name__}.Own"]):
        assert who(key) is None
    get_user_model().objects.update(is_active=False)
    assert who(key) is None
    user.delete()
    assert who(key) is None


class Own(ModelBackend):
    """A backend with a way of its own to find users."""

    def get_user(self, user_id: int) -> Any:
        """Those that it takes for users."""
        found = super().get_user(user_id)
        return found if found and found.get_username() == "theirs" else None


def test_a_backend_with_a_way_of_its_own_is_asked() -> None:
    with override_settings(AUTHENTICATION_BACKENDS=[f"{__name__}.Own"]):
        theirs, others = person("theirs"), person("others")
        assert who(signed_in(theirs)) == theirs
        assert who(signed_in(others)) is None


def test_a_hundred_sessions_are_looked_up_by_four_queries() -> None:
    acme = Tenant.objects.create(name="Acme")
    asked = []
    for n in range(100):
        user = person(f"u{n}", is_superuser=n == 0)
        Membership.objects.create(tenant=acme, user=user)
        asked.append(Credentials(Via.SESSION, signed_in(user)))
    with CaptureQueriesContext(connection) as queries:
        answers = access.resolve_all(asked, again=True)
    assert len(queries) <= 4, queries.captured_queries
    found = [answers[one] for one in asked]
    assert all(isinstance(one, Principal) and one.may_see(acme.id) for one in found)
    assert [one.everything for one in found if isinstance(one, Principal)].count(True) == 1


# The question


def test_each_sort_of_credentials_is_answered_in_one_batch() -> None:
    acme = Tenant.objects.create(name="Acme")
    user = person()
    Membership.objects.create(tenant=acme, user=user)
    _, key = keys.create(acme, "ci", keys.RIGHTS)
    holder = keys.principals([key])[key]
    token = tokens.make_token(holder, acme.id, Filter(), 60).text
    ticket = tokens.make_ticket(holder).text
    good = [
        Credentials(Via.SESSION, signed_in(user)),
        Credentials(Via.HEADER, key),
        Credentials(Via.COOKIE, token),
        Credentials(Via.FRAME, token),
        Credentials(Via.TICKET, ticket),
        Credentials(Via.NOTHING, user=user),
    ]
    bad = [
        Credentials(Via.NOTHING),
        Credentials(Via.SESSION, key),
        Credentials(Via.HEADER, ticket),
        Credentials(Via.HEADER, ""),
        Credentials(Via.TICKET, token),
    ]
    answers = access.resolve_all(good + bad)
    for one in good:
        principal = answers[one]
        assert isinstance(principal, Principal), (one, principal)
        assert principal.may_see(acme.id)
    for one in bad:
        assert isinstance(answers[one], NotSignedIn), one
        assert not one.secret or one.secret not in f"{answers[one]}{one}"


def test_a_member_may_see_and_a_superuser_may_all() -> None:
    acme, other = (Tenant.objects.create(name=name) for name in ("Acme", "Other"))
    mara, root = person(), person("root", is_superuser=True)
    Membership.objects.create(tenant=acme, user=mara)
    of = {user.pk: Credentials(Via.NOTHING, user=user) for user in (mara, root, person("none"))}
    principals = list(access.resolve_all(list(of.values())).values())
    assert all(isinstance(one, Principal) for one in principals)
    member, superuser, none = (one for one in principals if isinstance(one, Principal))
    assert (member.rights, superuser.rights) == ({Right.SUBSCRIBE}, set(Right))
    assert (member.may_see(acme.id), member.may_see(other.id)) == (True, False)
    assert superuser.may_see(uuid.uuid4())
    assert (none.rights, none.named) == ({Right.SUBSCRIBE}, ())


# The page


def test_the_page_leads_nobody_to_the_sign_in_and_knows_keys_and_tokens() -> None:
    acme = Tenant.objects.create(name="Acme")
    answer = Client().get("/?type=x")
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/?next=/%3Ftype%3Dx")
    _, reading = keys.create(acme, "viewer", [Right.SUBSCRIBE])
    _, writing = keys.create(acme, "ci", [Right.PUBLISH])
    assert Client().get("/", headers={"Authorization": f"Bearer {reading}"}).status_code == 200
    refused = Client().get("/", headers={"Authorization": f"Bearer {writing}"})
    assert refused.status_code == 403
    assert "'subscribe'" in refused.content.decode()
    limited = tokens.make_token(
        keys.principals([reading])[reading], acme.id, Filter.of(types=["tool.*"]), 60
    )
    browser = Client()
    browser.cookies["agent_events_token"] = limited.text
    assert browser.get("/").status_code == 200
    assert browser.get("/?type=run.*").status_code == 403


# A resolver of one's own, as docs/access.md prints it


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The document's module, in force."""
    text = (ROOT / "docs" / "access.md").read_text()
    (source,) = re.findall(r"```python\n(# mysite/access\.py\n.*?)```", text, re.DOTALL)
    (setting,) = re.findall(r"```python\n# settings\.py\n(AGENT_EVENTS = .*?)```", text, re.DOTALL)
    module = ModuleType("mysite.access")
    exec(source, module.__dict__)
    package = ModuleType("mysite")
    package.access = module  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "mysite", package)
    monkeypatch.setitem(__import__("sys").modules, "mysite.access", module)
    given: dict[str, Any] = {}
    exec(setting, given)
    with override_settings(JWT_KEY="k" * 32, AGENT_EVENTS=given["AGENT_EVENTS"]):
        yield module


def signed(tenant: Tenant, key: str = "k" * 32, **claims: Any) -> dict[str, str]:
    """The header that bears a token of the identity provider."""
    good = {"sub": "7", "aud": "events", "exp": time.time() + 60, "tenants": [str(tenant.id)]}
    return {"Authorization": f"Bearer {jwt.encode(good | claims, key, 'HS256')}"}


def test_the_documents_resolver_knows_its_own_tokens_and_leaves_the_rest_to_ours(
    own: ModuleType,
) -> None:
    acme, other = (Tenant.objects.create(name=name) for name in ("Acme", "Other"))
    history = f"/api/agents/events?tenant={acme.id}"

    def status(tenant: Tenant = acme, **claims: Any) -> int:
        return Client().get(history, headers=signed(tenant, **claims)).status_code

    assert status() == 200
    assert status(other) == 404
    assert status(key="x" * 32) == status(aud="other") == status(exp=time.time() - 1) == 401
    assert status(tenants="none") == status(tenants=[1]) == 401
    assert Client().get(history).status_code == 401
    _, key = keys.create(acme, "ci", [Right.SUBSCRIBE])
    assert Client().get(history, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    root = client_of(person("root", is_superuser=True))
    assert root.get(history).status_code == 200


def test_the_page_works_for_whoever_the_resolver_knows_and_leads_others_in_no_circle(
    own: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = Tenant.objects.create(name="Acme")
    assert Client().get("/", headers=signed(acme)).status_code == 200
    nothing = Client().get("/", headers=signed(acme, tenants=[]))
    assert "No tenant yet" in nothing.content.decode()
    assert Client().get("/").status_code == 302
    monkeypatch.setattr(own, "principal_of", lambda credentials: None)
    assert client_of(person()).get("/").status_code == 403


def test_tokens_of_ones_own_principals_work(own: ModuleType) -> None:
    acme = Tenant.objects.create(name="Acme")
    bearer = signed(acme)["Authorization"].removeprefix("Bearer ")
    principal = own.principal_of(Credentials(Via.HEADER, bearer))
    token = tokens.make_token(principal, acme.id, Filter(), 600)
    assert token.expires_at == principal.expires_at
    answer = Client().get("/api/agents/events", headers={"Authorization": f"Bearer {token.text}"})
    assert answer.status_code == 200
