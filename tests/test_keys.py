"""API keys: made by command or in the admin, shown once, stored hashed, ended for good."""

from __future__ import annotations

import html
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.core.signing import Signer
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from psycopg.conninfo import make_conninfo

from agent_events import keys
from agent_events.admin.keys import KeyForm
from agent_events.models import ApiKey, Tenant
from agent_events.principals import Right
from tests.support.clients import client_of, staff

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = "/admin/agent_events/apikey/"
BOTH = (Right.PUBLISH, Right.SUBSCRIBE)


@pytest.fixture
def acme() -> Tenant:
    return Tenant.objects.create(name="Acme")


@pytest.fixture
def root() -> Client:
    return client_of(get_user_model().objects.create_superuser("root"))


def command(name: str, *args: str) -> tuple[str, str]:
    """What it printed, and what it said beside that."""
    out, err = StringIO(), StringIO()
    call_command(name, *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def everything_stored() -> str:
    """All rows of all tables, as text."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        found = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            found += [row for (row,) in cursor.fetchall()]
    return "\n".join(found)


# Keys


def test_a_key_is_its_tenants_with_the_rights_that_it_was_given(acme: Tenant) -> None:
    Tenant.objects.create(name="Other")
    for rights in ({Right.PUBLISH}, {Right.SUBSCRIBE}, set(BOTH)):
        row, text = keys.create(acme, "ci", rights)
        assert keys.is_key(text)
        principal = keys.principals([text])[text]
        assert principal.rights == rights
        assert [tenant.id for tenant in principal.named] == [acme.id]
        assert (principal.id, principal.everything) == (f"key:{row.prefix}", False)
        assert principal.choose([]) == (str(acme.id),)


def test_a_key_needs_a_right_and_cannot_operate(acme: Tenant) -> None:
    for rights in ([], [Right.OPERATE], [Right.PUBLISH, Right.OPERATE]):
        with pytest.raises(ValueError, match="publish, subscribe"):
            keys.create(acme, "ci", rights)


def test_revoked_expired_deleted_and_altered_keys_are_nobody(acme: Tenant) -> None:
    revoked, expired, deleted, altered = (keys.create(acme, str(n), BOTH) for n in range(4))
    keys.revoke([revoked[0].prefix])
    ApiKey.objects.filter(pk=expired[0].pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    deleted[0].delete()
    wrong = altered[1][:-2] + ("AA" if altered[1][-2:] != "AA" else "BB")
    texts = [revoked[1], expired[1], deleted[1], wrong]
    assert keys.principals(texts) == {}
    assert list(keys.principals([*texts, altered[1]])) == [altered[1]]


@pytest.mark.parametrize(
    "text",
    ["", "ae_", "ae_x_y", "ae_" + "a" * 8 + "_" + "\x00" * 43, "ae_aaaaaaaa_\ud800", "é" * 60],
)
def test_what_only_looks_like_a_key_is_none(text: str) -> None:
    assert not keys.is_key(text)
    assert keys.principals([text]) == {}


def test_the_key_itself_is_stored_nowhere(acme: Tenant, root: Client) -> None:
    _, text = keys.create(acme, "ci", BOTH)
    made = add(root, acme)
    keys.principals([text, made])
    stored = everything_stored()
    for one in (text, made):
        prefix, secret = one.split("_", 2)[1:]
        assert prefix in stored
        assert secret not in stored
        assert secret not in repr(ApiKey.objects.get(prefix=prefix))


def test_a_hundred_keys_are_looked_up_by_one_query(acme: Tenant) -> None:
    texts = [keys.create(acme, str(n), BOTH)[1] for n in range(100)]
    keys.principals(texts)  # notes their use
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert len(keys.principals(texts)) == 100
    assert len(queries) == 1, queries.captured_queries


def test_when_a_key_was_last_used_is_written_once_a_minute(acme: Tenant) -> None:
    row, text = keys.create(acme, "ci", BOTH)

    def used() -> Any:
        keys.principals([text])
        row.refresh_from_db()
        return row.last_used_at

    first = used()
    assert first is not None
    assert used() == first
    ApiKey.objects.update(last_used_at=first - timedelta(seconds=61))
    assert used() > first


def test_nobody_waits_for_a_key_that_somebody_is_changing(acme: Tenant) -> None:
    _, text = keys.create(acme, "ci", BOTH)
    with psycopg.connect(dsn_of_django()) as other:
        other.execute("SELECT * FROM agent_event_api_keys FOR UPDATE")
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '10s'")
        try:
            assert text in keys.principals([text])
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET statement_timeout")


def test_a_use_that_cannot_be_noted_refuses_nobody(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_next_write", 0.0)
    row, text = keys.create(acme, "ci", BOTH)
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        with caplog.at_level(logging.WARNING, "agent_events"):
            assert all(text in keys.principals([text]) for _ in range(3))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
    row.refresh_from_db()
    assert row.last_used_at is None


def dsn_of_django() -> str:
    given = connection.settings_dict
    return make_conninfo(
        dbname=given["NAME"],
        user=given["USER"],
        password=given["PASSWORD"],
        host=given["HOST"],
        port=given["PORT"],
    )


# Commands


def test_the_command_prints_the_key_alone(acme: Tenant) -> None:
    for tenant in ("Acme", str(acme.id)):
        out, err = command(
            *("create_api_key", "--tenant", tenant, "--name", "ci"),
            *("--scope", "publish", "--scope", "subscribe", "--expires", "90d"),
        )
        text = out.strip()
        assert keys.principals([text])[text].rights == set(BOTH)
        assert text not in err
        assert text.split("_")[1] in err
        left = ApiKey.objects.latest("pk").expires_at - timezone.now()  # type: ignore[operator]
        assert timedelta(days=89) < left <= timedelta(days=90)


def test_a_key_lives_through_the_day_that_is_named(acme: Tenant) -> None:
    today = timezone.localdate()
    command(
        *("create_api_key", "--tenant", "Acme", "--name", "ci", "--scope", "publish"),
        *("--expires", today.isoformat()),
    )
    end = ApiKey.objects.get().expires_at
    assert end is not None
    assert timezone.localtime(end).date() == today + timedelta(days=1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--tenant", "Nobody"), "create_tenant"),
        (("--name", " "), "1 to 200 characters"),
        (("--expires", "soon"), "90d"),
        (("--expires", "2020-01-01"), "past"),
        (("--scope", "operate"), "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_no_key(
    acme: Tenant, args: tuple[str, str], words: str
) -> None:
    good = {"--tenant": "Acme", "--name": "ci", "--scope": "publish", "--expires": "90d"}
    given = {**good, args[0]: args[1]}
    with pytest.raises(CommandError, match=words):
        command("create_api_key", *(part for pair in given.items() for part in pair))
    assert not ApiKey.objects.exists()


def test_the_command_revokes_by_the_prefix_all_or_none(acme: Tenant) -> None:
    (one, text), (_, other) = (keys.create(acme, name, BOTH) for name in ("one", "two"))
    with pytest.raises(CommandError, match="Nothing was revoked"):
        command("revoke_api_key", one.prefix, "nonesuch")
    assert text in keys.principals([text])
    assert command("revoke_api_key", one.prefix)[0].startswith("Revoked 1;")
    assert command("revoke_api_key", f"ae_{one.prefix}_")[0].startswith("Revoked 0;")
    assert list(keys.principals([text, other])) == [other]


# The admin


def form_id() -> str:
    """What the page of a new form has in it."""
    return Signer(salt="agent_events.new key").sign(keys.new_prefix())


def form(tenant: Tenant, **values: str) -> dict[str, str]:
    empty = {"expires_at_0": "", "expires_at_1": "", "form_id": form_id()}
    return {"tenant": str(tenant.id), "name": "ci", "may_publish": "on", **empty, **values}


def add(client: Client, tenant: Tenant, **values: str) -> str:
    """Makes a key in the admin, and reads it from the answer."""
    answer = client.post(f"{KEYS}add/", form(tenant, **values))
    assert answer.status_code == 200
    found = re.search(r'<pre id="key">([^<]+)</pre>', answer.content.decode())
    assert found is not None, answer.content.decode()
    return html.unescape(found[1])


def test_the_admin_shows_a_new_key_once_on_a_page_that_nobody_keeps(
    root: Client, acme: Tenant
) -> None:
    answer = root.post(f"{KEYS}add/", form(acme))
    assert "no-store" in answer["Cache-Control"]
    (text,) = re.findall(r"ae_[a-z0-9]{8}_[\w-]{43}", answer.content.decode())
    assert not any(text in str(cookie) for cookie in answer.cookies.values())
    assert keys.principals([text])[text].rights == {Right.PUBLISH}
    row = ApiKey.objects.get()
    assert row.created_by == get_user_model().objects.get(username="root")
    secret = text.split("_", 2)[2]
    pages = [KEYS, f"{KEYS}{row.pk}/change/", f"{KEYS}{row.pk}/history/", f"{KEYS}{row.pk}/delete/"]
    tenant_page = f"/admin/agent_events/tenant/{acme.id}/change/"
    for url in (*pages, tenant_page, "/admin/"):
        shown = root.get(url).content.decode()
        assert secret not in shown, url
        assert row.hash not in shown, url
    assert row.prefix in root.get(KEYS).content.decode()
    assert row.prefix in root.get(tenant_page).content.decode()
    assert not any(secret in str(session.get_decoded()) for session in Session.objects.all())
    assert not any(secret in entry.change_message for entry in LogEntry.objects.all())


def test_a_key_that_makes_no_sense_is_not_made(root: Client, acme: Tenant) -> None:
    rightless = {k: v for k, v in form(acme).items() if k != "may_publish"}
    past = form(acme, expires_at_0="2020-01-01", expires_at_1="00:00:00")
    for values, words in ((rightless, "without a right"), (past, "is past")):
        assert words in root.post(f"{KEYS}add/", values).content.decode()
    assert not ApiKey.objects.exists()


def test_a_form_that_is_sent_again_makes_no_second_key(root: Client, acme: Tenant) -> None:
    page = root.get(f"{KEYS}add/").content.decode()
    found = re.search(r'<input type="hidden" name="form_id" value="([^"]+)"', page)
    assert found is not None
    sent = form(acme, form_id=html.unescape(found[1]))
    assert 'id="key"' in root.post(f"{KEYS}add/", sent).content.decode()
    again = root.post(f"{KEYS}add/", sent).content.decode()
    assert "already" in again
    assert 'id="key"' not in again
    (row,) = ApiKey.objects.all()
    assert f"ae_{row.prefix}_..." in again
    for other in ("", row.prefix, f"{row.prefix}:x"):
        refused = root.post(f"{KEYS}add/", form(acme, form_id=other)).content.decode()
        assert "none of this page" in refused
    assert ApiKey.objects.count() == 1


def test_a_second_click_that_comes_before_the_first_is_done_makes_no_second_key(
    root: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = form(acme)
    valid = KeyForm.clean

    def first_in_between(self: KeyForm) -> dict[str, Any]:
        """The other click's key is committed after this one's form was found good."""
        cleaned = valid(self)

        def click() -> None:
            keys.issue(ApiKey(tenant=acme, name="first", may_publish=True), cleaned["prefix"])
            connections.close_all()

        with ThreadPoolExecutor(1) as other:
            other.submit(click).result(10)
        return cleaned

    monkeypatch.setattr(KeyForm, "clean", first_in_between)
    answer = root.post(f"{KEYS}add/", sent, follow=True)
    assert answer.redirect_chain == [(KEYS, 302)]
    assert "already" in answer.content.decode()
    assert ApiKey.objects.get().name == "first"


def test_a_prefix_that_is_taken_is_not_used_again(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(["aaaaaaaa", "aaaaaaaa", "aaaaaaaa", "bbbbbbbb"])
    monkeypatch.setattr(keys, "new_prefix", lambda: next(drawn))
    (one, _), (two, text) = (keys.create(acme, name, BOTH) for name in ("one", "two"))
    assert (one.prefix, two.prefix) == ("aaaaaaaa", "bbbbbbbb")
    assert text in keys.principals([text])


def test_nothing_but_its_name_can_be_changed(root: Client, acme: Tenant) -> None:
    row, text = keys.create(acme, "ci", [Right.SUBSCRIBE])
    other = Tenant.objects.create(name="Other")
    answer = root.post(f"{KEYS}{row.pk}/change/", form(other, name="renamed", hash="0" * 64))
    assert answer.status_code == 302
    row.refresh_from_db()
    assert row.name == "renamed"
    assert LogEntry.objects.get().get_change_message() == "Changed Name."
    principal = keys.principals([text])[text]
    assert (principal.rights, principal.named[0].id) == ({Right.SUBSCRIBE}, acme.id)


def test_keys_are_revoked_in_the_list_and_on_their_page(root: Client, acme: Tenant) -> None:
    (one, _), (two, _), (three, living) = (keys.create(acme, str(n), BOTH) for n in range(3))
    chosen = {"action": "revoke", "_selected_action": [one.pk]}
    assert "1 key was revoked." in root.post(KEYS, chosen, follow=True).content.decode()
    page = root.get(f"{KEYS}{two.pk}/change/").content.decode()
    assert 'name="_revoke"' in page
    answer = root.post(f"{KEYS}{two.pk}/change/", {"name": "2", "_revoke": "x"}, follow=True)
    assert "1 key was revoked." in answer.content.decode()
    assert 'name="_revoke"' not in root.get(f"{KEYS}{two.pk}/change/").content.decode()
    assert set(ApiKey.objects.filter(revoked_at=None)) == {three}
    assert living in keys.principals([living])


def test_staff_needs_djangos_permissions_for_keys(acme: Tenant) -> None:
    row, text = keys.create(acme, "ci", BOTH)
    change = f"{KEYS}{row.pk}/change/"
    neither, viewer = staff("neither", "view_tenant"), staff("viewer", "view_apikey")
    for url in (KEYS, change, f"{KEYS}add/"):
        assert neither.get(url).status_code == 403
    assert (
        "ae_" not in neither.get(f"/admin/agent_events/tenant/{acme.id}/change/").content.decode()
    )
    assert [viewer.get(url).status_code for url in (KEYS, change, f"{KEYS}add/")] == [200, 200, 403]
    assert 'name="_revoke"' not in viewer.get(change).content.decode()
    viewer.post(KEYS, {"action": "revoke", "_selected_action": [row.pk]})
    viewer.post(change, {"name": "x", "_revoke": "x"})
    assert text in keys.principals([text])
    assert add(staff("maker", "add_apikey", "view_tenant"), acme)


def test_the_admins_pages_of_keys_have_nothing_inline(root: Client, acme: Tenant) -> None:
    row, _ = keys.create(acme, "ci", BOTH)
    answers = [root.get(KEYS), root.get(f"{KEYS}add/"), root.get(f"{KEYS}{row.pk}/change/")]
    answers.append(root.post(f"{KEYS}add/", form(acme)))
    for answer in answers:
        page = answer.content.decode()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*(?:src|json))", page)


def test_a_tenant_that_has_keys_is_kept_with_them(root: Client, acme: Tenant) -> None:
    _, text = keys.create(acme, "ci", BOTH)
    url = f"/admin/agent_events/tenant/{acme.id}/change/"
    page = root.get(url).content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
    assert root.post(url, {**hidden, "name": "Renamed"}).status_code == 302
    assert keys.principals([text])[text].named[0].name == "Renamed"
