-- The reverse of take_over.sql and tables.sql: the log and the ledger go, with every event in them.
-- A log that was there before (take_over.sql) stays with all its rows, and loses what we added: tx,
-- its indexes and the CHECK. Its id remains an identity, which producers do not notice; the
-- trigger that it had is not put back. Tenants and memberships go with their own operations.
DO $drop_tables$
DECLARE
    events bigint := (SELECT count(*) FROM @schema@.agent_events);
BEGIN
    -- By way of JSON: a ledger that an earlier checkout made has no such column.
    IF (SELECT (to_jsonb(bus)->>'taken_over')::boolean FROM @schema@.agent_event_bus AS bus) THEN
        RAISE WARNING 'agent_events: dropped the ledger, and with it the order of % events, which stay', events;
        ALTER TABLE @schema@.agent_events DROP COLUMN tx;
        ALTER TABLE @schema@.agent_events DROP CONSTRAINT IF EXISTS agent_events_event_type_length;
    ELSE
        RAISE WARNING 'agent_events: dropped the log with % events, and the ledger', events;
        DROP TABLE @schema@.agent_events;
    END IF;
END
$drop_tables$;
DROP TABLE @schema@.agent_event_keys;
DROP TABLE @schema@.agent_event_bus;
DROP TABLE @schema@.agent_event_batches;
