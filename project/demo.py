"""`make run`: everything at once, for one person at one machine.

    python -m project.demo [--rate EVENTS_PER_S] [--tenants N] [--agents N] [--end-with-parent]

The database, the web server and the simulated agents are processes of their own, and so are a
broker and its worker; this one starts them in order, watches them, and stops them in reverse. If
one of them ends, all end. Whatever is killed, the next start finds its way: children end with this
process (see tether), and PostgreSQL is found, or cleared away, by `embedded`.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import psycopg

from project import database, demo_broker, environment
from project.broker_server import BrokerServer
from project.demo_broker import BrokerError
from project.embedded import EmbeddedPostgres
from project.postgres_home import EmbeddedPostgresError, make_data_dir, shipped_program

HOST = "127.0.0.1"
# A run that was killed a moment ago may still be letting go of its port.
PATIENCE_S = 1.0
# One that is ending stops its processes in order.
ENDING_PATIENCE_S = 20.0
WATCH_S = 0.2
SERVER_START_TIMEOUT_S = 30.0
CHILD_STOP_TIMEOUT_S = 10.0
PRUNE_EVERY_S = 30.0
# A demo left running over a weekend must not fill the disk.
EVENTS_KEPT = 50_000


class DemoError(RuntimeError):
    """The demo cannot go on; the message is one line."""


class Stopped(Exception):
    """SIGINT or SIGTERM came, or our parent ended."""


def main() -> int:
    """Run the demo until it is stopped; return the exit code."""
    options = _arguments()
    parent = os.getppid() if options.end_with_parent else None
    # A signal during the start must stop what has been started already: hence an exception.
    _on_signals(_raise_stopped)
    with ExitStack() as stack:
        try:
            _run(options, stack, parent)
        except Stopped:
            print("\nStopping ...", flush=True)
        except (
            DemoError,
            BrokerError,
            EmbeddedPostgresError,
            database.UnsuitableDatabase,
        ) as error:
            print(f"make run: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            _on_signals(signal.SIG_IGN)  # stopping is under way, and must come to its end
    return 0


def _run(options: argparse.Namespace, stack: ExitStack, parent: int | None) -> None:
    try:
        port = environment.port()
        broker_name = environment.broker()
    except ValueError as error:
        raise DemoError(str(error)) from None
    broker_url = environment.broker_url()
    if broker_url:
        demo_broker.require_address(broker_url)
    make_data_dir(environment.data_dir())
    say = _hold_data_dir(stack)
    _require_free(port)
    os.environ.setdefault("DJANGO_DEBUG", "1")

    dsn = environment.database_url()
    if dsn is None:
        print("Starting PostgreSQL ...", flush=True)
        postgres = database.embedded(die_with_parent=True)
        stack.callback(_stop_postgres, postgres)
        dsn = postgres.start()
    database.require_suitable(dsn)
    broker = None
    if broker_name is not None:
        print(f"Starting {broker_name} ...", flush=True)
        broker = demo_broker.start(broker_name)
        stack.callback(broker.stop)
        broker_url = broker.url

    print("Preparing the database ...", flush=True)
    tenant, sign_ins = _prepare(dsn, options.tenants)

    children: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, *command: str) -> None:
        children[name] = _child(dsn, broker_url, *command)
        stack.callback(_stop_child, children[name])

    if broker_url:
        start("worker", "manage", "listen_events", "--quiet")
    start("web server", "daphne", "-v", "0", "-b", HOST, "-p", str(port), _APPLICATION)
    # Before the first page is asked for, so that it has something to show.
    start("simulator", "manage", "simulate_agents", *_simulator_arguments(options))
    _wait_for_server(port, children["web server"])
    said = demo_broker.in_words(broker) if broker_url else ""
    print(_welcome(port, dsn, tenant, sign_ins, said), flush=True)
    try:
        _watch(children, broker, dsn, parent)
    finally:
        say("ending")


_APPLICATION = "project.asgi:application"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m project.demo")
    parser.add_argument("--rate", type=float, default=4.0, help="simulated events per second (4)")
    parser.add_argument("--tenants", type=int, default=2, help="simulated tenants (2)")
    parser.add_argument("--agents", type=int, default=5, help="agents in each tenant (5)")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when the starting process ends"
    )
    return parser.parse_args()


def _simulator_arguments(options: argparse.Namespace) -> list[str]:
    return [f"--{name}={getattr(options, name)}" for name in ("rate", "tenants", "agents")]


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped


# What must be free


def _require_free(port: int) -> None:
    """Make sure that we can listen on the port, before anything is started.

    Raises:
        DemoError: another program listens there.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno == errno.EACCES:
                    raise DemoError(
                        f"port {port} may be used by root alone: try make run PORT=8000."
                    ) from None
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"port {port} is taken: stop what uses it, or try make run PORT={port + 1}."
                    ) from None
            else:
                return
        time.sleep(WATCH_S)


def _hold_data_dir(stack: ExitStack) -> Callable[[str], None]:
    """Hold the data directory until `stack` closes; the kernel lets go of it however we end.

    Returns:
        What tells later runs that this one is `ending`, and worth waiting for.

    Raises:
        DemoError: another run holds it.
    """
    folder = environment.data_dir()
    file = stack.enter_context((folder / "run.lock").open("a+"))
    since = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            process, state = [*file.read().split(), "?", "?"][:2]
            patience_s = ENDING_PATIENCE_S if state == "ending" else PATIENCE_S
            if time.monotonic() - since > patience_s:
                raise DemoError(
                    f"already running on {folder} (process {process}): "
                    "stop that one, or give this one another DATA_DIR=."
                ) from None
        time.sleep(WATCH_S)

    def say(state: str) -> None:
        file.truncate(0)
        file.write(f"{os.getpid()} {state}\n")
        file.flush()

    say("running")
    return say


# The database


def _prepare(dsn: str, tenants: int) -> tuple[str, list[str]]:
    """Migrate and create what the demo shows; return a tenant's id and the names that sign in."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    import django  # only now: the settings ask where the database is

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    from project.demo_data import create_demo_tenants, create_demo_users

    call_command("migrate", verbosity=0, interactive=False)
    created = create_demo_tenants(tenants)
    sign_ins: list[str] = []
    if settings.DEBUG and _is_local(dsn):
        sign_ins = create_demo_users(created)
    connections.close_all()
    return str(created[0].id), sign_ins


def _is_local(dsn: str) -> bool:
    """Whether the database is on this machine: no demo user gets into anybody else's."""
    host = psycopg.conninfo.conninfo_to_dict(dsn).get("host") or "localhost"
    return str(host).startswith("/") or host in {"localhost", "127.0.0.1", "::1"}


def _prune(dsn: str) -> None:
    """Delete the oldest batches beyond `EVENTS_KEPT` events: a cursor from there is `truncated`."""
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        row = connection.execute(
            """
            SELECT closed_at FROM agent_event_batches
             WHERE n = (SELECT 1 + agent_events_last_batch(
                                   bus.oldest, head.batch, 'infinity', head.total - %s)
                          FROM agent_event_bus AS bus, agent_events_head() AS head)
            """,
            [EVENTS_KEPT],
        ).fetchone()
        more = row is not None
        while more and row is not None:
            ((more,),) = connection.execute("SELECT more FROM agent_events_prune(%s)", row)


def _stop_postgres(postgres: EmbeddedPostgres) -> None:
    try:
        postgres.stop()
    except EmbeddedPostgresError as error:
        print(f"make run: {error}", file=sys.stderr)


# The processes


def _child(dsn: str, broker_url: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python module as a child that ends with us, in a session of its own.

    Ctrl-C in the terminal reaches this process alone: it stops its children in the right order.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "project.tether", module, *arguments],
        cwd=environment.BASE_DIR,
        # A child never starts a PostgreSQL of its own, not even when ours has just been killed.
        env={**os.environ, "DATABASE_URL": dsn, "AGENT_EVENTS_BROKER_URL": broker_url},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _stop_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(CHILD_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_for_server(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SERVER_START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DemoError("the web server does not start; it says why above.")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/accounts/login/", timeout=5):
                return
        except urllib.error.HTTPError as error:
            raise DemoError(f"the web server answers with an error: {error}.") from None
        except OSError:
            time.sleep(WATCH_S)
    raise DemoError(f"the web server does not answer within {SERVER_START_TIMEOUT_S:.0f} s.")


def _watch(
    children: dict[str, subprocess.Popen[bytes]],
    broker: BrokerServer | None,
    dsn: str,
    parent: int | None,
) -> None:
    """Until a signal comes, the parent ends, or a child does; prune now and then."""
    prune_at = time.monotonic()
    while True:
        for name, child in children.items():
            if child.poll() is not None:
                raise DemoError(
                    f"the {name} has ended (exit code {child.returncode}): all stopped."
                )
        if broker is not None and not broker.running:
            raise DemoError("the broker has ended: all stopped.")
        if parent is not None and os.getppid() != parent:
            raise Stopped
        if time.monotonic() >= prune_at:
            prune_at = time.monotonic() + PRUNE_EVERY_S
            try:
                _prune(dsn)
            except psycopg.Error as error:
                raise DemoError(f"the database has gone: {' '.join(str(error).split())}") from None
        time.sleep(WATCH_S)


def _welcome(port: int, dsn: str, tenant: str, sign_ins: list[str], broker: str) -> str:
    url = f"http://{HOST}:{port}/"
    if sign_ins:
        who = "   ".join(f"{name} / {name}" for name in sign_ins)
    else:
        who = "make yours with: .venv/bin/python manage.py createsuperuser"
    psql = shutil.which("psql") and "psql"
    if environment.database_url() is None:
        psql = f"{psql or shipped_program('psql')} '{dsn}'"
    else:  # its password is the user's own: it does not belong on a screen
        psql = f'{psql or "psql"} "$DATABASE_URL"'
    broker = f"\n  Broker     {broker}" if broker else ""
    return f"""
  Open       {url}
  Sign in    {who}
  Database   {psql}{broker}
  Try there  INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
             VALUES ('{tenant}', gen_random_uuid(), 'turn_complete',
                     '{{"tokens":142,"latency":820}}');

  Ctrl-C stops everything.
"""


if __name__ == "__main__":
    sys.exit(main())
