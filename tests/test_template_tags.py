"""Feeds in anybody's Django template: there without a script, live with one, never in the way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import AnonymousUser
from django.template import engines
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory
from playwright.sync_api import Page, expect

from agent_events import history
from agent_events.filters import Filter
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user
from tests.support.django_log import django_on

AGENT = str(uuid.uuid4())
HOSTILE = "<img src=x onerror=alert(1)>"


def put(connection: psycopg.Connection[Any], tenant: str, type: str, text: str) -> None:
    connection.execute(
        "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
        " VALUES (%s, %s, %s, jsonb_build_object('message', %s::text))",
        [tenant, AGENT, type, text],
    )


def rendered(source: str) -> str:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return engines["django"].from_string("{% load agent_events %}" + source).render({}, request)


def test_without_a_sign_in_the_page_is_whole_and_says_why(dsn: str, django_db_blocker: Any) -> None:
    with django_on(dsn), django_db_blocker.unblock():
        assert "Sign in to see agent events." in rendered("{% agent_events_feed %}")


def test_without_a_database_the_cursor_is_latest_and_the_page_goes_on(
    django_db_blocker: Any,
) -> None:
    with django_on("postgresql://nobody@127.0.0.1:1/none"), django_db_blocker.unblock():
        assert rendered("{% agent_events_cursor %}") == "latest"


def test_a_filter_that_is_none_raises_under_debug_and_is_a_quiet_line_otherwise(
    settings: Any,
) -> None:
    source = "{% agent_events_feed where='= =' %}"
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError):
        rendered(source)
    settings.DEBUG = False
    assert "not valid" in rendered(source)


def test_the_cursor_is_right_behind_what_is_in_the_log(
    dsn: str, connect: Connect, django_db_blocker: Any
) -> None:
    database, tenant = connect(), make_tenant(dsn, "Harbour")
    with django_on(dsn), django_db_blocker.unblock():
        put(database, tenant, "note", "before")
        database.execute("SELECT agent_events_append()")
        cursor = rendered("{% agent_events_cursor as here %}{{ here }}")
        put(database, tenant, "note", "after")
        database.execute("SELECT agent_events_append()")
        page = history.read((tenant,), Filter(), cursor, newest_first=False, limit=10)
    assert [event.payload["message"] for event in page.events] == ["after"]


@pytest.fixture
def host(
    dsn: str, server: Callable[..., Server], page: Page, connect: Connect
) -> Iterator[tuple[Page, str, Callable[[str, str], None]]]:
    """Somebody else's page with two feeds, signed in; its address; and what puts an event."""
    site = server(env={"DJANGO_SETTINGS_MODULE": "tests.support.embed_settings"})
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "mara", tenants=[tenant])
    database = connect()
    console: list[str] = []
    page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.append(f"exception: {error}"))
    for name, value in login(site, "mara").items():
        page.context.add_cookies([{"name": name, "value": value, "url": site.url}])
    url = f"{site.url}/host/?tenant={tenant}"
    yield page, url, lambda type, text: put(database, tenant, type, text)
    assert not console


# Below here: while the browser is open its event loop counts as running, and Django reads nothing.
def test_feeds_are_there_without_a_script_and_go_on_live_each_event_once(
    host: tuple[Page, str, Callable[[str, str], None]],
) -> None:
    page, url, insert = host
    insert("note", HOSTILE)
    page.goto(url)
    everything, errors = page.locator("#all .ae-row"), page.locator("#errors .ae-row")
    expect(page.locator("#all .ae-state")).to_have_text("Live")
    expect(page.locator("#errors .ae-state")).to_have_text("Live")
    insert("error", "It broke")
    insert("note", "after")
    expect(everything).to_have_count(3)
    expect(everything.first).to_contain_text("after")
    expect(everything.last).to_contain_text(HOSTILE)
    expect(errors).to_have_count(1)
    expect(errors.locator(".ae-tone")).to_have_text("Error")
    assert page.locator("link[href*='embed.css']").count() == 1
    expect(page.locator(".agent-events-embed img")).to_have_count(0)
    assert "&lt;img src=x" in page.request.get(url).text()  # what is there without a script


def test_a_feed_stands_still_under_the_pointer_and_says_what_it_leaves_out(
    host: tuple[Page, str, Callable[[str, str], None]],
) -> None:
    page, url, insert = host
    page.goto(url)
    rows = page.locator("#all .ae-row")
    expect(page.locator("#all .ae-state")).to_have_text("Live")
    insert("note", "first")
    expect(rows).to_have_count(1)
    page.locator("#all .ae-rows").hover()
    for n in range(110):
        insert("note", f"later {n}")
    expect(page.locator("#all .ae-paused")).to_have_text("Paused: 110 new")
    expect(rows).to_have_count(1)
    page.locator("h1").hover()
    expect(rows).to_have_count(100)
    expect(rows.first).to_contain_text("later 109")
    expect(page.locator("#all .ae-paused")).to_have_text("")
    expect(page.locator("#all .ae-left")).to_have_text("Only the newest 100 events are shown")


def test_a_row_leads_to_its_event_on_the_live_page(
    host: tuple[Page, str, Callable[[str, str], None]],
) -> None:
    page, url, insert = host
    page.goto(url)
    expect(page.locator("#all .ae-state")).to_have_text("Live")
    insert("note", "what is it?")
    page.locator("#all .ae-row", has_text="what is it?").locator("a").click()
    expect(page.locator("#events > .row[open]")).to_contain_text("what is it?")
