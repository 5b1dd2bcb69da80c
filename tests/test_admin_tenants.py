"""A tenant in the admin: who can see it, which keys it has, what it did lately."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agent_events import keys
from agent_events.admin import tenant_looks
from agent_events.models import ApiKey, Membership, Tenant
from tests.support.clients import staff
from tests.test_admin import EVENTS, close, get, link, put, text

Connection = psycopg.Connection[Any]
TENANTS = "/admin/agent_events/tenant/"
KEYS = "/admin/agent_events/apikey/"


@pytest.fixture
def database(connect: Callable[..., Connection]) -> Connection:
    return connect()


@pytest.fixture
def harbour(root: Client) -> Tenant:
    """A tenant with a member and two keys, one of which is revoked."""
    tenant = Tenant.objects.create(name="Harbour")
    ann = get_user_model().objects.create_user("ann")
    Membership.objects.create(user=ann, tenant=tenant)
    for name, revoked in (("importer", None), ("old one", timezone.now())):
        key = ApiKey(tenant=tenant, name=name, may_publish=True, revoked_at=revoked)
        keys.issue(key, keys.new_prefix())
    ApiKey.objects.filter(name="importer").update(last_used_at=timezone.now())
    return tenant


def page_of(tenant: Tenant) -> str:
    return f"{TENANTS}{tenant.pk}/change/"


def test_a_tenants_page_says_who_can_see_it(root: Client, harbour: Tenant) -> None:
    staff("viewer", "view_agentevent")
    staff("other", "view_batch")
    page = text(get(root, page_of(harbour)))
    assert re.search(r"superusers see all tenants: root; .*: viewer\.", page)
    assert "ann" in page


def test_a_tenants_page_says_which_keys_there_are_and_leads_to_them(
    root: Client, harbour: Tenant
) -> None:
    page = get(root, page_of(harbour))
    assert "importer" in page
    assert "in use" in text(page)
    assert "revoked" in text(page)
    theirs = link(page, "Its keys")
    assert theirs is not None
    assert "importer" in get(root, theirs)
    new = link(page, "Make a key")
    assert new is not None
    assert str(harbour.pk) in get(root, new)


def test_a_tenants_page_says_what_it_did_lately_and_leads_there(
    root: Client, harbour: Tenant, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "0 in the last hour, 0 in the last day" in text(get(root, page_of(harbour)))
    put(database, str(uuid.uuid4()), n=5)
    (event,) = put(database, str(harbour.pk))
    close(database)
    put(database, str(harbour.pk), n=2)
    page = get(root, page_of(harbour))
    assert "3 in the last hour, 3 in the last day" in text(page)
    assert f"{EVENTS}{event + 2}/change/" in page
    for words, url in (
        ("Its events", f"{EVENTS}?tenant={harbour.pk}"),
        ("On the live page", f"/?tenant={harbour.pk}"),
    ):
        assert link(page, words) == url
        assert root.get(url).status_code == 200
    monkeypatch.setattr(tenant_looks, "MOST_COUNTED", 2)
    assert "2+ in the last hour" in text(get(root, page_of(harbour)))


def test_what_came_before_lately_is_not_counted(
    root: Client, harbour: Tenant, database: Connection
) -> None:
    put(database, str(harbour.pk), n=4)
    close(database)
    put(database, str(harbour.pk), n=3)
    close(database)
    database.execute("ALTER TABLE agent_event_batches DISABLE TRIGGER ALL")
    database.execute(
        "UPDATE agent_event_batches SET closed_at = closed_at - interval '2 hours' WHERE n < 2"
    )
    assert tenant_looks.how_many(harbour.pk, timedelta(hours=1)) == 3
    assert tenant_looks.how_many(harbour.pk, timedelta(days=1)) == 7


def test_the_list_of_tenants_says_the_same_in_short_by_one_look_at_the_log(
    root: Client, harbour: Tenant, database: Connection
) -> None:
    for n in range(20):
        other = Tenant.objects.create(name=f"other {n}")
        put(database, str(other.pk))
    (event,) = put(database, str(harbour.pk))
    with CaptureQueriesContext(connection) as queries:
        page = get(root, TENANTS)
    row = re.search(r"<tr>(?:(?!</tr>).)*Harbour.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert re.findall(r'class="field-(?:members|keys)_text">(\d)<', row[0]) == ["1", "1"]
    assert f"{EVENTS}{event}/change/" in row[0]
    of_log = [
        q["sql"] for q in queries if '"agent_events"' in q["sql"] or "FROM agent_events" in q["sql"]
    ]
    assert len(of_log) == 1


def test_whoever_may_only_view_tenants_sees_no_keys_members_or_events(
    root: Client, harbour: Tenant, database: Connection
) -> None:
    (event,) = put(database, str(harbour.pk))
    close(database)
    viewer = staff("viewer", "view_tenant")
    for url in (TENANTS, page_of(harbour)):
        page = get(viewer, url)
        assert "Harbour" in page
        for word in ("importer", "ann<", f"{EVENTS}{event}", "in the last hour", "root", KEYS):
            assert word not in page, (url, word)
        assert 'name="_save"' not in page
    assert viewer.get(EVENTS).status_code == 403
    everything = staff("all", "view_tenant", "view_apikey", "view_membership", "view_agentevent")
    page = get(everything, page_of(harbour))
    assert all(word in page for word in ("importer", f"{EVENTS}{event}", "in the last hour"))
    assert 'name="_save"' not in page
    assert link(page, "Make a key") is None


def test_a_tenant_can_still_be_made_and_renamed(root: Client) -> None:
    forms = {
        "agent_events_memberships-TOTAL_FORMS": "0",
        "membership_set-TOTAL_FORMS": "0",
        "membership_set-INITIAL_FORMS": "0",
        "api_keys-TOTAL_FORMS": "0",
        "api_keys-INITIAL_FORMS": "0",
    }
    assert root.post(f"{TENANTS}add/", {"name": "New", **forms}).status_code == 302
    tenant = Tenant.objects.get(name="New")
    assert root.post(page_of(tenant), {"name": "Renamed", **forms}).status_code == 302
    tenant.refresh_from_db()
    assert tenant.name == "Renamed"
