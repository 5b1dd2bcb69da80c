-- What whoever closes batches does together with agent_events_append, in one round trip.

-- What a batch that was closed by the clock says to the world, called in the transaction of its append:
-- `agent_events_batch` (body: n) to the bus, and {"batch","count"} to `agent_event_<tenant>` for each
-- of its tenants, because its transactions may have rung nothing. False where the notification
-- queue is half full, on its way to failing every notifying commit: whoever was not told polls.
-- Cost: a look at each row of the batch.
CREATE FUNCTION @schema@.agent_events_tell(batch bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    before pg_snapshot;
    upto   pg_snapshot;
BEGIN
    IF pg_notification_queue_usage() > 0.5 THEN
        RETURN false;
    END IF;
    PERFORM pg_notify('agent_events_batch', batch::text);
    IF @schema@.agent_events_bodies() THEN
        SELECT b.seen INTO before FROM @schema@.agent_event_batches AS b WHERE b.n = batch - 1;
        SELECT b.seen INTO upto FROM @schema@.agent_event_batches AS b WHERE b.n = batch;
        PERFORM pg_notify('agent_event_' || t.tenant_id,
                          '{"batch":' || batch || ',"count":' || t.count || '}')
           FROM (
            SELECT e.tenant_id, count(*) AS count
              FROM @schema@.agent_events_spans(before, upto) AS r
             CROSS JOIN LATERAL (
                SELECT i.tenant_id FROM @schema@.agent_events AS i
                 WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
             GROUP BY e.tenant_id
           ) AS t;
    END IF;
    RETURN true;
END
$$;

-- The tenants' events of the batch that this statement has just closed, for the process that closed
-- it; one row, whose batch is -1, where they are more than max_bytes. (VOLATILE: it must see the
-- ledger's row, which the statement's own snapshot does not.)
-- The bound is what makes this safe: the rows leave before the commit, and a client that stopped
-- reading would hold the batch, and everybody's, were they more than the socket's buffers take.
CREATE FUNCTION @schema@.agent_events_fresh(tenants uuid[], batch bigint, max_bytes integer)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH w AS MATERIALIZED (SELECT * FROM @schema@.agent_events_window(tenants, batch, batch)),
         size AS (SELECT coalesce(sum(octet_length(w.payload::text)), 0) <= max_bytes AS fits FROM w)
    SELECT w.* FROM size JOIN w ON size.fits
    UNION ALL
    SELECT -1, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM size WHERE NOT size.fits;
END
$$;
