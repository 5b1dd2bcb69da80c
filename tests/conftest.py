"""Fixtures: a real PostgreSQL, a fresh database for each test, real servers, a real browser.

With pytest-xdist every worker has a PostgreSQL of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier, Literal

from project.embedded import EmbeddedPostgres
from tests.support import Server, make_tenant, make_user, manage
from tests.support.database import ROOT
from tests.support.waiting import LATE_S

if TYPE_CHECKING:
    from django.test import Client
    from playwright.sync_api import Browser, Page

    from tests.support.live_page import Site
    from tests.support.stream_client import World

# A shell that runs the tests in its background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

REQUIRE_ALL = bool(os.environ.get("AGENT_EVENTS_REQUIRE_ALL"))

# Chromium would otherwise call its maker's servers.
CHROMIUM_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
    "--no-default-browser-check",
]

# A clone's own settings must not leak into the tests.
for name in (
    "AGENT_EVENTS_BROKER_URL",
    "AGENT_EVENTS_LISTENER_DSN",
    "BROKER",
    "DATABASE_URL",
    "DATA_DIR",
    "PORT",
):
    os.environ.pop(name, None)


def find_program(name: str) -> str:
    """Path of an optional program; skips the test without it, or fails it if all are required."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        message = f"{name} is not installed (apt-get install {name})"
        if REQUIRE_ALL:
            pytest.fail(message)
        pytest.skip(message)
    return path


def node_modules(request: pytest.FixtureRequest, name: str, *packages: str) -> Path:
    """A `node_modules` with these packages of npm's, fetched once and kept with pytest's cache.

    Skips the test, or fails it if all is required, where they cannot be had.
    """
    npm = find_program("npm")
    assert request.config.cache is not None
    folder = request.config.cache.mkdir(name)
    fetched = folder / "fetched"
    if not fetched.exists() or fetched.read_text() != "\n".join(packages):
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            message = f"npm could not install {', '.join(packages)}:\n{done.stderr}"
            if REQUIRE_ALL:
                pytest.fail(message)
            pytest.skip(message)
        fetched.write_text("\n".join(packages))
    return folder / "node_modules"


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The PostgreSQL server of this test run. It dies with the run, even by kill -9."""
    folder = Path(tempfile.mkdtemp(prefix="agent-events-tests-"))
    folder.chmod(0o711)  # the server may run as another user than we
    server = EmbeddedPostgres(
        folder / "data",
        settings={
            "fsync": "off",
            "max_connections": "200",
            "max_prepared_transactions": "20",
        },
        die_with_parent=True,
    )
    server.start()
    yield server
    server.destroy()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres: EmbeddedPostgres) -> None:
    """Point Django's own test database (fixtures `db`, `transactional_db`) to `postgres`."""
    from django.conf import settings
    from django.db import connections

    parts = conninfo_to_dict(postgres.dsn())
    found = {
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "PASSWORD": parts["password"],
        "HOST": parts["host"],
        "PORT": str(parts["port"]),
    }
    settings.DATABASES["default"].update(found)
    connections["default"].settings_dict.update(found)


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """Name of a database that `manage.py migrate` has prepared, to be copied."""
    name = "template_agent_events"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    manage("migrate", "--skip-checks", "--verbosity=0", dsn=postgres.dsn(name))
    return name


@pytest.fixture
def dsn(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """libpq URL of a fresh, migrated database, which is dropped after the test."""
    with fresh_database(postgres, template_database) as url:
        yield url


@contextmanager
def fresh_database(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """The same for as long as it is needed: a module that shares one, say."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(
                Identifier(name), Identifier(template_database)
            )
        )
        yield postgres.dsn(name)
        # A prepared transaction left over by a test would forbid the drop.
        left = connection.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]
        ).fetchall()
        if left:
            with psycopg.connect(postgres.dsn(name), autocommit=True) as inside:
                for (gid,) in left:
                    inside.execute(SQL("ROLLBACK PREPARED {}").format(Literal(gid)))
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree without asking any package index."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), "."],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = target.glob("agent_events-*.whl")
    return path


Connect = Callable[..., psycopg.Connection[Any]]
Report = Callable[[str, object], None]


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """`report(name, value)`: shown after the run, in the section "recovery"."""

    def tell(name: str, value: object) -> None:
        record_property("recovery", f"{name}: {value}")

    return tell


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """`connect(**kwargs)`: a psycopg connection to `dsn`, autocommit unless told otherwise."""
    opened: list[psycopg.Connection[Any]] = []

    def open_connection(**kwargs: Any) -> psycopg.Connection[Any]:
        connection = psycopg.connect(dsn, **{"autocommit": True, **kwargs})
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
def django(dsn: str, django_db_blocker: Any) -> Iterator[None]:
    """Django of this process on `dsn`."""
    from tests.support.django_log import django_on

    with django_db_blocker.unblock(), django_on(dsn):
        yield


@pytest.fixture
def root(django: None) -> Client:
    """A superuser's client."""
    from django.contrib.auth import get_user_model

    from tests.support.clients import client_of

    return client_of(get_user_model().objects.create_superuser("root"))


@pytest.fixture
def cluster() -> Iterator[Callable[..., EmbeddedPostgres]]:
    """`cluster(**settings)`: a PostgreSQL of the test's own, migrated, to be broken at will."""
    made: list[tuple[EmbeddedPostgres, Path]] = []

    def make(**settings: str) -> EmbeddedPostgres:
        folder = Path(tempfile.mkdtemp(prefix="agent-events-tests-"))
        folder.chmod(0o711)
        one = EmbeddedPostgres(
            folder / "data", settings={"fsync": "off", **settings}, die_with_parent=True
        )
        made.append((one, folder))
        manage("migrate", "--skip-checks", "--verbosity=0", dsn=one.start())
        return one

    yield make
    for one, folder in made:
        one.destroy()
        shutil.rmtree(folder)


@pytest.fixture
def server(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`server(env={}, port=None, args=(), command=None)`: a started server process on `dsn`."""
    started: list[Server] = []

    def start(**kwargs: Any) -> Server:
        one = Server(dsn, tmp_path / f"server-{len(started)}.log", **kwargs)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, driven by Playwright's synchronous interface.

    For a module, not for the session: while it is open its event loop counts as running in the
    main thread, where no asynchronous test can run then. Keep such tests in other modules.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=LATE_S * 1000)
    chromium = find_program("chromium")
    flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a browser context of its own, without cookies."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def page_server(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """One server for all tests here, and the DSN of its database: each test has its own tenant."""
    name = f"test_page_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        server = Server(postgres.dsn(name), tmp_path_factory.mktemp("page") / "server.log")
        yield server.start(), postgres.dsn(name)
        server.stop()
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def site(page_server: tuple[Server, str], page: Page) -> Iterator[Site]:
    """The live page: signed in, live, and quiet in the console to the end."""
    from tests.support.live_page import Site

    server, dsn = page_server
    if server.process is None:  # a test that failed may have left it so
        server.start()
    tenant = make_tenant(dsn, f"Harbour {uuid.uuid4().hex[:8]}")
    username = f"mara-{uuid.uuid4().hex[:8]}"
    make_user(dsn, username, tenants=[tenant])
    with psycopg.connect(dsn, autocommit=True) as database:
        made = Site(server, page, database, tenant)
        page.on("console", lambda message: made.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: made.console.append(f"exception: {error}"))
        made.sign_in(username)
        yield made
    # The browser itself reports a server that is away, and a name typed before the sign-in form
    # took the focus; all else is our mistake, such as what the Content-Security-Policy refuses.
    its_own = ("net::ERR_", "Autofocus processing was blocked")
    complaints = [line for line in made.console if not any(its in line for its in its_own)]
    assert not complaints


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the tests of faults measured."""
    lines = [
        str(value)
        for outcome in ("passed", "failed")
        for made in terminalreporter.stats.get(outcome, [])
        for name, value in made.user_properties
        if name == "recovery"
    ]
    if lines:
        terminalreporter.section("recovery")
        for line in lines:
            terminalreporter.write_line(line)


MakeWorld = Callable[..., "World"]


@pytest.fixture
def make_world(dsn: str, server: Callable[..., Server], page: Page, connect: Connect) -> MakeWorld:
    """`make_world(**settings)`: signed in, on a server with these AGENT_EVENTS."""
    from tests.support.stream_client import World
    from tests.support.tokens import token_settings

    def make(**settings: object) -> World:
        tenant = make_tenant(dsn, "Harbour")
        user = make_user(dsn, "ann", tenants=[tenant])
        changed = {"REVOKE_WITHIN_S": 2.0, "HEARTBEAT_S": 0.5, **settings}
        made = World(dsn, server(env=token_settings(**changed)), page, connect(), tenant, user)
        made.sign_in()
        return made

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The same, of usual settings."""
    return make_world()
