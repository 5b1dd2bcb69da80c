-- The reverse of attachments.sql and attach.sql: every attachment goes, then the functions. Tables and
-- events stay. It is refused while a table of another role writes events that only that role may end:
-- left alone, its triggers would fail each write as soon as the log is gone. A table that is not its
-- function's owner's fails already; where only another role may mend that, it is said, and stays.
DO $$
DECLARE
    found record;
    stay  text := '';
BEGIN
    FOR found IN
        SELECT a.target, bool_or(a.owner = c.relowner) AS writes
          FROM @schema@.agent_events_attached() AS a LEFT JOIN pg_class AS c ON c.oid = a.target
         GROUP BY a.target ORDER BY a.target
    LOOP
        BEGIN
            PERFORM @schema@.agent_events_detach(found.target);
            IF found.target IS NOT NULL THEN
                RAISE WARNING 'agent_events: table % writes no events any more', found.target;
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            CONTINUE WHEN NOT found.writes;
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
    FOR found IN SELECT a.function, a.target FROM @schema@.agent_events_attached() AS a LOOP
        RAISE WARNING 'agent_events: the function % stays%', found.function, coalesce(
            ', and the triggers that call it fail each write into ' || found.target::text,
            ': it is another role''s, or used elsewhere; it does nothing any more');
    END LOOP;
END
$$;
DROP FUNCTION @schema@.agent_events_detach(regclass, text);
DROP FUNCTION @schema@.agent_events_attach(regclass, text, text, text, text, text[], text, text, text);
DROP FUNCTION @schema@.agent_events_attach_drop(regprocedure);
DROP FUNCTION @schema@.agent_events_attach_lock(regclass, text);
DROP FUNCTION @schema@.agent_events_attachments();
DROP FUNCTION @schema@.agent_events_attach_problem(regclass, jsonb);
DROP FUNCTION @schema@.agent_events_attach_statement(jsonb, text, text, text);
DROP FUNCTION @schema@.agent_events_attach_types(regclass);
DROP FUNCTION @schema@.agent_events_attached();
DROP FUNCTION @schema@.agent_events_attach_spec(text);
