-- Writing the ledger: agent_events_append, its helper and the ledger's guard.

-- The ranges [lo, hi) of transaction ids from `start` up to the snapshot's xmax that leave out
-- whoever the snapshot saw running. Reading range by range never touches the rows of a large open
-- transaction (200,000 of them cost 13 to 18 ms a look otherwise).
CREATE FUNCTION @schema@.agent_events_ranges(seen pg_snapshot, start xid8)
RETURNS TABLE (lo xid8, hi xid8)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT r.lo, r.hi
    FROM (
        SELECT coalesce(
                   ((lag(edge.x) OVER (ORDER BY edge.x))::text::bigint + 1)::text::xid8, start
               ) AS lo,
               edge.x AS hi
        FROM (
            SELECT x FROM pg_catalog.pg_snapshot_xip(seen) AS running(x) WHERE x >= start
            UNION ALL
            SELECT pg_catalog.pg_snapshot_xmax(seen)
        ) AS edge
    ) AS r
    WHERE r.lo < r.hi
$$;

-- A snapshot from its xmax and the ids that it saw running, in order.
CREATE FUNCTION @schema@.agent_events_snapshot(xmax xid8, running xid8[])
RETURNS pg_snapshot
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT (coalesce(running[1], xmax)::text || ':' || xmax::text || ':'
            || pg_catalog.array_to_string(running, ','))::pg_snapshot
$$;

-- Closes the next batch, if anything new became visible: returns one row (n, rows, closed_at, more),
-- or no row when there is nothing new or when somebody else closed the same batch first (then call
-- again, in a new transaction). `more`: the batch was full before all that is new was in it; call
-- again. It never returns events: they are read after this has committed.
--
-- Anyone may call it at any time, in a transaction of its own. Locks: none on agent_events; two
-- callers meet on the ledger's primary key, where the later one waits for the earlier (1 s at most).
--
-- The head and the snapshot come from one statement, so the snapshot can never be older than the
-- head. What is new is decided by transaction ids against those two snapshots alone, never by
-- what a later statement happens to see: finished transactions stay finished.
CREATE FUNCTION @schema@.agent_events_append(
    batch_limit integer DEFAULT 10000,
    OUT n bigint, OUT rows bigint, OUT closed_at timestamptz, OUT more boolean
)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
-- An index scan is right at any size of the table; statistics may be stale, the plan must not be.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    head       record;
    now_seen   pg_snapshot;
    next_seen  pg_snapshot;
    old_xmax   xid8;
    late       xid8[];
    taken      xid8[] := '{}';
    counts     bigint[];
    late_rows  bigint := 0;
    tx_rows    bigint;
    room       bigint;
    first_tx   xid8;
    last_tx    xid8;
BEGIN
    IF batch_limit IS NULL OR batch_limit < 1 THEN
        RAISE EXCEPTION 'agent_events_append: batch_limit is %, expected 1 or more', batch_limit
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Beyond this, agent_events_within hops from transaction to transaction: of small ones a batch
    -- must never hold so many.
    batch_limit := least(batch_limit, 20000);
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'agent_events_append: this server is a standby; append on the primary'
            USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'agent_events_append: the transaction is %, expected read committed',
            current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Call it in a READ COMMITTED transaction of its own.';
    END IF;
    -- A transaction's own id is missing from the running ids of its own snapshot: the batch would
    -- claim rows that are not committed yet.
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'agent_events_append: this transaction has written something already'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Call it in a transaction of its own.';
    END IF;

    -- A delivered event must survive a crash, so the ledger row is flushed at commit. Set for the
    -- transaction: as an attribute of the function it would be undone before the commit.
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    -- A caller frozen inside its transaction, or waiting for one, is ended by the server.
    PERFORM set_config('idle_in_transaction_session_timeout', '1s', true);
    PERFORM set_config('lock_timeout', '1s', true);
    -- Rows hidden by a policy would be lost for everybody; with this off, the server raises.
    PERFORM set_config('row_security', 'off', true);

    SELECT b.n, b.seen, b.total, b.closed_at, pg_current_snapshot() AS now_seen
      INTO head
      FROM @schema@.agent_event_batches AS b
     ORDER BY b.n DESC
     LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'agent_events_append: the ledger (agent_event_batches) is empty'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'manage.py mend_events makes a new one from the events.';
    END IF;
    now_seen := head.now_seen;
    old_xmax := pg_snapshot_xmax(head.seen);
    IF old_xmax > pg_snapshot_xmax(now_seen) THEN
        RAISE EXCEPTION 'agent_events_append: the ledger has seen transaction % but this cluster is only at %: it was copied from another cluster',
            old_xmax, pg_snapshot_xmax(now_seen)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Nothing is lost: manage.py mend_events mends it, and every cursor stays valid.';
    END IF;

    -- Late transactions: running when the last batch closed, finished now.
    late := ARRAY(SELECT x FROM pg_snapshot_xip(head.seen) AS running(x)
                   WHERE pg_visible_in_snapshot(x, now_seen) ORDER BY x);
    -- (All are counted in one statement, each up to what a batch holds.)
    counts := ARRAY(SELECT (SELECT count(*) FROM (SELECT FROM @schema@.agent_events AS e
                                                   WHERE e.tx = l.x LIMIT batch_limit + 1) AS few)
                      FROM unnest(late) WITH ORDINALITY AS l(x, place) ORDER BY l.place);
    FOR place IN 1 .. cardinality(late) LOOP
        tx_rows := counts[place];
        IF late_rows > 0 AND late_rows + tx_rows > batch_limit THEN
            EXIT;
        END IF;
        IF tx_rows > batch_limit THEN
            SELECT count(*) INTO tx_rows FROM @schema@.agent_events AS e WHERE e.tx = late[place];
        END IF;
        taken := taken || late[place];
        late_rows := late_rows + tx_rows;
    END LOOP;

    IF cardinality(taken) < cardinality(late) OR late_rows > batch_limit THEN
        -- They fill a batch by themselves: the rest of the past waits its turn.
        rows := late_rows;
        more := true;
        next_seen := @schema@.agent_events_snapshot(old_xmax, ARRAY(
            SELECT x FROM pg_snapshot_xip(head.seen) AS running(x)
             WHERE x <> ALL (taken) ORDER BY x));
    ELSE
        -- New transactions, in the order of their ids, up to one row more than there is room for.
        room := batch_limit - late_rows;
        IF (SELECT count(*) FROM pg_snapshot_xip(now_seen) AS running(x) WHERE x >= old_xmax) > 8 THEN
            -- Many are running: a range for each gap between them costs more than to look at their
            -- rows. (A large one among them is looked at once: the next batch begins behind its id.)
            SELECT count(*), min(f.tx), max(f.tx) INTO tx_rows, first_tx, last_tx
              FROM (
                SELECT i.tx FROM @schema@.agent_events AS i
                 WHERE i.tx >= old_xmax AND i.tx < pg_snapshot_xmax(now_seen)
                   AND pg_visible_in_snapshot(i.tx, now_seen)
                 ORDER BY i.tx LIMIT room + 1
              ) AS f;
        ELSE
            -- (The nested loop over the ranges keeps their order.)
            SELECT count(*), min(f.tx), max(f.tx) INTO tx_rows, first_tx, last_tx
              FROM (
                SELECT e.tx
                  FROM @schema@.agent_events_ranges(now_seen, old_xmax) AS r
                 CROSS JOIN LATERAL (
                    SELECT i.tx FROM @schema@.agent_events AS i
                     WHERE i.tx >= r.lo AND i.tx < r.hi
                     ORDER BY i.tx LIMIT room + 1
                 ) AS e
                 LIMIT room + 1
              ) AS f;
        END IF;
        IF tx_rows <= room THEN
            rows := late_rows + tx_rows;
            more := false;
            next_seen := now_seen;
        ELSE
            more := true;
            -- Cut before the transaction that does not fit; behind it where it fills all alone.
            IF late_rows = 0 AND first_tx = last_tx THEN
                last_tx := (last_tx::text::bigint + 1)::text::xid8;
            END IF;
            next_seen := @schema@.agent_events_snapshot(last_tx, ARRAY(
                SELECT x FROM pg_snapshot_xip(now_seen) AS running(x) WHERE x < last_tx ORDER BY x));
            SELECT late_rows + count(e.tx) INTO rows
              FROM @schema@.agent_events_ranges(next_seen, old_xmax) AS r
             CROSS JOIN LATERAL (
                SELECT i.tx FROM @schema@.agent_events AS i WHERE i.tx >= r.lo AND i.tx < r.hi
             ) AS e;
        END IF;
    END IF;

    IF rows = 0 THEN
        RETURN;
    END IF;
    INSERT INTO @schema@.agent_event_batches AS b
    VALUES (head.n + 1, next_seen, head.total + rows,
            greatest(clock_timestamp(), head.closed_at + interval '1 millisecond'))
        ON CONFLICT DO NOTHING
    RETURNING b.n, b.closed_at INTO n, closed_at;
    IF FOUND THEN
        RETURN NEXT;
    END IF;
END
$$;

-- An emptied ledger would make every cursor worthless, so TRUNCATE is refused.
CREATE FUNCTION @schema@.agent_events_refuse_truncate()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'agent_event_batches is the order of the log and cannot be truncated'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

CREATE TRIGGER agent_event_batches_refuse_truncate
    BEFORE TRUNCATE ON @schema@.agent_event_batches
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.agent_events_refuse_truncate();
