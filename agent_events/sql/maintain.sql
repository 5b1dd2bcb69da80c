-- Retention, and mending a ledger that lost its cluster. docs/retention.md says when to use which.
-- In the order: finding places, pruning, what is wrong, mending.

ALTER TABLE @schema@.agent_event_bus
    -- Every event of the batches before it is deleted. Less than `oldest` only while a batch of
    -- more events than a step takes is on its way out: nobody can read it any more.
    ADD COLUMN swept bigint NOT NULL DEFAULT 1,
    -- The first row of the ledger, or of what is left to look at: min(n) walks over dead entries.
    ADD COLUMN first_row bigint NOT NULL DEFAULT 0;
UPDATE @schema@.agent_event_bus SET swept = oldest;

-- For agent_events_prune: the keys of what is gone. Only publishers that send one pay for it.
CREATE INDEX agent_event_keys_created_at ON @schema@.agent_event_keys (created_at);

-- The last of the batches first..last that was closed before `before` and up to which there are
-- `most` events at most; first - 1 where none is. Both rise with n: bisect, by the primary key. A
-- row that is missing was pruned, so it is before everything.
CREATE FUNCTION @schema@.agent_events_last_batch(
    first bigint, last bigint, before timestamptz, most bigint
)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lo  bigint := first - 1;
    hi  bigint := last;
    mid bigint;
BEGIN
    WHILE lo < hi LOOP
        mid := lo + (hi - lo + 1) / 2;
        IF coalesce((SELECT b.closed_at < before AND b.total <= most
                       FROM @schema@.agent_event_batches AS b WHERE b.n = mid), true) THEN
            lo := mid;
        ELSE
            hi := mid - 1;
        END IF;
    END LOOP;
    RETURN lo;
END
$$;

-- The batch that a transaction is in, and when that was closed; NULL where it is in none yet. For
-- one older than the ledger's first row: that row.
CREATE FUNCTION @schema@.agent_events_place(tx xid8, OUT n bigint, OUT closed_at timestamptz)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    beyond record;
    head   record;
BEGIN
    SELECT b.n, b.closed_at, pg_visible_in_snapshot(tx, b.seen) AS sees INTO beyond
      FROM @schema@.agent_event_batches AS b
     WHERE pg_snapshot_xmax(b.seen) > tx ORDER BY pg_snapshot_xmax(b.seen), b.n LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF beyond.sees THEN
        n := beyond.n;
        closed_at := beyond.closed_at;
        RETURN;
    END IF;
    -- It was running then: a later batch has it, or none yet.
    SELECT b.n, pg_visible_in_snapshot(tx, b.seen) AS sees INTO head
      FROM @schema@.agent_event_batches AS b ORDER BY b.n DESC LIMIT 1;
    IF head.sees THEN
        n := @schema@.agent_events_batch_of(tx, beyond.n + 1, head.n);
        SELECT b.closed_at INTO closed_at FROM @schema@.agent_event_batches AS b
         WHERE b.n = agent_events_place.n;
    END IF;
END
$$;

-- Deletes events of batches that were closed before `before`: the oldest, max_rows of them at most,
-- in this one step. Returns how many events and idempotency keys are gone and how many batches
-- nobody can read any more; while `more` is true, call it again, in a new transaction. In the same
-- transaction `oldest` moves on, so a reader sees a batch whole or is told that it is gone; a
-- batch of more than max_rows events goes from readers at once, and from the table in steps.
--
-- Stays: the ledger's head, the row before the oldest batch (it says where that begins), rows
-- younger than an hour (sources compare their last batch with it). Keys stay as long as their event.
-- Locks: the row of agent_event_bus, so that two that prune take turns, and the rows that it deletes.
-- Producers, appends and readers wait for none of these. Cost: what it deletes, and some 100 blocks.
CREATE FUNCTION @schema@.agent_events_prune(
    before timestamptz, max_rows integer DEFAULT 10000,
    OUT events bigint, OUT batches bigint, OUT keys bigint, OUT more boolean
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    most     CONSTANT bigint := 9223372036854775807;
    bus      record;
    head     bigint;
    aim      bigint;
    fits     bigint;
    fault    text;
    hour_ago CONSTANT timestamptz := clock_timestamp() - interval '1 hour';
    los      xid8[];
    his      xid8[];
    ids      bigint[];
    part     bigint[];
    gone     bigint;
BEGIN
    IF before IS NULL OR max_rows IS NULL OR max_rows < 1 THEN
        RAISE EXCEPTION 'agent_events_prune: got the time % and max_rows %, expected a time and 1 or more',
            before, max_rows
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT b.oldest, b.swept, b.first_row INTO bus FROM @schema@.agent_event_bus AS b FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'agent_events_prune: agent_event_bus has no row'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'INSERT INTO agent_event_bus DEFAULT VALUES; puts it back.';
    END IF;
    -- Events in the wrong batch would be deleted before anybody saw them.
    fault := @schema@.agent_events_fault(100);
    IF fault <> 'rows ahead' THEN
        RAISE EXCEPTION 'agent_events_prune: the ledger must be mended first (%)', fault
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'manage.py mend_events says what is wrong, and mends it.';
    END IF;

    SELECT b.n INTO head FROM @schema@.agent_event_batches AS b ORDER BY b.n DESC LIMIT 1;
    aim := @schema@.agent_events_last_batch(bus.oldest, head, before, most);
    batches := 0;
    IF bus.swept >= bus.oldest AND aim >= bus.oldest THEN
        -- As many whole batches as fit into this step, and one at least.
        SELECT b.total + max_rows INTO fits
          FROM @schema@.agent_event_batches AS b WHERE b.n = bus.oldest - 1;
        fits := @schema@.agent_events_last_batch(bus.oldest, aim, 'infinity', coalesce(fits, 0));
        batches := greatest(fits - bus.oldest + 1, 1);
        bus.oldest := bus.oldest + batches;
    END IF;
    events := 0;
    IF bus.swept < bus.oldest THEN
        SELECT array_agg(r.lo), array_agg(r.hi) INTO los, his
          FROM @schema@.agent_event_batches AS gone_to
          JOIN @schema@.agent_event_batches AS gone_from ON gone_from.n = bus.swept - 1
         CROSS JOIN LATERAL @schema@.agent_events_spans(gone_from.seen, gone_to.seen) AS r
         WHERE gone_to.n = bus.oldest - 1;
        ids := ARRAY(
            SELECT f.id FROM (
                SELECT e.id FROM unnest(los, his) AS r(lo, hi) CROSS JOIN LATERAL (
                    SELECT i.id FROM @schema@.agent_events AS i
                     WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
                 LIMIT max_rows::bigint + 1) AS f
             ORDER BY f.id);
        IF cardinality(ids) <= max_rows THEN
            bus.swept := bus.oldest;
        END IF;
        -- An array alone says nothing of partitions: before PostgreSQL 17 each of them would be
        -- looked into for each id. A range does; and in parts, lest a late transaction's id, far from
        -- the others, should stretch it for all.
        FOR place IN 1 .. least(cardinality(ids), max_rows) BY 1000 LOOP
            part := ids[place:least(place + 999, max_rows)];
            DELETE FROM @schema@.agent_events AS e
             WHERE e.id = ANY (part) AND e.id >= part[1] AND e.id <= part[cardinality(part)];
            GET DIAGNOSTICS gone = ROW_COUNT;
            events := events + gone;
        END LOOP;
    END IF;

    -- The ledger's own rows; a step's worth of them too.
    gone := @schema@.agent_events_last_batch(
        bus.first_row, least(bus.swept - 2, bus.first_row + max_rows - 1), hour_ago, most);
    DELETE FROM @schema@.agent_event_batches AS b WHERE b.n >= bus.first_row AND b.n <= gone;
    bus.first_row := gone + 1;

    -- (A subquery that cannot become a join: one look by the primary key for each key.)
    DELETE FROM @schema@.agent_event_keys AS k WHERE k.ctid = ANY (ARRAY(
        SELECT o.ctid FROM @schema@.agent_event_keys AS o
         WHERE o.created_at < (SELECT b.closed_at FROM @schema@.agent_event_batches AS b
                                WHERE b.n = bus.oldest - 1 AND b.n > 0)
           AND (SELECT e.id FROM @schema@.agent_events AS e WHERE e.id = o.event_id OFFSET 0) IS NULL
         ORDER BY o.created_at LIMIT max_rows));
    GET DIAGNOSTICS keys = ROW_COUNT;

    UPDATE @schema@.agent_event_bus AS b
       SET oldest = bus.oldest, swept = bus.swept, first_row = bus.first_row
     WHERE (b.oldest, b.swept, b.first_row) IS DISTINCT FROM (bus.oldest, bus.swept, bus.first_row);
    more := bus.swept < bus.oldest OR aim >= bus.oldest OR keys = max_rows
            OR @schema@.agent_events_last_batch(
                   bus.first_row, least(bus.swept - 2, bus.first_row), hour_ago, most)
               >= bus.first_row;
END
$$;

-- What agent_events_prune would delete by and by, from the ledger's totals. Changes nothing.
CREATE FUNCTION @schema@.agent_events_prunable(
    before timestamptz, OUT events bigint, OUT batches bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    bus  record;
    head record;
    aim  bigint;
BEGIN
    SELECT b.oldest, b.swept INTO bus FROM @schema@.agent_event_bus AS b;
    SELECT h.batch INTO head FROM @schema@.agent_events_head() AS h;
    aim := @schema@.agent_events_last_batch(
        bus.oldest, head.batch, before, 9223372036854775807);
    batches := aim - bus.oldest + 1;
    events := (SELECT b.total FROM @schema@.agent_event_batches AS b WHERE b.n = aim)
            - (SELECT b.total FROM @schema@.agent_event_batches AS b WHERE b.n = bus.oldest - 1);
    IF bus.swept < bus.oldest THEN  -- what a large batch left behind
        events := events + (
            SELECT count(*)
              FROM @schema@.agent_event_batches AS gone_to
              JOIN @schema@.agent_event_batches AS gone_from ON gone_from.n = bus.swept - 1
             CROSS JOIN LATERAL @schema@.agent_events_spans(gone_from.seen, gone_to.seen) AS r
             CROSS JOIN LATERAL (SELECT i.id FROM @schema@.agent_events AS i
                                  WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
             WHERE gone_to.n = bus.oldest - 1);
    END IF;
END
$$;

-- Did this cluster overtake a ledger that was copied into it, before anyone looked? The proof is an
-- event among the newest `looks` that began after the batch was closed that its transaction is
-- now said to be in, while that batch holds more events than it was closed with. (The time alone
-- proves nothing: a producer may write it.) Cost: some 10 blocks an event looked at.
CREATE FUNCTION @schema@.agent_events_overtaken(looks integer DEFAULT 1000)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    newest  record;
    place   record;
    before  record;
    upto    record;
    first_n bigint;
    held    bigint;
BEGIN
    SELECT b.swept INTO first_n FROM @schema@.agent_event_bus AS b;
    FOR newest IN
        SELECT e.tx, max(e.created_at) AS created_at
          FROM (SELECT i.tx, i.created_at FROM @schema@.agent_events AS i
                 ORDER BY i.id DESC LIMIT looks) AS e
         GROUP BY e.tx
    LOOP
        SELECT p.n, p.closed_at INTO place FROM @schema@.agent_events_place(newest.tx) AS p;
        CONTINUE WHEN place.n IS NULL OR newest.created_at <= place.closed_at;
        IF place.n < first_n THEN  -- whatever was in it is deleted
            RETURN true;
        END IF;
        SELECT b.seen, b.total INTO before
          FROM @schema@.agent_event_batches AS b WHERE b.n = place.n - 1;
        IF NOT FOUND THEN
            RETURN true;
        END IF;
        SELECT b.seen, b.total INTO upto
          FROM @schema@.agent_event_batches AS b WHERE b.n = place.n;
        SELECT count(*) INTO held FROM (
            SELECT FROM @schema@.agent_events_spans(before.seen, upto.seen) AS r
             CROSS JOIN LATERAL (SELECT i.id FROM @schema@.agent_events AS i
                                  WHERE i.tx >= r.lo AND i.tx < r.hi OFFSET 0) AS e
             LIMIT upto.total - before.total + 1) AS h;
        IF held > upto.total - before.total THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- What is wrong with the ledger, in a word; NULL where nothing is. agent_events_mend mends all of it.
--   'empty'       somebody deleted it all
--   'ahead'       its head has seen transactions that this cluster has not had yet: it was copied
--   'overtaken'   likewise, and this cluster has had them since: new events fell into old batches
--   'rows ahead'  the ledger is right, but events bear transactions that this cluster has not had
CREATE FUNCTION @schema@.agent_events_fault(looks integer DEFAULT 1000)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    head_xmax xid8;
    upto      xid8 := pg_snapshot_xmax(pg_current_snapshot());
BEGIN
    SELECT pg_snapshot_xmax(b.seen) INTO head_xmax
      FROM @schema@.agent_event_batches AS b ORDER BY b.n DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 'empty';
    END IF;
    IF head_xmax > upto THEN
        RETURN 'ahead';
    END IF;
    IF @schema@.agent_events_overtaken(looks) THEN
        RETURN 'overtaken';
    END IF;
    -- (What this transaction itself has written is no fault.)
    upto := greatest(upto, (pg_current_xact_id_if_assigned()::text::bigint + 1)::text::xid8);
    IF EXISTS (SELECT FROM @schema@.agent_events AS e WHERE e.tx >= upto) THEN
        RETURN 'rows ahead';
    END IF;
    RETURN NULL;
END
$$;

-- How many transaction ids agent_events_mend lacks: it gives each batch one of its own, and all of
-- them must be finished. 0: it can begin.
CREATE FUNCTION @schema@.agent_events_mend_lacks()
RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(greatest(
               4 + max(b.n) - min(b.n)
                 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 0), 0)
      FROM @schema@.agent_event_batches AS b
$$;

-- Uses up transaction ids, each in a transaction of its own: CALL it outside any other. (Without a
-- search_path of its own: PostgreSQL lets no such procedure commit.)
CREATE PROCEDURE @schema@.agent_events_burn(ids bigint)
LANGUAGE plpgsql
AS $$
BEGIN
    FOR i IN 1 .. ids LOOP
        PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
        PERFORM pg_catalog.pg_current_xact_id();
        COMMIT;
    END LOOP;
END
$$;

-- A new ledger for a log that lost it: the events in the order of their transactions, in batches of
-- some 1,000, dated by the newest in each. A cursor of the lost ledger says `reset` and goes on some
-- minutes before its time. What transactions write that are open now comes in the next batch.
CREATE FUNCTION @schema@.agent_events_rebuild(OUT batches bigint, OUT events bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    most      CONSTANT xid8 := pg_snapshot_xmin(pg_current_snapshot());
    now_is    CONSTANT timestamptz := clock_timestamp();
    at_n      bigint;
    at_xmax   xid8 := '1';
    at_time   timestamptz := 'epoch';
    next_xmax xid8;
    made      record;
BEGIN
    SELECT b.oldest - 1 INTO at_n FROM @schema@.agent_event_bus AS b;
    batches := 0;
    events := 0;
    INSERT INTO @schema@.agent_event_batches VALUES (at_n, '1:1:', 0, at_time);
    WHILE at_xmax < most LOOP
        SELECT (e.tx::text::bigint + 1)::text::xid8 INTO next_xmax
          FROM @schema@.agent_events AS e WHERE e.tx >= at_xmax AND e.tx < most
         ORDER BY e.tx OFFSET 999 LIMIT 1;
        next_xmax := coalesce(next_xmax, most);
        SELECT count(*) AS rows, max(e.created_at) FILTER (WHERE e.created_at <= now_is) AS newest
          INTO made
          FROM @schema@.agent_events AS e WHERE e.tx >= at_xmax AND e.tx < next_xmax;
        at_xmax := next_xmax;
        CONTINUE WHEN made.rows = 0;
        at_n := at_n + 1;
        at_time := greatest(made.newest, at_time + interval '1 millisecond');
        batches := batches + 1;
        events := events + made.rows;
        INSERT INTO @schema@.agent_event_batches
        VALUES (at_n, @schema@.agent_events_snapshot(at_xmax, '{}'), events, at_time);
    END LOOP;
    UPDATE @schema@.agent_event_bus SET swept = oldest, first_row = oldest - 1;
END
$$;

-- Mends what agent_events_fault names; `fault` is NULL where that is nothing, and nothing happens.
-- `batches` and `events` have their place for sure; `waiting` events become the next batch.
--
-- A ledger that was copied: each batch gets one small transaction id of its own, and its events with
-- it. n, id, closed_at and total stay, so every cursor stays valid. Events in no batch, and those
-- that this cluster wrote into old batches by accident, get the id of this transaction.
--
-- Locks: the row of agent_event_bus, then the ledger, against everybody: an append that looked at
-- it before must not write to it afterwards. Producers do not wait. Cost: it writes every event anew.
CREATE FUNCTION @schema@.agent_events_mend(
    OUT fault text, OUT batches bigint, OUT events bigint, OUT waiting bigint
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '10s'
SET jit = off
AS $$
DECLARE
    mine  xid8;
    base  bigint;
    upto  xid8;
    lacks bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'agent_events_mend: the transaction is %, expected read committed',
            current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Call it in a READ COMMITTED transaction of its own.';
    END IF;
    INSERT INTO @schema@.agent_event_bus DEFAULT VALUES ON CONFLICT DO NOTHING;
    PERFORM FROM @schema@.agent_event_bus FOR UPDATE;
    LOCK TABLE @schema@.agent_event_batches IN ACCESS EXCLUSIVE MODE;
    fault := @schema@.agent_events_fault(100000);
    IF fault IS NULL THEN
        RETURN;
    END IF;
    mine := pg_current_xact_id();
    waiting := 0;
    IF fault IN ('ahead', 'overtaken') THEN
        -- What is before a gap is no history of this ledger: the row 0 of a migration, say.
        DELETE FROM @schema@.agent_event_batches AS b WHERE b.n < (
            SELECT max(g.n) FROM (
                SELECT l.n, lag(l.n) OVER (ORDER BY l.n) AS before
                  FROM @schema@.agent_event_batches AS l) AS g
             WHERE g.n <> g.before + 1);
        lacks := @schema@.agent_events_mend_lacks();
        IF lacks > 0 THEN
            RAISE EXCEPTION 'agent_events_mend: this cluster has not had enough transactions yet, % more are needed',
                lacks
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('CALL agent_events_burn(%s); and then this again. If it still '
                          'says so, a transaction is open for long (pg_stat_activity, '
                          'pg_prepared_xacts): end it.', lacks);
        END IF;
        SELECT min(b.n), count(*) - 1 INTO base, batches FROM @schema@.agent_event_batches AS b;
        -- Batch base + k gets the id 3 + k. (1 and 2 are PostgreSQL's own.)
        UPDATE @schema@.agent_events AS e SET tx = (
            SELECT CASE WHEN p.n IS NULL OR e.created_at > p.closed_at THEN mine
                        ELSE (3 + p.n - base)::text::xid8 END
              FROM @schema@.agent_events_place(e.tx) AS p);
        GET DIAGNOSTICS events = ROW_COUNT;
        UPDATE @schema@.agent_event_batches AS b
           SET seen = @schema@.agent_events_snapshot((4 + b.n - base)::text::xid8, '{}');
        UPDATE @schema@.agent_event_bus AS b
           SET oldest = greatest(b.oldest, base + 1), swept = greatest(b.swept, base + 1),
               first_row = base;
        SELECT count(*) INTO waiting FROM @schema@.agent_events AS e WHERE e.tx = mine;
        events := events - waiting;
        RETURN;
    END IF;

    batches := 0;
    events := 0;
    IF fault = 'empty' THEN
        SELECT r.batches, r.events INTO batches, events FROM @schema@.agent_events_rebuild() AS r;
    END IF;
    upto := greatest(pg_snapshot_xmax(pg_current_snapshot()), mine);
    UPDATE @schema@.agent_events AS e SET tx = mine WHERE e.tx >= upto;
    GET DIAGNOSTICS waiting = ROW_COUNT;
END
$$;
