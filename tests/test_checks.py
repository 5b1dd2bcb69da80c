"""System checks: each misconfiguration is seen, with what to do; a good project hears nothing."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings as django_settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage, staticfiles_storage
from django.core.asgi import get_asgi_application
from django.core.checks import CheckMessage, Error, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections
from django.test import override_settings
from django.urls import path, re_path

from agent_events import checks
from agent_events.checks import _guarded, database, streams
from agent_events.conf import get_settings
from agent_events.facts import Setup
from agent_events.routing import application, http_urlpatterns, websocket_urlpatterns
from tests.support import manage
from tests.support.database import ROOT

DOC = ROOT / "docs" / "checks.md"
POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "PORT": ""}
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
APPS = list(django_settings.INSTALLED_APPS)


def found(*, deploy: bool = False, databases: list[str] | None = None) -> dict[str, CheckMessage]:
    """What our checks say, by id."""
    messages = run_checks(tags=[checks.TAG], include_deployment_checks=deploy, databases=databases)
    return {str(message.id): message for message in messages}


def only(id: str, *words: str, **kwargs: Any) -> CheckMessage:
    """The one finding, which has `words` in its message and says what to do."""
    messages = found(**kwargs)
    assert list(messages) == [f"agent_events.{id}"], messages
    (message,) = messages.values()
    assert message.hint
    for word in words:
        assert word in f"{message.msg} {message.hint}", message
    return message


@pytest.fixture
def asgi(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """`asgi(application)` makes it the project's."""
    module = types.ModuleType("asgi_of_the_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with override_settings(ASGI_APPLICATION=f"{module.__name__}.application"):
        yield lambda application: setattr(module, "application", application)


def test_this_project_hears_nothing_in_development_and_deployed() -> None:
    assert found(deploy=True) == {}


# AGENT_EVENTS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"POLL_INTERVALL_S": 1.0}, ["unknown keys POLL_INTERVALL_S", "POLL_INTERVAL_S"]),
        ({1: 2}, ["unknown keys 1"]),
        ({"POLL_INTERVAL_S": "1"}, ["[\"POLL_INTERVAL_S\"] is '1'", "a number, more than 0"]),
        ({"POLL_INTERVAL_S": 0}, ["is 0, expected a number, more than 0"]),
        ({"POLL_INTERVAL_S": float("nan")}, ["is nan"]),
        ({"HEARTBEAT_S": float("inf")}, ["is inf"]),
        ({"BATCH_LIMIT": True}, ["is True, expected a whole number"]),
        ({"BATCH_LIMIT": 10.0}, ["is 10.0, expected a whole number, more than 0"]),
        ({"PAGE_ROWS": -1}, ["is -1"]),
        ({"FOLLOW_PATIENCE_S": -0.1}, ["is -0.1, expected a number, 0 or more"]),
        ({"DATABASE": ""}, ["is '', expected a name"]),
        ({"CHANNEL_LAYER": None}, ["is None, expected a name"]),
        ({"BROKER_NAME": "my events"}, ["is 'my events', expected letters, digits, - and _"]),
        ({"BROKER_SHARDS": 0}, ["is 0, expected a whole number, more than 0"]),
        ([("POLL_INTERVAL_S", 1.0)], ["expected a dict"]),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_words(given: Any, words: list[str]) -> None:
    with override_settings(AGENT_EVENTS=given):
        with pytest.raises(ImproperlyConfigured) as refused:
            get_settings()
        only("E001", str(refused.value), *words)


def test_whole_numbers_for_seconds_and_no_waiting_at_all_are_fine() -> None:
    given = {"POLL_INTERVAL_S": 1, "APPEND_INTERVAL_S": 0, "FOLLOW_PATIENCE_S": 0.0}
    with override_settings(AGENT_EVENTS=given):
        assert found() == {}
        assert get_settings().poll_interval_s == 1


def test_a_broker_url_of_another_type_is_refused_without_its_password() -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": ["nats://me:s3cret@host"]}):
        message = only("E001", "BROKER_URL", "is list, expected a text")
    assert "s3cret" not in str(message)


@pytest.mark.parametrize("dsn", ["postgresql://me:s3cret@[::1", {"password": "s3cret"}])
def test_a_listener_dsn_that_is_none_is_refused_without_its_password(dsn: Any) -> None:
    with override_settings(AGENT_EVENTS={"LISTENER_DSN": dsn}):
        (message,) = found().values()
    assert message.id in ("agent_events.E001", "agent_events.E002")
    assert "LISTENER_DSN" in message.msg
    assert "s3cret" not in str(message)


def test_a_silence_that_is_suspected_too_early_is_seen() -> None:
    with override_settings(AGENT_EVENTS={"POLL_INTERVAL_S": 5.0}):
        only("W005", "POLL_INTERVAL_S (5)", '"TICK_TIMEOUT_S": 15')
    with override_settings(AGENT_EVENTS={"POLL_INTERVAL_S": 5.0, "TICK_TIMEOUT_S": 15.0}):
        assert found() == {}


# The broker


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "//me:s3cret@host",
        "kafka://me:s3cret@host:9092",
        "nats://",
        "nats://me:s3cret@:4222",
        "nats://me:s3cret@[::1",
        "nats://me:s3cret@host:s3cret",
        "nats://me:s3cret@host:0",
        "nats://me:s3cret@a:4222,redis://b:6379",
        "nats://a:4222,",
        "ws://me:s3cret@a:8080",
        "redis://me:s3cret@a:6379,redis://b:6379",
        "redis://me:s3cret@\u2100.example",  # a host that urlsplit refuses by name
    ],
)
def test_a_broker_url_that_is_none_is_seen_without_its_password(url: str) -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": url}):
        message = only("E013", "nats://user:password@host:4222", deploy=True)
    assert "s3cret" not in str(message)


@pytest.mark.parametrize(
    "url",
    [
        "nats://127.0.0.1",
        "nats://me:s3cret@localhost:4222",
        "nats://[::1]:4222,nats://127.0.0.2:4222",
        "tls://me:s3cret@a.example:4222, b.example:4222",
        "redis://:s3cret@127.0.0.1:6379/0",
        "redis://cache.example:6379/0",
        "rediss://me:s3cret@cache.example:6380/0",
        "unix://:s3cret@/run/redis/redis.sock",
    ],
)
def test_a_broker_url_is_fine_without_a_broker_that_answers(url: str) -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": url}):
        assert found(deploy=True) == {}


@pytest.mark.parametrize("extra", ["nats", "redis"])
def test_a_library_that_is_not_installed_is_seen(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    assert found() == {}
    with override_settings(AGENT_EVENTS={"BROKER_URL": f"{extra}://me:s3cret@127.0.0.1"}):
        message = only("E014", f"a {extra} server", f"pip install 'agent-events[{extra}]'")
    assert "s3cret" not in str(message)


def test_a_library_for_a_credentials_file_that_is_not_installed_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with override_settings(AGENT_EVENTS={"BROKER_URL": "nats://127.0.0.1"}):
        assert found() == {}
    given = {"BROKER_URL": "nats://127.0.0.1", "BROKER_CREDENTIALS": __file__}
    with override_settings(AGENT_EVENTS=given):
        only("E014", "BROKER_CREDENTIALS", "pip install 'nats-py[nkeys]'")


@pytest.mark.parametrize("key", ["BROKER_CREDENTIALS", "BROKER_CA_FILE"])
def test_a_file_of_the_broker_that_cannot_be_read_is_seen(key: str, tmp_path: Path) -> None:
    given = {"BROKER_URL": "tls://127.0.0.1"}
    for where, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with override_settings(AGENT_EVENTS={**given, key: str(where)}):
            only("E015", key, str(where), why)
    with override_settings(AGENT_EVENTS={key: str(tmp_path / "none")}):
        assert found() == {}  # without a broker nobody reads it
    (tmp_path / "there").write_text("words")
    with override_settings(AGENT_EVENTS={**given, key: str(tmp_path / "there")}):
        assert found() == {}


@pytest.mark.parametrize(
    ("url", "given", "words"),
    [
        ("redis://127.0.0.1", {"BROKER_CREDENTIALS": __file__}, ["BROKER_CREDENTIALS", "NATS"]),
        ("redis://127.0.0.1", {"BROKER_REPLICAS": 3}, ["BROKER_REPLICAS", "NATS"]),
        ("redis://127.0.0.1", {"BROKER_CA_FILE": __file__}, ["without TLS", "rediss://"]),
        ("unix:///run/redis.sock", {"BROKER_CA_FILE": __file__}, ["without TLS", "rediss://"]),
        ("nats://127.0.0.1,nats://[::1]", {"BROKER_CA_FILE": __file__}, ["without TLS", "tls://"]),
    ],
)
def test_a_setting_that_the_broker_has_no_use_for_is_seen(
    url: str, given: dict[str, Any], words: list[str]
) -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": url, **given}):
        only("W015", *words)


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("nats://127.0.0.1", {"BROKER_CREDENTIALS": __file__, "BROKER_REPLICAS": 3}),
        ("tls://127.0.0.1", {"BROKER_CA_FILE": __file__}),
        ("rediss://127.0.0.1", {"BROKER_CA_FILE": __file__}),
    ],
)
def test_a_setting_that_the_broker_has_a_use_for_is_fine(url: str, given: dict[str, Any]) -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": url, **given}):
        assert found() == {}


def test_a_shared_layer_beside_a_broker_is_seen() -> None:
    shared = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
    memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    broker = {"BROKER_URL": "redis://127.0.0.1"}
    with override_settings(CHANNEL_LAYERS={"default": shared, "events": memory}):
        assert found() == {}
        with override_settings(AGENT_EVENTS=broker):
            only("W016", '["default"] is shared', "CHANNEL_LAYER")
        with override_settings(AGENT_EVENTS={**broker, "CHANNEL_LAYER": "events"}):
            assert found() == {}


@pytest.mark.parametrize(
    "url",
    [
        "nats://me:s3cret@broker.example:4222",
        "nats://s3cret@broker.example:4222",  # a token
        "nats://127.0.0.1:4222,nats://me:s3cret@broker.example:4222",
        "redis://:s3cret@broker.example:6379/0",
        "redis://broker.example:6379/0?password=s3cret",
        "redis://:s3cret@10.0.0.7:6379/0",
    ],
)
def test_a_password_without_tls_is_seen_before_a_deployment_and_not_shown(url: str) -> None:
    with override_settings(AGENT_EVENTS={"BROKER_URL": url}):
        message = only("W017", "without TLS", "tls://", "rediss://", deploy=True)
        assert "s3cret" not in str(message)
        assert found() == {}


# DATABASES


def test_an_alias_that_does_not_exist_is_seen() -> None:
    with override_settings(AGENT_EVENTS={"DATABASE": "events"}):
        only("E003", '"events"', "default")


@pytest.fixture
def other_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`other_database(**settings)`: DATABASES has an alias `events` with these settings."""

    def add(**kwargs: Any) -> None:
        defaults = connections.settings["default"]
        monkeypatch.setitem(connections.settings, "events", {**defaults, **kwargs})

    yield add
    if hasattr(connections._connections, "events"):  # type: ignore[attr-defined]
        del connections["events"]


def test_a_database_that_is_not_postgresql_is_seen(other_database: Callable[..., None]) -> None:
    other_database(**SQLITE)
    with override_settings(
        AGENT_EVENTS={"DATABASE": "events"}, DATABASE_ROUTERS=["tests.test_checks.ToEvents"]
    ):
        only("E004", "is sqlite", "django.db.backends.postgresql")


class ToEvents:
    """A router that sends the log's models to the alias `events`."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "events" if model._meta.app_label == "agent_events" else None


def test_models_that_are_looked_for_elsewhere_are_seen(
    other_database: Callable[..., None],
) -> None:
    other_database(**POSTGRES)
    with override_settings(AGENT_EVENTS={"DATABASE": "events"}):
        only("W002", '"events"', "DATABASE_ROUTERS")
        with override_settings(DATABASE_ROUTERS=["tests.test_checks.ToEvents"]):
            assert found() == {}


@pytest.mark.parametrize("sign", [{"PORT": 6432}, {"DISABLE_SERVER_SIDE_CURSORS": True}])
def test_a_pooler_without_a_way_past_it_is_seen_before_a_deployment(
    other_database: Callable[..., None], sign: dict[str, Any]
) -> None:
    other_database(**{**POSTGRES, **sign})
    conf = {"DATABASE": "events"}
    with override_settings(AGENT_EVENTS=conf, DATABASE_ROUTERS=["tests.test_checks.ToEvents"]):
        only("W006", next(iter(sign)), "LISTENER_DSN", deploy=True)
        assert found() == {}
    with override_settings(
        AGENT_EVENTS={**conf, "LISTENER_DSN": "postgresql:///x"},
        DATABASE_ROUTERS=["tests.test_checks.ToEvents"],
    ):
        assert found(deploy=True) == {}


# INSTALLED_APPS, CHANNEL_LAYERS


def test_channels_missing_from_the_apps_is_seen() -> None:
    with override_settings(INSTALLED_APPS=[name for name in APPS if name != "channels"]):
        only("W003", "channels")


def test_a_runserver_without_streams_is_seen_in_development_alone() -> None:
    with override_settings(INSTALLED_APPS=[name for name in APPS if name != "daphne"], DEBUG=True):
        only("W004", "daphne", "runserver")
        with override_settings(DEBUG=False):
            assert found() == {}


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({}, ['CHANNEL_LAYERS has no "default"']),
        ({"other": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, ['has no "default"']),
        ({"default": {"BACKEND": "channels_rediss.Layer"}}, ["cannot be used", "channels_rediss"]),
        ({"default": {}}, ["cannot be used", "No BACKEND"]),
    ],
)
def test_a_channel_layer_that_is_not_there_is_seen(layers: Any, words: list[str]) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        only("E005", "channels.layers.InMemoryChannelLayer", *words)


# ASGI_APPLICATION


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, ["is not set"]),
        ("", ["is not set"]),
        ("no_such_module.application", ["cannot be imported", "No module named"]),
        ("project.asgi.app", ["cannot be imported", '"app"']),
    ],
)
def test_an_asgi_application_that_is_not_there_is_seen(name: Any, words: list[str]) -> None:
    with override_settings(ASGI_APPLICATION=name):
        only("E006", *words)


def test_an_asgi_module_that_breaks_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "asgi_that_breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(ASGI_APPLICATION="asgi_that_breaks.application"):
        only("E006", "ZeroDivisionError")


def applications() -> Iterator[Any]:
    """(application, the streams that it does not lead to)"""
    pages = get_asgi_application()
    both = ["/ws/agents/stream (websocket)", "/api/agents/stream (http)"]
    whole: dict[str, Any] = application(pages).application_mapping
    websocket, http = whole["websocket"], whole["http"]
    yield application(pages), []
    yield application(ASGIStaticFilesHandler(pages)), []
    yield ASGIStaticFilesHandler(application(pages)), []
    yield pages, both
    yield ASGIStaticFilesHandler(pages), both
    yield ProtocolTypeRouter({"http": pages, "websocket": websocket}), both[1:]
    yield ProtocolTypeRouter({"http": http}), both[:1]
    yield ProtocolTypeRouter({"websocket": websocket}), both[1:]
    # The catch-all stands before the streams.
    late = URLRouter([re_path("", pages), *http_urlpatterns])
    yield ProtocolTypeRouter({"http": late, "websocket": websocket}), both[1:]
    nested = URLRouter(
        [path("ws/", URLRouter([path("agents/stream", websocket_urlpatterns[0].callback)]))]
    )
    yield ProtocolTypeRouter({"http": http, "websocket": AuthMiddlewareStack(nested)}), []
    elsewhere = URLRouter([path("live/", URLRouter(websocket_urlpatterns))])
    mine = AllowedHostsOriginValidator(elsewhere)
    yield ProtocolTypeRouter({"http": http, "websocket": mine}), both[:1]


@pytest.mark.parametrize(("made", "missing"), list(applications()))
def test_an_application_that_does_not_lead_to_the_streams_is_seen(
    asgi: Callable[[Any], None], made: Any, missing: list[str]
) -> None:
    asgi(made)
    if missing:
        message = only("E007", "routing.application(")
        assert message.msg.endswith(f"streams: {', '.join(missing)}.")
    else:
        assert found() == {}


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    """An application that nobody can look into."""


class Itself:
    """A middleware that wraps itself."""

    @property
    def app(self) -> Any:
        return self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    "made",
    [opaque, Itself(), object(), ProtocolTypeRouter({"http": opaque, "websocket": Itself()})],
)
def test_an_application_that_cannot_be_looked_into_is_not_judged(
    asgi: Callable[[Any], None], made: Any
) -> None:
    asgi(made)
    assert streams.leads(made, "http", "api/agents/stream") is None
    assert found() == {}


def view(request: Any, **kwargs: Any) -> Any:
    """A project's own."""


class OwnHealthz:
    """A URLconf with a view for one of the probes' addresses."""

    urlpatterns = [path("healthz", view), path("readyz/", view)]


class OwnMetrics:
    """One with an exporter of its own."""

    urlpatterns = [path("metrics", view)]


class CatchAll:
    """A URLconf in which anything leads somewhere."""

    urlpatterns = [re_path(r"^(?P<page>\w+)/?$", view)]


def test_a_view_that_a_probe_hides_is_seen(asgi: Callable[[Any], None]) -> None:
    pages = get_asgi_application()
    asgi(application(ASGIStaticFilesHandler(pages)))
    with override_settings(ROOT_URLCONF=OwnHealthz):
        message = only("W014", "/healthz leads", "tests.test_checks.view", "agent_events_healthz")
        assert "readyz" not in message.msg
    with override_settings(ROOT_URLCONF=OwnMetrics):
        only("W014", "/metrics leads", "tests.test_checks.view", "agent_events_metrics")
    with override_settings(ROOT_URLCONF=CatchAll):
        assert found() == {}
    # As the hint says.
    kept = [route for route in http_urlpatterns if route.name != "agent_events_healthz"]
    http = URLRouter([*kept, re_path("", pages)])
    websocket = application(pages).application_mapping["websocket"]
    asgi(ProtocolTypeRouter({"http": http, "websocket": websocket}))
    with override_settings(ROOT_URLCONF=OwnHealthz):
        assert found() == {}


# The live page


class PlainUrls:
    """A URLconf without the live page."""

    urlpatterns: list[Any] = []


def test_missing_middleware_is_seen_where_the_page_is() -> None:
    kept = [name for name in django_settings.MIDDLEWARE if "Session" not in name]
    with override_settings(MIDDLEWARE=kept):
        only("E008", "lacks django.contrib.sessions.middleware.SessionMiddleware.")
        with override_settings(ROOT_URLCONF=PlainUrls):
            assert found() == {}
    with override_settings(MIDDLEWARE=[]):
        only("E008", "SessionMiddleware and django.contrib.auth.middleware.Authentication")


def test_a_subclass_of_the_middleware_is_as_good() -> None:
    mine = [
        name.replace("django.contrib.sessions.middleware", "tests.test_checks")
        for name in django_settings.MIDDLEWARE
    ]
    with override_settings(MIDDLEWARE=mine):
        assert found() == {}


from django.contrib.sessions.middleware import SessionMiddleware as _Session  # noqa: E402


class SessionMiddleware(_Session):
    """A project's own."""


def test_a_template_that_is_not_found_is_seen() -> None:
    engine = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": False}
    with override_settings(TEMPLATES=[engine]):
        only("E009", "agent_events/feed.html", "APP_DIRS")


@pytest.mark.parametrize("url", ["/accounts/nowhere/", "no-such-view"])
def test_a_sign_in_page_that_does_not_exist_is_seen(url: str) -> None:
    with override_settings(LOGIN_URL=url):
        only("W007", url, "admin:login")


@pytest.mark.parametrize(
    "url", ["admin:login", "/accounts/login/?by=page", "https://sso.example/", "//sso.example/"]
)
def test_a_sign_in_page_that_exists_or_is_elsewhere_is_fine(url: str) -> None:
    with override_settings(LOGIN_URL=url):
        assert found() == {}


class WithModules(ManifestStaticFilesStorage):
    """What the hint of W008 says to paste."""

    support_js_module_import_aggregation = True


def storages(backend: str) -> dict[str, Any]:
    return {**django_settings.STORAGES, "staticfiles": {"BACKEND": backend}}


def test_a_storage_that_mixes_old_and_new_modules_is_seen() -> None:
    manifest = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    with override_settings(STORAGES=storages(manifest)):
        only("W008", "support_js_module_import_aggregation = True")
    with override_settings(STORAGES=storages("tests.test_checks.WithModules")):
        assert staticfiles_storage.support_js_module_import_aggregation  # type: ignore[attr-defined]
        assert found() == {}


def collected(storage_class: type[ManifestStaticFilesStorage], folder: Path) -> dict[str, str]:
    """The page's files as `collectstatic` leaves them in `folder`: the names that they got."""
    storage = storage_class(location=folder, base_url="/static/")
    files = [path for path in (ROOT / "static/agent_events").rglob("*") if path.is_file()]
    names = [str(path.relative_to(ROOT / "static")) for path in files]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            shutil.copy(ROOT / "static" / name, folder / name)
    results = list(storage.post_process({name: (storage, name) for name in names}))
    assert [result for result in results if isinstance(result[2], Exception)] == []
    return {name: storage.hashed_files[name] for name in names}


def imports(folder: Path, given: dict[str, str]) -> list[str]:
    """What the modules import, each of which is there."""
    found = []
    for name in given.values():
        text = (folder / name).read_text()
        for target in re.findall(r'^import [^;]*?from "([^"]+)";', text, re.M | re.S):
            assert (folder / name).parent.joinpath(target).exists(), (name, target)
            found.append(target)
    return found


def test_with_the_storage_of_the_hint_a_deploy_never_mixes_old_and_new_modules(
    tmp_path: Path,
) -> None:
    before = collected(WithModules, tmp_path / "before")
    targets = imports(tmp_path / "before", before)
    assert len(targets) > 10
    assert all(re.fullmatch(r"\.\.?/[\w/]+\.[0-9a-f]{12}\.js", target) for target in targets)
    # Another deepest module: whatever imports it, directly or not, has another name too.
    changed = tmp_path / "after/agent_events/json.js"
    changed.parent.mkdir(parents=True)
    changed.write_text((ROOT / "static/agent_events/json.js").read_text() + "// newer\n")
    after = collected(WithModules, tmp_path / "after")
    renamed = {name.rpartition("/")[2] for name in before if before[name] != after[name]}
    assert {"json.js", "summary.js", "row.js", "feed.js", "main.js"} <= renamed
    assert not {"format.js", "copy.js", "base.css"} & renamed


def test_without_it_the_modules_work_and_import_names_that_stay(tmp_path: Path) -> None:
    targets = imports(tmp_path, collected(ManifestStaticFilesStorage, tmp_path))
    assert "./json.js" in targets


# The database


def database_found() -> dict[str, CheckMessage]:
    return found(databases=["default"])


def test_a_good_database_hears_nothing(db: None) -> None:
    assert database_found() == {}


@pytest.mark.parametrize(
    ("id", "break_it", "words"),
    [
        ("W009", "DROP FUNCTION agent_events_append(integer)", ["agent_events_append()"]),
        (
            "W009",
            "DELETE FROM django_migrations WHERE app = 'agent_events' AND name ~ '^0002'",
            ["migration 0002_", "manage.py migrate"],
        ),
        ("W012", "ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring", ["is disabled"]),
        ("W012", "ALTER TABLE agent_events ENABLE REPLICA TRIGGER agent_events_ring", ["disabled"]),
        (
            "W012",
            "DROP TRIGGER agent_events_ring ON agent_events",
            ["is not there", "agent_events_hang_doorbell()"],
        ),
        ("W013", "ALTER TABLE agent_events ALTER COLUMN id SET CACHE 20", ["20 ids", "CACHE 1"]),
        (
            "W010",
            "ALTER TABLE agent_events ENABLE ROW LEVEL SECURITY; CREATE ROLE checks_reader;"
            " GRANT ALL ON ALL TABLES IN SCHEMA public TO checks_reader; SET ROLE checks_reader",
            ["BYPASSRLS"],
        ),
        (
            "W011",
            "CREATE ROLE checks_reader; GRANT SELECT ON ALL TABLES IN SCHEMA public"
            " TO checks_reader; SET ROLE checks_reader",
            ["lacks INSERT ON agent_event_batches", "GRANT INSERT ON agent_event_batches TO"],
        ),
        (
            "W011",
            "REVOKE USAGE ON SCHEMA public FROM public; CREATE ROLE checks_reader;"
            " GRANT ALL ON ALL TABLES IN SCHEMA public TO checks_reader; SET ROLE checks_reader",
            ["lacks USAGE ON SCHEMA public.", "GRANT USAGE ON SCHEMA public TO"],
        ),
    ],
)
def test_a_database_that_is_not_as_it_should_be_is_seen(
    db: None, id: str, break_it: str, words: list[str]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(break_it)
        assert found() == {}  # only where the database is named
        only(id, *words, databases=["default"])
        cursor.execute("RESET ROLE")


@pytest.mark.parametrize(
    ("id", "setup"),
    [
        ("E010", Setup(140011, False, (), False, (), "O", 1)),
        ("E011", Setup(180000, True, (), False, (), "O", 1)),
    ],
)
def test_an_old_server_and_a_standby_are_errors(
    monkeypatch: pytest.MonkeyPatch, id: str, setup: Setup
) -> None:
    monkeypatch.setattr(database, "_setup", lambda alias: setup)
    assert isinstance(
        only(id, "Postgre" if id == "E010" else "standby", databases=["default"]), Error
    )


def test_a_database_that_is_away_is_left_to_whoever_needs_it(
    other_database: Callable[..., None], django_db_blocker: Any
) -> None:
    other_database(**{**POSTGRES, "HOST": "127.0.0.1", "PORT": "1"})
    with (
        django_db_blocker.unblock(),
        override_settings(
            AGENT_EVENTS={"DATABASE": "events"}, DATABASE_ROUTERS=["tests.test_checks.ToEvents"]
        ),
    ):
        assert found(databases=["events"]) == {}
        with pytest.raises(OperationalError):
            connections["events"].ensure_connection()


def test_the_first_migrate_runs_with_all_checks_and_without_a_finding(
    postgres: Any, dsn: str
) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("DROP SCHEMA public CASCADE")
        made.execute("CREATE SCHEMA public")
    told = manage("migrate", "--verbosity=1", dsn=dsn)
    assert "Applying agent_events.0001" in told
    assert "agent_events.W" not in told
    assert "no issues" in manage(
        "check", "--database=default", "--deploy", "--tag=agent_events", dsn=dsn
    )


# All of them


def test_a_check_that_fails_says_so_and_raises_nothing() -> None:
    def broken(**kwargs: Any) -> Iterator[CheckMessage]:
        raise RuntimeError("unforeseen")
        yield

    (message,) = _guarded(broken)(app_configs=None, databases=None)
    assert message.id == "agent_events.W001"
    assert "RuntimeError: unforeseen" in message.msg


def test_every_check_has_its_row_and_no_other() -> None:
    code = "".join(file.read_text() for file in Path(checks.__file__).parent.glob("*.py"))
    ids = set(re.findall(r'"agent_events\.([EW]\d{3})"', code))
    assert len(ids) > 20
    assert set(re.findall(r"^\| `agent_events\.([EW]\d{3})` \|", DOC.read_text(), re.M)) == ids


# Who asks


@pytest.mark.parametrize(
    "path", ["agent_events.access.nothing", "nowhere.resolve", "words", "os.getcwd", "os.sep"]
)
def test_a_resolver_that_cannot_be_asked_is_seen(path: str) -> None:
    with override_settings(AGENT_EVENTS={"PRINCIPAL_RESOLVER": path}):
        only("E012", path, "mysite.access.resolve")


def test_a_resolver_of_the_projects_own_is_fine() -> None:
    own = "tests.support.resolvers.superuser"
    with override_settings(AGENT_EVENTS={"PRINCIPAL_RESOLVER": own}):
        assert found() == {}
