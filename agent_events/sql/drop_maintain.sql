-- The reverse of maintain.sql: nothing prunes or mends; every event, the ledger and its order stay.
DROP FUNCTION @schema@.agent_events_mend();
DROP FUNCTION @schema@.agent_events_rebuild();
DROP PROCEDURE @schema@.agent_events_burn(bigint);
DROP FUNCTION @schema@.agent_events_mend_lacks();
DROP FUNCTION @schema@.agent_events_fault(integer);
DROP FUNCTION @schema@.agent_events_overtaken(integer);
DROP FUNCTION @schema@.agent_events_prunable(timestamptz);
DROP FUNCTION @schema@.agent_events_prune(timestamptz, integer);
DROP FUNCTION @schema@.agent_events_place(xid8);
DROP FUNCTION @schema@.agent_events_last_batch(bigint, bigint, timestamptz, bigint);
DROP INDEX @schema@.agent_event_keys_created_at;
ALTER TABLE @schema@.agent_event_bus DROP COLUMN swept, DROP COLUMN first_row;
