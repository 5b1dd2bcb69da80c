-- Reading the log in the ledger's order: (batch, id). Nothing here writes or locks; all of it
-- works on a standby, whose ledger is an exact prefix.

-- An event at its place in the order.
CREATE TYPE @schema@.agent_event_entry AS (
    batch bigint, closed_at timestamptz, id bigint, tenant_id uuid, agent_id uuid,
    event_type text, payload jsonb, created_at timestamptz
);

-- "Now": the last closed batch. The position after it is (batch + 1, 0). It refuses an empty ledger:
-- no position in that log would mean anything.
CREATE FUNCTION @schema@.agent_events_head(
    OUT batch bigint, OUT closed_at timestamptz, OUT total bigint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
BEGIN
    SELECT b.n, b.closed_at, b.total INTO batch, closed_at, total
      FROM @schema@.agent_event_batches AS b ORDER BY b.n DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'agent_events_head: the ledger (agent_event_batches) is empty'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'manage.py mend_events makes a new one from the events.';
    END IF;
END
$$;

-- The batch of a transaction, looked for in batches first..last, one of which must have it.
-- Whether a snapshot sees a transaction is monotonic in n: bisect.
CREATE FUNCTION @schema@.agent_events_batch_of(tx xid8, first bigint, last bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lo  bigint := first;
    hi  bigint := last;
    mid bigint;
BEGIN
    WHILE lo < hi LOOP
        mid := (lo + hi) / 2;
        IF (SELECT pg_visible_in_snapshot(tx, b.seen)
              FROM @schema@.agent_event_batches AS b WHERE b.n = mid) THEN
            hi := mid;
        ELSE
            lo := mid + 1;
        END IF;
    END LOOP;
    RETURN lo;
END
$$;

-- What finished between two snapshots, as ranges [lo, hi) of transaction ids: the new ones, and each
-- late one (running at `before`) as a range of its own. One index scan a range: an OR over them
-- loses the index.
CREATE FUNCTION @schema@.agent_events_spans(before pg_snapshot, upto pg_snapshot)
RETURNS TABLE (lo xid8, hi xid8)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.lo, r.hi FROM @schema@.agent_events_ranges(upto, pg_snapshot_xmax(before)) AS r
    UNION ALL
    SELECT x, (x::text::bigint + 1)::text::xid8
      FROM pg_snapshot_xip(before) AS running(x) WHERE pg_visible_in_snapshot(x, upto)
$$;

-- All events of the whole batches first..last, in no order. `tenants` NULL: every tenant.
-- Cost: an index probe for each tenant and range; to place the transactions found, their ids are
-- looked up among those of the window's ledger rows or, where these would be many for few
-- transactions, each by an index probe.
--
-- OFFSET 0, here and below, keeps the planner from joining in another way than by an index probe
-- for each outer row: a plan made while the tables were small stays in use when they are not.
CREATE FUNCTION @schema@.agent_events_window(tenants uuid[], first bigint, last bigint)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    before pg_snapshot;
    upto   pg_snapshot;
    size   bigint;
    los    xid8[];
    his    xid8[];
    xmaxs  bigint[];
BEGIN
    SELECT b.seen, -b.total INTO before, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = first - 1;
    SELECT b.seen, size + b.total INTO upto, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = last;
    -- (A row may outlive the events of its batch.)
    IF before IS NULL OR upto IS NULL
       OR first < (SELECT bus.oldest FROM @schema@.agent_event_bus AS bus) THEN
        RAISE EXCEPTION 'the ledger does not hold batches % to %', first - 1, last
            USING ERRCODE = 'no_data_found',
                  HINT = 'They were pruned, or belong to another history. Start from a cursor.';
    END IF;
    SELECT array_agg(r.lo), array_agg(r.hi) INTO los, his
      FROM @schema@.agent_events_spans(before, upto) AS r;
    IF tenants IS NULL OR last - first < 1000 THEN
        xmaxs := ARRAY(SELECT pg_snapshot_xmax(b.seen)::text::bigint
                         FROM @schema@.agent_event_batches AS b
                        WHERE b.n >= first AND b.n <= last ORDER BY b.n);
    END IF;

    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT e.* FROM unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tx >= r.lo AND i.tx < r.hi
               AND (tenants IS NULL OR i.tenant_id = ANY (tenants)) OFFSET 0
         ) AS e
         WHERE tenants IS NULL OR size <= 4 * cardinality(tenants)
        UNION ALL
        -- Fewer tenants than events: by tenant.
        SELECT e.* FROM unnest(tenants) AS t(id)
         CROSS JOIN unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tenant_id = t.id AND i.tx >= r.lo AND i.tx < r.hi OFFSET 0
         ) AS e
         WHERE size > 4 * cardinality(tenants)
    ),
    found_tx AS MATERIALIZED (
        SELECT DISTINCT tx FROM found
    ),
    -- The first batch closed beyond a transaction is its own, unless it was still running then.
    beyond AS (
        SELECT d.tx, b.n, b.seen, b.closed_at
          FROM found_tx AS d
          JOIN (SELECT * FROM @schema@.agent_event_batches AS l
                 WHERE l.n >= first AND l.n <= last AND xmaxs IS NOT NULL ORDER BY l.n OFFSET 0) AS b
            ON b.n = first + width_bucket(d.tx::text::bigint, xmaxs)
        UNION ALL
        SELECT d.tx, b.n, b.seen, b.closed_at
          FROM found_tx AS d
         CROSS JOIN LATERAL (
            SELECT l.* FROM @schema@.agent_event_batches AS l
             WHERE pg_snapshot_xmax(l.seen) > d.tx
             ORDER BY pg_snapshot_xmax(l.seen), l.n LIMIT 1) AS b
         WHERE xmaxs IS NULL
    ),
    placed AS MATERIALIZED (
        SELECT p.tx, p.n,
               CASE WHEN p.n = p.beyond THEN p.closed_at
                    ELSE (SELECT l.closed_at FROM @schema@.agent_event_batches AS l WHERE l.n = p.n)
               END AS closed_at
          FROM (
            SELECT b.tx, b.n AS beyond, b.closed_at,
                   CASE WHEN b.n >= first AND pg_visible_in_snapshot(b.tx, b.seen) THEN b.n
                        ELSE @schema@.agent_events_batch_of(b.tx, greatest(first, b.n), last)
                   END AS n
              FROM beyond AS b OFFSET 0
          ) AS p
    )
    SELECT p.n, p.closed_at, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
      FROM found AS e JOIN placed AS p ON p.tx = e.tx;
END
$$;

-- Up to max_rows events of the one batch, next to `edge` by id: after it in rising order, or with
-- `backwards` before it in falling order (edge NULL: from that end). The page's ids come first, from
-- the index alone, then their rows. A batch of up to 20,000 events is looked through for them; a
-- larger one is one huge transaction, and its pages come from where they begin in the index.
CREATE FUNCTION @schema@.agent_events_within(
    tenants uuid[], batch bigint, edge bigint, max_rows integer, backwards boolean
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    the_batch CONSTANT bigint := $2;
    sign      CONSTANT integer := CASE WHEN backwards THEN -1 ELSE 1 END;
    after_id  CONSTANT bigint := CASE WHEN backwards THEN 0 ELSE coalesce(edge, 0) END;
    before_id CONSTANT bigint := CASE WHEN backwards AND edge IS NOT NULL THEN edge
                                      ELSE 9223372036854775807 END;
    size      bigint;
    before    pg_snapshot;
    upto      pg_snapshot;
    upto_time timestamptz;
    los       xid8[];
    his       xid8[];
    txs       xid8[] := '{}';
    next_tx   xid8;
    ids       bigint[];
BEGIN
    SELECT b.seen, -b.total INTO before, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch - 1;
    SELECT b.seen, size + b.total, b.closed_at INTO upto, size, upto_time
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch;
    IF before IS NULL OR upto IS NULL THEN
        PERFORM @schema@.agent_events_window(tenants, the_batch, the_batch); -- says what is wrong
    END IF;
    SELECT array_agg(r.lo), array_agg(r.hi) INTO los, his
      FROM @schema@.agent_events_spans(before, upto) AS r;

    IF size <= 20000 THEN
        ids := ARRAY(
            SELECT f.id FROM (
                SELECT e.id FROM unnest(los, his) AS r(lo, hi) CROSS JOIN LATERAL (
                    SELECT i.id FROM @schema@.agent_events AS i
                     WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
                 WHERE tenants IS NULL
                UNION ALL
                SELECT e.id FROM unnest(tenants) AS t(id)
                 CROSS JOIN unnest(los, his) AS r(lo, hi) CROSS JOIN LATERAL (
                    SELECT i.id FROM @schema@.agent_events AS i
                     WHERE i.tenant_id = t.id AND i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
                 WHERE size > 4 * cardinality(tenants)
                UNION ALL
                SELECT e.id FROM unnest(los, his) AS r(lo, hi) CROSS JOIN LATERAL (
                    SELECT i.id, i.tenant_id FROM @schema@.agent_events AS i
                     WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
                 WHERE size <= 4 * cardinality(tenants) AND e.tenant_id = ANY (tenants)
            ) AS f
             WHERE f.id > after_id AND f.id < before_id
             ORDER BY sign * f.id LIMIT max_rows);
    ELSE
        -- The batch's transactions, by hopping from one to the next in the index.
        FOR r IN 1 .. coalesce(cardinality(los), 0) LOOP
            next_tx := los[r];
            LOOP
                SELECT i.tx INTO next_tx FROM @schema@.agent_events AS i
                 WHERE i.tx >= next_tx AND i.tx < his[r] ORDER BY i.tx LIMIT 1;
                EXIT WHEN NOT FOUND;
                txs := txs || next_tx;
                next_tx := (next_tx::text::bigint + 1)::text::xid8;
            END LOOP;
        END LOOP;
        IF tenants IS NULL AND backwards THEN
            ids := ARRAY(SELECT e.id FROM unnest(txs) AS t(tx) CROSS JOIN LATERAL (
                SELECT i.id FROM @schema@.agent_events AS i WHERE i.tx = t.tx AND i.id < before_id
                 ORDER BY i.id DESC LIMIT max_rows) AS e ORDER BY e.id DESC LIMIT max_rows);
        ELSIF tenants IS NULL THEN
            ids := ARRAY(SELECT e.id FROM unnest(txs) AS t(tx) CROSS JOIN LATERAL (
                SELECT i.id FROM @schema@.agent_events AS i WHERE i.tx = t.tx AND i.id > after_id
                 ORDER BY i.id LIMIT max_rows) AS e ORDER BY e.id LIMIT max_rows);
        ELSIF backwards THEN
            ids := ARRAY(SELECT e.id FROM unnest(tenants) AS n(id), unnest(txs) AS t(tx), LATERAL (
                SELECT i.id FROM @schema@.agent_events AS i
                 WHERE i.tenant_id = n.id AND i.tx = t.tx AND i.id < before_id
                 ORDER BY i.id DESC LIMIT max_rows) AS e ORDER BY e.id DESC LIMIT max_rows);
        ELSE
            ids := ARRAY(SELECT e.id FROM unnest(tenants) AS n(id), unnest(txs) AS t(tx), LATERAL (
                SELECT i.id FROM @schema@.agent_events AS i
                 WHERE i.tenant_id = n.id AND i.tx = t.tx AND i.id > after_id
                 ORDER BY i.id LIMIT max_rows) AS e ORDER BY e.id LIMIT max_rows);
        END IF;
    END IF;

    RETURN QUERY
    SELECT the_batch, upto_time, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
      FROM unnest(ids) AS f(id)
     CROSS JOIN LATERAL (
        SELECT i.* FROM @schema@.agent_events AS i WHERE i.id = f.id OFFSET 0) AS e
     ORDER BY sign * e.id;
END
$$;
