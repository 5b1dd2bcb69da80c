"""Pages of other sites: closed to them by default; what CORS_ORIGINS opens, and to whom."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from django.test import override_settings
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as socket

from agent_events import origins
from agent_events.credentials import Credentials, Via, of_scope
from agent_events.errors import WrongOrigin
from tests.support import Server, login, make_tenant, make_user
from tests.support.keys import make_key
from tests.support.streams import insert
from tests.support.watch import bus_settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

Connect = Callable[..., psycopg.Connection[Any]]
EVENTS, STREAM, TOKENS = "/api/agents/events", "/api/agents/stream", "/api/agents/tokens"
APP, OTHER = "https://app.example", "https://other.example"
SESSION = Credentials(Via.SESSION, "secret")


def scope(kind: str = "websocket", **headers: str) -> dict[str, Any]:
    return {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "method": "POST",
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }


# Whose page it is


@pytest.mark.parametrize(
    ("host", "origin", "good"),
    [
        ("site.example", "http://site.example", True),
        ("site.example", "http://site.example:80", True),
        ("site.example:80", "http://site.example", True),
        ("SITE.example", "http://site.EXAMPLE", True),
        ("site.example", "https://site.example", True),  # TLS ends in a proxy
        ("site.example:8000", "http://site.example:8000", True),
        ("site.example:8000", "http://site.example:8001", False),
        ("site.example", "http://site.example:8001", False),
        ("site.example", "http://www.site.example", False),
        ("site.example", "http://site.example.evil.example", False),
        ("site.example", "null", False),
        ("site.example", "", False),
        ("site.example", "http://[", False),
        ("site.example", "ftp://site.example", False),
        ("evil.example", "http://evil.example", False),  # a name of theirs that leads here
        ("site.example", APP, True),
        ("site.example", "https://app.example:443", True),
        ("site.example", "http://app.example", False),
        ("site.example", "https://a.trusted.example", True),
        ("site.example", "https://trusted.example", False),
        ("site.example", "https://exact.example", True),
    ],
)
def test_a_cookie_counts_from_pages_of_this_site_and_of_those_named(
    host: str, origin: str, good: bool
) -> None:
    with override_settings(
        ALLOWED_HOSTS=["site.example"],
        CSRF_TRUSTED_ORIGINS=["https://*.trusted.example", "https://exact.example"],
        AGENT_EVENTS={"CORS_ORIGINS": [APP, "*"]},
    ):
        for kind in ("websocket", "http"):
            asked = scope(kind, host=host, origin=origin)
            if good:
                origins.check(asked, SESSION)
            else:
                with pytest.raises(WrongOrigin, match="not this site"):
                    origins.check(asked, SESSION)
            origins.check(asked, Credentials(Via.HEADER, "secret"))
            origins.check({**asked, "type": "http", "method": "GET"}, SESSION)


def test_a_page_that_anybody_on_the_way_may_have_written_is_not_ours() -> None:
    tls = {**scope(host="site.example", origin="http://site.example"), "scheme": "wss"}
    with override_settings(ALLOWED_HOSTS=["site.example"]), pytest.raises(WrongOrigin):
        origins.check(tls, SESSION)
    proxied = scope(host="site.example", origin="http://site.example", x_forwarded_proto="https")
    header = ("HTTP_X_FORWARDED_PROTO", "https")
    with (
        override_settings(ALLOWED_HOSTS=["site.example"], SECURE_PROXY_SSL_HEADER=header),
        pytest.raises(WrongOrigin),
    ):
        origins.check(proxied, SESSION)


def test_behind_a_proxy_the_name_that_it_forwards_is_ours() -> None:
    asked = scope(
        host="inside:8000", origin="https://site.example", x_forwarded_host="site.example"
    )
    with override_settings(ALLOWED_HOSTS=["site.example"], USE_X_FORWARDED_HOST=True):
        origins.check(asked, SESSION)
    with override_settings(ALLOWED_HOSTS=["site.example"]), pytest.raises(WrongOrigin):
        origins.check(asked, SESSION)


def test_of_two_hosts_none_is_believed() -> None:
    asked = {**scope(), "headers": [(b"host", b"site.example"), (b"host", b"evil.example")]}
    with override_settings(ALLOWED_HOSTS=["site.example", "evil.example"]):
        assert not origins.knows_host(asked)
        assert origins.knows_host({**asked, "headers": asked["headers"][:1]})


def test_a_header_that_only_looks_like_the_proxys_is_not_believed() -> None:
    headers = [(b"x_forwarded_host", b"site.example"), (b"host", b"inside:8000")]
    asked = {**scope(origin="https://site.example"), "headers": headers}
    asked["headers"].append((b"origin", b"https://site.example"))
    with (
        override_settings(ALLOWED_HOSTS=["site.example", "inside"], USE_X_FORWARDED_HOST=True),
        pytest.raises(WrongOrigin),
    ):
        origins.check(asked, SESSION)


# A resolver of the application's own, which sees all headers


@pytest.mark.parametrize(
    ("given", "from_browser"),
    [
        ({}, False),
        ({"user-agent": "x"}, False),
        ({"authorization": "Bearer x"}, False),
        ({"authorization": "bearer x", "cookie": "who=ann"}, False),
        ({"cookie": "who=ann"}, True),
        ({"authorization": "Basic YW5uOmFubg=="}, True),
        ({"authorization": "Bearerx", "cookie": "who=ann"}, True),
    ],
)
@pytest.mark.parametrize(
    "more", [{}, {"subprotocols": ["bearer.x"]}, {"query_string": b"ticket=x"}]
)
def test_what_a_browser_sends_by_itself_counts_as_its_own_whatever_stands_beside_it(
    more: dict[str, Any], given: dict[str, str], from_browser: bool
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    asked = {"type": "websocket", "path": "/ws/agents/stream", **more, "headers": headers}
    with override_settings(
        AGENT_EVENTS={"PRINCIPAL_RESOLVER": "tests.support.resolvers.by_cookie"}
    ):
        found = of_scope(asked)
        assert found.from_browser is from_browser
        assert found.with_token("y").from_browser is from_browser
    assert of_scope(asked).from_browser is False, "to ours these mean nothing"


def test_a_resolver_that_goes_by_a_cookie_is_protected_from_pages_of_other_sites(
    dsn: str, tenant: str, server: Callable[..., Server]
) -> None:
    name = "tests.support.resolvers.by_cookie"
    running = server(env=bus_settings(PRINCIPAL_RESOLVER=name))
    url, socket_url = running.url + TOKENS, f"{running.ws_url}/ws/agents/stream"
    body = {"tenant": tenant}
    for own in ({"Cookie": "who=ann"}, {"Authorization": "Basic YW5uOmFubg=="}):
        for origin, status in ((OTHER, 403), ("null", 403), (running.url, 201)):
            answer = httpx.post(url, json=body, headers={"Origin": origin, **own})
            assert answer.status_code == status, (own, origin)
        assert httpx.post(url, json=body, headers=own).status_code == 403
        for query, protocols in (("", None), ("?ticket=x", None), ("", ["bearer.x"])):
            asked: Any = {"additional_headers": own, "subprotocols": protocols}
            with pytest.raises(InvalidStatus) as refused:
                socket(socket_url + query, origin=OTHER, **asked).close()  # type: ignore[arg-type]
            assert refused.value.response.status_code == 403
            with socket(socket_url + query, origin=running.url, **asked) as good:  # type: ignore[arg-type]
                assert '"hello"' in str(good.recv(10))


# What another site's page may read


@pytest.fixture
def tenant(dsn: str) -> str:
    made = make_tenant(dsn, "Harbour Support")
    make_user(dsn, "ann", tenants=[made])
    return made


def cors(answer: httpx.Response) -> dict[str, str]:
    begin = "access-control-"
    return {n.removeprefix(begin): v for n, v in answer.headers.items() if n.startswith(begin)}


def preflight(running: Server, path: str, origin: str) -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,last-event-id",
    }
    return httpx.options(running.url + path, headers=asked)


def test_closed_by_default(server: Callable[..., Server]) -> None:
    running = server()
    for path in (EVENTS, f"{EVENTS}/1", STREAM, TOKENS):
        asked = preflight(running, path, APP)
        assert (asked.status_code, cors(asked)) == (204, {})
        assert cors(httpx.get(running.url + path, headers={"Origin": APP})) == {}


def test_sites_that_are_named_may_read_answers_refusals_included(
    dsn: str, tenant: str, server: Callable[..., Server]
) -> None:
    running = server(env=bus_settings(CORS_ORIGINS=[APP]))
    key = {"Authorization": f"Bearer {make_key(dsn, tenant)}"}
    cookies = login(running, "ann")
    for path in (EVENTS, f"{EVENTS}/1", STREAM, TOKENS, "/api/agents/nowhere"):
        asked = preflight(running, path, APP)
        said = cors(asked)
        assert asked.status_code == 204
        assert (said["allow-origin"], said["allow-credentials"]) == (APP, "true")
        allowed = said["allow-headers"].split(", ")
        assert {"authorization", "content-type", "last-event-id", "idempotency-key"} < {*allowed}
        assert said["allow-methods"] == "GET, HEAD, POST"
        assert cors(preflight(running, path, OTHER)) == {}

        refused = httpx.get(running.url + path, headers={"Origin": APP})
        assert refused.status_code in (401, 404, 405)
        assert cors(refused)["allow-origin"] == APP
        assert "Agent-Events-Cursor" in cors(refused)["expose-headers"]
        assert "Origin" in refused.headers["vary"]
        assert cors(httpx.get(running.url + path, headers={"Origin": OTHER})) == {}
    with_key = httpx.get(running.url + EVENTS, headers={"Origin": APP, **key})
    with_cookie = httpx.get(running.url + EVENTS, headers={"Origin": APP}, cookies=cookies)
    assert (with_key.status_code, with_cookie.status_code) == (200, 200)
    posted = httpx.post(running.url + TOKENS, headers={"Origin": APP}, cookies=cookies)
    assert posted.status_code == 201
    for path in ("/", "/healthz", "/accounts/login/"):
        assert cors(httpx.get(running.url + path, headers={"Origin": APP})) == {}


def test_where_all_sites_may_ask_their_cookies_count_for_nothing(
    dsn: str, tenant: str, server: Callable[..., Server]
) -> None:
    running = server(env=bus_settings(CORS_ORIGINS=["*"]))
    key = {"Authorization": f"Bearer {make_key(dsn, tenant)}"}
    cookies = login(running, "ann")
    with_key = httpx.get(running.url + EVENTS, headers={"Origin": OTHER, **key})
    assert with_key.status_code == 200
    assert cors(with_key)["allow-origin"] == "*"
    assert "allow-credentials" not in cors(with_key)
    foreign = {"Origin": OTHER}
    for path in (EVENTS, STREAM):
        answer = httpx.get(running.url + path, headers=foreign, cookies=cookies)
        assert answer.status_code == 401
    assert httpx.post(running.url + TOKENS, headers=foreign, cookies=cookies).status_code == 403
    assert httpx.get(running.url + EVENTS, cookies=cookies).status_code == 200


def test_a_host_that_is_not_ours_is_refused_but_for_probes(server: Callable[..., Server]) -> None:
    running = server()
    strange = {"Host": "evil.example"}
    for path in (EVENTS, STREAM, TOKENS, "/api/agents/openapi.json"):
        answer = httpx.get(running.url + path, headers=strange)
        assert answer.status_code == 400, path
        assert "ALLOWED_HOSTS" in answer.json()["detail"]
    assert httpx.get(f"{running.url}/healthz", headers=strange).status_code == 200


# In a browser

FETCH = """async ([url, headers, events]) => {
  try {
    const answer = await fetch(url, {headers});
    if (!events) return [answer.status, await answer.text(), answer.headers.get('Link')];
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    while (!text.includes('"payload"')) text += (await reader.read()).value;
    await reader.cancel();
    return [answer.status, text, null];
  } catch (error) { return [0, String(error), null]; }
}"""


@contextmanager
def another_site() -> Iterator[str]:
    """An empty page at another port; its address."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


def test_a_browser_reads_history_and_stream_of_another_site_where_that_is_open(
    dsn: str, tenant: str, server: Callable[..., Server], connect: Connect, page: Page
) -> None:
    producer = connect()
    ids = [insert(producer, tenant) for _ in range(3)]
    producer.execute("SELECT agent_events_append()")
    key = {"Authorization": f"Bearer {make_key(dsn, tenant)}"}
    with another_site() as origin:
        page.goto(origin)
        closed = server()
        for path in (EVENTS, STREAM):
            status, error, _ = page.evaluate(FETCH, [closed.url + path, key, False])
            assert (status, error) == (0, "TypeError: Failed to fetch")
        opened = server(env=bus_settings(CORS_ORIGINS=[origin]))
        status, text, link = page.evaluate(FETCH, [f"{opened.url}{EVENTS}?limit=1", key, False])
        assert status == 200
        assert f'"id":{ids[-1]},' in text.replace(" ", "")
        assert 'rel="next"' in link
        event = httpx.get(f"{opened.url}{EVENTS}/{ids[1]}", headers=key)
        after = {**key, "Last-Event-ID": event.headers["Agent-Events-Cursor"]}
        status, text, _ = page.evaluate(FETCH, [opened.url + STREAM, after, True])
        assert status == 200
        assert [f'"id":{id_},' in text.replace(" ", "") for id_ in ids] == [False, False, True]
        status, text, _ = page.evaluate(FETCH, [opened.url + STREAM, {}, False])
        assert status == 401
        assert '"detail"' in text
