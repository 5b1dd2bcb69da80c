"""A hostile search_path changes nothing: every name in the functions is taken from where it should.

The trap: a schema, first in the search_path, with a function and an operator for each of
PostgreSQL's own that the SQL uses, and with types, tables and functions of our names; and tables
and types of these names in pg_temp. Whoever falls into it raises, or reads an empty table.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from agent_events import sql
from tests.support.roles import temporary_role

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

TENANT, AGENT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
INSERT = """
    INSERT INTO public.agent_events (tenant_id, agent_id, event_type, payload)
    SELECT '{}', '{}', 'x', '1' FROM generate_series(1, {})
"""
FILES = ("append", "read", "ring", "maintain")

TRAP = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.boom() RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$;
DO $do$
DECLARE
    words CONSTANT text[] := $1;
    made  integer := 0;
    p     record;
BEGIN
    -- Functions, also aggregates and window functions, and ours.
    FOR p IN SELECT f.proname, f.prorettype::regtype::text AS result,
                    (SELECT string_agg(t::regtype::text, ', ' ORDER BY o)
                       FROM unnest(f.proargtypes::oid[]) WITH ORDINALITY AS a(t, o)) AS args,
                    f.pronargs
               FROM pg_proc AS f
              WHERE f.pronamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)
                AND f.proname = ANY (words) AND f.prorettype <> 'trigger'::regtype
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                p.proname, p.args,
                CASE WHEN p.result IN ('record', '"any"') THEN 'text' ELSE p.result END,
                'BEGIN PERFORM hostile.boom(); RETURN NULL; END');
            made := made + 1;
        EXCEPTION WHEN OTHERS THEN NULL;  -- a pseudo-type that a function cannot take
        END;
    END LOOP;
    -- Operators over the types that we have.
    FOR p IN SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r,
                    o.oprresult::regtype AS result, row_number() OVER () AS i
               FROM pg_operator AS o
              WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
                AND o.oprleft::regtype::text = ANY ('{bigint,integer,text,uuid,xid8,boolean,jsonb,
                    oid,name,timestamp with time zone,interval,double precision,anyarray,
                    anycompatiblearray,anycompatible,anynonarray}'::text[])
    LOOP
        EXECUTE format(
            'CREATE FUNCTION hostile.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
            p.i, p.l, p.r, p.result, 'BEGIN PERFORM hostile.boom(); RETURN NULL; END');
        EXECUTE format(
            'CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s,'
            ' FUNCTION = hostile.operator_%s)', p.oprname, p.l, p.r, p.i);
    END LOOP;
    IF made < 60 THEN
        RAISE EXCEPTION 'only % functions in the trap', made;
    END IF;
END
$do$;
CREATE TABLE hostile.agent_events (LIKE public.agent_events);
CREATE TABLE hostile.agent_event_batches (LIKE public.agent_event_batches);
CREATE TABLE hostile.agent_event_bus (LIKE public.agent_event_bus);
CREATE TYPE hostile.agent_event_entry AS (nothing integer);
GRANT ALL ON SCHEMA hostile TO PUBLIC;
"""
TYPES = "".join(
    f"CREATE DOMAIN {{0}}.{name} AS pg_catalog.int2 CHECK (false);"
    for name in ("text", "uuid", "xid8", "pg_snapshot", "timestamptz", "jsonb", "regclass")
)
TEMPORARY = "".join(
    f"CREATE TEMP TABLE {name} (LIKE public.{name});"
    for name in ("agent_events", "agent_event_batches", "agent_event_bus")
)


def words() -> list[str]:
    """Whatever stands before a parenthesis in our SQL, and our functions' names."""
    folder = Path(sql.__file__).parent
    text = "".join((folder / f"{name}.sql").read_text() for name in FILES)
    return sorted(set(re.findall(r"\b([a-z_0-9]+)\s*\(", text)))


def set_trap(connection: Connection) -> None:
    literal = "'{" + ",".join(words()) + "}'"
    connection.execute(TRAP.replace("$1", literal).encode())
    connection.execute(TYPES.format("hostile").encode())
    connection.execute("SET search_path = hostile, pg_catalog, public")


def spring(connection: Connection) -> None:
    """Temporary tables and types: they come before even pg_catalog where the path names none."""
    connection.execute(TEMPORARY.encode())
    connection.execute(TYPES.format("pg_temp").encode())


CALLS = (
    "public.agent_events_head()",
    f"public.agent_events_read('{TENANT}', 1, 0, 9)",
    f"public.agent_events_read('{TENANT}', 1, 0, 9, '{{*}}', '{{x,y*}}')",
    "public.agent_events_read(NULL, 1, 0, 9)",
    f"public.agent_events_read_back('{TENANT}', 9, 0, 9)",
    "public.agent_events_read_back(NULL, 9, 0, 9, '{*}', '{x,y*}')",
    "public.agent_events_page(NULL, 1, 0, 2, NULL, '{x}')",
    f"public.agent_events_page('{{{TENANT}}}', 1, 0, 2000)",
    f"public.agent_events_page('{{{TENANT},{AGENT}}}', 1, 0, 2)",
    "public.agent_events_page_back(NULL, 9, 0, 2, '{*}', NULL)",
    f"public.agent_events_page_back('{{{TENANT},{AGENT}}}', 9, 0, 2000)",
    "public.agent_events_page(NULL, 1, 0, 2, not_agents => '{y*}', texts => '{x}',"
    " conditions => 'exists ($.a)')",
    f"public.agent_events_read('{TENANT}', 1, 0, 9, not_types => '{{x,y*}}', texts => '{{a}}')",
    "public.agent_events_read_back(NULL, 9, 0, 9, conditions => '$.a == 1')",
    "public.agent_events_window(NULL, 1, 3)",
    f"public.agent_events_window('{{{TENANT}}}', 1, 2)",
    "public.agent_events_within(NULL, 2, NULL, 9, true)",
    f"public.agent_events_within('{{{TENANT}}}', 3, 5, 9, false)",
    "public.agent_events_batch_of((SELECT max(tx) FROM public.agent_events), 1, 3)",
    "public.agent_events_place((SELECT max(tx) FROM public.agent_events))",
    "public.agent_events_spans('1:1:', '9:12:10')",
    "public.agent_events_patterns('{a*,b_}')",
    "public.agent_events_bodies()",
    "public.agent_events_fault(10)",
    "public.agent_events_prunable(now())",
    f"public.agent_events_listen('{TENANT}')",
)


def test_the_trap_works(connect: Connect) -> None:
    connection = connect()
    set_trap(connection)
    for fallen in (
        "'a'::pg_catalog.text = 'b'",
        "clock_timestamp()",
        "max('5'::pg_catalog.xid8)",
        "pg_snapshot_xmax('1:1:'::pg_catalog.pg_snapshot)",
        "agent_events_head()",
    ):
        with pytest.raises(errors.RaiseException, match="hostile"):
            connection.execute(f"SELECT {fallen}".encode())
    spring(connection)
    assert connection.execute("TABLE agent_event_batches").fetchall() == []
    with pytest.raises((errors.CheckViolation, errors.InvalidTextRepresentation)):
        connection.execute("SELECT '5'::xid8")


def test_a_hostile_search_path_changes_nothing(connect: Connect, dsn: str) -> None:
    clean, victim, listener, late = connect(), connect(), connect(), connect(autocommit=False)
    listener.execute("LISTEN agent_events")
    listener.execute(f'LISTEN "agent_event_{TENANT}"')
    set_trap(victim)
    spring(victim)
    with temporary_role(dsn) as role:
        clean.execute(
            "GRANT INSERT (tenant_id, agent_id, event_type, payload)"
            f" ON public.agent_events TO {role}"
        )
        # A producer, the ring, and appends: with a late transaction, and with cuts.
        late.execute(INSERT.format(TENANT, AGENT, 2))
        victim.execute(f"SET ROLE {role}")
        victim.execute(
            "INSERT INTO public.agent_events (tenant_id, agent_id, event_type, payload)"
            f" VALUES ('{TENANT}', '{AGENT}', 'x', '1')"
        )
        victim.execute("RESET ROLE")
    heard = {note.channel for note in listener.notifies(timeout=10, stop_after=2)}
    assert heard == {"agent_events", f"agent_event_{TENANT}"}
    appended = "SELECT n, rows FROM public.agent_events_append({})"
    assert victim.execute(appended.format("")).fetchall() == [(1, 1)]
    late.commit()
    clean.execute(INSERT.format(AGENT, AGENT, 3))
    clean.execute(INSERT.format(TENANT, AGENT, 3))
    assert victim.execute(appended.format(2)).fetchall() == [(2, 2)]
    assert victim.execute(appended.format(4)).fetchall() == [(3, 3)]
    assert victim.execute(appended.format("")).fetchall() == [(4, 3)]
    assert victim.execute(appended.format("")).fetchall() == []

    for call in CALLS:
        # The values of the call itself are the caller's: qualified.
        asked = f"SELECT r::pg_catalog.text FROM {call} AS r".replace(
            "max(tx)", "pg_catalog.max(tx)"
        ).replace("(now())", "(pg_catalog.now())")
        assert victim.execute(asked).fetchall() == clean.execute(asked).fetchall(), call

    # What writes, in a transaction that is undone.
    for write in (
        "SELECT events, batches FROM public.agent_events_prune(pg_catalog.now(), 4)",
        "SELECT fault, batches FROM public.agent_events_mend()",
    ):
        done = []
        for connection in (victim, clean):
            with connection.transaction(force_rollback=True):
                done.append(connection.execute(write).fetchall())
        assert done[0] == done[1]
    for table in ("agent_events", "agent_event_batches", "agent_event_bus"):
        for schema in ("hostile", "pg_temp"):
            assert victim.execute(f"SELECT 1 FROM {schema}.{table}").fetchall() == []
