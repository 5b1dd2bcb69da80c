"""The live page as the server renders it, and the log in the admin: who sees what."""

from __future__ import annotations

import html
import json
import re
import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agent_events.admin import COUNT_LIMIT
from agent_events.models import AgentEvent, Membership, Tenant

pytestmark = pytest.mark.django_db(transaction=True)

AGENT = str(uuid.uuid4())


def tenant(name: str, *members: Any) -> Tenant:
    made = Tenant.objects.create(name=name)
    for user in members:
        Membership.objects.create(tenant=made, user=user)
    return made


def insert(tenant_id: object, event_type: str, payload: object = None) -> int:
    """A plain INSERT, and the append that gives it its place in the order; returns its id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " VALUES (%s, %s, %s, %s) RETURNING id",
            [str(tenant_id), AGENT, event_type, json.dumps(payload or {})],
        )
        (event_id,) = cursor.fetchone()
        cursor.execute("SELECT n FROM agent_events_append()")
    return int(event_id)


def shown(page: str) -> list[int]:
    """Ids of the events of a page, from top to bottom."""
    return [int(found) for found in re.findall(r'<details class="row" id="event-(\d+)"', page)]


def attribute(page: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', page)
    assert found is not None, f"no {name} in the page"
    return html.unescape(found[1])


@pytest.fixture
def user() -> Any:
    return get_user_model().objects.create_user("mara", password="mara")


@pytest.fixture
def superuser() -> Any:
    return get_user_model().objects.create_superuser("root", password="root")


def test_nothing_is_shown_without_signing_in(client: Client) -> None:
    answer = client.get("/?type=error")
    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/login/?next=/%3Ftype%3Derror"


def test_a_tenant_that_is_not_yours_is_a_404_like_one_that_does_not_exist(
    client: Client, user: Any
) -> None:
    tenant("Mine", user)
    theirs = tenant("Theirs")
    insert(theirs.id, "secret.event")
    client.force_login(user)
    for asked in (str(theirs.id), str(uuid.uuid4()), "no-uuid", "%00"):
        assert client.get(f"/?tenant={asked}").status_code == 404
    assert "secret.event" not in client.get("/").content.decode()


def test_the_first_render_shows_the_newest_events_first_and_the_cursor_right_after_them(
    client: Client, user: Any
) -> None:
    mine = tenant("Mine", user)
    ids = [insert(mine.id, "turn_complete", {"tokens": n}) for n in range(3)]
    client.force_login(user)
    page = client.get("/").content.decode()
    assert shown(page) == ids[::-1]
    assert attribute(page, "data-stream-query") == f"tenant={mine.id}"
    assert attribute(page, "data-stream-path") == "/ws/agents/stream"

    # What a stream reads from that cursor is what came later, no more and no less.
    batch, after_id, _ = (int(part, 16) for part in attribute(page, "data-cursor").split("-"))
    later = insert(mine.id, "turn_complete")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM agent_events_read(%s, %s, %s, 100)", [str(mine.id), batch, after_id]
        )
        assert [row[0] for row in cursor.fetchall()] == [later]


def test_filters_act_on_the_log_and_go_on_into_the_stream(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    wanted = [insert(mine.id, "tool.started"), insert(mine.id, "error")]
    for _ in range(110):
        insert(mine.id, "turn_complete")
    client.force_login(user)
    page = client.get(f"/?type=tool.*, error&agent={AGENT[:6]}*").content.decode()
    assert shown(page) == wanted[::-1]
    query = attribute(page, "data-stream-query")
    assert query == f"tenant={mine.id}&agent={AGENT[:6]}%2A&type=tool.%2A&type=error"


def test_a_filter_that_cannot_be_is_a_400_that_says_why(client: Client, user: Any) -> None:
    tenant("Mine", user)
    client.force_login(user)
    answer = client.get(f"/?type={'x' * 300}")
    assert answer.status_code == 400
    assert "200 characters" in answer.content.decode()


def test_a_superuser_sees_all_tenants_and_one_that_nobody_has_named(
    client: Client, superuser: Any
) -> None:
    unnamed = uuid.uuid4()
    ids = [insert(tenant("Named").id, "error"), insert(unnamed, "error")]
    client.force_login(superuser)
    everything = client.get("/").content.decode()
    assert shown(everything) == ids[::-1]
    assert attribute(everything, "data-stream-query") == ""
    one = client.get(f"/?tenant={unnamed}").content.decode()
    assert shown(one) == [ids[1]]
    assert f'<option value="{unnamed}" selected>' in one


def test_a_user_without_tenants_is_told_so(client: Client, user: Any) -> None:
    client.force_login(user)
    page = client.get("/").content.decode()
    assert "not a member of any tenant" in page
    assert "data-cursor" not in page


def test_an_empty_tenant_shows_how_to_send_its_first_event(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    client.force_login(user)
    page = html.unescape(client.get("/").content.decode())
    assert f"VALUES ('{mine.id}'" in page
    assert f"--tenant {mine.id}" in page


def test_the_page_is_never_stored_and_lets_nothing_inline_run(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    insert(mine.id, "<script>alert(1)</script>", {"x": "</pre><img src=x onerror=alert(1)>"})
    client.force_login(user)
    answer = client.get("/")
    assert answer["Cache-Control"] == "no-store"
    assert "default-src 'self'" in answer["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    page = answer.content.decode()
    assert "<img src=x" not in page
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"<style|\sstyle=|\son\w+=", re.sub(r"&\w+;", "", page).split("<main")[0])


def test_a_long_payload_is_cut_in_the_page_and_said_to_be(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    insert(mine.id, "message", {"text": "x" * 300_000})
    client.force_login(user)
    answer = client.get("/")
    assert len(answer.content) < 100_000
    assert re.search(r'<p class="row-cut">', answer.content.decode())


def test_the_admin_shows_an_event_and_offers_no_way_to_change_it(
    client: Client, superuser: Any
) -> None:
    event_id = insert(uuid.uuid4(), "message", {"text": "<b>hello</b>", "n": 12345678901234567890})
    client.force_login(superuser)
    listed = client.get("/admin/agent_events/agentevent/").content.decode()
    assert f"/admin/agent_events/agentevent/{event_id}/change/" in listed
    change = f"/admin/agent_events/agentevent/{event_id}/change/"
    page = client.get(change).content.decode()
    assert "&lt;b&gt;hello" in page
    assert "12345678901234567890" in page  # as PostgreSQL wrote it, not through a float
    assert 'name="_save"' not in page
    assert client.post(change, {"event_type": "other"}).status_code == 403
    assert client.get("/admin/agent_events/agentevent/add/").status_code == 403
    gone = client.post(f"/admin/agent_events/agentevent/{event_id}/delete/", {"post": "yes"})
    assert gone.status_code == 403
    assert AgentEvent.objects.get(pk=event_id).event_type == "message"


def test_the_admin_finds_events_by_id_and_tenant_alone(client: Client, superuser: Any) -> None:
    owner = uuid.uuid4()
    mine, other = insert(owner, "a.mine"), insert(uuid.uuid4(), "b.other")
    client.force_login(superuser)
    for term, ids in ((mine, {mine}), (owner, {mine}), ("a.mine", set()), (2**70, set())):
        page = client.get(f"/admin/agent_events/agentevent/?q={term}").content.decode()
        assert {i for i in (mine, other) if f"/agentevent/{i}/change/" in page} == ids


def test_the_admin_never_counts_the_whole_log(client: Client, superuser: Any) -> None:
    insert(uuid.uuid4(), "error")
    client.force_login(superuser)
    with CaptureQueriesContext(connection) as queries:
        client.get("/admin/agent_events/agentevent/")
    counts = [q["sql"] for q in queries if "COUNT(" in q["sql"] and '"agent_events"' in q["sql"]]
    assert counts
    assert all(f"LIMIT {COUNT_LIMIT}" in sql for sql in counts)


def test_the_admin_keeps_tenants_and_their_members(
    client: Client, superuser: Any, user: Any
) -> None:
    client.force_login(superuser)
    answer = client.post(
        "/admin/agent_events/tenant/add/",
        {
            "name": "Harbour Support",
            "membership_set-TOTAL_FORMS": "1",
            "membership_set-INITIAL_FORMS": "0",
            "membership_set-0-user": str(user.pk),
        },
    )
    assert answer.status_code == 302, answer.content.decode()
    assert Membership.objects.get().tenant.name == "Harbour Support"
