"""docs/install.md, followed literally in a project of `django-admin startproject`, with the wheel.

Nothing here is asynchronous: Chromium, driven synchronously, holds the main thread's event loop.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as websocket

from project.embedded import EmbeddedPostgres
from tests.support import Server, cookie_header, login
from tests.support.site import Site, blocks, make_environment
from tests.support.streams import EventStream, event_stream

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

TENANT = "0f5b1c4e-8f0a-4c7e-9d5e-3a1b2c3d4e5f"  # the document's
AGENT = "5eed0000-0000-4000-8000-000000000001"
SIGN_IN = "/admin/login/"
_, DAPHNE, UVICORN = (text.strip() for what, text in blocks("## See an event") if what == "run")


class Databases:
    """Empty databases, and copies of others, that are dropped at the end."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._made: list[str] = []

    def new(self, template: str = "template1") -> str:
        name = f"site_{uuid.uuid4().hex[:12]}"
        statement = SQL("CREATE DATABASE {} TEMPLATE {}")
        self._run(statement.format(Identifier(name), Identifier(template)))
        self._made.append(name)
        return name

    def dsn(self, name: str) -> str:
        return self._postgres.dsn(name)

    def drop(self) -> None:
        for name in self._made:
            self._run(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def rows(self, name: str, query: str) -> list[Any]:
        with psycopg.connect(self.dsn(name)) as connection:
            return connection.execute(query.encode()).fetchall()

    def _run(self, statement: Any) -> None:
        with psycopg.connect(self._postgres.dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="module")
def databases(postgres: EmbeddedPostgres) -> Iterator[Databases]:
    made = Databases(postgres)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def installed(
    wheel: Path, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, str]:
    """The document's project after its first part, and the name of its database."""
    folder = tmp_path_factory.mktemp("site")
    name = databases.new()
    site = Site(folder, make_environment(folder), databases.dsn(name), wheel.parent)
    site.follow("## Install")
    return site, name


@pytest.fixture
def copied(
    installed: tuple[Site, str], databases: Databases, tmp_path: Path
) -> Callable[[], tuple[Site, str]]:
    """`copied()`: that project and its database once more, to be changed."""

    def copy() -> tuple[Site, str]:
        site, name = installed
        folder = tmp_path / "copy"
        own = databases.new(name)
        made = Site(folder, site.programs, databases.dsn(own), site.home)
        made.here = shutil.copytree(site.here, folder / "mysite")
        settings = made.here / "mysite" / "settings.py"
        settings.write_text(settings.read_text().replace(f'"{name}"', f'"{own}"'))
        return made, own

    return copy


@contextmanager
def running(site: Site, line: str, folder: Path, **env: str) -> Iterator[Server]:
    server = site.server(line, folder / "server.log", env)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def watching(url: str, cookies: dict[str, str], query: str = "") -> Iterator[EventStream]:
    """A client of Server-Sent Events at whatever address, once it is live."""
    headers = {"Cookie": cookie_header(cookies)}
    with httpx.stream("GET", f"{url}?{query}", headers=headers, timeout=20) as response:
        response.raise_for_status()
        stream = EventStream(response.iter_lines())
        assert next(stream.messages())[0] == "hello"
        yield stream


def send(site: Site) -> None:
    """The event of the document, as it says to send it."""
    ((_, text),) = [block for block in blocks("## See an event") if block[0] == "event"]
    site.shell(text)


def hello(url: str, cookies: dict[str, str], origin: str) -> Any:
    """The first frame of a WebSocket."""
    headers = {"Cookie": cookie_header(cookies)}
    with websocket(url, additional_headers=headers, origin=origin) as socket:  # type: ignore[arg-type]
        return json.loads(socket.recv(10))


def attribute(page: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', page)
    assert found is not None, f"no {name} in the page"
    return found[1]


# The document itself


def test_the_document_leads_to_an_event_on_the_page_and_on_the_stream(
    installed: tuple[Site, str], tmp_path: Path
) -> None:
    site, _ = installed
    where = "import agent_events; print(agent_events.__file__)"
    assert str(site.home / "venv") in site.shell(f"python -c '{where}'")
    assert site.shell("python -c 'import project' 2>&1 || true").strip().endswith("'project'")

    lines = [text.strip() for what, text in blocks("## See an event") if what == "run"]
    assert len(lines) == 3
    for line in lines:
        with running(site, line, tmp_path) as server:
            cookies = login(server, "admin", "change-me", path=SIGN_IN)
            with event_stream(server, cookies, f"tenant={TENANT}") as stream:
                assert next(stream.messages())[0] == "hello"
                send(site)
                (event,) = stream.events(1)
            assert event["type"] == "turn_complete"
            assert event["payload"] == {"tokens": 142, "latency": 820}
            assert hello(f"{server.ws_url}/ws/agents/stream", cookies, server.url)
            page = httpx.get(f"{server.url}/agents/", cookies=cookies)
            assert f'id="event-{event["id"]}"' in page.text
            if "runserver" in line:
                module = re.search(r'<script type="module" src="([^"]+)"', page.text)
                assert module is not None
                assert httpx.get(server.url + module[1]).status_code == 200


SOCKETS = """
from channels.generic.websocket import WebsocketConsumer
from django.urls import path


class Echo(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(f"{self.scope['user']} says {text_data}")


my_routes = [path("echo", Echo.as_asgi())]
"""


def test_a_project_with_websockets_of_its_own_puts_it_together_by_hand(
    copied: Callable[[], tuple[Site, str]], tmp_path: Path
) -> None:
    site, _ = copied()
    site.write("mysite/sockets.py", SOCKETS)
    ((_, text),) = [block for block in blocks("### The streams") if block[0] == "by hand"]
    site.add("mysite/asgi.py", text)
    site.add("mysite/settings.py", 'FORCE_SCRIPT_NAME = "/tools"\n')
    with running(site, DAPHNE, tmp_path) as server:
        for prefix in ("", "/tools"):
            cookies = login(server, "admin", "change-me", path=f"{prefix}{SIGN_IN}")
            assert hello(f"{server.ws_url}{prefix}/ws/agents/stream", cookies, server.url)
            mine, asked = (
                f"{server.ws_url}{prefix}/ws/mine/echo",
                {"Cookie": cookie_header(cookies)},
            )
            with websocket(mine, additional_headers=asked, origin=server.url) as socket:  # type: ignore[arg-type]
                socket.send("hello")
                assert socket.recv(10) == "admin says hello"
            foreign: Any = {"additional_headers": asked, "origin": "http://evil.example"}
            for url in (mine, f"{server.ws_url}{prefix}/ws/agents/stream", f"{server.ws_url}/ws/x"):
                with pytest.raises(InvalidStatus):
                    websocket(url, **foreign).close()
            event = {"tenantId": TENANT, "agentId": AGENT, "type": "by_hand", "payload": {}}
            url, own = f"{server.url}{prefix}/api/agents/events", {"Origin": server.url}
            assert httpx.post(url, json=event, cookies=cookies, headers=own).status_code == 201
            history = f"{server.url}{prefix}/agents/api/agents/events"
            assert httpx.get(history, cookies=cookies).status_code == 200
            assert httpx.get(f"{server.url}{prefix}/agents/", cookies=cookies).status_code == 200
        assert "Traceback" not in server.log()


def test_in_development_asgi_py_can_serve_the_static_files(
    copied: Callable[[], tuple[Site, str]], tmp_path: Path
) -> None:
    site, _ = copied()
    with running(site, DAPHNE, tmp_path) as server:
        style = "/static/agent_events/base.css"
        assert httpx.get(server.url + style).status_code == 404
        server.stop()
        site.follow("## See an event")
        server.start()
        assert httpx.get(server.url + style).status_code == 200
        cookies = login(server, "admin", "change-me", path=SIGN_IN)
        assert hello(f"{server.ws_url}/ws/agents/stream", cookies, server.url)


def test_checks_find_nothing_wrong_with_what_the_document_made(
    installed: tuple[Site, str],
) -> None:
    site, _ = installed
    assert "no issues" in site.shell("python manage.py check --database default")


# Variants


def test_the_site_below_a_prefix_whether_the_proxy_takes_it_off_or_not(
    copied: Callable[[], tuple[Site, str]], tmp_path: Path
) -> None:
    site, _ = copied()
    site.follow("## Addresses")
    assert "no issues" in site.shell("python manage.py check")
    with running(site, DAPHNE, tmp_path) as server:
        cookies = login(server, "admin", "change-me", path=f"/tools{SIGN_IN}")
        for prefix in ("/tools", ""):
            page = httpx.get(f"{server.url}{prefix}/agents/", cookies=cookies)
            assert attribute(page.text, "data-stream-path") == "/tools/ws/agents/stream"
            assert attribute(page.text, "href").startswith("/tools/static/")
            assert attribute(page.text, "data-login-url").startswith("/tools/admin/login/")
            with watching(f"{server.url}{prefix}/api/agents/stream", cookies) as stream:
                send(site)
                assert len(stream.events(1)) == 1
            assert hello(f"{server.ws_url}{prefix}/ws/agents/stream", cookies, server.url)
            history = httpx.get(
                f"{server.url}{prefix}/agents/api/agents/events?limit=1", cookies=cookies
            ).json()
            assert history["next"].startswith(f"{prefix}/agents/api/agents/events?")
            assert httpx.get(f"{server.url}{prefix}/healthz").status_code == 200
        assert httpx.get(f"{server.url}/toolsagents/").status_code == 404


def test_a_servers_own_root_path(installed: tuple[Site, str], tmp_path: Path) -> None:
    site, _ = installed
    # Uvicorn puts it in front of every address, Daphne in front of none.
    for line, prefix in ((UVICORN, ""), (DAPHNE, "/tools"), (DAPHNE, "")):
        with running(site, f"{line} --root-path /tools", tmp_path) as server:
            cookies = login(server, "admin", "change-me", path=f"{prefix}{SIGN_IN}")
            page = httpx.get(f"{server.url}{prefix}/agents/", cookies=cookies)
            assert attribute(page.text, "data-stream-path") == "/tools/ws/agents/stream"
            assert hello(f"{server.ws_url}{prefix}/ws/agents/stream", cookies, server.url)
            with watching(f"{server.url}{prefix}/api/agents/stream", cookies):
                pass
            assert httpx.get(f"{server.url}{prefix}/readyz").status_code == 200


PERSON = """
import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class People(BaseUserManager):
    def create_user(self, email, password=None, **more):
        person = self.model(email=email, **more)
        person.set_password(password)
        person.save()
        return person

    def create_superuser(self, email, password=None, **more):
        return self.create_user(email, password, is_superuser=True, is_staff=True, **more)


class Person(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=False)
    objects = People()
    USERNAME_FIELD = "email"
"""


def test_a_user_model_of_the_projects_own(
    copied: Callable[[], tuple[Site, str]], databases: Databases, tmp_path: Path
) -> None:
    site, name = copied()
    empty = databases.new()
    site.replaced = {f'"{name}"': f'"{empty}"'}
    site.shell("python manage.py startapp people")
    site.write("people/models.py", PERSON)
    site.add(
        "mysite/settings.py", 'INSTALLED_APPS += ["people"]\nAUTH_USER_MODEL = "people.Person"\n'
    )
    site.shell("python manage.py makemigrations people && python manage.py migrate")
    make = (
        "from people.models import Person as P;"
        " P.objects.create_user('ann@example.com', 'ann', is_staff=True);"
        " P.objects.create_user('eve@example.com', 'eve', is_staff=True)"
    )
    site.shell(
        f'python manage.py shell -c "{make}"\n'
        f"python manage.py create_tenant Acme --id {TENANT} --member ann@example.com\n"
    )
    with running(site, DAPHNE, tmp_path) as server:
        ann = login(server, "ann@example.com", "ann", path=SIGN_IN)
        eve = login(server, "eve@example.com", "eve", path=SIGN_IN)
        page = httpx.get(f"{server.url}/agents/", cookies=ann)
        assert "ann@example.com" in page.text
        assert httpx.get(f"{server.url}/agents/?tenant={TENANT}", cookies=eve).status_code == 404
        with watching(f"{server.url}/api/agents/stream", ann) as stream:
            send(site)
            assert len(stream.events(1)) == 1
        refused = httpx.get(f"{server.url}/api/agents/stream?tenant={TENANT}", cookies=eve)
        assert refused.status_code == 404


TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def test_a_log_in_a_database_of_its_own(
    copied: Callable[[], tuple[Site, str]], databases: Databases, tmp_path: Path
) -> None:
    site, name = copied()
    rest, events = databases.new(), databases.new()
    site.replaced = {f'"{name}"': f'"{rest}"', '"mysite_events"': f'"{events}"'}
    site.follow("## A database of its own")
    in_events = [table for (table,) in databases.rows(events, TABLES)]
    assert {"agent_events", "agent_event_batches", "agent_event_bus"} < set(in_events)
    assert all(re.match("agent_event|django_migrations", table) for table in in_events)
    assert not [table for table in in_events if table.startswith("agent_events_")]
    in_rest = [table for (table,) in databases.rows(rest, TABLES) if "agent_event" in table]
    assert in_rest == [
        "agent_event_api_keys",
        "agent_event_spent_tickets",
        "agent_events_membership",
        "agent_events_tenant",
    ]

    assert "no issues" in site.shell("python manage.py check --database events")
    make = (
        "from django.contrib.auth.models import User as U;"
        " U.objects.create_superuser('admin', password='change-me');"
        " U.objects.create_user('ann', password='ann', is_staff=True)"
    )
    site.shell(
        f'python manage.py shell -c "{make}"\n'
        f"python manage.py create_tenant Acme --id {TENANT} --member admin --member ann"
    )
    with running(site, DAPHNE, tmp_path) as server:
        ann = login(server, "ann", path=SIGN_IN)
        with watching(f"{server.url}/api/agents/stream", ann) as stream:
            send(site)
            (event,) = stream.events(1)
        page = httpx.get(f"{server.url}/agents/", cookies=ann)
        assert f'id="event-{event["id"]}"' in page.text
        one = httpx.get(f"{server.url}/agents/api/agents/events/{event['id']}", cookies=ann)
        assert one.json() == event
        admin = login(server, "admin", "change-me", path=SIGN_IN)
        listed = httpx.get(f"{server.url}/admin/agent_events/agentevent/", cookies=admin)
        assert listed.status_code == 200
        assert "turn_complete" in listed.text
        with httpx.Client(base_url=server.url, cookies=admin) as client:
            token = attribute(client.get("/admin/agent_events/tenant/add/").text, "value")
            form = {
                "csrfmiddlewaretoken": token,
                "name": "Globex",
                "membership_set-TOTAL_FORMS": "1",
                "membership_set-INITIAL_FORMS": "0",
                "membership_set-0-user": "2",
            }
            answer = client.post("/admin/agent_events/tenant/add/", data=form)
            assert answer.status_code == 302, answer.text
        assert "nothing" in site.shell("python manage.py bus_status").lower()
    members = "SELECT count(*) FROM agent_events_membership"
    assert databases.rows(rest, members) == [(3,)]
    site.shell(
        'python manage.py shell -c "from django.contrib.auth.models import User;'
        " User.objects.get(username='ann').delete()\""
    )
    assert databases.rows(rest, members) == [(1,)]

    site.shell("python manage.py migrate agent_events zero --database events")
    assert "dropped the log with 1 events" in site.said
    site.shell("python manage.py migrate agent_events zero")
    for name in (rest, events):
        assert not [t for (t,) in databases.rows(name, TABLES) if t.startswith("agent_event")]


def test_login_required_middleware_redirects_people_and_no_script(
    copied: Callable[[], tuple[Site, str]], tmp_path: Path
) -> None:
    site, _ = copied()
    site.add(
        "mysite/settings.py",
        'MIDDLEWARE += ["django.contrib.auth.middleware.LoginRequiredMiddleware"]\n',
    )
    (runserver, *_) = [text.strip() for what, text in blocks("## See an event") if what == "run"]
    with running(site, runserver, tmp_path) as server:
        page = httpx.get(f"{server.url}/agents/?type=error")
        assert page.status_code == 302
        assert page.headers["location"] == "/admin/login/?next=/agents/%3Ftype%3Derror"
        for path in (
            "/api/agents/stream",
            "/agents/api/agents/events",
            "/agents/api/agents/events/1",
        ):
            refused = httpx.get(server.url + path)
            assert refused.status_code == 401, path
            assert refused.json()["detail"].startswith("Sign in first")
        socket = websocket(f"{server.ws_url}/ws/agents/stream", origin=server.url)  # type: ignore[arg-type]
        with pytest.raises(ConnectionClosed) as closed, socket:
            socket.send('{"type":"ack","cursor":"none"}')  # in place of who it is
            while True:
                socket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        for path in ("/healthz", "/readyz", "/static/agent_events/main.js"):
            assert httpx.get(server.url + path).status_code == 200, path
        cookies = login(server, "admin", "change-me", path=SIGN_IN)
        assert httpx.get(f"{server.url}/agents/", cookies=cookies).status_code == 200


@pytest.fixture
def collected(copied: Callable[[], tuple[Site, str]]) -> Site:
    """A project as it is deployed: hashed static files, and no DEBUG."""
    site, _ = copied()
    site.follow("## Static files")
    site.follow("## Settings", "deploy.md")
    # No TLS and no name here.
    site.add(
        "mysite/settings.py",
        "SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = False\n"
        "ALLOWED_HOSTS = ['127.0.0.1']\n",
    )
    return site


def test_hashed_static_files_name_each_other_by_their_hashes(
    collected: Site, tmp_path: Path
) -> None:
    folder = collected.here / "collected"
    with running(collected, UVICORN, tmp_path) as server:
        cookies = login(server, "admin", "change-me", path=SIGN_IN)
        page = httpx.get(f"{server.url}/agents/", cookies=cookies).text
    todo = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", name), f"{name} has no hash"
        text = (folder / name).read_text()
        todo += [
            posixpath.normpath(f"{posixpath.dirname(name)}/{found}")
            for found in re.findall(r'^import .* from "(\.[^"]+)";', text, re.MULTILINE)
        ]
    ours = {path.relative_to(folder).as_posix() for path in folder.rglob("agent_events/**/*.*.js")}
    others = re.compile(r"agent_events/(admin/|embed\.)")  # of other pages
    assert {name for name in seen if name.endswith(".js")} == {
        name for name in ours if not others.match(name)
    }
    assert len(ours) > 5


def test_the_page_is_live_with_hashed_static_files_and_without_debug(
    collected: Site, tmp_path: Path, page: Page
) -> None:
    from playwright.sync_api import expect

    folder = collected.here / "collected"
    missed: list[str] = []

    def serve(route: Route) -> None:
        """What a web server in front does."""
        file = folder / route.request.url.partition("/static/")[2]
        if file.is_file():
            route.fulfill(path=file)
        else:
            missed.append(route.request.url)
            route.fulfill(status=404)

    page.route("**/static/**", serve)
    with running(collected, UVICORN, tmp_path) as server:
        page.goto(f"{server.url}/agents/")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill("change-me")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#state-words")).to_have_text("Live", timeout=30_000)
        rows = page.locator("#events > .row")
        before = rows.count()
        send(collected)
        expect(rows).to_have_count(before + 1, timeout=30_000)
        (look,) = [text for what, text in blocks("## Settings", "deploy.md") if what == "check"]
        assert "Nothing is wrong" in collected.shell(look)
    assert missed == []


# The way out


def test_removing_it_says_what_goes_and_leaves_the_rest(
    copied: Callable[[], tuple[Site, str]], databases: Databases
) -> None:
    site, name = copied()
    send(site)
    left = site.follow("## Remove")
    (text,) = left["remove"]
    plan, remove = text.splitlines()
    assert "drop_tables.sql" in site.shell(plan)
    site.shell(remove)
    assert re.search(r"dropped the log with \d+ events", site.said)
    assert not [t for (t,) in databases.rows(name, TABLES) if t.startswith("agent_event")]
    assert databases.rows(name, "SELECT username FROM auth_user") == [("admin",)]
