-- Pages of the log, filtered or not. Run by 0002 in a new database, and by 0010 in each: an earlier
-- version of these functions, which knew of agents and types alone, goes.
DROP FUNCTION IF EXISTS @schema@.agent_events_read_back(uuid, bigint, bigint, integer, text[], text[]);
DROP FUNCTION IF EXISTS @schema@.agent_events_read(uuid, bigint, bigint, integer, text[], text[]);
DROP FUNCTION IF EXISTS @schema@.agent_events_page_back(uuid[], bigint, bigint, integer, text[], text[], integer);
DROP FUNCTION IF EXISTS @schema@.agent_events_page(uuid[], bigint, bigint, integer, text[], text[], integer);
DROP FUNCTION IF EXISTS @schema@.agent_events_matches(uuid, text, text[], text[]);

-- A filter's entries as LIKE patterns, once a page: an entry is exact, or a prefix where it ends in
-- `*`. NULL stays NULL (any), an empty list stays empty (none).
CREATE OR REPLACE FUNCTION @schema@.agent_events_patterns(entries text[])
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

-- Texts as LIKE patterns for JSON in lower case, once a page: as they stand within a JSON string.
CREATE OR REPLACE FUNCTION @schema@.agent_events_needles(texts text[])
RETURNS text[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(
               '%' || regexp_replace(lower(substr(n.json, 2, length(n.json) - 2) COLLATE "C"),
                                     '([\\%_])', '\\\1', 'g') || '%'), '{}')
      FROM (SELECT to_json(t.entry)::text FROM unnest(texts) AS t(entry)) AS n(json)
$$;

-- The filter, in two places that agent_events/filters.py has, too. This one is by names: each list
-- of patterns is OR, the lists together AND, NULL means any (and none of `not_...`).
-- (No subquery here and below, so that it costs no call a row.)
CREATE OR REPLACE FUNCTION @schema@.agent_events_matches(
    agent_id uuid, event_type text, agents text[], types text[],
    not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL
)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (agents IS NULL OR agent_id::text LIKE ANY (agents))
       AND (types IS NULL OR event_type LIKE ANY (types))
       AND (not_agents IS NULL OR NOT agent_id::text LIKE ANY (not_agents))
       AND (not_types IS NULL OR NOT event_type LIKE ANY (not_types))
$$;

-- This one is by content: each needle is in the JSON of the type or in that of the payload, of which
-- ASCII letters alone are folded; and the conditions hold: what is neither true nor false does not.
CREATE OR REPLACE FUNCTION @schema@.agent_events_contains(
    event_type text, payload jsonb, needles text[], conditions jsonpath
)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT (conditions IS NULL OR coalesce(payload @@ conditions, false))
       AND (needles IS NULL
            OR lower((to_json(event_type)::text || E'\n' || payload::text) COLLATE "C")
               LIKE ALL (needles))
$$;

-- A page from position (batch, after_id) on, in order, then one row more whose tenant_id is NULL:
-- the position (batch, id) to go on from, with the closed_at that its cursor bears. The position
-- is the end of the log only where it equals (head + 1, 0); with filters a page stops after
-- looking at some `budget` rows and may be empty. Where it looks into payloads, one that is stored in
-- more than 2 KB counts as so many rows as that: a page of large ones would take seconds otherwise.
CREATE OR REPLACE FUNCTION @schema@.agent_events_page(
    tenants uuid[], batch bigint, after_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL, budget integer DEFAULT NULL,
    not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL,
    texts text[] DEFAULT NULL, conditions jsonpath DEFAULT NULL
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
    stopped  boolean;
    deep     CONSTANT boolean := texts IS NOT NULL OR conditions IS NOT NULL;
    filtered CONSTANT boolean := deep OR agents IS NOT NULL OR types IS NOT NULL
                                 OR not_agents IS NOT NULL OR not_types IS NOT NULL;
    agents_like CONSTANT text[] := @schema@.agent_events_patterns(agents);
    types_like  CONSTANT text[] := @schema@.agent_events_patterns(types);
    not_agents_like CONSTANT text[] := @schema@.agent_events_patterns(not_agents);
    not_types_like  CONSTANT text[] := @schema@.agent_events_patterns(not_types);
    needles  CONSTANT text[] := @schema@.agent_events_needles(texts);
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
            stopped := false;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, false) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents_like, types_like,
                                                    not_agents_like, not_types_like) THEN
                    IF deep THEN
                        looked := looked + pg_column_size(r.payload) / 2048;
                    END IF;
                    IF NOT deep OR @schema@.agent_events_contains(
                                       r.event_type, r.payload, needles, conditions) THEN
                        RETURN NEXT r;
                        remain := remain - 1;
                    END IF;
                    stopped := remain = 0 OR deep AND looked >= most;
                    EXIT WHEN stopped;
                END IF;
            END LOOP;
            looked := looked + seen;
            IF NOT stopped AND seen < chunk THEN
                at_batch := at_batch + 1;
                at_id := 0;
            END IF;
        ELSE
            stopped := false;
            FOR r IN SELECT w.* FROM @schema@.agent_events_window(tenants, at_batch, last_n) AS w
                      WHERE NOT filtered
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents_like, types_like,
                                                          not_agents_like, not_types_like)
                      ORDER BY w.batch, w.id LIMIT CASE WHEN NOT deep THEN remain END LOOP
                at_batch := r.batch;
                at_id := r.id;
                IF deep THEN
                    looked := looked + pg_column_size(r.payload) / 2048;
                END IF;
                IF NOT deep OR @schema@.agent_events_contains(
                                   r.event_type, r.payload, needles, conditions) THEN
                    RETURN NEXT r;
                    remain := remain - 1;
                END IF;
                stopped := remain = 0 OR deep AND looked >= most;
                EXIT WHEN stopped;
            END LOOP;
            IF NOT stopped THEN
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
CREATE OR REPLACE FUNCTION @schema@.agent_events_page_back(
    tenants uuid[], batch bigint, before_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL, budget integer DEFAULT NULL,
    not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL,
    texts text[] DEFAULT NULL, conditions jsonpath DEFAULT NULL
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
    stopped  boolean;
    deep     CONSTANT boolean := texts IS NOT NULL OR conditions IS NOT NULL;
    filtered CONSTANT boolean := deep OR agents IS NOT NULL OR types IS NOT NULL
                                 OR not_agents IS NOT NULL OR not_types IS NOT NULL;
    agents_like CONSTANT text[] := @schema@.agent_events_patterns(agents);
    types_like  CONSTANT text[] := @schema@.agent_events_patterns(types);
    not_agents_like CONSTANT text[] := @schema@.agent_events_patterns(not_agents);
    not_types_like  CONSTANT text[] := @schema@.agent_events_patterns(not_types);
    needles  CONSTANT text[] := @schema@.agent_events_needles(texts);
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
            stopped := false;
            FOR r IN SELECT w.* FROM @schema@.agent_events_within(
                         tenants, at_batch, nullif(at_id, 0), chunk, true) AS w LOOP
                seen := seen + 1;
                at_id := r.id;
                IF NOT filtered
                   OR @schema@.agent_events_matches(r.agent_id, r.event_type, agents_like, types_like,
                                                    not_agents_like, not_types_like) THEN
                    IF deep THEN
                        looked := looked + pg_column_size(r.payload) / 2048;
                    END IF;
                    IF NOT deep OR @schema@.agent_events_contains(
                                       r.event_type, r.payload, needles, conditions) THEN
                        RETURN NEXT r;
                        remain := remain - 1;
                    END IF;
                    stopped := remain = 0 OR deep AND looked >= most;
                    EXIT WHEN stopped;
                END IF;
            END LOOP;
            looked := looked + seen;
            IF NOT stopped AND seen < chunk THEN
                at_id := 0;
            END IF;
        ELSE
            stopped := false;
            FOR r IN SELECT w.* FROM @schema@.agent_events_window(tenants, first_n, at_batch) AS w
                      WHERE NOT filtered
                         OR @schema@.agent_events_matches(w.agent_id, w.event_type, agents_like, types_like,
                                                          not_agents_like, not_types_like)
                      ORDER BY w.batch DESC, w.id DESC LIMIT CASE WHEN NOT deep THEN remain END LOOP
                at_batch := r.batch;
                at_id := r.id;
                IF deep THEN
                    looked := looked + pg_column_size(r.payload) / 2048;
                END IF;
                IF NOT deep OR @schema@.agent_events_contains(
                                   r.event_type, r.payload, needles, conditions) THEN
                    RETURN NEXT r;
                    remain := remain - 1;
                END IF;
                stopped := remain = 0 OR deep AND looked >= most;
                EXIT WHEN stopped;
            END LOOP;
            IF NOT stopped THEN
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
CREATE OR REPLACE FUNCTION @schema@.agent_events_read(
    tenant uuid, batch bigint, after_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL,
    not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL,
    texts text[] DEFAULT NULL, conditions jsonpath DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE sql STABLE
AS $$
    SELECT p.* FROM @schema@.agent_events_page(
               CASE WHEN tenant IS NOT NULL THEN ARRAY[tenant] END, $2, $3, $4, agents, types,
               NULL, not_agents, not_types, texts, conditions) AS p
     WHERE p.tenant_id IS NOT NULL OR agents IS NOT NULL OR types IS NOT NULL
        OR not_agents IS NOT NULL OR not_types IS NOT NULL
        OR texts IS NOT NULL OR conditions IS NOT NULL
$$;

-- The same backwards: newest first.
CREATE OR REPLACE FUNCTION @schema@.agent_events_read_back(
    tenant uuid, batch bigint, before_id bigint, max_rows integer,
    agents text[] DEFAULT NULL, types text[] DEFAULT NULL,
    not_agents text[] DEFAULT NULL, not_types text[] DEFAULT NULL,
    texts text[] DEFAULT NULL, conditions jsonpath DEFAULT NULL
)
RETURNS SETOF @schema@.agent_event_entry
LANGUAGE sql STABLE
AS $$
    SELECT p.* FROM @schema@.agent_events_page_back(
               CASE WHEN tenant IS NOT NULL THEN ARRAY[tenant] END, $2, $3, $4, agents, types,
               NULL, not_agents, not_types, texts, conditions) AS p
     WHERE p.tenant_id IS NOT NULL OR agents IS NOT NULL OR types IS NOT NULL
        OR not_agents IS NOT NULL OR not_types IS NOT NULL
        OR texts IS NOT NULL OR conditions IS NOT NULL
$$;
