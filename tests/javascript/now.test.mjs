/** When the server is asked what the agents are at. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Now } from "../../static/agent_events/agents/now.js";

/** @returns {{now: Now, asked: (() => void)[]}} each of `asked` answers one request */
function made(context) {
  /** @type {(() => void)[]} */
  const asked = [];
  context.mock.method(globalThis, "fetch", () => new Promise((resolve) => asked.push(() => resolve(new Response('{"time": 0}')))));
  const options = { url: () => "/now", parse: JSON.parse, filtered: () => false, loaded: () => {}, failed: assert.fail };
  return { now: new Now(options), asked };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

test("a doubt while an answer is on its way is not settled by that answer", async (context) => {
  const { now, asked } = made(context);
  now.doubt();
  now.doubt();
  assert.equal(asked.length, 1);
  asked[0]();
  await settled();
  now.tick();
  assert.equal(asked.length, 2);
  asked[1]();
  await settled();
  now.tick();
  assert.equal(asked.length, 2);
});

test("whoever is signed out asks no more", async (context) => {
  const { now, asked } = made(context);
  now.rest(true);
  now.doubt();
  assert.equal(asked.length, 0);
  now.rest(false);
  now.tick();
  assert.equal(asked.length, 1);
});
