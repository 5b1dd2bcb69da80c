-- What whoever closes batches does together with agent_events_append, in one round trip.

-- Where the transactions that finished between two snapshots are to be found: ranges [lo, hi) of ids.
-- As agent_events_spans, but in few ranges, because many writers run at a time, and a range for each
-- costs more than a row that is not wanted: whoever reads them leaves out what `upto` does not see,
-- and what `before` saw. Late ones that lie close together are one range with the new ones.
CREATE FUNCTION @schema@.agent_events_reach(before pg_snapshot, upto pg_snapshot)
RETURNS TABLE (lo xid8, hi xid8)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH late AS MATERIALIZED (
        SELECT x FROM pg_snapshot_xip(before) AS running(x) WHERE pg_visible_in_snapshot(x, upto)
    ),
    apart AS MATERIALIZED (
        SELECT min(l.x) AS first,
               coalesce(pg_snapshot_xmax(before)::text::bigint - min(l.x)::text::bigint
                            > 8 * count(*), true) AS is
          FROM late AS l
    )
    SELECT CASE WHEN a.is THEN pg_snapshot_xmax(before) ELSE a.first END, pg_snapshot_xmax(upto)
      FROM apart AS a
    UNION ALL
    SELECT l.x, (l.x::text::bigint + 1)::text::xid8 FROM late AS l, apart AS a WHERE a.is
$$;

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
              FROM @schema@.agent_events_reach(before, upto) AS r
             CROSS JOIN LATERAL (
                SELECT i.tenant_id FROM @schema@.agent_events AS i
                 WHERE i.tx >= r.lo AND i.tx < r.hi AND pg_visible_in_snapshot(i.tx, upto)
                   AND NOT pg_visible_in_snapshot(i.tx, before) OFFSET 0) AS e
             GROUP BY e.tenant_id
           ) AS t;
    END IF;
    RETURN true;
END
$$;

-- created_at on the wire: RFC 3339 in UTC, to the microsecond; NULL for an infinite one.
-- (This and the next are inlined: a body by RETURN is bound to its functions, whatever the caller's
-- search_path is.)
CREATE FUNCTION @schema@.agent_events_time(created_at timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.isfinite(created_at)
            THEN pg_catalog.to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END;

-- An event on the wire, everywhere: JSON whose payload is PostgreSQL's own text.
CREATE FUNCTION @schema@.agent_events_json(
    id bigint, tenant_id uuid, agent_id uuid, event_type text, payload jsonb, created_at timestamptz
)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN '{"id":' || id || ',"tenantId":"' || tenant_id || '","agentId":"' || agent_id
    || '","type":' || pg_catalog.to_json(event_type) || ',"payload":' || payload::pg_catalog.text
    || ',"createdAt":' || coalesce('"' || @schema@.agent_events_time(created_at) || '"', 'null') || '}';

-- The tenants' events of one whole batch, in order, as they go out: what is live. One row whose batch
-- is -1 where they are more than max_bytes. It does what agent_events_window does for any run of
-- batches, at half the cost: nothing needs to be placed.
-- VOLATILE: called beside agent_events_append it must see the row that the append has just made, which
-- the statement's own snapshot does not. Rows leave before the commit then, and a client that
-- stopped reading would hold the batch, and everybody, were they more than the socket's buffers
-- take: there max_bytes must be small.
CREATE FUNCTION @schema@.agent_events_live(tenants uuid[], n bigint, max_bytes integer)
RETURNS TABLE (batch bigint, closed_at_ms bigint, id bigint, event text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    the_batch CONSTANT bigint := n;
    before pg_snapshot;
    upto   pg_snapshot;
    size   bigint;
    ms     bigint;
    los    xid8[];
    his    xid8[];
BEGIN
    SELECT b.seen, -b.total INTO before, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch - 1;
    SELECT b.seen, size + b.total, floor(extract(epoch FROM b.closed_at) * 1000)::bigint
      INTO upto, size, ms
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch;
    IF before IS NULL OR upto IS NULL
       OR the_batch < (SELECT bus.oldest FROM @schema@.agent_event_bus AS bus) THEN
        PERFORM @schema@.agent_events_window(tenants, the_batch, the_batch); -- says what is wrong
    END IF;
    SELECT array_agg(r.lo), array_agg(r.hi) INTO los, his
      FROM @schema@.agent_events_reach(before, upto) AS r;

    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT e.* FROM unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tx >= r.lo AND i.tx < r.hi AND pg_visible_in_snapshot(i.tx, upto)
               AND NOT pg_visible_in_snapshot(i.tx, before)
               AND (tenants IS NULL OR i.tenant_id = ANY (tenants)) OFFSET 0
         ) AS e
         WHERE tenants IS NULL OR size <= 4 * cardinality(tenants)
        UNION ALL
        -- Fewer tenants than events: by tenant.
        SELECT e.* FROM unnest(tenants) AS t(id)
         CROSS JOIN unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tenant_id = t.id AND i.tx >= r.lo AND i.tx < r.hi
               AND pg_visible_in_snapshot(i.tx, upto)
               AND NOT pg_visible_in_snapshot(i.tx, before) OFFSET 0
         ) AS e
         WHERE size > 4 * cardinality(tenants)
    ),
    -- As they are stored, compressed: to unpack megabytes for nothing takes a while.
    stored AS (SELECT coalesce(sum(pg_column_size(f.payload)), 0) <= max_bytes AS fits FROM found AS f),
    told AS MATERIALIZED (
        SELECT f.id, @schema@.agent_events_json(
                   f.id, f.tenant_id, f.agent_id, f.event_type, f.payload, f.created_at) AS event
          FROM stored JOIN found AS f ON stored.fits
    ),
    sized AS (SELECT coalesce(sum(octet_length(t.event)), 0) <= max_bytes
                     AND (SELECT fits FROM stored) AS fits FROM told AS t)
    SELECT the_batch, ms, t.id, t.event FROM sized JOIN told AS t ON sized.fits
    UNION ALL
    SELECT -1, NULL, NULL, NULL FROM sized WHERE NOT sized.fits
     ORDER BY 3;
END
$$;

-- One append of the process that closes batches: closes the next one, tells of it where it has
-- tell_rows events at most, and brings its events along where they are few. One row for each event of
-- these tenants, one row where there is none, or where they must be read (`batch` is -1), and no row
-- where nothing was closed. (Step by step, and no one statement: its joins could be made in any order.)
-- Locks: those of agent_events_append, and at its commit that of all notifying commits, where it told.
-- Cost: the append's, a look at each row of the batch to tell of it, and agent_events_live.
CREATE FUNCTION @schema@.agent_events_sequence(
    batch_limit integer, tell_rows integer, tenants uuid[], max_rows integer, max_bytes integer
)
RETURNS TABLE (
    n bigint, rows bigint, closed_at_ms bigint, before_ms bigint, more boolean, told boolean,
    batch bigint, event_closed_at_ms bigint, id bigint, event text
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT a.n, a.rows, floor(extract(epoch FROM a.closed_at) * 1000)::bigint, a.more
      INTO n, rows, closed_at_ms, more FROM @schema@.agent_events_append(batch_limit) AS a;
    IF n IS NULL THEN
        RETURN;
    END IF;
    before_ms := (SELECT floor(extract(epoch FROM b.closed_at) * 1000)::bigint
                    FROM @schema@.agent_event_batches AS b
                   WHERE b.n = agent_events_sequence.n - 1);
    IF rows <= tell_rows THEN
        told := @schema@.agent_events_tell(n);
    END IF;
    IF cardinality(tenants) = 0 THEN
        RETURN NEXT;
    ELSIF rows > max_rows THEN
        batch := -1;
        RETURN NEXT;
    ELSE
        RETURN QUERY
        SELECT agent_events_sequence.n, agent_events_sequence.rows,
               agent_events_sequence.closed_at_ms, agent_events_sequence.before_ms,
               agent_events_sequence.more, agent_events_sequence.told, l.*
          FROM (SELECT 1) AS one
          LEFT JOIN @schema@.agent_events_live(tenants, agent_events_sequence.n, max_bytes) AS l ON true;
    END IF;
END
$$;
