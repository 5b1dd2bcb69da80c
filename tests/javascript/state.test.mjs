import assert from "node:assert/strict";
import { test } from "node:test";

import { AgentsNow, MOST_AGENTS } from "../../static/agent_events/agents/state.js";

const START = Date.UTC(2026, 10, 26, 9, 0, 0);
const TENANT = "cd8dc8d3-f602-5f0e-a829-9a0a5dbe906c";

/** A story told to a reducer: each event a second after the one before. */
class Story {
  constructor() {
    this.now = new AgentsNow();
    this.ms = START;
    this.id = 0;
  }

  event(type, payload = {}, agent = "ann") {
    this.ms += 1000;
    this.id += 1;
    return { id: this.id, tenantId: TENANT, agentId: agent, type, payload, createdAt: new Date(this.ms).toISOString() };
  }

  tell(...events) {
    for (const [type, payload, agent] of events) this.now.take(this.event(type, payload, agent), this.ms);
    return this;
  }

  line(agent = "ann", laterMs = 0) {
    return this.now.lines(this.ms + laterMs).find((line) => line.id === agent);
  }

  states() {
    return this.now.lines(this.ms).map((line) => `${line.id} ${line.state}`);
  }
}

const story = (...events) => new Story().tell(...events);

test("an agent is busy with what it began last, and idle when all of it has ended", () => {
  const told = story(["run.started", { run_id: "r", task: "Find it", agent: "Ann" }]);
  assert.deepEqual([told.line().state, told.line().what, told.line().name], ["busy", "Find it", "Ann"]);
  told.tell(["turn.started", { run_id: "r", step: 2 }]);
  assert.equal(told.line().what, "turn 2");
  told.tell(["tool.started", { run_id: "r", tool_call_id: "c", tool: "search" }]);
  assert.equal(told.line().what, "calls search");
  told.tell(["tool.finished", { run_id: "r", tool_call_id: "c" }], ["turn.finished", { run_id: "r", step: 2 }]);
  assert.equal(told.line().what, "Find it");
  assert.equal(told.line().sinceMs, START + 1000);
  told.tell(["run.finished", { run_id: "r" }]);
  assert.equal(told.line().state, "idle");
});

test("runs that overlap do not end each other", () => {
  const told = story(
    ["run.started", { run_id: "one", task: "First" }],
    ["run.started", { run_id: "two", task: "Second" }],
    ["tool.started", { run_id: "one", tool_call_id: "c1", tool: "search" }],
    ["run.finished", { run_id: "two" }],
  );
  assert.equal(told.line().what, "calls search");
  told.tell(["run.failed", { run_id: "one", error: { message: "broken" } }]);
  assert.equal(told.line().state, "failing");
  told.tell(["run.started", { run_id: "three", task: "Third" }], ["run.finished", { run_id: "three" }]);
  assert.equal(told.line().state, "idle");
});

test("what ends before it began, and what begins twice, does no harm", () => {
  const told = story(
    ["tool.finished", { run_id: "r", tool_call_id: "c" }],
    ["run.finished", { run_id: "r" }],
    ["run.started", { run_id: "q", task: "It" }],
    ["run.started", { run_id: "q", task: "It" }],
    ["run.finished", { run_id: "q" }],
  );
  assert.equal(told.line().state, "idle");
});

test("an agent needs a human until it is answered", () => {
  for (const type of ["needs_human", "escalation"]) {
    const told = story(["run.started", { run_id: "r" }], [type, { run_id: "r", question: "May I?" }]);
    assert.deepEqual([told.line().state, told.line().what, told.line().eventId], ["needsHuman", "May I?", 2]);
    told.tell(["turn.started", { run_id: "r" }]);
    assert.equal(told.line().state, "needsHuman");
    told.tell(["human.answered", { run_id: "r", answer: "yes" }]);
    assert.equal(told.line().state, "busy");
  }
});

test("a question ends with its run, and not with another", () => {
  const told = story(["needs_human", { run_id: "r", question: "A?" }], ["run.finished", { run_id: "other" }]);
  assert.equal(told.line().state, "needsHuman");
  told.tell(["run.failed", { run_id: "r", error: "gone" }]);
  assert.equal(told.line().state, "failing");
});

test("an answer to one run leaves the question of another", () => {
  const told = story(
    ["needs_human", { run_id: "a", question: "A?" }],
    ["needs_human", { run_id: "b", question: "B?" }],
    ["human.answered", { run_id: "a" }],
  );
  assert.deepEqual([told.line().state, told.line().what, told.line().run], ["needsHuman", "B?", "b"]);
  told.tell(["human.answered", {}]);
  assert.equal(told.line().state, "idle");
});

test("an answer in somebody else's name counts for the run that it names", () => {
  const told = story(["needs_human", { run_id: "a", question: "A?" }], ["human.answered", { run_id: "a" }, "desk"]);
  assert.equal(told.line().state, "idle");
});

test("a question is no error, and an error asks nobody", () => {
  const told = story(["needs_human", { question: "?" }], ["error", { error: { type: "Oops", message: "it broke" } }, "bob"]);
  assert.deepEqual(told.states(), ["ann needsHuman", "bob failing"]);
  assert.equal(told.line().error, "");
  assert.equal(told.line("bob").error, "Oops: it broke");
});

test("an agent fails until something succeeds, and keeps what its last error was", () => {
  const told = story(["tool.failed", { tool: "mail", error: { type: "Timeout", message: "10 s" } }]);
  assert.deepEqual([told.line().state, told.line().what], ["failing", "mail: Timeout: 10 s"]);
  told.tell(["message", { text: "hm" }], ["turn.started", {}]);
  assert.equal(told.line().state, "failing");
  told.tell(["turn_complete", { tokens: 3 }]);
  assert.deepEqual([told.line().state, told.line().error], ["idle", "mail: Timeout: 10 s"]);
});

test("a busy agent that is silent for much longer than usual is stale", () => {
  const told = story(["run.started", { run_id: "r", task: "It" }]);
  assert.equal(told.line("ann", 59_000).state, "busy");
  for (let i = 0; i < 5; i++) {
    told.ms += 55_000; // about one a minute: five minutes of silence are not usual
    told.tell(["message", { text: "..." }]);
  }
  assert.equal(told.line("ann", 200_000).state, "busy");
  assert.equal(told.line("ann", 400_000).state, "stale");
  told.tell(["run.finished", { run_id: "r" }]);
  assert.equal(told.line("ann", 10_000_000).state, "idle");
});

test("those who need something come first, and by name among themselves", () => {
  const told = story(
    ["message", { agent: "zoe" }, "a1"],
    ["run.started", { agent: "yan" }, "a2"],
    ["error", { agent: "xia" }, "a3"],
    ["needs_human", { agent: "wim" }, "a4"],
    ["needs_human", { agent: "ada" }, "a5"],
  );
  assert.deepEqual(told.states(), ["a5 needsHuman", "a4 needsHuman", "a3 failing", "a2 busy", "a1 idle"]);
  const before = told.states();
  told.tell(["needs_human", { agent: "wim" }, "a4"], ["error", { agent: "xia" }, "a3"]);
  assert.deepEqual(told.states(), before);
});

test("errors are counted until somebody looks", () => {
  const told = story(["error", {}], ["error", {}]);
  assert.equal(told.line().unseen, 2);
  told.now.looked(told.line().key);
  assert.equal(told.line().unseen, 0);
  told.tell(["error", {}]);
  assert.equal(told.line().unseen, 1);
});

test("events are counted by the minute", () => {
  const told = story(["message", {}], ["error", {}]);
  const minute = Math.floor(told.ms / 60_000);
  assert.deepEqual(told.line().minutes.at(minute), { events: 2, errors: 1, questions: 0 });
  told.ms += 31 * 60_000;
  told.tell(["message", {}]);
  assert.deepEqual(told.line().minutes.at(minute), { events: 0, errors: 0, questions: 0 });
});

test("payloads of any shape are taken", () => {
  for (const payload of [null, 7, "x", [], { run_id: null }, { run_id: {} }, { error: [] }, { agent: 5, step: "a" }]) {
    for (const type of ["run.started", "tool.failed", "needs_human", "human.answered", "run.finished", "", "a.b.c", "__proto__"]) {
      const told = story([type, payload]);
      assert.equal(told.now.lines(told.ms).length, 1);
    }
  }
  const told = new Story();
  told.now.take({ ...told.event("message"), createdAt: null }, told.ms);
  assert.equal(told.line().sinceMs, 0);
});

test("what is kept is bounded, and who needs a human stays", () => {
  const told = story(["needs_human", {}, "first"]);
  for (let i = 0; i < 3 * MOST_AGENTS; i++) told.tell(["message", {}, `agent-${i}`]);
  assert.ok(told.now.agents.size <= MOST_AGENTS + 50);
  assert.equal(told.states()[0], "first needsHuman");
  for (let i = 0; i < 10_000; i++) told.tell(["tool.started", { tool_call_id: `c${i}` }, "first"], ["needs_human", { run_id: `r${i}` }, "first"]);
  const [agent] = [...told.now.agents.values()].filter((one) => one.id === "first");
  assert.ok(agent.open.size <= 64 && agent.waiting.size <= 64);
});

test("what is kept does not grow with what came, though nothing that was begun ever ends", () => {
  const kinds = ["run.started", "turn.started", "tool.started", "message"];
  const kept = (events) => {
    const told = new Story();
    for (let i = 0; i < events; i++) {
      told.tell([kinds[i % 4], { run_id: `r${i}`, tool_call_id: `c${i}` }, `agent-${i % 40}`]);
    }
    const agents = [...told.now.agents.values()];
    assert.equal(agents.length, 40);
    return agents.reduce((sum, { open, waiting }) => sum + open.size + waiting.size, 0);
  };
  assert.equal(kept(40_000), kept(20_000));
});

// The server's look.

const answer = (agents, { human = [], since = 0, cursor = "z" } = {}) => ({ time: 0, cursor, lookedAt: 0, since, agents, human });
const glance = (events, minutes = []) => ({ agentId: events[0].agentId, tenantId: TENANT, minutes, events });

test("a question from before all that was looked at is found", () => {
  const told = new Story();
  const asked = told.event("needs_human", { run_id: "old", question: "Still?" });
  told.ms += 3_600_000;
  told.now.load(answer([glance([told.event("message", {}, "bob")])], { human: [asked], since: told.ms - 1000 }));
  assert.deepEqual(told.states(), ["ann needsHuman", "bob idle"]);
});

test("the server knows better than what was missed here", () => {
  const told = story(["run.started", { run_id: "r" }], ["tool.started", { run_id: "r", tool_call_id: "c" }], ["needs_human", { run_id: "r" }]);
  told.now.load(answer([glance([told.event("run.finished", { run_id: "r" })])]));
  assert.deepEqual([told.line().state, told.line().what], ["idle", "run.finished"]);
});

test("what is older than the look is kept", () => {
  const told = story(["run.started", { run_id: "r", task: "Long" }]);
  const since = told.ms + 500;
  told.now.load(answer([glance([told.event("message", { run_id: "r" })])], { since }));
  assert.deepEqual([told.line().state, told.line().what], ["busy", "Long"]);
});

test("a look that says the same again changes nothing", () => {
  const told = new Story();
  const events = [told.event("run.started", { run_id: "r" }), told.event("tool.failed", { run_id: "r" }), told.event("message", {})];
  const minute = Math.floor(told.ms / 60_000);
  const seen = answer([glance(events, [[minute, 3, 1]])]);
  told.now.load(seen);
  const before = JSON.stringify(told.now.lines(told.ms));
  told.now.load(seen);
  told.now.load(seen);
  assert.equal(JSON.stringify(told.now.lines(told.ms)), before);
  assert.deepEqual(told.line().minutes.at(minute), { events: 3, errors: 1, questions: 0 });
  assert.equal(told.now.minutes.at(minute).events, 3);
});
