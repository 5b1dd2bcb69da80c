"""docs/roles.md: every block as printed, and every cell of its table, tried."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from tests.conftest import Connect
from tests.support import Server, login, make_tenant, make_user, wait_until
from tests.support.keys import make_key
from tests.support.site import DOCS
from tests.support.streams import event_stream

PAGE = (DOCS / "roles.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: ([\w ]+) -->\n```sql\n(.*?)```", PAGE, re.S))
NAMES = ("my_agents", "my_keyed_agents", "my_reader", "my_app")
OTHER = "any other role"

FOUR = "tenant_id, agent_id, event_type, payload"
VALUES = "gen_random_uuid(), gen_random_uuid(), 'note', '{}'"
ABILITIES = {
    "write an event of any tenant": f"INSERT INTO agent_events ({FOUR}) VALUES ({VALUES})",
    "learn its `id`": "SELECT id FROM agent_events",
    "choose its `id`": f"INSERT INTO agent_events (id, {FOUR}) VALUES (9000, {VALUES})",
    "forge its `created_at`": (
        f"INSERT INTO agent_events (created_at, {FOUR}) VALUES ('2020-01-01', {VALUES})"
    ),
    "forge its `tx`, and with it its place": (
        f"INSERT INTO agent_events (tx, {FOUR}) VALUES ('3', {VALUES})"
    ),
    "write an idempotency key": (
        "INSERT INTO agent_event_keys (tenant_id, key, event_id) VALUES (gen_random_uuid(), 'k', 1)"
    ),
    "read idempotency keys": "SELECT key FROM agent_event_keys",
    "read events, of all tenants": "SELECT payload FROM agent_events_read(NULL, 1, 0, 10)",
    "change an event": "UPDATE agent_events SET payload = '{}'",
    "delete an event": "DELETE FROM agent_events",
    "empty the log": "TRUNCATE agent_events",
    "close a batch": "SELECT agent_events_append()",
    "change the ledger": "UPDATE agent_event_batches SET total = 0",
    "prune": "SELECT agent_events_prune(now())",
    "drop the trigger": "DROP TRIGGER agent_events_ring ON agent_events",
    "attach a table": (
        "SELECT agent_events_attach('auth_user',"
        " tenant => 'gen_random_uuid()', agent => 'gen_random_uuid()')"
    ),
    "make a table": "CREATE TABLE mine (id integer)",
    "read the hashes of API keys": "SELECT hash FROM agent_event_api_keys",
    "read sessions": "SELECT session_data FROM django_session",
    "make somebody a superuser of the site": "UPDATE auth_user SET is_superuser = true",
    "hear a tenant's channel": 'LISTEN "agent_event_cd8dc8d3-f602-5f0e-a829-9a0a5dbe906c"',
    "ring the doorbell for nothing": "NOTIFY agent_events",
    "forge a tenant's notification": (
        "SELECT pg_notify('agent_event_cd8dc8d3-f602-5f0e-a829-9a0a5dbe906c', '{\"id\": 1}')"
    ),
}


@contextmanager
def roles(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """The page's roles, and one that it does not name, whose name this is."""
    other = f"role_{uuid.uuid4().hex[:12]}"
    made = [*NAMES, other]
    try:
        for block in ("producer", "keyed", "reader", "application"):
            connection.execute(BLOCKS[block].encode())
        connection.execute(f"CREATE ROLE {other}".encode())
        yield other
    finally:
        for name in reversed(made):
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                connection.execute(f"DROP OWNED BY {name}".encode())
                connection.execute(f"DROP ROLE {name}".encode())


def printed() -> tuple[list[str], dict[str, list[str]]]:
    """The table: whose columns these are, and what each line says."""
    section = PAGE.split("## Who may do what")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    head, _, *lines = [row for row in rows if len(row) > 1]
    return [name.strip("`") for name in head[1:]], {line[0]: line[1:] for line in lines}


def may(connection: psycopg.Connection[Any], role: str, statement: str) -> str:
    with connection.transaction(force_rollback=True):
        connection.execute(SQL("SET LOCAL ROLE {}").format(Identifier(role)))
        try:
            with connection.transaction():
                connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return "no"
    return "yes"


def test_every_role_may_do_what_the_table_says_and_nothing_else(connect: Connect) -> None:
    connection = connect()
    names, table = printed()
    assert names == [*NAMES, OTHER]
    assert list(table) == list(ABILITIES)
    insert = f"INSERT INTO agent_events ({FOUR}) VALUES ({VALUES})"
    connection.execute(insert.encode())
    connection.execute("SELECT agent_events_append()")
    connection.execute(insert.encode())
    with roles(connection) as other:
        found = {
            what: [may(connection, name, statement) for name in (*NAMES, other)]
            for what, statement in ABILITIES.items()
        }
    assert found == table


def test_a_keyed_producer_writes_an_event_once_however_often_it_tries(connect: Connect) -> None:
    owner, producer = connect(), connect()
    with roles(owner):
        producer.execute("SET ROLE my_keyed_agents")
        producer.execute(BLOCKS["keyed insert"].encode())
        with pytest.raises(psycopg.errors.UniqueViolation):
            producer.execute(BLOCKS["keyed insert"].encode())
        producer.execute("RESET ROLE")
        assert owner.execute("SELECT count(*) FROM agent_events").fetchone() == (1,)


def test_a_forged_notification_shows_nobody_an_event(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    site = server()
    cookies = login(site, "ann")
    owner = connect()
    with roles(owner) as other, event_stream(site, cookies) as stream:
        forger = connect()
        forger.execute(f"SET ROLE {other}".encode())
        forged = json.dumps({"id": 7, "agentId": tenant, "type": "forged", "payload": {}})
        for channel, body in (
            (f"agent_event_{tenant}", forged),
            ("agent_events", forged),
            ("agent_events_batch", "999999"),
            ("agent_events_batch", "no number"),
        ):
            forger.execute("SELECT pg_notify(%s, %s)", [channel, body])
        forger.execute("RESET ROLE")
        row = owner.execute(
            f"INSERT INTO agent_events ({FOUR}) VALUES (%s, gen_random_uuid(), 'true', '{{}}')"
            " RETURNING id".encode(),
            [tenant],
        ).fetchone()
        assert row is not None
        (event,) = stream.events(1)
        assert (event["id"], event["type"]) == (row[0], "true")


def test_the_site_serves_as_a_role_that_owns_nothing(
    dsn: str, connect: Connect, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "root", superuser=True)
    owner = connect()
    with roles(owner):
        password = uuid.uuid4().hex
        owner.execute(SQL("ALTER ROLE my_app PASSWORD {}").format(Literal(password)))
        as_app = make_conninfo(dsn, user="my_app", password=password)
        parts = psycopg.conninfo.conninfo_to_dict(as_app)
        url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)
        site = server(env={"DATABASE_URL": url})
        try:
            key = make_key(dsn, tenant)
            bearer = {"Authorization": f"Bearer {key}"}
            with event_stream(site, {}, token=key) as stream:
                event = {"agentId": tenant, "type": "note", "payload": {"n": 1}}
                for more in ({}, {"eventKey": "one"}, {"eventKey": "one"}):
                    posted = httpx.post(
                        f"{site.url}/api/agents/events", json=event | more, headers=bearer
                    )
                    assert posted.status_code in (200, 201), posted.text
                assert len(stream.events(2)) == 2
            assert owner.execute("SELECT count(*) FROM agent_events").fetchone() == (2,)
            wait_until(lambda: httpx.get(f"{site.url}/readyz").status_code == 200, what="ready")
            cookies = login(site, "root")
            with httpx.Client(base_url=site.url, cookies=cookies, timeout=20) as browser:
                for path in ("/", "/admin/", "/api/agents/events?tenant=" + tenant):
                    assert browser.get(path).status_code == 200, path
                for model in ("agentevent", "batch", "tenant", "apikey", "bus"):
                    page = browser.get(f"/admin/agent_events/{model}/")
                    assert page.status_code == 200, model
            assert "denied" not in site.log()
        finally:
            site.stop()
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'my_app'"
            )
