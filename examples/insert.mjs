// Writes one event with a plain INSERT. Nothing of agent_events is needed on this side.
//
//   npm install pg
//   DATABASE_URL=postgresql://... node insert.mjs <tenant id>

import { randomUUID } from "node:crypto";
import pg from "pg";

const [tenantId] = process.argv.slice(2);
if (!tenantId || !process.env.DATABASE_URL) {
  console.error("usage: DATABASE_URL=postgresql://... node insert.mjs <tenant id>");
  process.exit(2);
}

const INSERT = `
  INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
  VALUES ($1, $2, $3, $4)
  RETURNING id`;

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  // Inside a transaction of yours the event is seen when that commits, and never if it rolls back.
  const { rows } = await client.query(INSERT, [
    tenantId,
    randomUUID(), // the agent: keep one id for each of yours
    "turn_complete",
    JSON.stringify({ tokens: 142, latency: 820 }), // as text: pg would send an array as an SQL array
  ]);
  console.log(`event ${rows[0].id}`);
} finally {
  await client.end();
}
