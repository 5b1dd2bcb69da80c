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

-- A filter's entries as LIKE patterns, once a page: an entry is exact, or a prefix where it ends in
-- `*`. NULL stays NULL (any), an empty list stays empty (none).
CREATE FUNCTION @schema@.agent_events_patterns(entries text[])
RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(
               CASE WHEN right(e.entry, 1) = '*'
                    THEN regexp_replace(left(e.entry, -1), '([\\%_])', '\\\1', 'g') || '%'
                    ELSE regexp_replace(e.entry, '([\\%_])', '\\\1', 'g') END), '{}')
      FROM unnest(entries) AS e(entry)
$$;

-- The filter, in one place: each list of patterns is OR, the two together AND, NULL means any.
-- agent_events/filters.py says the same in Python. (No subquery, so that it costs no call a row.)
CREATE FUNCTION @schema@.agent_events_matches(
    agent_id uuid, event_type text, agents text[], types text[]
)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (agents IS NULL OR agent_id::text LIKE ANY (agents))
       AND (types IS NULL OR event_type LIKE ANY (types))
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
SET plan_cache_mode = force_generic_plan
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
    share    integer;
    by_rows  bigint;
    filtered CONSTANT boolean := agents IS NOT NULL OR types IS NOT NULL;
    agents_like CONSTANT text[] := @schema@.agent_events_patterns(agents);
    types_like  CONSTANT text[] := @schema@.agent_events_patterns(types);
    most     CONSTANT bigint := coalesce(budget, greatest(10 * max_rows, 5000));
    r        @schema@.agent_event_entry;
BEGIN
    IF max_rows IS NULL OR max_rows < 1 THEN
        RAISE EXCEPTION 'agent_events_page: max_rows is %, expected 1 or more', max_rows
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT h.batch INTO head FROM @schema@.agent_events_head() AS h;
    SELECT pg_snapshot_xmax(b.seen) AS xmax INTO base
      FROM @schema@.agent_event_batches AS b WHERE b.n = head;
    IF base.xmax > pg_snapshot_xmax(pg_current_snapshot()) THEN
        -- What this cluster writes looks like part of old batches: nobody's position may pass it.
        RAISE EXCEPTION 'agent_events_page: the ledger has seen transaction % but this cluster is only at %: it was copied from another cluster',
            base.xmax, pg_snapshot_xmax(pg_current_snapshot())
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Nothing is lost: manage.py mend_events mends it, and every cursor stays valid.';
    END IF;
    IF at_batch < (SELECT bus.oldest FROM @schema@.agent_event_bus AS bus) THEN
        PERFORM @schema@.agent_events_window(tenants, at_batch, at_batch); -- says what is wrong
    END IF;
    WHILE at_batch <= head AND remain > 0 AND (NOT filtered OR looked < most) LOOP
        -- How many rows to look at now. Of several tenants each has a share in them, so that the
        -- window does not hold as many of each.
        chunk := CASE WHEN filtered THEN greatest(remain, 1000) ELSE remain END;
        share := greatest(chunk / greatest(cardinality(tenants), 1), least(chunk, 20));
        -- A window of whole batches that holds about so many, or exactly one batch.
        last_n := at_batch;
        IF at_id = 0 THEN
            SELECT b.total, pg_snapshot_xmax(b.seen) AS xmax INTO base
              FROM @schema@.agent_event_batches AS b WHERE b.n = at_batch - 1;
            -- By rows of every tenant (their totals are known), and by rows of these tenants.
            by_rows := at_batch;
            IF tenants IS NULL OR cardinality(tenants) > 1 THEN
                SELECT b.n - 1 INTO by_rows FROM @schema@.agent_event_batches AS b
                 WHERE b.n >= at_batch AND b.total > base.total + chunk
                 ORDER BY b.n LIMIT 1;
                by_rows := coalesce(by_rows, head);
            END IF;
            last_n := at_batch;
            IF tenants IS NOT NULL THEN
                SELECT min(nth.tx) INTO nth_tx FROM unnest(tenants) AS t(id) CROSS JOIN LATERAL (
                    SELECT i.tx FROM @schema@.agent_events AS i
                     WHERE i.tenant_id = t.id AND i.tx >= base.xmax
                     ORDER BY i.tx OFFSET share - 1 LIMIT 1) AS nth;
                last_n := NULL;
                IF nth_tx IS NOT NULL THEN
                    SELECT b.n - 1 INTO last_n FROM @schema@.agent_event_batches AS b
                     WHERE pg_snapshot_xmax(b.seen) > nth_tx
                     ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1;
                END IF;
                last_n := coalesce(last_n, head);
            END IF;
            last_n := least(greatest(at_batch, by_rows, last_n), head);
        END IF;

        IF last_n = at_batch THEN
            seen := 0;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, false) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents_like, types_like) THEN
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
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents_like, types_like)
                      ORDER BY w.batch, w.id LIMIT remain LOOP
                RETURN NEXT r;
                at_batch := r.batch;
                at_id := r.id;
                remain := remain - 1;
            END LOOP;
            IF remain > 0 THEN
                at_batch := last_n + 1;
                at_id := 0;
                looked := looked + chunk;
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
SET plan_cache_mode = force_generic_plan
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
    share    integer;
    by_rows  bigint;
    filtered CONSTANT boolean := agents IS NOT NULL OR types IS NOT NULL;
    agents_like CONSTANT text[] := @schema@.agent_events_patterns(agents);
    types_like  CONSTANT text[] := @schema@.agent_events_patterns(types);
    most     CONSTANT bigint := coalesce(budget, greatest(10 * max_rows, 5000));
    r        @schema@.agent_event_entry;
BEGIN
    IF max_rows IS NULL OR max_rows < 1 THEN
        RAISE EXCEPTION 'agent_events_page_back: max_rows is %, expected 1 or more', max_rows
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT bus.oldest INTO oldest FROM @schema@.agent_event_bus AS bus;
    SELECT least(at_batch, h.batch + 1), CASE WHEN at_batch > h.batch THEN 0 ELSE at_id END
      INTO at_batch, at_id FROM @schema@.agent_events_head() AS h;
    WHILE (at_batch > oldest OR at_batch = oldest AND at_id > 0)
          AND remain > 0 AND (NOT filtered OR looked < most) LOOP
        chunk := CASE WHEN filtered THEN greatest(remain, 1000) ELSE remain END;
        share := greatest(chunk / greatest(cardinality(tenants), 1), least(chunk, 20));
        IF at_id > 0 THEN
            first_n := at_batch;
        ELSE
            -- Step into the batch before, and take whole batches down to first_n.
            at_batch := at_batch - 1;
            SELECT b.total, pg_snapshot_xmax(b.seen) AS xmax INTO base
              FROM @schema@.agent_event_batches AS b WHERE b.n = at_batch;
            by_rows := at_batch;
            IF tenants IS NULL OR cardinality(tenants) > 1 THEN
                SELECT b.n + 2 INTO by_rows FROM @schema@.agent_event_batches AS b
                 WHERE b.n < at_batch AND b.total < base.total - chunk
                 ORDER BY b.n DESC LIMIT 1;
                by_rows := coalesce(by_rows, oldest);
            END IF;
            first_n := at_batch;
            IF tenants IS NOT NULL THEN
                SELECT max(nth.tx) INTO nth_tx FROM unnest(tenants) AS t(id) CROSS JOIN LATERAL (
                    SELECT i.tx FROM @schema@.agent_events AS i
                     WHERE i.tenant_id = t.id AND i.tx < base.xmax
                     ORDER BY i.tx DESC OFFSET share - 1 LIMIT 1) AS nth;
                first_n := NULL;
                IF nth_tx IS NOT NULL THEN
                    SELECT b.n + 1 INTO first_n FROM @schema@.agent_event_batches AS b
                     WHERE pg_snapshot_xmax(b.seen) > nth_tx
                     ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1;
                END IF;
                first_n := coalesce(first_n, oldest);
            END IF;
            first_n := greatest(least(at_batch, by_rows, first_n), oldest);
        END IF;

        IF first_n = at_batch THEN
            seen := 0;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, true) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents_like, types_like) THEN
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
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents_like, types_like)
                      ORDER BY w.batch DESC, w.id DESC LIMIT remain LOOP
                RETURN NEXT r;
                at_batch := r.batch;
                at_id := r.id;
                remain := remain - 1;
            END LOOP;
            IF remain > 0 THEN
                at_batch := first_n;
                at_id := 0;
                looked := looked + chunk;
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
