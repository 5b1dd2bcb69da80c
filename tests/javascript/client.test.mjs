/** client.js on Node against servers that say odd things: what a real one says too seldom to be waited for. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

import { AgentEvents } from "../../static/agent_events/client.js";

const cursorAt = (n) => `${n.toString(16).padStart(12, "0")}-${"0".repeat(16)}-1`;
const eventText = (n, payload = {}) => JSON.stringify({ id: n, type: "message", payload });
const message = (n, payload) => `id: ${cursorAt(n)}\ndata: ${eventText(n, payload)}\n\n`;
const named = (name, n, more = {}) =>
  `id: ${cursorAt(n)}\nevent: ${name}\ndata: ${JSON.stringify({ cursor: cursorAt(n), ...more })}\n\n`;
const HELLO = `retry: 2000\n${named("hello", 0)}${named("live", 0)}`;

const open = [];
afterEach(() => {
  for (const one of open.splice(0)) one.close();
});

/** A server that answers the nth request with the nth of these, the last for good. */
async function serving(...answers) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request);
    answers[Math.min(asked.length, answers.length) - 1](response, request);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push({ close: () => (server.closeAllConnections(), server.close()) });
  return { asked, streamUrl: `http://127.0.0.1:${server.address().port}/api/agents/stream` };
}

/** Pieces of an event stream, each sent by itself; without `end` the response stays open. */
function stream(pieces, { end = false } = {}) {
  return async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (end) response.end();
  };
}

function refusal(status, detail, headers = {}) {
  return (response) => {
    response.writeHead(status, { "content-type": "application/problem+json", ...headers });
    response.end(JSON.stringify({ status, detail }));
  };
}

/** A client, and all that it told. */
function client(options) {
  const made = new AgentEvents({ url: options.streamUrl, ...options });
  open.push(made);
  const told = { stream: made, batches: [], events: [], states: [], notices: [] };
  made.addEventListener("events", ({ detail }) => {
    told.batches.push(detail);
    told.events.push(...detail.events);
  });
  made.addEventListener("state", ({ detail }) => told.states.push(detail));
  made.addEventListener("notice", ({ detail }) => told.notices.push(detail));
  told.until = async (condition) => {
    const signal = AbortSignal.timeout(10_000);
    while (!condition(told)) {
      await new Promise((resolve) => ["events", "state", "notice"].forEach((name) => {
        made.addEventListener(name, resolve, { once: true, signal });
        signal.addEventListener("abort", resolve, { once: true });
      }));
      assert.ok(!signal.aborted, "it did not come to that within 10 s");
    }
  };
  return told;
}

test("an event stream is read the same wherever it is cut", async () => {
  const whole = Buffer.from(`\uFEFF: hi\r\n${HELLO.replaceAll("\n", "\r\n")}${message(1, { text: "süß 🌊" })}`);
  const bytes = Array.from(whole, (byte) => Buffer.from([byte]));
  const { streamUrl } = await serving(stream(bytes));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 1);
  assert.deepEqual(told.events[0], JSON.parse(eventText(1, { text: "süß 🌊" })));
  assert.equal(told.stream.cursor, cursorAt(1));
});

test("lines may end in any way, data may be in several, and what is unknown is passed over", async () => {
  const second = `id:${cursorAt(2)}\r\ndata:{"id":2,\r\ndata: "type":"x"}\r\nodd\r\nretry: soon\r\n\r\n`;
  const { streamUrl } = await serving(stream([HELLO, message(1).replaceAll("\n", "\r"), second]));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 2);
  assert.deepEqual(told.events, [JSON.parse(eventText(1)), { id: 2, type: "x" }]);
});

test("what is no JSON is not passed over: the connection is given up, and another goes on before it", async () => {
  const { streamUrl, asked } = await serving(
    stream([HELLO + message(1), `id: ${cursorAt(2)}\ndata: <p>\n\n`]),
    (response, { url }) => stream([HELLO + (url.includes(cursorAt(1)) ? "" : message(1)) + message(2)])(response),
  );
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 2);
  assert.deepEqual(told.events.map(({ id }) => id), [1, 2]);
  assert.equal(asked.length, 2);
});

test("what came together is handed over together, up to the next that is no event", async () => {
  const { streamUrl } = await serving(stream([HELLO + message(1) + message(2) + named("heartbeat", 3) + message(4)]));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 3);
  assert.deepEqual(
    told.batches.map(({ events, after, cursor }) => [events.map(({ id }) => id), after, cursor]),
    [
      [[1, 2], cursorAt(0), cursorAt(2)],
      [[4], cursorAt(3), cursorAt(4)],
    ],
  );
});

test("a message that was cut off is forgotten, and comes again with the next connection", async () => {
  const cut = HELLO + message(1) + message(2).slice(0, -1);
  const { streamUrl, asked } = await serving(stream([cut], { end: true }), stream([HELLO + message(2)]));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 2);
  assert.deepEqual(told.events.map(({ id }) => id), [1, 2]);
  assert.equal(new URL(asked[1].url, "http://x").searchParams.get("cursor"), cursorAt(1));
});

test("an end that was planned is no loss", async () => {
  const first = stream([HELLO + message(1), "retry: 10\n\n"], { end: true });
  const { streamUrl } = await serving(first, stream([HELLO + message(2)]));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 2);
  assert.deepEqual(told.states.map(({ name }) => name), ["live"]);
  assert.deepEqual(told.notices, []);
});

test("a server that cannot begin is asked again when it says", async () => {
  const away = stream([": the database is away\nretry: 400\n\n"], { end: true });
  const { streamUrl } = await serving(away, stream([HELLO + message(1)]));
  const told = client({ streamUrl });
  await told.until(({ events }) => events.length === 1);
  const [reconnecting] = told.states;
  assert.deepEqual([reconnecting.name, reconnecting.reason], ["reconnecting", "the database is away"]);
  assert.ok(reconnecting.retryAt - reconnecting.since >= 400);
});

test("Retry-After is respected, and what is no event stream is not read as one", async () => {
  const page = (response) => response.writeHead(200, { "content-type": "text/html" }).end("<p>Sign in to the proxy");
  const { streamUrl } = await serving(page, refusal(503, "Later.", { "retry-after": "1" }), stream([HELLO]));
  const told = client({ streamUrl });
  await told.until(({ stream: { state } }) => state.name === "live");
  const waits = told.states.filter(({ name }) => name === "reconnecting");
  assert.equal(waits[1].reason, "Later.");
  assert.ok(waits[1].retryAt - waits[1].since >= 1000);
});

for (const [status, name] of [[400, "stopped"], [401, "signedOut"], [403, "stopped"], [404, "stopped"]]) {
  test(`${status} is final`, async () => {
    const { streamUrl, asked } = await serving(refusal(status, "Because."));
    const told = client({ streamUrl, token: "ae_1_2" });
    await told.until(({ stream: { state } }) => state.name === name);
    assert.equal(asked[0].headers.authorization, "Bearer ae_1_2");
    assert.ok(!asked[0].url.includes("ae_1_2"));
    const { reason, status: said } = told.stream.state;
    assert.deepEqual([reason, said, asked.length], ["Because.", status, 1]);
  });
}

test("a token that is refused is replaced once, and not for ever", async () => {
  const { streamUrl, asked } = await serving(refusal(401, "Expired."));
  let given = 0;
  const told = client({ streamUrl, token: async () => `token-${(given += 1)}` });
  await told.until(({ stream: { state } }) => state.name === "signedOut");
  assert.deepEqual(asked.map(({ headers }) => headers.authorization), ["Bearer token-1", "Bearer token-2"]);
});

test("a token that cannot be had for now is asked for again", async () => {
  const { streamUrl } = await serving(stream([HELLO]));
  let given = 0;
  const token = () => ((given += 1) === 1 ? Promise.reject(new Error("The backend is away.")) : "t");
  const told = client({ streamUrl, token });
  await told.until(({ stream: { state } }) => state.name === "live");
  assert.equal(told.states[0].reason, "The backend is away.");
});

test("what goes wrong again and again is tried less and less often", async () => {
  const { streamUrl } = await serving(refusal(500, "Broken."));
  const told = client({ streamUrl });
  await told.until(({ states }) => states.filter(({ name }) => name === "reconnecting").length === 3);
  const waits = told.states.filter(({ name }) => name === "reconnecting").map((state) => state.retryAt - state.since);
  for (const [n, wait] of waits.entries()) {
    assert.ok(wait >= 250 * 2 ** n - 20 && wait <= 500 * 2 ** n + 20, waits.join());
  }
});

test("the filter goes by the names of every door, and an address keeps its own query", async () => {
  const { streamUrl, asked } = await serving(stream([HELLO]));
  const told = client({
    streamUrl: `${streamUrl}?own=1`,
    tenants: ["t"],
    agents: ["a*", "b"],
    types: ["x"],
    notAgents: ["c"],
    notTypes: ["y"],
    texts: ["some text"],
    where: ["payload.tokens > 1000"],
    cursor: cursorAt(7),
  });
  await told.until(({ stream: { state } }) => state.name === "live");
  const query = [...new URL(asked[0].url, "http://x").searchParams];
  assert.deepEqual(query, [
    ["own", "1"], ["tenant", "t"], ["agent", "a*"], ["agent", "b"], ["type", "x"], ["not_agent", "c"],
    ["not_type", "y"], ["text", "some text"], ["where", "payload.tokens > 1000"], ["cursor", cursorAt(7)],
  ]);
});

test("whoever hears that it is lost may close it", async () => {
  const { streamUrl, asked } = await serving(refusal(500, "Broken."));
  const told = client({ streamUrl });
  told.stream.addEventListener("state", ({ detail }) => detail.name === "reconnecting" && told.stream.close());
  await told.until(({ stream: { state } }) => state.name === "closed");
  await new Promise((resolve) => setTimeout(resolve, 600)); // longer than the first retry takes
  assert.deepEqual([asked.length, told.stream.state.name], [1, "closed"]);
});

test("options that make no sense are refused at once", () => {
  assert.throws(() => new AgentEvents({ url: "http://x.example/", transport: "pigeon" }), TypeError);
  assert.throws(() => new AgentEvents({ url: "/ws/agents/stream" }), TypeError);
});

test("a signal closes it, and a loop over it ends", async () => {
  const { streamUrl } = await serving(stream([HELLO + message(1)]));
  const abort = new AbortController();
  const made = new AgentEvents({ url: streamUrl, streamUrl, signal: abort.signal });
  const ids = [];
  for await (const { events } of made) {
    ids.push(...events.map(({ id }) => id));
    abort.abort();
  }
  assert.deepEqual([ids, made.state.name], [[1], "closed"]);
});

test("what a parser of one's own makes of numbers is what is handed over", async () => {
  const { streamUrl } = await serving(stream([HELLO + message(1)]));
  const parse = (text) => JSON.parse(text, (key, value) => (key === "id" ? `#${value}` : value));
  const told = client({ streamUrl, parse });
  await told.until(({ events }) => events.length === 1);
  assert.equal(told.events[0].id, "#1");
});
