import assert from "node:assert/strict";
import { test } from "node:test";

import { HUES, hueOf } from "../../static/agent_events/agents/colours.js";
import { LOOKS, Marks } from "../../static/agent_events/agents/marks.js";
import { Minutes, minuteOf } from "../../static/agent_events/agents/minutes.js";
import { pathOf } from "../../static/agent_events/agents/sparkline.js";

const START = Date.UTC(2026, 10, 26, 9, 0, 0);
const event = (i, type, payload = {}) => ({
  id: i,
  tenantId: "t",
  agentId: "a",
  type,
  payload,
  createdAt: new Date(START + i * 1000).toISOString(),
});

test("marks and spans are bounded, and the newest are kept", () => {
  const marks = new Marks();
  for (let i = 0; i < 20_000; i++) marks.take(event(i, i % 2 ? "tool.finished" : "tool.started", { tool_call_id: `c${i >> 1}` }));
  for (let i = 20_000; i < 30_000; i++) marks.take(event(i, "run.started", { run_id: `r${i}` }));
  assert.ok(marks.spans.length <= 1_000 && marks.open.size <= 500);
  const seen = [];
  marks.each(START, (place) => seen.push(marks.ids[place]));
  assert.deepEqual([seen.length, seen[0], seen.at(-1)], [4_000, 26_000, 29_999]);
});

test("a beginning and its end are one span, and a question is no error", () => {
  const marks = new Marks();
  marks.take(event(1, "tool.started", { tool_call_id: "c" }));
  marks.take(event(2, "needs_human", { run_id: "r" }));
  marks.take(event(5, "tool.failed", { tool_call_id: "c" }));
  const spans = [];
  marks.eachSpan(0, (span) => spans.push([span.kind, span.end - span.start, span.failed]));
  assert.deepEqual(spans, [["tool", 4000, true], ["human", -(START + 2000), false]]);
  assert.equal(LOOKS[marks.looks[1]], "human");
  assert.equal(LOOKS[marks.looks[2]], "error");
});

test("a producer's clock that is ahead does not empty the half hour", () => {
  assert.equal(minuteOf("2099-01-01T00:00:00.000000Z", START), START / 60_000);
  assert.equal(minuteOf(null, START), START / 60_000);
  assert.equal(minuteOf("2026-11-26T08:59:59.999999Z", START), START / 60_000 - 1);
});

test("a sparkline has a point a minute, and none where nothing came", () => {
  const minutes = new Minutes();
  assert.equal(pathOf(minutes, START / 60_000), "");
  minutes.add(START / 60_000, 5, 0);
  const path = pathOf(minutes, START / 60_000);
  assert.equal(path.match(/[ML]/g).length, 30);
  assert.match(path, /L60\.0 1\.0$/);
});

test("an agent keeps its hue, and agents have all of them", () => {
  const hues = new Set(Array.from({ length: 2_000 }, (_, i) => hueOf(`agent ${i}`)));
  assert.equal(hues.size, HUES);
  assert.equal(hueOf("5eed0000-0000-4000-8000-000000000001"), hueOf("5eed0000-0000-4000-8000-000000000001"));
});
