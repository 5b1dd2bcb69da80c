-- Making attachments and taking them away; attachments.sql says what they are.

-- Locks the table, and waits for those who use it for `lock_timeout`, or 5 s where there is none:
-- everybody else queues behind whoever waits.
CREATE FUNCTION @schema@.agent_events_attach_lock(target regclass, mode text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given CONSTANT text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', CASE WHEN given = '0' THEN '5s' ELSE given END, true);
    EXECUTE format('LOCK TABLE %s IN %s MODE', target, mode);
    PERFORM set_config('lock_timeout', given, true);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'agent_events: % is in use by an open transaction; nothing was changed', target
        USING ERRCODE = 'lock_not_available',
              HINT = 'Call again when that has ended (pg_stat_activity, state "idle in transaction").';
END
$$;

-- Drops the function of an attachment, unless somebody else's object depends on it, or it is another
-- role's: then it says so, and returns false.
CREATE FUNCTION @schema@.agent_events_attach_drop(function regprocedure)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    users CONSTANT text := (SELECT string_agg(DISTINCT t.tgrelid::regclass::text, ', ')
                              FROM pg_trigger AS t WHERE t.tgfoid = function);
BEGIN
    EXECUTE format('DROP FUNCTION %s', function);
    RETURN true;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'agent_events_detach: the function % is %''s, and stays%', function,
            (SELECT pg_get_userbyid(p.proowner) FROM pg_proc AS p WHERE p.oid = function),
            coalesce('; triggers use it on ' || users, '; it does nothing any more')
            USING HINT = 'That role may call agent_events_detach(NULL).';
        RETURN false;
    WHEN dependent_objects_still_exist THEN
        RAISE NOTICE 'agent_events_detach: the function % stays: %', function,
            coalesce('triggers use it on ' || users, SQLERRM)
            USING HINT = 'When they are gone: agent_events_detach(NULL).';
        RETURN false;
END
$$;

-- Makes every INSERT, UPDATE and DELETE of a table write an event for each row; docs/attach.md.
-- Called again with the same name it replaces. Returns what it did, in words.
--   tenant, agent   a column's name, a uuid, or an SQL expression of type uuid; NULL: no event
--   type            what the event is called: a constant; or type_from, an SQL expression.
--                   Neither: <table>.inserted, .updated, .deleted
--   payload         an SQL expression; left out: the row
--   condition       an SQL expression; rows for which it is not true write no event
-- In expressions `r` is the row (as written; of a DELETE, as it was), `old` the row before an UPDATE,
-- found by primary key (elsewhere all NULL), tg_op the operation.
-- Locks: SHARE ROW EXCLUSIVE on the table until the transaction ends (writers wait); where an
-- operation is taken away ACCESS EXCLUSIVE.
CREATE FUNCTION @schema@.agent_events_attach(
    target regclass, tenant text, agent text, type text DEFAULT NULL, payload text DEFAULT NULL,
    operations text[] DEFAULT '{insert,update,delete}', condition text DEFAULT NULL,
    name text DEFAULT 'events', type_from text DEFAULT NULL
)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    log    CONSTANT regclass := $s$@schema@.agent_events$s$::regclass;
    uuids  CONSTANT text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
    kind   record;
    given  record;
    before record;
    wrong  record;
    spec   jsonb;
    keys   jsonb;
    made   text;
    body   text;
    op     text;
    wanted text[] := '{}';
    stale  text;
    why    text;
BEGIN
    IF target IS NULL THEN
        RAISE EXCEPTION 'agent_events_attach: expected a table, got NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT c.relname::text, c.relkind, c.relowner, c.relispartition, c.relpersistence, c.relnamespace,
           n.nspname::text,
           (SELECT p.inhparent::regclass FROM pg_inherits AS p WHERE p.inhrelid = c.oid LIMIT 1) AS parent
      INTO kind
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = target;

    -- What cannot be attached to.
    why := CASE
        WHEN kind.relkind = 'v' THEN 'is a view: attach to the tables below it'
        WHEN kind.relkind = 'f' THEN 'is a foreign table: attach where the table is'
        WHEN kind.relkind NOT IN ('r', 'p') THEN 'is no table'
        WHEN kind.relispartition THEN format('is a partition: attach to %s, and write through it', kind.parent)
        WHEN kind.relpersistence = 't' THEN 'is a temporary table'
        WHEN kind.relnamespace = (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = log)
             AND kind.relname IN ('agent_events', 'agent_event_batches', 'agent_event_bus', 'agent_event_keys')
            THEN 'is the log itself: each event would write an event'
    END;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'agent_events_attach: % %', target, why USING ERRCODE = 'wrong_object_type';
    END IF;

    -- What the arguments must be.
    why := CASE
        WHEN tenant IS NULL OR agent IS NULL THEN 'tenant and agent must be given: a column, a uuid or an expression'
        WHEN name IS NULL OR name !~ '^[a-z0-9_]{1,30}$'
            THEN format('name is %L, expected 1 to 30 of a-z, 0-9 and _', name)
        WHEN type IS NOT NULL AND type_from IS NOT NULL THEN 'type and type_from were both given, expected one'
        WHEN char_length(type) NOT BETWEEN 1 AND 200
            THEN format('type has %s characters, expected 1 to 200', char_length(type))
        WHEN operations IS NULL OR cardinality(operations) = 0
             OR NOT operations <@ '{insert,update,delete}'::text[]
            THEN format('operations is %L, expected some of {insert,update,delete}', operations)
    END;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'agent_events_attach: %', why USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- What the caller must be allowed to do.
    IF pg_get_userbyid(kind.relowner) <> current_user THEN
        RAISE EXCEPTION 'agent_events_attach: % belongs to %, and only its owner may attach to it', target,
            pg_get_userbyid(kind.relowner)
            USING ERRCODE = 'insufficient_privilege', HINT = format('SET ROLE %I;', pg_get_userbyid(kind.relowner));
    END IF;
    IF NOT has_schema_privilege(current_user, kind.nspname, 'CREATE') THEN
        RAISE EXCEPTION 'agent_events_attach: % may not create the trigger function in schema %', current_user, kind.nspname
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT CREATE ON SCHEMA %I TO %I;', kind.nspname, current_user);
    END IF;
    IF NOT (SELECT bool_and(has_column_privilege(current_user, log, c.name, 'INSERT'))
              FROM unnest('{tenant_id,agent_id,event_type,payload}'::text[]) AS c(name)) THEN
        RAISE EXCEPTION 'agent_events_attach: % may not write events', current_user
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT INSERT (tenant_id, agent_id, event_type, payload) ON %s TO %I;',
                                log, current_user);
    END IF;

    -- Dropping a trigger needs more than making one, and a lock must not be raised later on.
    PERFORM @schema@.agent_events_attach_lock(target, CASE WHEN EXISTS (
        SELECT FROM @schema@.agent_events_attached() AS a
         WHERE a.target = target AND a.name = name AND NOT a.operations <@ operations)
        THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE ROW EXCLUSIVE' END);

    -- Whoever owns a type decides by its casts what is run with the rights of the table's owner.
    FOR given IN
        SELECT t.name, t.type, pg_get_userbyid(t.owner) AS owner
          FROM @schema@.agent_events_attach_types(target) AS t WHERE t.foreign_owner LIMIT 1
    LOOP
        RAISE EXCEPTION 'agent_events_attach: column % of % has the type %, which belongs to %, whose casts would run as %',
            given.name, target, given.type, given.owner, current_user
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('ALTER TYPE %s OWNER TO %I; or another type for the column.', given.type, current_user);
    END LOOP;

    -- A column's name means that column, whatever its spelling; a uuid means itself.
    spec := jsonb_build_object(
        'log', $s$@schema@$s$, 'name', name, 'table', kind.relname, 'type', type, 'keys', NULL,
        'operations', operations);
    FOR given IN
        SELECT a.key, CASE
                   WHEN EXISTS (SELECT FROM pg_attribute AS c
                                 WHERE c.attrelid = target AND c.attname = a.value
                                   AND c.attnum > 0 AND NOT c.attisdropped)
                   THEN format('r.%I', a.value)
                   WHEN a.value ~ uuids AND a.key IN ('tenant', 'agent') THEN format('%L::uuid', a.value)
                   ELSE a.value END AS value
          FROM (VALUES ('tenant', tenant), ('agent', agent), ('payload', coalesce(payload, 'r.*')),
                       ('condition', condition), ('type_from', type_from)) AS a(key, value)
    LOOP
        spec := spec || jsonb_build_object(given.key, given.value);
    END LOOP;

    -- `old` is joined in only where it is used: it costs a copy of the rows before, and a join.
    SELECT p.message, p.state INTO wrong FROM @schema@.agent_events_attach_problem(target, spec) AS p;
    IF wrong.message IS NOT NULL THEN
        SELECT jsonb_agg(a.attname ORDER BY a.attnum) INTO keys
          FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
         WHERE i.indrelid = target AND i.indisprimary;
        IF keys IS NOT NULL AND EXISTS (
            SELECT FROM jsonb_each_text(spec) AS s
             WHERE s.key IN ('tenant', 'agent', 'payload', 'condition', 'type_from') AND s.value ~* '\mold\M')
        THEN
            spec := spec || jsonb_build_object('keys', keys);
            SELECT p.message, p.state INTO wrong FROM @schema@.agent_events_attach_problem(target, spec) AS p;
        END IF;
    END IF;
    IF wrong.message IS NOT NULL THEN
        -- Which of them? Each alone, the others put out of the way.
        FOR given IN
            SELECT s.key, s.value, p.message, p.state
              FROM jsonb_each_text(spec) AS s
             CROSS JOIN LATERAL @schema@.agent_events_attach_problem(target, spec
                || '{"tenant": "NULL::uuid", "agent": "NULL::uuid", "payload": "NULL::jsonb", "type_from": null, "condition": null}'
                || jsonb_build_object(s.key, s.value)) AS p
             WHERE s.key IN ('tenant', 'agent', 'payload', 'condition', 'type_from') AND p.message IS NOT NULL
             LIMIT 1
        LOOP
            RAISE EXCEPTION 'agent_events_attach: % => % does not work on %: %', given.key,
                quote_literal(given.value), target, regexp_replace(given.message,
                    '^COALESCE types uuid and (.*) cannot be matched$', 'it is \1, expected uuid')
                USING ERRCODE = given.state, HINT = CASE
                    WHEN given.value ~* '\mold\M' AND keys IS NULL
                    THEN 'old is found by primary key, and the table has none.'
                    WHEN given.state = '42804' AND given.key IN ('tenant', 'agent')
                    THEN format('Expected a uuid. Of text: (r.x)::uuid, of a number: md5(%L || r.x)::uuid.',
                                given.key || ' ')
                    WHEN given.state IN ('42P01', '42883', '3F000')
                    THEN 'r is the row, old the row before; other tables and functions need their schema''s name.'
                    WHEN given.state IN ('42703', '42702')
                    THEN 'Name columns as r.<column>.'
                    ELSE 'Expected an SQL expression over the row r.' END;
        END LOOP;
        RAISE EXCEPTION 'agent_events_attach: this does not work on %: %', target, wrong.message USING ERRCODE = wrong.state;
    END IF;

    -- The one before, if there is one: its function is written anew in its place.
    SELECT a.function, pg_get_userbyid(a.owner) AS attached_by, f.proname::text AS made,
           f.pronamespace = kind.relnamespace AS beside
      INTO before
      FROM @schema@.agent_events_attached() AS a JOIN pg_proc AS f ON f.oid = a.function
     WHERE a.target = target AND a.name = name;
    IF before.attached_by <> current_user THEN
        RAISE EXCEPTION 'agent_events_attach: the attachment % of % is %''s', name, target, before.attached_by
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('As that role, or after SELECT agent_events_detach(%L, %L);', target, name);
    END IF;
    made := before.made;
    IF before.beside IS NOT TRUE THEN -- none before, or the table was moved to another schema
        made := 'agent_events_on_' || kind.relname;
        IF name <> 'events' OR octet_length(made) > 63 THEN
            made := format('agent_events_on_%s_%s', left(kind.relname, 8),
                           left(md5(kind.relname || ' ' || name), 8));
        END IF;
        -- What an owner before this one left behind, and only that role may drop.
        IF EXISTS (SELECT FROM pg_proc AS f
                    WHERE f.pronamespace = kind.relnamespace AND f.proname = made
                      AND pg_get_userbyid(f.proowner) <> current_user
                      AND @schema@.agent_events_attach_spec(f.prosrc) IS NOT NULL
                      AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = f.oid)) THEN
            made := format('agent_events_on_%s_%s', left(kind.relname, 8),
                           left(md5(concat_ws(' ', kind.relname, name, current_user)), 8));
        END IF;
        SELECT format('%s exists already, and is no attachment of %s', f.oid::regprocedure, target) INTO why
          FROM pg_proc AS f
         WHERE f.pronamespace = kind.relnamespace AND f.proname = made
           AND (pg_get_userbyid(f.proowner) <> current_user OR EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = f.oid)
                OR @schema@.agent_events_attach_spec(f.prosrc) IS NULL);
        IF why IS NOT NULL THEN
            RAISE EXCEPTION 'agent_events_attach: %', why
                USING ERRCODE = 'duplicate_function', HINT = 'Drop or rename that function, or give another name.';
        END IF;
    END IF;

    -- A static statement is planned once a session. With `old` it is planned each time: only then
    -- is it known how many rows there are to join.
    IF jsonb_typeof(spec->'keys') = 'array' THEN
        body := format(E'    IF TG_OP = ''UPDATE'' THEN\n    EXECUTE %L;\n    ELSE%s;\n    END IF;',
            @schema@.agent_events_attach_statement(
                spec, '''UPDATE''::text', 'agent_events_rows', 'agent_events_old_rows'),
            @schema@.agent_events_attach_statement(spec, 'TG_OP', 'agent_events_rows', NULL));
    ELSE
        body := @schema@.agent_events_attach_statement(spec, 'TG_OP', 'agent_events_rows', NULL) || ';';
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %I.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
        ' SET search_path = pg_catalog, pg_temp AS %L',
        kind.nspname, made,
        format(E'-- agent_events_attach %s\n#variable_conflict use_column\nBEGIN\n'
               -- Whoever owns the table decides what runs below, by the types of its columns.
               -- (A transaction that keeps its snapshot may see an owner that is none any more. Then the row
               -- that it sees bears the transaction that changed it, which the snapshot has not seen.)
               '    IF current_setting(''transaction_isolation'') IN (''repeatable read'', ''serializable'') AND EXISTS (\n'
               '        SELECT FROM pg_class AS c, pg_snapshot_xmin(pg_current_snapshot()) AS s(low)\n'
               '         WHERE c.oid = TG_RELID AND CASE WHEN age(c.xmax) <= age(s.low::xid) THEN pg_xact_status(\n'
               '               (s.low::text::bigint + age(s.low::xid) - age(c.xmax))::text::xid8) <> ''aborted'' END)\n'
               '    THEN\n'
               '        RAISE EXCEPTION ''agent_events: %% was altered after this transaction had begun'', TG_RELID::regclass\n'
               '            USING ERRCODE = ''serialization_failure'', HINT = ''Do the transaction again.'';\n'
               '    END IF;\n'
               '    IF NOT EXISTS (SELECT FROM pg_class AS c\n'
               '                    WHERE c.oid = TG_RELID AND pg_get_userbyid(c.relowner) = current_user) THEN\n'
               '        RAISE EXCEPTION ''agent_events: %% does not belong to %%, with whose rights its events would be written'',\n'
               '            TG_RELID::regclass, current_user\n'
               '            USING ERRCODE = ''insufficient_privilege'',\n'
               '                  HINT = ''As the owner of the table: agent_events_detach, then agent_events_attach.'';\n'
               '    END IF;\n%s\n    RETURN NULL;\nEND\n',
               spec, body));
    -- Not PUBLIC alone: default privileges may have given it to others.
    FOR stale IN
        SELECT DISTINCT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
          FROM pg_proc AS f CROSS JOIN LATERAL aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS g
         WHERE f.pronamespace = kind.relnamespace AND f.proname = made AND f.pronargs = 0 AND g.grantee <> f.proowner
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %I.%I() FROM %s CASCADE', kind.nspname, made, stale);
    END LOOP;

    FOREACH op IN ARRAY operations LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()',
            format('agent_events_%s_%s', name, op), op, target,
            CASE WHEN op = 'delete' THEN 'OLD TABLE AS agent_events_rows'
                 WHEN op = 'update' AND jsonb_typeof(spec->'keys') = 'array'
                 THEN 'NEW TABLE AS agent_events_rows OLD TABLE AS agent_events_old_rows'
                 ELSE 'NEW TABLE AS agent_events_rows' END,
            kind.nspname, made);
        wanted := wanted || format('agent_events_%s_%s', name, op);
    END LOOP;
    FOR stale IN SELECT t.tgname FROM pg_trigger AS t
                  WHERE t.tgrelid = target AND t.tgfoid = before.function AND t.tgname <> ALL (wanted) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', stale, target);
    END LOOP;
    IF NOT before.beside THEN
        PERFORM @schema@.agent_events_attach_drop(before.function);
    END IF;
    FOR given IN
        SELECT DISTINCT t.name FROM @schema@.agent_events_attach_types(target) AS t
         WHERE t.type = 'json'::regtype AND spec->>'payload' IN ('r.*', 'r', format('r.%I', t.name))
    LOOP
        RAISE NOTICE 'agent_events_attach: column % of % is json: a statement that writes what jsonb cannot hold (\u0000, half a surrogate pair, 1e200000) will fail',
            given.name, target
            USING HINT = 'Make it jsonb, or give a payload without it.';
    END LOOP;
    RETURN format('%s: %s writes events%s', target, array_to_string(operations, ', '),
                  CASE WHEN before.function IS NULL THEN '' ELSE ' (replaced what was attached as ' || name || ')' END);
END
$$;

-- Takes attachments away: that of this name, or all of the table. NULL as the table: the functions
-- that dropped tables left behind. Returns how many; 0 is no error.
-- Locks: ACCESS EXCLUSIVE on the table until the transaction ends.
CREATE FUNCTION @schema@.agent_events_detach(target regclass, name text DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    found record;
    other text;
    gone  integer := 0;
BEGIN
    FOR found IN
        SELECT a.target, a.function,
               (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.target) AS owner
          FROM @schema@.agent_events_attached() AS a
         WHERE a.target IS NOT DISTINCT FROM target AND (name IS NULL OR a.name = name)
    LOOP
        IF found.target IS NOT NULL THEN
            IF NOT pg_has_role(current_user, found.owner, 'USAGE') THEN
                RAISE EXCEPTION 'agent_events_detach: % belongs to %, and only its owner may detach from it',
                    found.target, pg_get_userbyid(found.owner)
                    USING ERRCODE = 'insufficient_privilege';
            END IF;
            PERFORM @schema@.agent_events_attach_lock(found.target, 'ACCESS EXCLUSIVE');
            FOR other IN SELECT t.tgname FROM pg_trigger AS t
                          WHERE t.tgrelid = found.target AND t.tgfoid = found.function LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', other, found.target);
            END LOOP;
        END IF;
        CONTINUE WHEN NOT @schema@.agent_events_attach_drop(found.function) AND found.target IS NULL;
        gone := gone + 1;
    END LOOP;
    RETURN gone;
END
$$;
