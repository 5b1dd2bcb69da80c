-- The reverse of tables.sql: the log and the ledger go, with every event in them. Tenants and
-- memberships go with their own operations of the same migration; nothing is kept.
DROP TABLE @schema@.agent_event_keys;
DROP TABLE @schema@.agent_event_bus;
DROP TABLE @schema@.agent_event_batches;
DROP TABLE @schema@.agent_events;
