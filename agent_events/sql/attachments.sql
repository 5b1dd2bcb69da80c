-- Events from somebody's own tables: what an attachment is, and the list of them. attach.sql makes them.
--
-- An attachment is one trigger function, in the schema of the table, and one trigger for each
-- operation, all FOR EACH STATEMENT: a statement of 10,000 rows writes its events in one INSERT,
-- in the transaction of the statement.
--
-- Whose rights: whoever writes into the table need not be allowed to write events, so the function
-- is SECURITY DEFINER. What it runs are the expressions, and casts to JSON of the columns' types:
-- whoever decides those borrows its owner's rights. So it belongs to the table's owner, who alone may
-- attach, and refuses to run for a table that belongs to anybody else (it changed its owner, or
-- somebody put the function on a table of his own, though EXECUTE is revoked from all). A cast needs
-- the ownership of the type, so the types of the columns must be that role's too, or a superuser's.
--
-- Everything about an attachment stands in the first line of its function, so it is dumped,
-- restored and dropped with it, and no table of ours can disagree with it.

-- What an attachment was made from, out of its function's source; NULL for any other function.
CREATE FUNCTION @schema@.agent_events_attach_spec(source text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN substring(source, '^-- agent_events_attach (\{[^\n]*\})')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL; -- anybody may write a function that begins so; it must not break the list
END
$$;

-- The attachments that write into this log, as the catalog has them; target NULL: the table is gone.
-- Cost: reads pg_proc once.
CREATE FUNCTION @schema@.agent_events_attached()
RETURNS TABLE (
    target regclass, name text, function regprocedure, owner oid, spec jsonb,
    operations text[], disabled boolean
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tgrelid::regclass, s.spec->>'name', p.oid::regprocedure, p.proowner, s.spec,
           t.operations, t.disabled
      FROM pg_proc AS p
     CROSS JOIN LATERAL (SELECT @schema@.agent_events_attach_spec(p.prosrc) AS spec) AS s
      LEFT JOIN LATERAL (
        SELECT g.tgrelid, bool_or(g.tgenabled NOT IN ('O', 'A')) AS disabled,
               array_agg(i.operation ORDER BY i.place) AS operations
          FROM pg_trigger AS g
          JOIN (VALUES (1, 4, 'insert'), (2, 16, 'update'), (3, 8, 'delete')) AS i(place, bit, operation)
            ON g.tgtype & i.bit <> 0
         WHERE g.tgfoid = p.oid AND NOT g.tgisinternal
         GROUP BY g.tgrelid
      ) AS t ON true
     WHERE p.prorettype = 'trigger'::regtype
       AND starts_with(p.prosrc, '-- agent_events_attach {')
       AND s.spec->>'log' = $s$@schema@$s$
$$;

-- The types of a table's columns, and what these are made of: elements, base types, fields.
-- foreign_owner: the type belongs neither to the table's owner nor to a superuser.
CREATE FUNCTION @schema@.agent_events_attach_types(target regclass)
RETURNS TABLE (name text, type regtype, owner oid, foreign_owner boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE used(name, type) AS (
        SELECT a.attname::text, a.atttypid FROM pg_attribute AS a
         WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT u.name, part.type
          FROM used AS u JOIN pg_type AS t ON t.oid = u.type
         CROSS JOIN LATERAL (
            SELECT i.type FROM unnest(ARRAY[t.typelem, t.typbasetype]) AS i(type) WHERE i.type <> 0
            UNION ALL
            SELECT a.atttypid FROM pg_attribute AS a
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         ) AS part
    )
    SELECT u.name, u.type::regtype, t.typowner,
           t.typowner <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = target)
           AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = t.typowner AND r.rolsuper)
      FROM used AS u JOIN pg_type AS t ON t.oid = u.type
$$;

-- The one statement of an attachment. `called`, `new_rows` and `old_rows` are SQL for TG_OP, for the
-- rows and, where `old` is used, for the rows before. In an INSERT and in a DELETE there are none
-- before (old_rows NULL).
-- (A line break after each expression, so that a comment at its end does not swallow ours.)
CREATE FUNCTION @schema@.agent_events_attach_statement(
    spec jsonb, called text, new_rows text, old_rows text
)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text := format('%L || CASE called.tg_op WHEN ''INSERT'' THEN ''.inserted'''
                        ' WHEN ''UPDATE'' THEN ''.updated'' ELSE ''.deleted'' END', spec->>'table');
    before text := '';
BEGIN
    IF spec->>'type' IS NOT NULL THEN
        kind := format('%L::text', spec->>'type');
    ELSIF spec->>'type_from' IS NOT NULL THEN
        kind := format(E'coalesce(left(nullif((%s\n)::text, ''''), 200), %s)', spec->>'type_from', kind);
    END IF;
    IF jsonb_typeof(spec->'keys') = 'array' AND old_rows IS NOT NULL THEN
        before := format(' LEFT JOIN %s AS old ON %s', old_rows, (
            SELECT string_agg(format('old.%1$I = r.%1$I', k.key), ' AND ')
              FROM jsonb_array_elements_text(spec->'keys') AS k(key)));
    ELSIF jsonb_typeof(spec->'keys') = 'array' THEN
        before := format(' LEFT JOIN (SELECT * FROM %s AS none WHERE false) AS old ON false', new_rows);
    END IF;
    RETURN format($sql$
    INSERT INTO @schema@.agent_events (tenant_id, agent_id, event_type, payload)
    SELECT e.tenant_id, e.agent_id, e.event_type, coalesce(e.payload, 'null')
      FROM (
        SELECT coalesce(NULL::uuid, (%s
               )) AS tenant_id, coalesce(NULL::uuid, (%s
               )) AS agent_id, %s AS event_type, to_jsonb(%s
               ) AS payload
          FROM %s AS r%s CROSS JOIN (SELECT %s AS tg_op) AS called
         WHERE (%s
               )
      ) AS e
     WHERE e.tenant_id IS NOT NULL AND e.agent_id IS NOT NULL$sql$,
        spec->>'tenant', spec->>'agent', kind, spec->>'payload', new_rows, before, called,
        coalesce(spec->>'condition', 'true'));
END
$$;

-- What is wrong with an attachment's statement on the table as it is now; NULL message if nothing.
-- EXPLAIN looks names, types and rights up and runs nothing. It does so with the caller's rights and
-- the expressions are text, so it must only be asked about what the caller's own role wrote.
CREATE FUNCTION @schema@.agent_events_attach_problem(
    target regclass, spec jsonb, OUT message text, OUT state text
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- In a subquery, since a transition table has no system columns either.
    found CONSTANT text := format('(SELECT * FROM %s)', target);
BEGIN
    EXECUTE 'EXPLAIN ' || @schema@.agent_events_attach_statement(spec, '''UPDATE''::text', found, found);
EXCEPTION WHEN OTHERS THEN
    message := SQLERRM;
    state := SQLSTATE;
END
$$;

-- The attachments that write into this log. `problem` says, in words, why one writes nothing or
-- makes its table's statements fail. Expressions are tried for the attachments of the caller's own
-- role only: whoever wrote them decides what is run. Cost: plans a statement for each of these.
CREATE FUNCTION @schema@.agent_events_attachments()
RETURNS TABLE (
    target regclass, name text, operations text[], tenant text, agent text, type text,
    payload text, condition text, attached_by text, function regprocedure, problem text
)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.target, a.name, a.operations, a.spec->>'tenant', a.spec->>'agent',
           coalesce(a.spec->>'type', a.spec->>'type_from',
                    (a.spec->>'table') || '.inserted|updated|deleted'),
           a.spec->>'payload', a.spec->>'condition', pg_get_userbyid(a.owner)::text, a.function,
           CASE WHEN a.target IS NULL
                THEN 'no trigger calls it: its table is gone, or its triggers;'
                     ' SELECT agent_events_detach(NULL) drops the function'
                WHEN a.owner <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = a.target)
                THEN 'its statements fail: the table has another owner, who should detach, and attach again'
                WHEN EXISTS (SELECT FROM @schema@.agent_events_attach_types(a.target) AS t WHERE t.foreign_owner)
                THEN (SELECT format('column %s has the type %s, which belongs to %s, whose casts run as %s;'
                                    ' another owner for the type, or detach',
                                    t.name, t.type, pg_get_userbyid(t.owner), pg_get_userbyid(a.owner))
                        FROM @schema@.agent_events_attach_types(a.target) AS t WHERE t.foreign_owner LIMIT 1)
                WHEN a.disabled
                THEN format('disabled; ALTER TABLE %s ENABLE TRIGGER USER', a.target)
                WHEN NOT a.operations @> ARRAY(SELECT jsonb_array_elements_text(a.spec->'operations'))
                THEN 'a trigger was dropped; attach again'
                WHEN pg_get_userbyid(a.owner) = current_user
                THEN (SELECT 'its statements fail: ' || p.message || '; attach again, or detach'
                        FROM @schema@.agent_events_attach_problem(a.target, a.spec) AS p)
           END
      FROM @schema@.agent_events_attached() AS a
     ORDER BY 1, 2
$$;
