-- The doorbell: what an INSERT rings, and how others listen.
-- (This file runs again over what an earlier version of it installed.)

-- A producer may have nothing but INSERT on four columns, so the setting is read with the
-- owner's rights.
CREATE OR REPLACE FUNCTION @schema@.agent_events_bodies()
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT bus.bodies FROM @schema@.agent_event_bus AS bus), false)
$$;
-- Said, not assumed: default privileges may have taken it from everybody, and INSERTs would fail.
GRANT EXECUTE ON FUNCTION @schema@.agent_events_bodies() TO PUBLIC;

-- Rings once a statement: the doorbell `agent_events` (no body) for the bus, and
-- `agent_event_<tenant>` for anybody else: {"id","agentId","type","payload"} for each event, the
-- payload left out where the body would reach NOTIFY's 8,000 bytes; {"batch":null,"count"} for
-- more than 100 events of a tenant in one statement. 100 such notifications in a transaction.
-- It must never fail an INSERT: it rings nothing while the notification queue is half full (a
-- full one fails every notifying commit), and whoever was not rung polls.
CREATE OR REPLACE FUNCTION @schema@.agent_events_ring()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rung integer;
    few  uuid[]; -- tenants of few events, which are told one by one
BEGIN
    -- Unset reads NULL or ''. For PREPARE TRANSACTION, which refuses after a NOTIFY, and bulk loads.
    IF current_setting('agent_events.quiet', true) = 'on' THEN
        RETURN NULL;
    END IF;
    -- (The call also moves the queue's tail on after a listener that held it has gone.)
    IF pg_notification_queue_usage() > 0.5 OR NOT EXISTS (SELECT FROM inserted) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('agent_events', '');

    -- After 100 notifications in one transaction (or statement) the doorbell alone.
    -- (Whatever else somebody put into that setting counts as 0: it must not fail the INSERT.)
    rung := coalesce(substring(current_setting('agent_events.rung', true), '^[0-9]{1,3}$'), '0');
    IF rung >= 100 OR NOT @schema@.agent_events_bodies() THEN
        RETURN NULL;
    END IF;
    WITH sized AS MATERIALIZED (
        SELECT e.tenant_id, count(*) AS many FROM inserted AS e GROUP BY e.tenant_id
    ),
    told AS MATERIALIZED (
        SELECT pg_notify('agent_event_' || s.tenant_id, '{"batch":null,"count":' || s.many || '}')
          FROM sized AS s WHERE s.many > 100 LIMIT 100 - rung
    )
    SELECT rung + (SELECT count(*) FROM told), array_agg(s.tenant_id) FILTER (WHERE s.many <= 100)
      INTO rung, few FROM sized AS s;
    IF rung < 100 AND few IS NOT NULL THEN
        SELECT rung + count(pg_notify('agent_event_' || told.tenant_id,
                                      CASE WHEN octet_length(told.head || told.tail) < 8000
                                           THEN told.head || told.tail ELSE told.head || '}' END))
          INTO rung
          FROM (
            SELECT i.tenant_id,
                   '{"id":' || i.id || ',"agentId":"' || i.agent_id
                       || '","type":' || to_json(i.event_type)::text AS head,
                   ',"payload":' || i.payload::text || '}' AS tail
              FROM inserted AS i WHERE i.tenant_id = ANY (few)
             ORDER BY i.id LIMIT 100 - rung
          ) AS told;
    END IF;
    PERFORM set_config('agent_events.rung', rung::text, true);
    RETURN NULL;
END
$$;

-- Hangs the doorbell at the log. While somebody holds the advisory lock K exclusively, that session
-- closes batches by the clock, and no statement rings: a notifying commit takes a lock of the whole
-- cluster, WAL flush included, so that those commits go one by one. The look at K costs some
-- microseconds and calls no function of ours. Advisory locks are no MVCC and end with their session:
-- a holder that dies lets everybody ring again at once.
-- K is of this database and this table, and written into the trigger as a number: an expression
-- would be planned for each statement (9 of 91 us). agent_events_coalescing_key() says it to others;
-- a dump takes both along.
-- Locks: ACCESS EXCLUSIVE on agent_events, for the DDL.
CREATE OR REPLACE FUNCTION @schema@.agent_events_hang_doorbell()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    home CONSTANT text := $schema$@schema@$schema$;
    log  regclass;
    k    bigint;
BEGIN
    SELECT c.oid, hashtextextended('agent_events coalescing in ' || n.nspname, c.oid::bigint)
      INTO STRICT log, k
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relname = 'agent_events' AND quote_ident(n.nspname) = home;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %s.agent_events_coalescing_key() RETURNS bigint
            LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %L::bigint', home, k);
    EXECUTE format('DROP TRIGGER IF EXISTS agent_events_ring ON %s', log);
    EXECUTE format(
        'CREATE TRIGGER agent_events_ring AFTER INSERT ON %s REFERENCING NEW TABLE AS inserted
            FOR EACH STATEMENT
            WHEN (CASE WHEN pg_try_advisory_lock_shared(%L) THEN pg_advisory_unlock_shared(%2$L)
                       ELSE false END)
            EXECUTE FUNCTION %s.agent_events_ring()', log, k, home);
END
$$;
REVOKE EXECUTE ON FUNCTION @schema@.agent_events_hang_doorbell() FROM PUBLIC;
SELECT @schema@.agent_events_hang_doorbell();

-- LISTEN on the tenant's channel with the right spelling; returns the channel's name.
CREATE OR REPLACE FUNCTION @schema@.agent_events_listen(tenant uuid)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    channel CONSTANT text := 'agent_event_' || tenant;
BEGIN
    IF tenant IS NULL THEN
        RAISE EXCEPTION 'agent_events_listen: expected the id of a tenant, got NULL'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    EXECUTE format('LISTEN %I', channel);
    RETURN channel;
END
$$;
