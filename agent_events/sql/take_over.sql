-- A table agent_events that is there already (BIGSERIAL id, a trigger that notifies for each row)
-- becomes the log, without being rewritten; docs/take_over.md. Where there is none: nothing.
-- tables.sql, which runs next in the same transaction, adds the indexes and the ledger.
--
-- Its rows get one transaction id, the migration's own: they become the first batch, in the order of
-- their ids. Locks: ACCESS EXCLUSIVE on the table until the migration commits; it waits for that for
-- lock_timeout, or 5 s where there is none. Cost: reads the table once for the CHECK, and tables.sql
-- twice more for the indexes.
DO $take_over$
DECLARE
    log    CONSTANT regclass := to_regclass($s$@schema@.agent_events$s$);
    given_timeout CONSTANT text := current_setting('lock_timeout');
    given_path    CONSTANT text := current_setting('search_path');
    kind   record;
    col    record;
    wrong  text := '';
    holders text;
    serial record;
    at     record;
    top    bigint;
    step   bigint := 1;
    past   boolean;
    other  record;
    stay   text;
BEGIN
    PERFORM set_config('agent_events.taken_over', 'off', true);
    IF log IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT c.relkind, c.relowner, c.relnamespace,
           EXISTS (SELECT FROM pg_inherits AS p WHERE c.oid IN (p.inhparent, p.inhrelid)) AS inherits
      INTO kind FROM pg_class AS c WHERE c.oid = log;
    IF kind.relkind <> 'r' OR kind.inherits THEN
        RAISE EXCEPTION 'agent_events: there is a % already, and it is no plain table; nothing was changed', log
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Views, partitioned tables and tables that inherit cannot become the log. Rename it.';
    END IF;
    IF NOT pg_has_role(current_user, kind.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'agent_events: there is a table % already, and it is %''s; nothing was changed',
            log, pg_get_userbyid(kind.relowner)
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Migrate as that role, or ALTER TABLE %s OWNER TO %I;', log, current_user);
    END IF;

    -- Producers queue behind a lock that waits, so it does not wait for long.
    BEGIN
        PERFORM set_config('lock_timeout', CASE WHEN given_timeout = '0' THEN '5s' ELSE given_timeout END, true);
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', log);
        PERFORM set_config('lock_timeout', given_timeout, true);
    EXCEPTION WHEN lock_not_available THEN
        SELECT string_agg(format('%s (%s, %s)', a.pid, a.usename, a.state), ', ') INTO holders
          FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
         WHERE l.relation = log AND l.granted AND a.pid <> pg_backend_pid() AND l.database = (
               SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
        RAISE EXCEPTION 'agent_events: % is in use by an open transaction; nothing was changed', log
            USING ERRCODE = 'lock_not_available', DETAIL = format('In use by: %s.', holders),
                  HINT = 'Migrate again when it has ended (pg_terminate_backend ends it).';
    END;

    -- Is it what we think?
    FOR col IN
        SELECT w.name, w.type, a.attnum, a.attnotnull,
               a.atttypid = w.type::regtype AS fits, format_type(a.atttypid, a.atttypmod) AS is
          FROM (VALUES ('id', 'bigint'), ('tenant_id', 'uuid'), ('agent_id', 'uuid'), ('event_type', 'text'),
                       ('payload', 'jsonb'), ('created_at', 'timestamptz')) AS w(name, type)
          LEFT JOIN pg_attribute AS a
            ON a.attrelid = log AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        IF col.attnum IS NULL THEN
            wrong := wrong || format(E'\nThere is no column %s, expected %s. ALTER TABLE %s %s;',
                col.name, col.type, log, CASE WHEN col.name = 'created_at'
                THEN 'ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()'
                ELSE 'RENAME COLUMN ... TO ' || col.name END);
        ELSIF NOT col.fits THEN
            wrong := wrong || format(E'\nColumn %1$s is %3$s, expected %2$s. ALTER TABLE %4$s ALTER COLUMN %1$s TYPE %2$s USING %1$s%5$s;',
                col.name, col.type, col.is, log, CASE WHEN col.is LIKE 'timestamp%'
                THEN ' AT TIME ZONE ''UTC''' ELSE '::' || col.type END);
        END IF;
        IF NOT col.attnotnull THEN
            wrong := wrong || format(E'\nColumn %1$s may be NULL, expected NOT NULL. DELETE FROM %2$s WHERE %1$s IS NULL; ALTER TABLE %2$s ALTER COLUMN %1$s SET NOT NULL;',
                col.name, log);
        END IF;
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = log AND i.indisprimary AND i.indnkeyatts = 1 AND a.attname = 'id')
    THEN
        wrong := wrong || format(E'\nThe primary key is not (id). ALTER TABLE %s ADD PRIMARY KEY (id);', log);
    END IF;
    -- A producer names four columns: whatever else there is must fill itself in.
    FOR col IN
        SELECT a.attname FROM pg_attribute AS a
         WHERE a.attrelid = log AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
           AND a.attname NOT IN ('id', 'tenant_id', 'agent_id', 'event_type', 'payload', 'created_at', 'tx')
    LOOP
        wrong := wrong || format(E'\nColumn %1$I must be given with each event. ALTER TABLE %2$s ALTER COLUMN %1$I DROP NOT NULL; (or SET DEFAULT ...)',
            col.attname, log);
    END LOOP;
    -- tx is there already where somebody did the slow part ahead.
    SELECT a.atttypid = 'xid8'::regtype AND a.attnotnull
           AND coalesce(pg_get_expr(d.adbin, d.adrelid), '') LIKE '%pg_current_xact_id()' AS fits
      INTO col
      FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = log AND a.attname = 'tx' AND NOT a.attisdropped;
    past := FOUND;
    IF past AND NOT col.fits THEN
        wrong := wrong || format(E'\nColumn tx is in the way, expected xid8 NOT NULL DEFAULT pg_current_xact_id(). ALTER TABLE %s RENAME COLUMN tx TO ...;', log);
        past := false;
    ELSIF past THEN
        EXECUTE format('SELECT max(tx) >= pg_snapshot_xmax(pg_current_snapshot()) AS ahead FROM %s', log) INTO col;
        IF col.ahead THEN
            wrong := wrong || format(E'\nColumn tx comes from another cluster. ALTER TABLE %s DROP COLUMN tx;', log);
        END IF;
    END IF;
    FOR other IN
        SELECT w.name, w.columns, i.indisvalid AND i.indpred IS NULL AND NOT i.indisunique
               AND i.indrelid = log AND i.indnatts = i.indnkeyatts
               AND ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) AS k)
                   = w.columns AS fits
          FROM (VALUES ('agent_events_tenant_tx_id', '{tenant_id,tx,id}'::text[]),
                       ('agent_events_tx_id', '{tx,id}')) AS w(name, columns)
          JOIN pg_class AS c ON c.relnamespace = kind.relnamespace AND c.relname = w.name
          LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
    LOOP
        IF other.fits IS NOT TRUE THEN
            wrong := wrong || format(E'\n%s is in the way, expected a valid index on (%s) or nothing. DROP INDEX %I.%I;',
                other.name, array_to_string(other.columns, ', '),
                (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = kind.relnamespace), other.name);
        END IF;
    END LOOP;
    SELECT pg_get_expr(d.adbin, d.adrelid) AS expr, a.attidentity <> '' AS identity, a.attnum INTO at
      FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = log AND a.attname = 'id' AND NOT a.attisdropped;
    IF at.expr NOT LIKE 'nextval(%' THEN
        wrong := wrong || format(E'\nColumn id is made by %s, expected a sequence. ALTER TABLE %s ALTER COLUMN id DROP DEFAULT;',
            at.expr, log);
    END IF;
    -- The sequence that the default reads, or that the identity has.
    SELECT s.oid::regclass::text AS name, c.relnamespace, c.relacl, c.relowner, s.increment,
           EXISTS (SELECT FROM pg_depend AS o WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid
                      AND o.refobjid = log AND o.refobjsubid = at.attnum AND o.deptype = 'a') AS owned
      INTO serial
      FROM (
        SELECT q.seqrelid AS oid, q.seqincrement AS increment
          FROM pg_sequence AS q
         WHERE q.seqrelid = to_regclass(pg_get_serial_sequence(log::text, 'id'))
            OR q.seqrelid IN (SELECT d.refobjid FROM pg_depend AS d JOIN pg_attrdef AS f ON f.oid = d.objid
                               WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
                                 AND f.adrelid = log AND f.adnum = at.attnum)
      ) AS s JOIN pg_class AS c ON c.oid = s.oid
     ORDER BY owned DESC LIMIT 1;
    IF serial.increment < 1 THEN
        wrong := wrong || format(E'\nThe ids fall. ALTER SEQUENCE %s INCREMENT BY 1;', serial.name);
    END IF;
    IF wrong <> '' THEN
        RAISE EXCEPTION 'agent_events: there is a table % already, and it cannot become the log as it is; nothing was changed', log
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = substr(wrong, 2),
                  HINT = 'Make these changes, or rename the table, and migrate again.';
    END IF;

    -- A constant default is written into no row. (pg_current_xact_id() would be evaluated once as
    -- well, as long as PostgreSQL says that it is stable; this does not depend on it.)
    IF NOT past THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN tx xid8 NOT NULL DEFAULT %L', log, pg_current_xact_id());
        EXECUTE format('ALTER TABLE %s ALTER COLUMN tx SET DEFAULT pg_current_xact_id()', log);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = log AND a.attname = 'created_at' AND a.atthasdef) THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN created_at SET DEFAULT now()', log);
    END IF;

    -- BIGSERIAL -> identity: an INSERT then needs no right on the sequence. Under the same name and with
    -- the same grants, for producers that call nextval() themselves.
    EXECUTE format('SELECT coalesce(max(id), 0) FROM %s', log) INTO top;
    IF serial.name IS NOT NULL THEN
        step := serial.increment;
        EXECUTE format('SELECT greatest(%s, CASE WHEN is_called THEN last_value ELSE 0 END) FROM %s', top, serial.name)
           INTO top;
    END IF;
    IF at.identity THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN id SET GENERATED BY DEFAULT SET CACHE 1 RESTART WITH %s',
                       log, greatest(top, 0) + step);
    ELSE
        EXECUTE format('ALTER TABLE %s ALTER COLUMN id DROP DEFAULT', log);
        IF serial.owned THEN
            EXECUTE format('DROP SEQUENCE %s', serial.name);
        END IF;
        EXECUTE format('ALTER TABLE %s ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (%s START WITH %s INCREMENT BY %s CACHE 1)',
            log, CASE WHEN serial.owned AND serial.relnamespace = kind.relnamespace
                      THEN format('SEQUENCE NAME %s', serial.name) END,
            greatest(top, 0) + step, step);
        IF serial.owned THEN
            FOR other IN SELECT g.grantee, g.privilege_type FROM aclexplode(serial.relacl) AS g
                          WHERE g.grantee <> serial.relowner LOOP
                EXECUTE format('GRANT %s ON SEQUENCE %s TO %s', other.privilege_type,
                    pg_get_serial_sequence(log::text, 'id'), CASE WHEN other.grantee = 0 THEN 'PUBLIC'
                    ELSE quote_ident(pg_get_userbyid(other.grantee)) END);
            END LOOP;
        END IF;
    END IF;

    -- Old types may be longer than ours may be. They stay; only new rows are held to it.
    IF NOT EXISTS (SELECT FROM pg_constraint AS c
                    WHERE c.conrelid = log AND c.conname = 'agent_events_event_type_length') THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT agent_events_event_type_length'
                       ' CHECK (char_length(event_type) BETWEEN 1 AND 200) NOT VALID', log);
        BEGIN
            EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT agent_events_event_type_length', log);
        EXCEPTION WHEN check_violation THEN
            RAISE WARNING 'agent_events: there are events whose type has more than 200 characters, or none; they stay, and new ones will be refused';
        END;
    END IF;

    -- agent_events_ring sends what the seed's trigger sends, once a statement.
    FOR other IN
        SELECT t.tgname, f.oid::regprocedure AS function
          FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid
         WHERE t.tgrelid = log AND NOT t.tgisinternal AND f.proname = 'notify_agent_event'
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', other.tgname, log);
        BEGIN
            EXECUTE format('DROP FUNCTION %s', other.function);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            RAISE WARNING 'agent_events: the function % stays: it is used elsewhere, or another role''s', other.function;
        END;
    END LOOP;
    SELECT string_agg(t.tgname, ', ') INTO stay
      FROM pg_trigger AS t WHERE t.tgrelid = log AND NOT t.tgisinternal;
    IF stay IS NOT NULL THEN
        RAISE WARNING 'agent_events: triggers of yours stay on %: %', log, stay;
    END IF;

    EXECUTE format('ANALYZE %s', log); -- nothing was known about tx, and no row changes to bring it about
    PERFORM set_config('agent_events.taken_over', 'on', true);
    PERFORM set_config('search_path', given_path, true);
END
$take_over$;
