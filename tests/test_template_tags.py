"""Feeds in anybody's Django template: there without a script, live with one, never in the way."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import AnonymousUser
from django.template import engines
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory
from playwright.sync_api import Page, expect

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


# Last: while the browser is open its event loop counts as running, where Django reads nothing.
def test_feeds_are_there_without_a_script_and_go_on_live_each_event_once(
    dsn: str, server: Callable[..., Server], page: Page, connect: Connect
) -> None:
    site = server(env={"DJANGO_SETTINGS_MODULE": "tests.support.embed_settings"})
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "mara", tenants=[tenant])
    database = connect()
    console: list[str] = []
    page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.append(f"exception: {error}"))
    put(database, tenant, "note", HOSTILE)
    url = f"{site.url}/host/?tenant={tenant}"
    for name, value in login(site, "mara").items():
        page.context.add_cookies([{"name": name, "value": value, "url": site.url}])
    page.goto(url)
    everything, errors = page.locator("#all .ae-row"), page.locator("#errors .ae-row")
    expect(page.locator("#all .ae-state")).to_have_text("Live")
    expect(page.locator("#errors .ae-state")).to_have_text("Live")
    put(database, tenant, "error", "It broke")
    put(database, tenant, "note", "after")
    expect(everything).to_have_count(3)
    expect(everything.first).to_contain_text("after")
    expect(everything.last).to_contain_text(HOSTILE)
    expect(errors).to_have_count(1)
    expect(errors.locator(".ae-tone")).to_have_text("Error")
    assert page.locator("link[href*='embed.css']").count() == 1
    expect(page.locator(".agent-events-embed img")).to_have_count(0)
    assert "&lt;img src=x" in page.request.get(url).text()  # what is there without a script
    assert not console
