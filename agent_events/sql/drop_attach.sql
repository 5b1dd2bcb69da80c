-- The reverse of attachments.sql and attach.sql: every attachment goes, then the functions. Tables and
-- events stay. It is refused while a table of another role has triggers that only that role may take
-- away: left alone, they would fail each write into it as soon as the log is gone.
DO $$
DECLARE
    found record;
    stay  text := '';
BEGIN
    FOR found IN SELECT DISTINCT a.target FROM @schema@.agent_events_attached() AS a LOOP
        BEGIN
            PERFORM @schema@.agent_events_detach(found.target);
            RAISE WARNING 'agent_events: table % writes no events any more', found.target;
        EXCEPTION WHEN insufficient_privilege THEN
            SELECT stay || format(E'\nSELECT %s(%L);', $s$@schema@.agent_events_detach$s$,
                                  format('%I.%I', n.nspname, c.relname)) INTO stay
              FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid = found.target;
        END;
    END LOOP;
    IF stay <> '' THEN
        RAISE EXCEPTION 'agent_events: tables of other roles still write events; nothing was changed'
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'As a superuser, or each as the owner of its table:' || stay;
    END IF;
END
$$;
DROP FUNCTION @schema@.agent_events_detach(regclass, text);
DROP FUNCTION @schema@.agent_events_attach(regclass, text, text, text, text, text[], text, text, text);
DROP FUNCTION @schema@.agent_events_attach_lock(regclass, text);
DROP FUNCTION @schema@.agent_events_attachments();
DROP FUNCTION @schema@.agent_events_attach_problem(regclass, jsonb);
DROP FUNCTION @schema@.agent_events_attach_statement(jsonb, text, text, text);
DROP FUNCTION @schema@.agent_events_attached();
DROP FUNCTION @schema@.agent_events_attach_spec(text);
