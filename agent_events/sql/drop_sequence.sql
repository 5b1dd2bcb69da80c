-- The reverse of sequence.sql: batches are closed all the same.
DROP FUNCTION @schema@.agent_events_sequence(integer, integer, uuid[], integer, integer);
DROP FUNCTION @schema@.agent_events_live(uuid[], bigint, integer);
DROP FUNCTION @schema@.agent_events_json(bigint, uuid, uuid, text, jsonb, timestamptz);
DROP FUNCTION @schema@.agent_events_time(timestamptz);
DROP FUNCTION @schema@.agent_events_tell(bigint);
DROP FUNCTION @schema@.agent_events_reach(pg_snapshot, pg_snapshot);
