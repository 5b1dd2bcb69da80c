"""Every door x every kind of principal x an own and a foreign tenant: what each is answered.

One table says it; none of its cells may be missing, and no address may be without a door in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import psycopg
import pytest
from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as websocket

from agent_events import routing, tokens
from agent_events import urls as page_urls
from agent_events.filters import Filter
from agent_events.principals import Principal, Right, TenantRef
from project import urls as project_urls
from project.embedded import EmbeddedPostgres
from tests.support import Server, cookie_header, login, make_tenant, make_user
from tests.support.keys import make_key, revoke_key
from tests.support.streams import insert
from tests.support.watch import bus_settings

AGENT, OTHER_AGENT = str(uuid.uuid4()), str(uuid.uuid4())
METRICS_TOKEN = "the-token-of-metrics-in-this-test"
OWN, FOREIGN = "own", "foreign"

# Each line: what a principal is answered at each door, for its own tenant / for another's where
# that differs. `ws` is the WebSocket: `in`, it says hello, or its close code. For whoever has no
# tenant both are another's. `restricted` may see the agent of `event`, and no other.
TABLE = """
                page    sse     ws      history export  now     event   hidden  publish tokens  tickets metrics
nobody          302     401     4401    401     401     401     401     401     401     401     401     401
member          200/404 200/404 in/4404 200/404 200/404 200/404 200/404 200/404 403     201/404 201     403
no member       404     404     4404    404     404     404     404     404     403     404     201     403
staff           404     404     4404    404     404     404     404     404     403     404     201     403
superuser       200     200     in      200     200     200     200     200     201     201     201     200
inactive        302     401     4401    401     401     401     401     401     401     401     401     401
key: publish    403     403     4403    403     403     403     403     403     201/404 403     403     403
key: subscribe  200/404 200/404 in/4404 200/404 200/404 200/404 200/404 200/404 403     201/404 201     403
key: both       200/404 200/404 in/4404 200/404 200/404 200/404 200/404 200/404 201/404 201/404 201     403
expired key     302     401     4401    401     401     401     401     401     401     401     401     401
revoked key     302     401     4401    401     401     401     401     401     401     401     401     401
token           200/404 200/404 in/4404 200/404 200/404 200/404 200/404 200/404 403     403     201     403
restricted      200/404 200/404 in/4404 200/404 200/404 200/404 200/404 404     403     403     201     403
token in cookie 200/404 200/404 in/4404 200/404 200/404 200/404 200/404 200/404 403     403     201     403
expired token   302     401     4401    401     401     401     401     401     401     401     401     401
ticket          302     200/404 in/4404 401     401     401     401     401     401     401     401     401
used ticket     302     401     4401    401     401     401     401     401     401     401     401     401
garbage         302     401     4401    401     401     401     401     401     401     401     401     401
metrics token   302     401     4401    401     401     401     401     401     401     401     401     200
"""  # noqa: E501

# The same for everybody but those named: what asks nobody, and the admin, which asks Django.
OPEN = {
    "healthz": "200",
    "readyz": "200",
    "openapi": "200",
    "asyncapi": "200",
    "docs": "200",
    "sign-in": "200",
    "sign-out": "403",  # without the form's CSRF token
    "admin index": "302",
    "admin list": "302",
    "admin form": "302",
}
BUT = {
    ("member", "sign-in"): "302",
    ("no member", "sign-in"): "302",
    ("staff", "sign-in"): "302",
    ("superuser", "sign-in"): "302",
    ("staff", "admin index"): "200",
    ("staff", "admin list"): "403",
    ("staff", "admin form"): "403",
    ("superuser", "admin index"): "200",
    ("superuser", "admin list"): "200",
    ("superuser", "admin form"): "200",
}

DJANGOS = {"member": 302, "staff": 403, "superuser": 200, "key: both": 302}
"""What the admin's lists answer."""

# The names of the addresses that each door stands for.
ADDRESSES = {
    "page": "agent_events:feed",
    "sse": "agent_events_sse",
    "ws": "agent_events_websocket",
    "history": "agent_events:events",
    "export": "agent_events:export",
    "event": "agent_events:event",
    "hidden": "agent_events:event",
    "now": "agent_events_now",
    "publish": "agent_events:events",
    "tokens": "agent_events_tokens",
    "tickets": "agent_events_tickets",
    "metrics": "agent_events_metrics",
    "healthz": "agent_events_healthz",
    "readyz": "agent_events_readyz",
    "openapi": "agent_events_openapi",
    "asyncapi": "agent_events_asyncapi",
    "docs": "agent_events_docs",
    "sign-in": "login",
    "sign-out": "logout",
    "admin index": "admin",
    "admin list": "admin",
    "admin form": "admin",
}


def expected() -> dict[tuple[str, str, str], str]:
    """(door, principal, tenant): the answer."""
    head, *lines = TABLE.strip("\n").splitlines()
    doors = head.split()
    cells: dict[tuple[str, str, str], str] = {}
    for line in lines:
        who, words = line[:16].strip(), line[16:].split()
        for door, word in zip(doors, words, strict=True):
            own, _, foreign = word.partition("/")
            cells[door, who, OWN], cells[door, who, FOREIGN] = own, foreign or own
        for door, word in OPEN.items():
            for tenant in (OWN, FOREIGN):
                cells[door, who, tenant] = BUT.get((who, door), word)
    return cells


@dataclass(frozen=True)
class Guest:
    """Whoever comes: with which cookies and headers, and a ticket for each time."""

    cookies: dict[str, str] = field(default_factory=dict)
    bearer: str = ""
    ticket: Callable[[], str] | None = None

    def headers(self, server: Server) -> dict[str, str]:
        made = {"Origin": server.url}
        if self.cookies:
            made["Cookie"] = cookie_header(self.cookies)
        if self.bearer:
            made["Authorization"] = f"Bearer {self.bearer}"
        return made

    def secrets(self) -> list[str]:
        return [text for text in (self.bearer, *self.cookies.values()) if text]

    def query(self, tenant: str) -> str:
        return f"tenant={tenant}" + (f"&ticket={self.ticket()}" if self.ticket else "")


@dataclass
class Site:
    """One server, two tenants with an event of each of two agents, and all that may come."""

    server: Server
    tenants: dict[str, str]
    events: dict[tuple[str, str], int]
    guests: dict[str, Guest]
    client: httpx.Client

    def answer(self, door: str, who: str, which: str) -> str:
        """What one is answered at a door."""
        guest, tenant = self.guests[who], self.tenants[which]
        query, headers = guest.query(tenant), guest.headers(self.server)
        if door == "ws":
            return self._socket(query, headers)
        if door == "sse":
            with self.client.stream(
                "GET", f"/api/agents/stream?{query}", headers=headers
            ) as response:
                return str(response.status_code)
        event = {"tenantId": tenant, "agentId": AGENT, "type": "note", "payload": {}}
        method, path, body = {
            "page": ("GET", f"/?{query}", None),
            "history": ("GET", f"/api/agents/events?{query}", None),
            "event": ("GET", f"/api/agents/events/{self.events[which, AGENT]}?{query}", None),
            "hidden": ("GET", f"/api/agents/events/{self.events[which, OTHER_AGENT]}", None),
            "export": ("GET", f"/api/agents/export?{query}", None),
            "now": ("GET", f"/api/agents/now?{query}", None),
            "publish": ("POST", "/api/agents/events", event),
            "tokens": ("POST", "/api/agents/tokens", {"tenant": tenant}),
            "tickets": ("POST", "/api/agents/tickets", {}),
            "metrics": ("GET", f"/metrics?{query}", None),
            "healthz": ("GET", "/healthz", None),
            "readyz": ("GET", "/readyz", None),
            "openapi": ("GET", "/api/agents/openapi.json", None),
            "asyncapi": ("GET", "/api/agents/asyncapi.json", None),
            "docs": ("GET", "/api/agents/docs", None),
            "sign-in": ("GET", "/accounts/login/", None),
            "sign-out": ("POST", "/accounts/logout/", {}),
            "admin index": ("GET", f"/admin/?{query}", None),
            "admin list": ("GET", "/admin/agent_events/agentevent/", None),
            "admin form": ("GET", "/admin/agent_events/tenant/add/", None),
        }[door]
        response = self.client.request(method, path, headers=headers, json=body)
        assert not [secret for secret in guest.secrets() if secret in response.text], (door, who)
        if response.status_code == 401:
            assert response.headers["www-authenticate"].startswith("Bearer"), (door, who)
        if response.status_code == 403 and door not in ("sign-out",) and "admin" not in door:
            assert "right" in response.text or door == "tokens", (door, who, response.text)
        return str(response.status_code)

    def _socket(self, query: str, headers: dict[str, str]) -> str:
        origin = headers.pop("Origin")
        try:
            with websocket(
                f"{self.server.ws_url}/ws/agents/stream?{query}",
                additional_headers=headers,
                origin=origin,  # type: ignore[arg-type]
                proxy=None,
            ) as connection:
                try:
                    said = json.loads(connection.recv(10))
                    while said["type"] != "hello":
                        said = json.loads(connection.recv(10))
                except ConnectionClosed as closed:
                    return str(closed.rcvd.code) if closed.rcvd else "cut"
                return "in"
        except InvalidStatus as refused:
            return f"HTTP {refused.response.status_code}"


def principal_of(key: str, tenant: str) -> Principal:
    """Whom a key stands for, to sign as the server does."""
    return Principal(
        id=f"key:{key.split('_')[1]}",
        rights=frozenset({Right.SUBSCRIBE, Right.PUBLISH}),
        named=(TenantRef(uuid.UUID(tenant), "Own"),),
    )


@pytest.fixture(scope="module")
def site(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    name = f"who_may_{uuid.uuid4().hex[:8]}"
    dsn = postgres.dsn(name)
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as maintenance:
        maintenance.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}".encode())
        server = Server(
            dsn,
            tmp_path_factory.mktemp("who") / "server.log",
            env={
                "DJANGO_SECRET_KEY": settings.SECRET_KEY,
                **bus_settings(METRICS_TOKEN=METRICS_TOKEN, AUTH_TIMEOUT_S=0.2),
            },
        )
        try:
            server.start()
            with httpx.Client(base_url=server.url, timeout=20) as client:
                yield prepared(dsn, server, client)
        finally:
            server.stop()
            maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def prepared(dsn: str, server: Server, client: httpx.Client) -> Site:
    own, foreign = make_tenant(dsn, "Own"), make_tenant(dsn, "Foreign")
    with psycopg.connect(dsn, autocommit=True) as db:
        events = {
            (which, agent): insert(db, tenant, agent=agent)
            for which, tenant in ((OWN, own), (FOREIGN, foreign))
            for agent in (AGENT, OTHER_AGENT)
        }
        db.execute("SELECT agent_events_append()")
        make_user(dsn, "member", tenants=[own])
        make_user(dsn, "nomember")
        make_user(dsn, "staff")
        make_user(dsn, "root", superuser=True)
        make_user(dsn, "gone", tenants=[own])
        db.execute("UPDATE auth_user SET is_staff = true WHERE username = 'staff'")
        sessions = {
            name: login(server, name) for name in ("member", "nomember", "staff", "root", "gone")
        }
        db.execute("UPDATE auth_user SET is_active = false WHERE username = 'gone'")
    both = make_key(dsn, own)
    revoked = make_key(dsn, own)
    revoke_key(dsn, revoked)
    maker, tenant_id = principal_of(both, own), uuid.UUID(own)
    only = Filter(agents=(AGENT,))

    def token(filter: Filter, seconds: float) -> str:
        return tokens.make_token(maker, tenant_id, filter, seconds).text

    used = tokens.make_ticket(maker).text
    with client.stream("GET", f"/api/agents/stream?ticket={used}") as response:
        assert response.status_code == 200
    guests = {
        "nobody": Guest(),
        "member": Guest(sessions["member"]),
        "no member": Guest(sessions["nomember"]),
        "staff": Guest(sessions["staff"]),
        "superuser": Guest(sessions["root"]),
        "inactive": Guest(sessions["gone"]),
        "key: publish": Guest(bearer=make_key(dsn, own, subscribe=False)),
        "key: subscribe": Guest(bearer=make_key(dsn, own, publish=False)),
        "key: both": Guest(bearer=both),
        "expired key": Guest(bearer=make_key(dsn, own, lives="-1 hour")),
        "revoked key": Guest(bearer=revoked),
        "token": Guest(bearer=token(Filter(), 600)),
        "restricted": Guest(bearer=token(only, 600)),
        "token in cookie": Guest({"agent_events_token": token(Filter(), 600)}),
        "expired token": Guest(bearer=token(Filter(), -1)),
        "ticket": Guest(ticket=lambda: tokens.make_ticket(maker).text),
        "used ticket": Guest(ticket=lambda: used),
        "garbage": Guest(bearer="ae_nonsense_" + "x" * 43),
        "metrics token": Guest(bearer=METRICS_TOKEN),
    }
    return Site(server, {OWN: own, FOREIGN: foreign}, events, guests, client)


@pytest.mark.parametrize("door", list(ADDRESSES))
def test_everybody_is_answered_at_this_door_as_the_table_says(site: Site, door: str) -> None:
    told = {cell: word for cell, word in expected().items() if cell[0] == door}
    found = {cell: site.answer(*cell) for cell in told}
    assert {c: w for c, w in found.items() if w != told[c]} == {}


def test_no_cell_is_missing(site: Site) -> None:
    every = {(d, who, which) for d in ADDRESSES for who in site.guests for which in (OWN, FOREIGN)}
    assert set(expected()) == every


def test_no_address_is_without_a_door_in_the_table() -> None:
    routes = [*routing.http_urlpatterns, *routing.websocket_urlpatterns]
    found = {str(route.name) for route in routes if isinstance(route, URLPattern)}
    assert len(found) == len(routes)
    for entry in project_urls.urlpatterns:
        if isinstance(entry, URLPattern):
            found.add(str(entry.name))
        elif isinstance(entry, URLResolver) and entry.namespace == "agent_events":
            found |= {f"agent_events:{route.name}" for route in page_urls.urlpatterns}
        else:
            assert isinstance(entry, URLResolver)
            found.add(str(entry.namespace))
    assert found == set(ADDRESSES.values())


def test_no_page_of_the_admin_lets_in_whoever_lacks_djangos_permission(site: Site) -> None:
    names = [(model._meta.app_label, model._meta.model_name) for model in admin.site._registry]
    assert len(names) > 5
    for app, model in names:
        path = f"/admin/{app}/{model}/"
        for who, status in (
            ("member", 302),
            ("staff", 403),
            ("superuser", 200),
            ("key: both", 302),
        ):
            headers = site.guests[who].headers(site.server)
            assert site.client.get(path, headers=headers).status_code == status, (path, who)


def test_nothing_that_was_asked_left_a_trace_of_a_secret(site: Site) -> None:
    log = site.server.log()
    for who, guest in site.guests.items():
        assert not [secret for secret in guest.secrets() if secret in log], who
    assert "Internal Server Error" not in log
    assert "Exception in" not in log
