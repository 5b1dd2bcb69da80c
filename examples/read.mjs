// Prints a tenant's events as they come, in the log's order, each once, over restarts and lost
// connections. Nothing of agent_events is needed on this side but its SQL functions.
//
//   npm install pg
//   DATABASE_URL=postgresql://... node read.mjs <tenant id> [<file for the position>]
//
// Without a file it begins with what comes from now on; with one it goes on where it stopped.
// (Batches must be closed by somebody: a web process with a subscriber, or listen_events.)

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

const [tenantId, file] = process.argv.slice(2);
if (!tenantId || !process.env.DATABASE_URL) {
  console.error("usage: DATABASE_URL=postgresql://... node read.mjs <tenant id> [<file>]");
  process.exit(2);
}

const PAGE = 500;
// A notification says "look". It comes with the commit, the batch a moment later: hence a poll too.
const POLL_MS = 1_000;

// {batch, id, closed}: read on in `batch` after `id`; `closed` is when the last batch that we have
// events of was closed, by which this history is known again. Numbers as text: JavaScript's end at 2^53.
let position = file && existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null;

function moveTo(batch, id, closed) {
  position = { batch, id, closed };
  if (file) {
    writeFileSync(`${file}.new`, JSON.stringify(position));
    renameSync(`${file}.new`, file);
  }
}

async function head(client) {
  const { rows } = await client.query("SELECT batch, batch + 1 AS next, closed_at::text AS closed FROM agent_events_head()");
  return rows[0];
}

// Is the log still the one that the position is of, and does it still hold what comes next?
async function check(client) {
  if (!position) {
    const { next, closed } = await head(client);
    moveTo(next, "0", closed);
    return;
  }
  const { rows } = await client.query(
    `SELECT bus.oldest, bus.oldest > $1::bigint AS pruned, last.closed_at::text AS closed,
            (SELECT closed_at::text FROM agent_event_batches WHERE n = bus.oldest - 1) AS start
       FROM agent_event_bus AS bus
       LEFT JOIN agent_event_batches AS last
         ON last.n = CASE WHEN $2::bigint > 0 THEN $1::bigint ELSE $1::bigint - 1 END`,
    [position.batch, position.id],
  );
  const [{ oldest, pruned, closed, start }] = rows;
  if (pruned) {
    console.error(`truncated: what comes after batch ${position.batch} was pruned; going on from the oldest event`);
    moveTo(oldest, "0", start);
  } else if (closed !== position.closed) {
    console.error("reset: this is another history of the log (a restore?). Decide where to begin, and delete the file.");
    process.exit(1);
  }
}

// Prints everything up to the head.
async function readOn(client) {
  for (;;) {
    const reached = await head(client); // before the page, which reaches at least as far
    const { rows } = await client.query(
      `SELECT batch, closed_at::text AS closed, id, agent_id, event_type, payload::text AS payload
         FROM agent_events_read($1, $2, $3, $4)`,
      [tenantId, position.batch, position.id, PAGE],
    );
    for (const { id, agent_id, event_type, payload } of rows) {
      console.log(`{"id":${id},"agentId":"${agent_id}","type":${JSON.stringify(event_type)},"payload":${payload}}`);
    }
    // After the events were taken: a crash in between repeats them, and loses none.
    if (rows.length > 0) {
      const last = rows.at(-1);
      moveTo(last.batch, last.id, last.closed);
    }
    if (rows.length < PAGE) {
      if (BigInt(reached.next) > BigInt(position.batch)) moveTo(reached.next, "0", reached.closed);
      return;
    }
  }
}

async function follow() {
  const client = new pg.Client({
    connectionString: process.env.DATABASE_URL,
    application_name: "read.mjs",
    connectionTimeoutMillis: 5_000,
    query_timeout: 10_000, // a connection that is cut off is found by the poll
  });
  let rung = () => {};
  let lost;
  client.on("notification", () => rung());
  client.on("error", (error) => { lost = error; rung(); });
  try {
    await client.connect();
    // closed_at is compared as text.
    await client.query("SET TIME ZONE 'UTC'; SET DateStyle = 'ISO'");
    await client.query("SELECT agent_events_listen($1)", [tenantId]);
    await check(client); // after LISTEN: what is committed from here on rings
    while (!lost) {
      const ring = new Promise((resolve) => { rung = resolve; });
      await readOn(client);
      await Promise.race([ring, sleep(POLL_MS)]);
    }
    throw lost;
  } finally {
    await client.end().catch(() => {});
  }
}

for (;;) {
  try {
    await follow();
  } catch (error) {
    if (error.code === "22P02") throw error; // no UUID
    console.error(`${error.message}; again in a second, from the same place`);
    await sleep(1_000);
  }
}
