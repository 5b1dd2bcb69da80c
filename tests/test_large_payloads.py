"""A large payload is not on the streams: there is its address, and what is behind it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.urls import include, path
from playwright.sync_api import Page, expect

from agent_events.inline import inline
from agent_events.stretch import Stretch
from agent_events.wire import Event, Inline
from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user
from tests.support.keys import make_key
from tests.support.streams import event_stream, insert

LIMIT = 100
INLINE = Inline(LIMIT, "/api/agents/events/")
TENANT, AGENT = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000009"


def event(payload: str) -> Event:
    """An event with this payload."""
    text = (
        f'{{"id":7,"tenantId":"{TENANT}","agentId":"{AGENT}","type":"a\\"b",'
        f'"payload":{payload},"createdAt":"2026-01-01T00:00:00.000000Z"}}'
    )
    return Event(1, 1, 7, text)


def shown(payload: str) -> dict[str, Any]:
    """What a stream says of it: both doors the same."""
    stretch = Stretch([event(payload)], "cursor")
    (frame,) = stretch.frames(INLINE)
    (block,) = stretch.blocks(INLINE)
    (said,) = json.loads(frame.messages[0])["events"]
    data = block[0].decode().split("data: ")[1]
    assert json.loads(data) == said
    made: dict[str, Any] = said
    return made


@pytest.mark.parametrize("character", ["x", "å", "界", "𝄞"])
def test_the_limit_is_in_bytes_of_the_payload_whatever_its_characters(character: str) -> None:
    width = len(character.encode())
    fits = character * ((LIMIT - 2) // width)
    assert shown(json.dumps(fits, ensure_ascii=False))["payload"] == fits
    said = shown(json.dumps(fits + character * (3 // width + 1), ensure_ascii=False))
    assert said["payload"] is None
    assert said["payloadHref"] == "/api/agents/events/7"
    whole = json.loads(event("null").json)
    assert {**said, "payloadHref": None} == {**whole, "payloadHref": None}


def test_nothing_is_made_anew_where_no_event_is_large() -> None:
    events = [event("1"), event("2")]
    assert INLINE.of(events, sum(len(one.json) for one in events) // LIMIT) is events
    small, large = event("3"), event(f'"{"x" * LIMIT}"')
    assert INLINE.of([small, large], 1_000)[0] is small


def test_the_address_is_below_the_prefix_of_the_site(settings: Any) -> None:
    inline.cache_clear()
    assert inline() == Inline(65_536, "/api/agents/events/")
    settings.FORCE_SCRIPT_NAME = "/agents/"
    assert inline().address == "/agents/api/agents/events/"
    settings.AGENT_EVENTS = {"INLINE_PAYLOAD_BYTES": 10}
    assert inline().payload_bytes == 10
    settings.FORCE_SCRIPT_NAME = None
    assert inline("/tools").address == "/tools/api/agents/events/", "the server's own root path"


urlpatterns = [path("agents/", include("agent_events.urls"))]
"""A site that has the pages below a prefix."""


@pytest.mark.parametrize("name", [None, "/tools", "/agents"])
def test_the_address_is_where_the_pages_are_included(settings: Any, name: str | None) -> None:
    settings.ROOT_URLCONF = __name__
    settings.FORCE_SCRIPT_NAME = name
    assert inline().address == f"{name or ''}/agents/api/agents/events/"


def test_without_an_address_everything_is_on_the_stream(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.no_urls"
    assert inline().of([large := event(f'"{"x" * 100_000}"')], 100_100) == [large]


def test_a_large_payload_is_an_address_live_and_replayed_and_whole_elsewhere(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant, db = make_tenant(dsn, "Harbour"), connect()
    key = make_key(dsn, tenant)
    running = server()
    large, small = json.dumps("å" * 2_500_000), '"small"'
    with event_stream(running, {}, token=key) as stream:
        assert next(stream.messages())[0] == "hello"
        ids = [insert(db, tenant, payload=payload) for payload in (large, small)]
        live = stream.events(2)
    with event_stream(running, {}, "cursor=earliest", token=key) as stream:
        assert stream.events(2) == live
    assert [one["id"] for one in live] == ids
    assert live[0]["payload"] is None
    assert live[1]["payload"] == "small"
    assert "payloadHref" not in live[1]
    headers = {"Authorization": f"Bearer {key}"}
    whole = httpx.get(running.url + live[0]["payloadHref"], headers=headers, timeout=30).json()
    assert whole["payload"] == json.loads(large)
    history = httpx.get(f"{running.url}/api/agents/events?order=asc", headers=headers, timeout=30)
    assert history.json()["events"][0] == whole


def test_the_page_says_that_a_payload_is_large_and_loads_it_when_its_row_is_opened(
    dsn: str, connect: Connect, server: Callable[..., Server], page: Page
) -> None:
    tenant, db = make_tenant(dsn, "Harbour"), connect()
    make_user(dsn, "ann", tenants=[tenant])
    running = server()
    for name, value in login(running, "ann").items():
        page.context.add_cookies([{"name": name, "value": value, "url": running.url}])
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(running.url)
    expect(page.locator("#state-words")).to_have_text("Live", timeout=30_000)
    made = insert(db, tenant, payload=json.dumps({"text": "y" * 70_000 + "the end"}))
    row = page.locator(f"#event-{made}")
    expect(row).to_contain_text("Large payload", timeout=30_000)
    row.locator("summary").click()
    expect(row.locator(".row-payload")).to_contain_text("yyy", timeout=30_000)
    row.get_by_role("button", name="more characters").click()
    expect(row.locator(".row-payload")).to_contain_text("the end")
    assert not complaints
