import assert from "node:assert/strict";
import { test } from "node:test";

import { isOf, readRun } from "../../static/agent_events/agents/runs.js";

const START = Date.UTC(2026, 10, 26, 9, 0, 0);

/** Events of one run; each is [second, type, payload]. */
const run = (...events) =>
  readRun(
    events.map(([second, type, payload = {}], i) => ({
      id: i + 1,
      tenantId: "t",
      agentId: "11111111-1111-4111-8111-111111111111",
      type,
      payload: { run_id: "r", agent: "ann", ...payload },
      createdAt: new Date(START + second * 1000).toISOString(),
    })),
  );

test("a run shows its turns, its tools, how long they took and what they used", () => {
  const read = run(
    [0, "run.started", { task: "Find it" }],
    [1, "turn.started", { step: 1 }],
    [2, "tool.started", { tool_call_id: "c", tool: "search" }],
    [4, "tool.finished", { tool_call_id: "c", tool: "search" }],
    [5, "turn.finished", { step: 1, usage: { input: 10, output: 5, total: 15 }, cost_usd: 0.25 }],
    [6, "turn_complete", { tokens: 7, latency: 500 }],
    [9, "run.finished"],
  );
  assert.deepEqual([read.title, read.state, read.turns, read.tools, read.tokens, read.cost], ["Find it", "finished", 2, 1, 22, 0.25]);
  assert.equal(read.end - read.start, 9000);
  const tool = read.steps.find((step) => step.kind === "tool");
  assert.deepEqual([tool.label, tool.end - tool.start, tool.event, tool.ended], ["search", 2000, 3, 4]);
});

test("tools that overlap are told apart by their call", () => {
  const read = run(
    [0, "tool.started", { tool_call_id: "a", tool: "x" }],
    [1, "tool.started", { tool_call_id: "b", tool: "x" }],
    [2, "tool.failed", { tool_call_id: "a", tool: "x", error: { type: "T", message: "m" } }],
    [5, "tool.finished", { tool_call_id: "b", tool: "x" }],
  );
  assert.deepEqual(read.steps.map((step) => [step.end - step.start, step.failed, step.detail]), [[2000, true, "x: T: m"], [4000, false, ""]]);
});

test("waits for people count from the question to its answer, or to the end", () => {
  const read = run(
    [0, "run.started"],
    [1, "needs_human", { question: "May I?" }],
    [4, "human.answered", { answered_by: "mara", answer: "yes" }],
  );
  assert.deepEqual([read.waitMs, read.state], [3000, "running"]);
  const wait = read.steps.find((step) => step.kind === "wait");
  assert.deepEqual([wait.label, wait.detail], ["May I?", "mara: yes"]);
  assert.equal(run([0, "run.started"], [1, "escalation"]).state, "waiting");
});

test("hand-offs and errors are there, and what a run that failed left open has ended", () => {
  const read = run(
    [0, "run.started"],
    [1, "handoff", { from_agent: "ann", to_agent: "bob" }],
    [2, "turn.started"],
    [3, "error", { error: { message: "no model" } }],
    [4, "run.failed", { error: { message: "no model" } }],
  );
  assert.deepEqual([read.state, read.errors, read.handoffs], ["failed", 2, 1]);
  assert.ok(read.steps.every((step) => step.end > 0));
  assert.ok(read.steps.some((step) => step.label === "ann → bob"));
});

test("a step whose beginning was not read began as long ago as it says", () => {
  const read = run([9, "tool.finished", { tool: "x", duration_ms: 2000 }]);
  assert.equal(read.steps[0].end - read.steps[0].start, 2000);
});

test("nothing is a run that is unknown", () => {
  assert.equal(readRun([]).state, "unknown");
});

test("events are of the run that they name", () => {
  assert.ok(isOf({ payload: { run_id: "r" } }, "r"));
  assert.ok(isOf({ payload: { run_id: 7 } }, "7"));
  for (const payload of [null, [], "r", { run_id: "q" }]) assert.ok(!isOf({ payload }, "r"));
});
