"""Checks of the settings: AGENT_EVENTS, and what it names in DATABASES and CHANNEL_LAYERS."""

import inspect
from collections.abc import Iterator
from typing import Any

from channels.layers import get_channel_layer
from django.apps import apps as registry
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils.module_loading import import_string
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from agent_events.conf import Settings, get_settings
from agent_events.models import AgentEvent

PGBOUNCER_PORT = 6432

_LAYER = 'CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}'


def valid_settings() -> Settings | None:
    """The settings; None where E001 has said already that they are wrong."""
    try:
        return get_settings()
    except ImproperlyConfigured:
        return None


def settings(**kwargs: Any) -> Iterator[CheckMessage]:
    """E001: AGENT_EVENTS is refused. E002: LISTENER_DSN is no connection string."""
    try:
        dsn = get_settings().listener_dsn
    except ImproperlyConfigured as error:
        yield Error(
            str(error),
            hint="docs/settings.md lists the keys. Every one may be left out.",
            id="agent_events.E001",
        )
        return
    try:
        conninfo_to_dict(dsn)
    except ProgrammingError:  # whose words may hold the password
        yield Error(
            'AGENT_EVENTS["LISTENER_DSN"] is no connection string of libpq.',
            hint='"LISTENER_DSN": "postgresql://user:password@host:5432/name"',
            id="agent_events.E002",
        )


def resolver(**kwargs: Any) -> Iterator[CheckMessage]:
    """E012: nobody could be asked who is at the door."""
    conf = valid_settings()
    if conf is None:
        return
    path = conf.principal_resolver
    try:
        found = import_string(path)
        inspect.signature(found).bind(object())
    except (ImportError, TypeError, ValueError) as error:
        yield Error(
            f'AGENT_EVENTS["PRINCIPAL_RESOLVER"] is "{path}", which is no function of one argument '
            f"that can be imported: {error}",
            hint='"PRINCIPAL_RESOLVER": "mysite.access.resolve", a function that takes Credentials '
            "and returns a Principal, or None (docs/access.md). Left out: ours.",
            id="agent_events.E012",
        )


def database(**kwargs: Any) -> Iterator[CheckMessage]:
    """E003: no such alias. E004: another kind of database."""
    conf = valid_settings()
    if conf is None:
        return
    alias = conf.database
    if alias not in connections:
        yield Error(
            f'AGENT_EVENTS["DATABASE"] is "{alias}", and DATABASES has no such alias.',
            hint=f"Name one of {', '.join(connections)}, or add it to DATABASES.",
            id="agent_events.E003",
        )
    elif connections[alias].vendor != "postgresql":
        yield Error(
            f'DATABASES["{alias}"] is {connections[alias].vendor}; the log needs PostgreSQL 15 or '
            "later.",
            hint='"ENGINE": "django.db.backends.postgresql", or name another alias: '
            'AGENT_EVENTS = {"DATABASE": "<alias>"}.',
            id="agent_events.E004",
        )


def routers(**kwargs: Any) -> Iterator[CheckMessage]:
    """W002: the models are looked for in another database than the log is in."""
    conf = valid_settings()
    if conf is None or conf.database not in connections:
        return
    alias = router.db_for_read(AgentEvent)
    if alias != conf.database:
        yield Warning(
            f'AGENT_EVENTS["DATABASE"] is "{conf.database}", and Django looks for the models of '
            f'agent_events in "{alias}": the admin would show another log.',
            hint='DATABASE_ROUTERS = [..., "agent_events.log_router.LogRouter"]',
            id="agent_events.W002",
        )


def apps(**kwargs: Any) -> Iterator[CheckMessage]:
    """W003: no channels. W004: a runserver that serves no streams."""
    if not registry.is_installed("channels"):
        yield Warning(
            "channels is not in INSTALLED_APPS.",
            hint='INSTALLED_APPS = ["daphne", ..., "channels", "agent_events"]',
            id="agent_events.W003",
        )
    if django_settings.DEBUG and not registry.is_installed("daphne"):
        yield Warning(
            "daphne is not in INSTALLED_APPS: manage.py runserver serves no streams.",
            hint='INSTALLED_APPS = ["daphne", ...], before django.contrib.staticfiles; or use '
            "another ASGI server here too, and silence this.",
            id="agent_events.W004",
        )


def layer(**kwargs: Any) -> Iterator[CheckMessage]:
    """E005: no channel layer to carry events within and between processes."""
    conf = valid_settings()
    if conf is None:
        return
    alias = conf.channel_layer
    try:
        missing = get_channel_layer(alias) is None
        why = f'CHANNEL_LAYERS has no "{alias}"'
    except Exception as error:  # a backend may raise anything
        missing, why = True, f'CHANNEL_LAYERS["{alias}"] cannot be used: {error}'
    if missing:
        yield Error(
            f"{why}, and the streams need a channel layer.",
            hint=f"{_LAYER.replace('default', alias)} will do for any number of processes: "
            "PostgreSQL joins them.",
            id="agent_events.E005",
        )


def intervals(**kwargs: Any) -> Iterator[CheckMessage]:
    """W005: silence is suspected before anybody was due to speak."""
    conf = valid_settings()
    if conf is not None and conf.tick_timeout_s <= conf.poll_interval_s:
        yield Warning(
            f'AGENT_EVENTS["TICK_TIMEOUT_S"] is {conf.tick_timeout_s:g}, no more than '
            f"POLL_INTERVAL_S ({conf.poll_interval_s:g}): a source that does well looks silent, "
            "and every subscriber reads the log all the time.",
            hint=f'"TICK_TIMEOUT_S": {3 * conf.poll_interval_s:g}',
            id="agent_events.W005",
        )


def pooler(**kwargs: Any) -> Iterator[CheckMessage]:
    """W006: Django seems to go through a pooler, and so would the listening connection."""
    conf = valid_settings()
    if conf is None or conf.listener_dsn or conf.database not in connections:
        return
    given = connections[conf.database].settings_dict
    signs = []
    if str(given.get("PORT")) == str(PGBOUNCER_PORT):
        signs.append(f"PORT is {PGBOUNCER_PORT}, PgBouncer's")
    if given.get("DISABLE_SERVER_SIDE_CURSORS"):
        signs.append("DISABLE_SERVER_SIDE_CURSORS is set")
    if signs:
        yield Warning(
            f'DATABASES["{conf.database}"] seems to lead to a pooler ({", ".join(signs)}). One in '
            "transaction mode passes no notification on: events would come by the poll.",
            hint='AGENT_EVENTS = {"LISTENER_DSN": "postgresql://user:password@host:5432/name"}, '
            "straight to the server.",
            id="agent_events.W006",
        )
