"""The live page as the server renders it: who sees what."""

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

from agent_events.models import Membership, Tenant

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
    assert attribute(page, "data-tenant") == str(mine.id)
    assert attribute(page, "data-stream-path") == "/ws/agents/stream"

    # What a stream reads from that cursor is what came later, no more and no less.
    batch, after_id, _ = (int(part, 16) for part in attribute(page, "data-cursor").split("-"))
    later = insert(mine.id, "turn_complete")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM agent_events_read(%s, %s, %s, 100)", [str(mine.id), batch, after_id]
        )
        assert [row[0] for row in cursor.fetchall()] == [later]


def test_filters_act_on_the_log(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    wanted = [insert(mine.id, "tool.started"), insert(mine.id, "error")]
    for _ in range(110):
        insert(mine.id, "turn_complete")
    client.force_login(user)
    page = client.get(f"/?type=tool.*&type=error&agent={AGENT[:6]}*").content.decode()
    assert shown(page) == wanted[::-1]
    page = client.get("/?not_type=turn_complete&not_type=error").content.decode()
    assert shown(page) == wanted[:1]


def test_text_and_payload_filters_act_on_the_log_too(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    ids = [insert(mine.id, "message", {"text": f"Parcel {n}", "tokens": n}) for n in range(5)]
    client.force_login(user)
    assert shown(client.get("/?text=parcel+3").content.decode()) == [ids[3]]
    assert shown(client.get("/?where=payload.tokens+>%3D+3").content.decode()) == ids[:2:-1]
    assert client.get("/?where=tokens+>").status_code == 400


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
    assert attribute(everything, "data-tenant") == ""
    one = client.get(f"/?tenant={unnamed}").content.decode()
    assert shown(one) == [ids[1]]
    assert f'<option value="{unnamed}" selected>' in one


def test_an_event_is_opened_by_its_address_among_its_neighbours(client: Client, user: Any) -> None:
    mine = tenant("Mine", user)
    ids = [insert(mine.id, "turn_complete", {"tokens": n}) for n in range(40)]
    client.force_login(user)
    page = client.get(f"/?event={ids[20]}").content.decode()
    assert shown(page) == ids[10:31][::-1]
    assert f'id="event-{ids[20]}"' in page
    assert re.findall(r'data-id="(\d+)"[^>]* open>', page) == [str(ids[20])]
    # Newer events are left out, and the page knows from where to where.
    assert attribute(page, "data-after") < attribute(page, "data-cursor")
    # At the end of the log nothing is.
    page = client.get(f"/?event={ids[38]}").content.decode()
    assert shown(page) == ids[28:][::-1]
    assert attribute(page, "data-after") == attribute(page, "data-cursor")


def test_an_event_that_the_filter_leaves_out_is_opened_all_the_same(
    client: Client, user: Any
) -> None:
    mine = tenant("Mine", user)
    wanted = [insert(mine.id, "message") for _ in range(3)]
    error = insert(mine.id, "error")
    wanted += [insert(mine.id, "message") for _ in range(3)]
    client.force_login(user)
    page = client.get(f"/?type=message&event={error}").content.decode()
    assert shown(page) == [*wanted[:2:-1], error, *wanted[2::-1]]


def test_an_event_that_is_not_yours_is_a_404_like_one_that_is_gone(
    client: Client, user: Any
) -> None:
    mine, theirs = tenant("Mine", user), tenant("Theirs")
    insert(mine.id, "mine.event")
    secret = insert(theirs.id, "secret.event")
    client.force_login(user)
    for asked in (str(secret), "999999999", "no-number", "9" * 19):
        answer = client.get(f"/?event={asked}")
        page = answer.content.decode()
        assert answer.status_code == 404
        assert "not in the log any more, or it is not yours" in page
        assert "mine.event" in page
        assert "secret.event" not in page


def test_rows_end_at_a_cursor_or_a_time_and_links_lead_on_either_way(
    client: Client, user: Any
) -> None:
    mine = tenant("Mine", user)
    ids = [insert(mine.id, "turn_complete") for _ in range(250)]
    client.force_login(user)

    def link(page: str, word: str) -> str:
        found = re.search(rf'<a href="([^"]*)">{word}</a>', page)
        assert found is not None, f"no link {word}"
        return html.unescape(found[1])

    newest = client.get("/").content.decode()
    assert shown(newest) == ids[150:][::-1]
    older = client.get("/" + link(newest, "Older")).content.decode()
    assert shown(older) == ids[50:150][::-1]
    assert attribute(older, "data-after") < attribute(older, "data-cursor")
    oldest = client.get("/" + link(older, "Older")).content.decode()
    assert shown(oldest) == ids[:50][::-1]
    assert ">Older</a>" not in oldest
    back = client.get("/" + link(oldest, "Newer")).content.decode()
    assert shown(back) == ids[50:150][::-1]
    assert shown(client.get("/" + link(back, "Newer")).content.decode()) == ids[150:][::-1]

    assert shown(client.get("/?at=2020-01-01T00:00:00Z").content.decode()) == []
    assert shown(client.get("/?at=2999-01-01T00:00:00Z").content.decode()) == ids[150:][::-1]
    for wrong in ("yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"):
        assert client.get("/", {"at": wrong}).status_code == 400


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
