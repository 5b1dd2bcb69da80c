/** One run out of its events: what it did, when, for how long, and what it cost. Pure. */

import { shortId } from "../format.js";
import { isRecord, toNumber } from "../json.js";
import { kindOf } from "../kinds.js";
import { spanKey } from "./state.js";
import { errorText, idOf, questionText, said, spanText } from "./words.js";

/** @import { AgentEvent } from "../client.js" */
/** @import { Kind } from "../kinds.js" */

/**
 * @typedef {object} Step
 * @property {"run" | "turn" | "tool" | "wait" | "handoff" | "message" | "guardrail" | "error" | "other"} kind
 * @property {string} label @property {string} detail
 * @property {number} start ms since 1970 @property {number} end 0 while it goes on
 * @property {boolean} failed
 * @property {boolean} isPoint it has no length
 * @property {number} tokens @property {number} cost
 * @property {number} event where it began @property {number} ended the event that ended it; 0 for none
 *
 * @typedef {object} Run
 * @property {string} title
 * @property {"running" | "waiting" | "finished" | "failed" | "unknown"} state
 * @property {string[]} agents by name, in the order in which they came
 * @property {number} start @property {number} end of its newest event
 * @property {Step[]} steps in the order in which they began
 * @property {number} turns @property {number} tools @property {number} errors @property {number} handoffs
 * @property {number} tokens @property {number} cost in dollars @property {number} waitMs for people
 */

/** @param {AgentEvent} event @param {string} run @returns {boolean} */
export function isOf(event, run) {
  return isRecord(event.payload) && idOf(event.payload.run_id) === run;
}

/** @param {AgentEvent[]} events of one run, oldest first @returns {Run} */
export function readRun(events) {
  /** @type {Run} */
  const run = {
    title: "",
    state: "unknown",
    agents: [],
    start: 0,
    end: 0,
    steps: [],
    turns: 0,
    tools: 0,
    errors: 0,
    handoffs: 0,
    tokens: 0,
    cost: 0,
    waitMs: 0,
  };
  /** What is open, by what ends it. @type {Map<string, Step>} */
  const open = new Map();
  let whole = { tokens: 0, cost: 0 };
  for (const event of events) {
    const payload = isRecord(event.payload) ? event.payload : {};
    const kind = kindOf(event.type);
    const at = (event.createdAt && Date.parse(event.createdAt)) || run.end;
    run.start = run.start ? Math.min(run.start, at) : at;
    run.end = Math.max(run.end, at);
    const agent = said(payload, "agent") || shortId(event.agentId);
    if (!run.agents.includes(agent)) run.agents.push(agent);
    if (kind.isError) run.errors += 1;
    const key = spanKey(kind.family, "", payload); // of one run
    const step = open.get(key) ?? null;
    if (kind.begins || kind.asks) {
      const made = stepOf(event, kind, payload, at);
      open.set(key, made);
      run.steps.push(made);
    } else if (kind.ends || kind.answers) {
      const ended = step ?? beforeItsEnd(event, kind, payload, at);
      if (!step) run.steps.push(ended);
      open.delete(key);
      finish(ended, event, kind, payload, at);
      if (kind.family === "run") {
        whole = { tokens: ended.tokens, cost: ended.cost };
        run.state = kind.isError ? "failed" : "finished";
        for (const left of open.values()) left.end = at;
        open.clear();
      } else {
        run.tokens += ended.tokens;
        run.cost += ended.cost;
      }
    } else {
      run.steps.push(stepOf(event, kind, payload, at));
    }
  }
  // A run that says itself what it used knows better than the sum of what was read here.
  run.tokens = whole.tokens || run.tokens;
  run.cost = whole.cost || run.cost;
  const steps = run.steps.sort((a, b) => a.start - b.start || a.event - b.event);
  run.title = steps.find((step) => step.kind === "run")?.label ?? "";
  run.turns = steps.filter((step) => step.kind === "turn").length;
  run.tools = steps.filter((step) => step.kind === "tool").length;
  run.handoffs = steps.filter((step) => step.kind === "handoff").length;
  run.waitMs = waitedMs(run, run.end);
  const waits = [...open.values()].some((step) => step.kind === "wait");
  if (run.state === "unknown" && steps.length) run.state = waits ? "waiting" : "running";
  return run;
}

/** How long a run waited for people. @param {Run} run @param {number} nowMs where it waits still @returns {number} ms */
export function waitedMs(run, nowMs) {
  let total = 0;
  for (const step of run.steps) if (step.kind === "wait") total += (step.end || nowMs) - step.start;
  return total;
}

/**
 * @param {AgentEvent} event @param {Kind} kind @param {Record<string, any>} payload
 * @param {number} at @returns {Step}
 */
function stepOf(event, kind, payload, at) {
  const isSpan = kind.begins || kind.asks;
  return {
    kind: stepKind(kind),
    label: labelOf(event, kind, payload),
    detail: kind.isError ? "" : said(payload, "model"),
    start: at,
    end: isSpan ? 0 : at,
    failed: kind.isError,
    isPoint: !isSpan,
    tokens: 0,
    cost: 0,
    event: event.id,
    ended: 0,
  };
}

/** Its beginning was not read: it says how long it took. @type {typeof stepOf} */
function beforeItsEnd(event, kind, payload, at) {
  const took = toNumber(payload.duration_ms) ?? toNumber(payload.latency) ?? 0;
  return { ...stepOf(event, kind, payload, at), start: at - took, isPoint: took === 0 };
}

/**
 * @param {Step} step @param {AgentEvent} event @param {Kind} kind
 * @param {Record<string, any>} payload @param {number} at
 */
function finish(step, event, kind, payload, at) {
  step.end = Math.max(at, step.start);
  step.ended = event.id === step.event ? 0 : event.id;
  step.failed = kind.isError;
  const usage = isRecord(payload.usage) ? payload.usage : {};
  const sum = (toNumber(usage.input) ?? 0) + (toNumber(usage.output) ?? 0);
  step.tokens = toNumber(usage.total) ?? toNumber(payload.tokens) ?? sum;
  step.cost = toNumber(payload.cost_usd) ?? toNumber(payload.cost) ?? 0;
  if (kind.isError) step.detail = errorText(event);
  else if (kind.answers) {
    const [who, what] = [said(payload, "answered_by", "by", "user"), said(payload, "answer", "text", "message")];
    step.detail = [who, what].filter(Boolean).join(": ");
  } else step.detail = said(payload, "model") || step.detail;
}

/** @param {Kind} kind @returns {Step["kind"]} */
function stepKind(kind) {
  if (kind.asks || kind.answers) return "wait";
  if (kind.isError && kind.family === "") return "error";
  return /** @type {Step["kind"]} */ (kind.family === "human" ? "wait" : kind.family || "other");
}

/** @param {AgentEvent} event @param {Kind} kind @param {Record<string, any>} payload */
function labelOf(event, kind, payload) {
  if (kind.asks) return questionText(event);
  if (kind.family === "tool") return said(payload, "tool", "name") || "a tool";
  if (kind.family === "run" || kind.family === "turn") return spanText(kind.family, payload);
  if (kind.family === "handoff") return `${said(payload, "from_agent") || "?"} → ${said(payload, "to_agent") || "?"}`;
  if (kind.isError) return errorText(event);
  return said(payload, "text", "content", "message", "name", "reason") || event.type;
}
