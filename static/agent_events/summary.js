/**
 * What an event says, in one line. Knows the vocabulary of event types that the product understands; any other type
 * is shown by its payload's own keys. Payloads are agents' words: nothing here trusts their shape, and all that
 * comes out is text.
 */

import { clip, dollars, duration, plural, shortId } from "./format.js";
import { isRecord, toNumber } from "./json.js";
import { kindOf, toneOf } from "./kinds.js";

/**
 * @typedef {Record<string, any>} Payload
 *
 * @typedef {object} Fact a short figure for the right-hand side
 * @property {"model" | "usage" | "time"} name
 * @property {string} text
 *
 * @typedef {object} Summary
 * @property {string} kind family of the type: run, turn, tool, handoff, human, message, guardrail, error or other
 * @property {"plain" | "error" | "attention"} tone
 * @property {string} agent what the agent is called
 * @property {string} subject who or what it is about, may be empty
 * @property {string} text the rest of the line, may be empty
 * @property {Fact[]} facts
 */

const LINE_LIMIT = 300;
const LARGE = "Large payload: open the row to load it";

/** Keys that have their own place, or say where an event belongs rather than what happened. */
const ELSEWHERE = new Set([
  "agent", "run_id", "parent_run_id", "thread_id", "step", "tool", "tool_call_id", "model",
  "usage", "tokens", "cost", "cost_usd", "duration_ms", "latency",
]);

/**
 * What is read for a line, family by family: first the subject, then the text.
 * @type {Record<string, (payload: Payload, verb: string) => [string, string]>}
 */
const READERS = {
  run: (p, verb) => ["", firstText(p, "task", "goal", "title", "result", "output", "summary", "input") || `Run ${verb || "seen"}`],
  turn: (p, verb) => ["", firstText(p, "text", "output", "summary") || `${turnName(p)} ${verb || "finished"}`],
  tool: (p) => [firstText(p, "tool", "name") || "tool", brief(p.arguments ?? p.args ?? p.input ?? p.result ?? p.output ?? p)],
  handoff: (p) => [`${agentName(p.from_agent)} → ${agentName(p.to_agent)}`, firstText(p, "reason", "message", "task")],
  human: (p) => [firstText(p, "answered_by", "by", "user"), firstText(p, "question", "answer", "reason", "message", "text")],
  message: (p) => [firstText(p, "role", "from"), firstText(p, "text", "content", "message")],
  guardrail: (p) => [firstText(p, "name", "guardrail", "rule"), firstText(p, "message", "reason", "action", "result")],
};

/** @param {{agentId: string, type: string, payload: any, payloadHref?: string}} event @returns {Summary} */
export function summarise(event) {
  const { family, verb, isError } = kindOf(event.type);
  const payload = isRecord(event.payload) ? event.payload : {};
  const kind = family || (isError ? "error" : "other");
  const tone = toneOf(event.type);
  if (event.payloadHref) return { kind, tone, agent: agentLabel(event), subject: "", text: LARGE, facts: [] };
  const [subject, text] = isError ? failure(payload, kind) : read(kind, verb, payload, event.payload);
  return {
    kind,
    tone,
    agent: agentLabel(event),
    subject: clip(subject, 80),
    text: clip(text, LINE_LIMIT),
    facts: factsOf(payload),
  };
}

/**
 * What the agent calls itself, where it says so; its id's beginning otherwise.
 * @param {{agentId: string, payload: any}} event
 */
function agentLabel(event) {
  const name = isRecord(event.payload) ? event.payload.agent : undefined;
  return typeof name === "string" && name.trim() ? clip(name.trim(), 40) : shortId(event.agentId);
}

/** @param {string} kind @param {string} verb @param {Payload} payload @param {unknown} whole @returns {[string, string]} */
function read(kind, verb, payload, whole) {
  if (!Object.hasOwn(READERS, kind)) return ["", brief(whole)];
  const [subject, text] = READERS[kind](payload, verb);
  // A known type with unknown keys still shows what it carries.
  return subject || text ? [subject, text] : ["", brief(whole)];
}

/** @param {Payload} payload @param {string} kind @returns {[string, string]} */
function failure(payload, kind) {
  const error = payload.error;
  const name = firstText(payload, "tool") || (isRecord(error) ? firstText(error, "type") : "");
  const message = isRecord(error) ? firstText(error, "message", "type") : asText(error);
  return [name, message || firstText(payload, "message", "reason") || (kind === "error" ? brief(payload) : "failed")];
}

/** @param {Payload} payload @returns {Fact[]} */
function factsOf(payload) {
  /** @type {Fact[]} */
  const facts = [];
  /** @param {Fact["name"]} name @param {string} text */
  const add = (name, text) => facts.push({ name, text });
  const model = firstText(payload, "model");
  if (model) add("model", clip(model, 40));
  const usage = isRecord(payload.usage) ? payload.usage : {};
  const parts = [usage.input, usage.output].map(toNumber).filter((n) => n !== undefined);
  const sum = parts.length ? parts.reduce((a, b) => a + b) : undefined;
  const tokens = toNumber(usage.total) ?? toNumber(payload.tokens) ?? sum;
  const cost = toNumber(payload.cost_usd) ?? toNumber(payload.cost);
  const used = [tokens === undefined ? "" : plural(tokens, "token"), cost === undefined ? "" : dollars(cost)];
  if (used.some(Boolean)) add("usage", used.filter(Boolean).join(" · "));
  const ms = toNumber(payload.duration_ms) ?? toNumber(payload.latency);
  if (ms !== undefined) add("time", duration(ms));
  return facts;
}

/** @param {unknown} value @returns {string} */
function asText(value) {
  if (typeof value === "string") return value;
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The first of these keys that holds text (or something worth writing as text). @param {Payload} payload @param {...string} keys */
function firstText(payload, ...keys) {
  for (const key of keys) {
    const text = asText(payload[key]).trim();
    if (text) return text;
  }
  return "";
}

/**
 * Which call of a tool an event begins or ends.
 * @param {{tenantId: string, agentId: string, type: string, payload: any}} event
 * @returns {{key: string, part: "start" | "end"} | null}
 */
export function callOf({ tenantId, agentId, type, payload }) {
  if (!type.startsWith("tool.") || !isRecord(payload)) return null;
  const id = asText(payload.tool_call_id);
  const verb = type.slice("tool.".length);
  if (!id || (verb !== "started" && verb !== "finished" && verb !== "failed")) return null;
  return { key: JSON.stringify([tenantId, agentId, asText(payload.run_id), id]), part: verb === "started" ? "start" : "end" };
}

/** A value on one line: `key: value · key: value`, without its braces. @param {unknown} value @returns {string} */
export function brief(value) {
  if (!isRecord(value)) return asText(value);
  const parts = [];
  for (const [key, inner] of Object.entries(value)) {
    if (ELSEWHERE.has(key)) continue;
    parts.push(`${key}: ${clip(asText(inner), 120)}`);
    if (parts.length === 8) break;
  }
  return parts.join(" · ");
}

/** @param {unknown} value */
function agentName(value) {
  return shortId(asText(value)) || "?";
}

/** @param {Payload} payload */
function turnName(payload) {
  const step = toNumber(payload.step);
  return step === undefined ? "Turn" : `Turn ${step}`;
}
