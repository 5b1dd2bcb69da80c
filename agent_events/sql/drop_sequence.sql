-- The reverse of sequence.sql: batches are closed all the same.
DROP FUNCTION @schema@.agent_events_fresh(uuid[], bigint, integer);
DROP FUNCTION @schema@.agent_events_tell(bigint);
