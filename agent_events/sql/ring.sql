-- The doorbell: what an INSERT rings, and how others listen.

-- A producer may have nothing but INSERT on four columns, so the setting is read with the
-- owner's rights.
CREATE FUNCTION @schema@.agent_events_bodies()
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
CREATE FUNCTION @schema@.agent_events_ring()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rung integer;
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
    SELECT rung + count(pg_notify('agent_event_' || made.tenant_id, made.body)) INTO rung
      FROM (
        SELECT e.tenant_id, '{"batch":null,"count":' || count(*) || '}' AS body
          FROM inserted AS e GROUP BY e.tenant_id HAVING count(*) > 100
        UNION ALL
        SELECT told.tenant_id,
               CASE WHEN octet_length(told.head || told.tail) < 8000
                    THEN told.head || told.tail ELSE told.head || '}' END
          FROM (
            SELECT i.tenant_id,
                   '{"id":' || i.id || ',"agentId":"' || i.agent_id
                       || '","type":' || to_json(i.event_type)::text AS head,
                   ',"payload":' || i.payload::text || '}' AS tail
              FROM (SELECT e.*, count(*) OVER (PARTITION BY e.tenant_id) AS many
                      FROM inserted AS e) AS i
             WHERE i.many <= 100
             ORDER BY i.id
          ) AS told
         LIMIT 100 - rung
      ) AS made;
    PERFORM set_config('agent_events.rung', rung::text, true);
    RETURN NULL;
END
$$;

CREATE TRIGGER agent_events_ring
    AFTER INSERT ON @schema@.agent_events
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.agent_events_ring();

-- LISTEN on the tenant's channel with the right spelling; returns the channel's name.
CREATE FUNCTION @schema@.agent_events_listen(tenant uuid)
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
