-- The reverse of append.sql, read.sql, pages.sql and ring.sql: the trigger and the functions go. Every
-- event, the ledger and its order stay, and INSERTs go on working; nothing rings.
DO $$
BEGIN
    RAISE WARNING 'agent_events: batches are closed no more; events stay, and wait for their place';
END
$$;
DROP TRIGGER agent_events_ring ON @schema@.agent_events;
DROP TRIGGER agent_event_batches_refuse_truncate ON @schema@.agent_event_batches;
DROP FUNCTION @schema@.agent_events_listen(uuid);
-- (An earlier ring.sql had neither.)
DROP FUNCTION IF EXISTS @schema@.agent_events_coalescing_key();
DROP FUNCTION IF EXISTS @schema@.agent_events_hang_doorbell();
DROP FUNCTION @schema@.agent_events_ring();
DROP FUNCTION @schema@.agent_events_bodies();
DROP FUNCTION IF EXISTS @schema@.agent_events_read_back(
    uuid, bigint, bigint, integer, text[], text[], text[], text[], text[], jsonpath);
DROP FUNCTION IF EXISTS @schema@.agent_events_read(
    uuid, bigint, bigint, integer, text[], text[], text[], text[], text[], jsonpath);
DROP FUNCTION IF EXISTS @schema@.agent_events_page_back(
    uuid[], bigint, bigint, integer, text[], text[], integer, text[], text[], text[], jsonpath);
DROP FUNCTION IF EXISTS @schema@.agent_events_page(
    uuid[], bigint, bigint, integer, text[], text[], integer, text[], text[], text[], jsonpath);
DROP FUNCTION IF EXISTS @schema@.agent_events_contains(text, jsonb, text[], jsonpath);
DROP FUNCTION IF EXISTS @schema@.agent_events_needles(text[]);
DROP FUNCTION IF EXISTS @schema@.agent_events_matches(uuid, text, text[], text[], text[], text[]);
-- (Those that pages.sql replaces, where it has not run yet.)
DROP FUNCTION IF EXISTS @schema@.agent_events_read_back(uuid, bigint, bigint, integer, text[], text[]);
DROP FUNCTION IF EXISTS @schema@.agent_events_read(uuid, bigint, bigint, integer, text[], text[]);
DROP FUNCTION IF EXISTS @schema@.agent_events_page_back(uuid[], bigint, bigint, integer, text[], text[], integer);
DROP FUNCTION IF EXISTS @schema@.agent_events_page(uuid[], bigint, bigint, integer, text[], text[], integer);
DROP FUNCTION IF EXISTS @schema@.agent_events_matches(uuid, text, text[], text[]);
DROP FUNCTION @schema@.agent_events_within(uuid[], bigint, bigint, integer, boolean);
DROP FUNCTION @schema@.agent_events_window(uuid[], bigint, bigint);
DROP FUNCTION @schema@.agent_events_spans(pg_snapshot, pg_snapshot);
DROP FUNCTION @schema@.agent_events_batch_of(xid8, bigint, bigint);
DROP FUNCTION @schema@.agent_events_patterns(text[]);
DROP FUNCTION @schema@.agent_events_head();
DROP TYPE @schema@.agent_event_entry;
DROP FUNCTION @schema@.agent_events_refuse_truncate();
DROP FUNCTION @schema@.agent_events_append(integer);
DROP FUNCTION @schema@.agent_events_snapshot(xid8, xid8[]);
DROP FUNCTION @schema@.agent_events_ranges(pg_snapshot, xid8);
