-- Reading the log in the ledger's order: (batch, id). Nothing here writes or locks; all of it
-- works on a standby, whose ledger is an exact prefix.

-- An event at its place in the order.
CREATE TYPE @schema@.agent_event_entry AS (
    batch bigint, closed_at timestamptz, id bigint, tenant_id uuid, agent_id uuid,
    event_type text, payload jsonb, created_at timestamptz
);

-- "Now": the last closed batch. The position after it is (batch + 1, 0).
CREATE FUNCTION @schema@.agent_events_head(
    OUT batch bigint, OUT closed_at timestamptz, OUT total bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT b.n, b.closed_at, b.total FROM @schema@.agent_event_batches AS b ORDER BY b.n DESC LIMIT 1
$$;

-- The filter, in one place: each list is OR, the two together AND, NULL means any; an entry is
-- exact, or a prefix where it ends in `*`. agent_events/filters.py says the same in Python.
CREATE FUNCTION @schema@.agent_events_matches(
    agent_id uuid, event_type text, agents text[], types text[]
)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (agents IS NULL OR EXISTS (
               SELECT FROM unnest(agents) AS a(want)
                WHERE agent_id::text = a.want
                   OR right(a.want, 1) = '*' AND starts_with(agent_id::text, left(a.want, -1))))
       AND (types IS NULL OR EXISTS (
               SELECT FROM unnest(types) AS t(want)
                WHERE event_type = t.want
                   OR right(t.want, 1) = '*' AND starts_with(event_type, left(t.want, -1))))
$$;

-- The batch of a transaction, looked for in batches first..last, one of which must have it.
-- Whether a snapshot sees a transaction is monotonic in n: bisect.
CREATE FUNCTION @schema@.agent_events_batch_of(tx xid8, first bigint, last bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
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

-- All events of the whole batches first..last, in no order. `tenants` NULL: every tenant.
-- Cost: an index probe for each tenant and range, and one for each transaction found.
CREATE FUNCTION @schema@.agent_events_window(tenants uuid[], first bigint, last bigint)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    before pg_snapshot;
    upto   pg_snapshot;
    size   bigint;
    los    xid8[];
    his    xid8[];
BEGIN
    SELECT b.seen, -b.total INTO before, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = first - 1;
    SELECT b.seen, size + b.total INTO upto, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = last;
    IF before IS NULL OR upto IS NULL THEN
        RAISE EXCEPTION 'the ledger does not hold batches % to %', first - 1, last
            USING ERRCODE = 'no_data_found',
                  HINT = 'They were pruned, or belong to another history. Start from a cursor.';
    END IF;
    -- Finished between the two snapshots: new ids by range, late ones (running at `before`) each
    -- as a range of its own. One scan a range: an OR over them loses the index.
    SELECT array_agg(r.lo), array_agg(r.hi) INTO los, his FROM (
        SELECT g.lo, g.hi FROM @schema@.agent_events_ranges(upto, pg_snapshot_xmax(before)) AS g
        UNION ALL
        SELECT x, (x::text::bigint + 1)::text::xid8
          FROM pg_snapshot_xip(before) AS running(x) WHERE pg_visible_in_snapshot(x, upto)
    ) AS r;

    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT e.* FROM unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tx >= r.lo AND i.tx < r.hi
               AND (tenants IS NULL OR i.tenant_id = ANY (tenants))
         ) AS e
         WHERE tenants IS NULL OR size <= 4 * cardinality(tenants)
        UNION ALL
        -- Fewer tenants than events: by tenant.
        SELECT e.* FROM unnest(tenants) AS t(id)
         CROSS JOIN unnest(los, his) AS r(lo, hi)
         CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tenant_id = t.id AND i.tx >= r.lo AND i.tx < r.hi
         ) AS e
         WHERE size > 4 * cardinality(tenants)
    ),
    placed AS MATERIALIZED (
        SELECT d.tx,
               CASE WHEN f.n >= first AND pg_visible_in_snapshot(d.tx, f.seen) THEN f.n
                    ELSE @schema@.agent_events_batch_of(d.tx, greatest(first, f.n), last)
               END AS n
          FROM (SELECT DISTINCT tx FROM found) AS d
         CROSS JOIN LATERAL (
            SELECT b.n, b.seen FROM @schema@.agent_event_batches AS b
             WHERE pg_snapshot_xmax(b.seen) > d.tx
             ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1
         ) AS f
    )
    SELECT p.n, b.closed_at, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
      FROM found AS e
      JOIN placed AS p ON p.tx = e.tx
      JOIN @schema@.agent_event_batches AS b ON b.n = p.n;
END
$$;

-- Up to max_rows events of the one batch, next to `edge` by id: after it in rising order, or with
-- `backwards` before it in falling order (edge NULL: from that end). A batch of more than 20,000
-- events is one huge transaction (or few): its pages come from the index, transaction by transaction.
CREATE FUNCTION @schema@.agent_events_within(
    tenants uuid[], batch bigint, edge bigint, max_rows integer, backwards boolean
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    the_batch CONSTANT bigint := $2;
    lo        CONSTANT bigint := CASE WHEN backwards THEN 0 ELSE coalesce(edge, 0) END;
    hi        CONSTANT bigint := CASE WHEN backwards AND edge IS NOT NULL THEN edge
                                      ELSE 9223372036854775807 END;
    size      bigint;
    before    pg_snapshot;
    upto      pg_snapshot;
    upto_time timestamptz;
    txs       xid8[] := '{}';
    tx_lo     xid8;
    span      record;
BEGIN
    SELECT b.seen, -b.total INTO before, size
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch - 1;
    SELECT b.seen, size + b.total, b.closed_at INTO upto, size, upto_time
      FROM @schema@.agent_event_batches AS b WHERE b.n = the_batch;
    IF size <= 20000 OR before IS NULL OR upto IS NULL THEN
        -- (Window says what is wrong where a ledger row is missing.)
        IF backwards THEN
            RETURN QUERY SELECT w.* FROM @schema@.agent_events_window(tenants, the_batch, the_batch) AS w
                          WHERE w.id < hi ORDER BY w.id DESC LIMIT max_rows;
        ELSE
            RETURN QUERY SELECT w.* FROM @schema@.agent_events_window(tenants, the_batch, the_batch) AS w
                          WHERE w.id > lo ORDER BY w.id LIMIT max_rows;
        END IF;
        RETURN;
    END IF;

    -- The transactions of the batch, by hopping from one to the next in the index.
    FOR span IN
        SELECT g.lo, g.hi FROM @schema@.agent_events_ranges(upto, pg_snapshot_xmax(before)) AS g
        UNION ALL
        SELECT x, (x::text::bigint + 1)::text::xid8
          FROM pg_snapshot_xip(before) AS running(x) WHERE pg_visible_in_snapshot(x, upto)
    LOOP
        tx_lo := span.lo;
        LOOP
            SELECT i.tx INTO tx_lo FROM @schema@.agent_events AS i
             WHERE i.tx >= tx_lo AND i.tx < span.hi ORDER BY i.tx LIMIT 1;
            EXIT WHEN NOT FOUND;
            txs := txs || tx_lo;
            tx_lo := (tx_lo::text::bigint + 1)::text::xid8;
        END LOOP;
    END LOOP;

    IF tenants IS NULL AND backwards THEN
        RETURN QUERY
        SELECT the_batch, upto_time, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
          FROM unnest(txs) AS t(tx) CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tx = t.tx AND i.id < hi ORDER BY i.id DESC LIMIT max_rows) AS e
         ORDER BY e.id DESC LIMIT max_rows;
    ELSIF tenants IS NULL THEN
        RETURN QUERY
        SELECT the_batch, upto_time, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
          FROM unnest(txs) AS t(tx) CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tx = t.tx AND i.id > lo ORDER BY i.id LIMIT max_rows) AS e
         ORDER BY e.id LIMIT max_rows;
    ELSIF backwards THEN
        RETURN QUERY
        SELECT the_batch, upto_time, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
          FROM unnest(tenants) AS n(id) CROSS JOIN unnest(txs) AS t(tx) CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tenant_id = n.id AND i.tx = t.tx AND i.id < hi
             ORDER BY i.id DESC LIMIT max_rows) AS e
         ORDER BY e.id DESC LIMIT max_rows;
    ELSE
        RETURN QUERY
        SELECT the_batch, upto_time, e.id, e.tenant_id, e.agent_id, e.event_type, e.payload, e.created_at
          FROM unnest(tenants) AS n(id) CROSS JOIN unnest(txs) AS t(tx) CROSS JOIN LATERAL (
            SELECT i.* FROM @schema@.agent_events AS i
             WHERE i.tenant_id = n.id AND i.tx = t.tx AND i.id > lo
             ORDER BY i.id LIMIT max_rows) AS e
         ORDER BY e.id LIMIT max_rows;
    END IF;
END
$$;

-- A page from position (batch, after_id) on, in order, then one row more whose tenant_id is NULL:
-- the position (batch, id) to go on from, with the closed_at that its cursor bears. The position
-- is the end of the log only where it equals (head + 1, 0); with filters a page stops after
-- looking at some `budget` rows and may be empty.
CREATE FUNCTION @schema@.agent_events_page(
    tenants uuid[], batch bigint, after_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL, budget integer DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at_batch bigint := greatest($2, 1);
    at_id    bigint := greatest($3, 0);
    head     bigint;
    last_n   bigint;
    nth_tx   xid8;
    base     record;
    chunk    integer;
    looked   bigint := 0;
    seen     integer;
    remain   integer := max_rows;
    filtered CONSTANT boolean := agents IS NOT NULL OR types IS NOT NULL;
    most     CONSTANT bigint := coalesce(budget, greatest(10 * max_rows, 5000));
    r        @schema@.agent_event_entry;
BEGIN
    SELECT h.batch INTO head FROM @schema@.agent_events_head() AS h;
    WHILE at_batch <= head AND remain > 0 AND (NOT filtered OR looked < most) LOOP
        -- A window of whole batches that holds about max_rows rows, or exactly one batch.
        last_n := at_batch;
        IF at_id = 0 THEN
            SELECT b.total, pg_snapshot_xmax(b.seen) AS xmax INTO base
              FROM @schema@.agent_event_batches AS b WHERE b.n = at_batch - 1;
            IF tenants IS NULL THEN
                SELECT b.n - 1 INTO last_n FROM @schema@.agent_event_batches AS b
                 WHERE b.n >= at_batch AND b.total > base.total + max_rows
                 ORDER BY b.n LIMIT 1;
            ELSE
                SELECT min(nth.tx) INTO nth_tx FROM unnest(tenants) AS t(id) CROSS JOIN LATERAL (
                    SELECT i.tx FROM @schema@.agent_events AS i
                     WHERE i.tenant_id = t.id AND i.tx >= base.xmax
                     ORDER BY i.tx OFFSET max_rows - 1 LIMIT 1) AS nth;
                last_n := NULL;
                IF nth_tx IS NOT NULL THEN
                    SELECT b.n - 1 INTO last_n FROM @schema@.agent_event_batches AS b
                     WHERE pg_snapshot_xmax(b.seen) > nth_tx
                     ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1;
                END IF;
            END IF;
            last_n := greatest(at_batch, least(coalesce(last_n, head), head));
        END IF;

        IF last_n = at_batch THEN
            chunk := CASE WHEN filtered THEN greatest(remain, 1000) ELSE remain END;
            seen := 0;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, false) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents, types) THEN
                    RETURN NEXT r;
                    remain := remain - 1;
                    EXIT WHEN remain = 0;
                END IF;
            END LOOP;
            looked := looked + seen;
            IF remain > 0 AND seen < chunk THEN
                at_batch := at_batch + 1;
                at_id := 0;
            END IF;
        ELSE
            FOR r IN SELECT w.* FROM @schema@.agent_events_window(tenants, at_batch, last_n) AS w
                      WHERE NOT filtered
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents, types)
                      ORDER BY w.batch, w.id LIMIT remain LOOP
                RETURN NEXT r;
                at_batch := r.batch;
                at_id := r.id;
                remain := remain - 1;
            END LOOP;
            IF remain > 0 THEN
                at_batch := last_n + 1;
                at_id := 0;
                looked := looked + max_rows;
            END IF;
        END IF;
    END LOOP;

    r := NULL;
    r.batch := at_batch;
    r.id := at_id;
    r.closed_at := (SELECT b.closed_at FROM @schema@.agent_event_batches AS b
                     WHERE b.n = CASE WHEN at_id > 0 THEN at_batch ELSE at_batch - 1 END);
    RETURN NEXT r;
END
$$;

-- The same backwards: newest first, what stands before position (batch, before_id); (batch, 0)
-- means all batches before that one. The last row (tenant_id NULL) is the position to go on from.
CREATE FUNCTION @schema@.agent_events_page_back(
    tenants uuid[], batch bigint, before_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL, budget integer DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at_batch bigint := $2;
    at_id    bigint := greatest($3, 0);
    oldest   bigint;
    first_n  bigint;
    nth_tx   xid8;
    base     record;
    chunk    integer;
    looked   bigint := 0;
    seen     integer;
    remain   integer := max_rows;
    filtered CONSTANT boolean := agents IS NOT NULL OR types IS NOT NULL;
    most     CONSTANT bigint := coalesce(budget, greatest(10 * max_rows, 5000));
    r        @schema@.agent_event_entry;
BEGIN
    SELECT bus.oldest INTO oldest FROM @schema@.agent_event_bus AS bus;
    SELECT least(at_batch, h.batch + 1), CASE WHEN at_batch > h.batch THEN 0 ELSE at_id END
      INTO at_batch, at_id FROM @schema@.agent_events_head() AS h;
    WHILE (at_batch > oldest OR at_batch = oldest AND at_id > 0)
          AND remain > 0 AND (NOT filtered OR looked < most) LOOP
        IF at_id > 0 THEN
            first_n := at_batch;
        ELSE
            -- Step into the batch before, and take whole batches down to first_n.
            at_batch := at_batch - 1;
            SELECT b.total, pg_snapshot_xmax(b.seen) AS xmax INTO base
              FROM @schema@.agent_event_batches AS b WHERE b.n = at_batch;
            first_n := NULL;
            IF tenants IS NULL THEN
                SELECT b.n + 2 INTO first_n FROM @schema@.agent_event_batches AS b
                 WHERE b.n < at_batch AND b.total < base.total - max_rows
                 ORDER BY b.n DESC LIMIT 1;
            ELSE
                SELECT max(nth.tx) INTO nth_tx FROM unnest(tenants) AS t(id) CROSS JOIN LATERAL (
                    SELECT i.tx FROM @schema@.agent_events AS i
                     WHERE i.tenant_id = t.id AND i.tx < base.xmax
                     ORDER BY i.tx DESC OFFSET max_rows - 1 LIMIT 1) AS nth;
                IF nth_tx IS NOT NULL THEN
                    SELECT b.n + 1 INTO first_n FROM @schema@.agent_event_batches AS b
                     WHERE pg_snapshot_xmax(b.seen) > nth_tx
                     ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1;
                END IF;
            END IF;
            first_n := least(at_batch, greatest(coalesce(first_n, oldest), oldest));
        END IF;

        IF first_n = at_batch THEN
            chunk := CASE WHEN filtered THEN greatest(remain, 1000) ELSE remain END;
            seen := 0;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, true) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents, types) THEN
                    RETURN NEXT r;
                    remain := remain - 1;
                    EXIT WHEN remain = 0;
                END IF;
            END LOOP;
            looked := looked + seen;
            IF remain > 0 AND seen < chunk THEN
                at_id := 0;
            END IF;
        ELSE
            FOR r IN SELECT w.* FROM @schema@.agent_events_window(tenants, first_n, at_batch) AS w
                      WHERE NOT filtered
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents, types)
                      ORDER BY w.batch DESC, w.id DESC LIMIT remain LOOP
                RETURN NEXT r;
                at_batch := r.batch;
                at_id := r.id;
                remain := remain - 1;
            END LOOP;
            IF remain > 0 THEN
                at_batch := first_n;
                at_id := 0;
                looked := looked + max_rows;
            END IF;
        END IF;
    END LOOP;

    r := NULL;
    r.batch := at_batch;
    r.id := at_id;
    r.closed_at := (SELECT b.closed_at FROM @schema@.agent_event_batches AS b
                     WHERE b.n = CASE WHEN at_id > 0 THEN at_batch ELSE at_batch - 1 END);
    RETURN NEXT r;
END
$$;

-- For every language. Without filters: events only, and a page shorter than max_rows means "up to
-- the head". With filters the last row, whose tenant_id is NULL, is the position to go on from.
CREATE FUNCTION @schema@.agent_events_read(
    tenant uuid, batch bigint, after_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE sql STABLE
AS $$
    SELECT p.* FROM @schema@.agent_events_page(
               CASE WHEN tenant IS NOT NULL THEN ARRAY[tenant] END, $2, $3, $4, agents, types) AS p
     WHERE p.tenant_id IS NOT NULL OR agents IS NOT NULL OR types IS NOT NULL
$$;

-- The same backwards: newest first.
CREATE FUNCTION @schema@.agent_events_read_back(
    tenant uuid, batch bigint, before_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE sql STABLE
AS $$
    SELECT p.* FROM @schema@.agent_events_page_back(
               CASE WHEN tenant IS NOT NULL THEN ARRAY[tenant] END, $2, $3, $4, agents, types) AS p
     WHERE p.tenant_id IS NOT NULL OR agents IS NOT NULL OR types IS NOT NULL
$$;
