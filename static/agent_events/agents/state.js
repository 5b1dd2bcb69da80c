/**
 * What each agent is at, out of its events. Pure: no clock but the one handed in, no DOM. An event costs a few
 * look-ups, whatever came before it.
 *
 * An agent needs a human from a question (`needs_human`, `escalation`) until its answer, or until its run ends. It is
 * failing from an error until something succeeds. It is busy while a run, a turn or a tool is open, and stale where it
 * is busy but silent for much longer than it usually is. A question is no error, and an error asks nobody.
 */

import { cap } from "../bounded.js";
import { shortId } from "../format.js";
import { isRecord } from "../json.js";
import { kindOf } from "../kinds.js";
import { Minutes, minuteOf } from "./minutes.js";
import { errorText, idOf, questionText, spanText } from "./words.js";

/** @import { AgentEvent } from "../client.js" */
/** @import { Kind } from "../kinds.js" */
/** @import { Answer } from "./now.js" */

/** @typedef {"needsHuman" | "failing" | "stale" | "busy" | "idle"} StateName */

/** By need: whoever needs something comes first. @type {StateName[]} */
export const STATES = ["needsHuman", "failing", "stale", "busy", "idle"];

/** Agents that are kept; beyond that those that were heard of longest ago go, but for those who need a human. */
export const MOST_AGENTS = 500;
/** Some more than that, so that not each new agent is a reason to look for the oldest. */
const SLACK = 50;
/** Questions and answers in the server's answer; where there are so many, there may be older ones. */
const MOST_HUMAN = 200;
/** Runs, turns and tools of one agent that are open; a producer that ends none of them must not fill the memory. */
const MOST_OPEN = 64;
/** A busy agent is stale when it was silent for so long at least, in ms, */
const STALE_MS = 60_000;
/** and for so many times its usual interval. */
const STALE_INTERVALS = 5;

/**
 * @typedef {object} Span something that was begun
 * @property {"run" | "turn" | "tool"} kind
 * @property {string} text what it is, in words
 * @property {string} run its run's id, may be empty
 * @property {string | null} at when, RFC 3339
 *
 * @typedef {object} Question somebody waits for a human
 * @property {number} id the event that asks
 * @property {string} text
 * @property {string | null} at
 *
 * @typedef {object} Line what is shown of an agent
 * @property {string} key unique among agents of all tenants
 * @property {string} id
 * @property {string} tenantId
 * @property {string} name
 * @property {StateName} state
 * @property {string} what it does, in words
 * @property {number} sinceMs when that began, ms since 1970; 0 where nobody knows
 * @property {number} lastMs when it was last heard of
 * @property {string} run the run that it is at, may be empty
 * @property {number} eventId the event that says so: a question, an error, else its last one
 * @property {string} error its last error, in words; empty where there was none
 * @property {number} unseen errors since somebody looked at this agent
 * @property {Minutes} minutes
 */

class Agent {
  /** @param {AgentEvent} event */
  constructor(event) {
    this.key = keyOf(event);
    this.id = event.agentId;
    this.tenantId = event.tenantId;
    this.name = "";
    this.minutes = new Minutes();
    /** @type {Map<string, Span>} */
    this.open = new Map();
    /** Questions by their run; "" for those that name none. @type {Map<string, Question>} */
    this.waiting = new Map();
    /** @type {{id: number, text: string, at: string | null} | null} */
    this.error = null;
    this.failing = false;
    this.unseen = 0;
    // Not the event: its payload may be large, and is kept by whoever shows it.
    this.lastId = event.id;
    this.lastType = event.type;
    this.lastAt = event.createdAt;
    this.run = "";
    /** Place in the order in which agents were last heard of. */
    this.heard = 0;
  }
}

export class AgentsNow {
  constructor() {
    /** @type {Map<string, Agent>} */
    this.agents = new Map();
    /** All agents' events together. */
    this.minutes = new Minutes();
    /** Right behind all that was looked at: what the stream brings from before is known. */
    this.cursor = "";
    this.heard = 0;
  }

  /**
   * One more event, live. @param {AgentEvent} event @param {number} nowMs the server's clock
   * @returns {boolean} whether somebody's state may be another now, not only a count
   */
  take(event, nowMs) {
    const agent = this.#agent(event);
    const minute = minuteOf(event.createdAt, nowMs);
    const kind = kindOf(event.type);
    const isError = kind.isError ? 1 : 0;
    agent.minutes.add(minute, 1, isError, kind.asks ? 1 : 0);
    this.minutes.add(minute, 1, isError, kind.asks ? 1 : 0);
    agent.unseen += isError;
    return this.#apply(agent, event, kind);
  }

  /**
   * What the server saw: it knows better, as far as it looked. @param {Answer} answer
   */
  load(answer) {
    const { since } = answer;
    this.cursor = answer.cursor;
    const all = answer.human.length < MOST_HUMAN;
    for (const agent of this.agents.values()) forget(agent.waiting, all ? 0 : ms(answer.human[0].createdAt));
    /** @type {AgentEvent[]} */
    const events = [...answer.human];
    for (const glance of answer.agents) {
      const newest = glance.events.at(-1);
      if (!newest) continue;
      const agent = this.#agent(newest);
      forget(agent.open, since);
      if (!agent.error || Date.parse(agent.error.at ?? "") >= since) agent.failing = false;
      agent.minutes.replace(glance.minutes, since);
      events.push(...glance.events);
    }
    // Ids are no order between transactions, but those of one agent, which are all that matters here, mostly are.
    events.sort((a, b) => a.id - b.id);
    for (const event of events) this.#apply(this.#agent(event), event, kindOf(event.type));
    this.minutes.sum([...this.agents.values()].map((agent) => agent.minutes));
  }

  /** Somebody looked at this agent. @param {string} key */
  looked(key) {
    const agent = this.agents.get(key);
    if (agent) agent.unseen = 0;
  }

  /** All agents, those first that need something. @param {number} nowMs @returns {Line[]} */
  lines(nowMs) {
    const lines = [];
    for (const agent of this.agents.values()) lines.push(lineOf(agent, nowMs));
    return lines.sort(byNeed);
  }

  /** @param {AgentEvent} event @returns {Agent} */
  #agent(event) {
    const key = keyOf(event);
    let agent = this.agents.get(key);
    if (!agent) {
      agent = new Agent(event);
      this.agents.set(key, agent);
      if (this.agents.size > MOST_AGENTS + SLACK) this.#forgetOldest();
    }
    return agent;
  }

  #forgetOldest() {
    const gone = [...this.agents.values()].filter((agent) => agent.waiting.size === 0);
    gone.sort((a, b) => a.heard - b.heard);
    for (const agent of gone.slice(0, this.agents.size - MOST_AGENTS)) this.agents.delete(agent.key);
  }

  /** @param {Agent} agent @param {AgentEvent} event @param {Kind} kind @returns {boolean} */
  #apply(agent, event, kind) {
    agent.lastId = event.id;
    agent.lastType = event.type;
    agent.lastAt = event.createdAt;
    agent.heard = ++this.heard;
    const payload = isRecord(event.payload) ? event.payload : NOTHING;
    if (typeof payload.agent === "string" && payload.agent !== "") agent.name = payload.agent;
    const run = idOf(payload.run_id);
    if (run) agent.run = run;
    if (kind.isError) {
      agent.error = { id: event.id, text: errorText(event), at: event.createdAt };
      agent.failing = true;
    }
    if (kind.asks) {
      agent.waiting.set(run, { id: event.id, text: questionText(event), at: event.createdAt });
      cap(agent.waiting, MOST_OPEN);
    } else if (kind.answers) {
      this.#answered(agent, run);
    } else if (kind.begins) {
      agent.open.set(spanKey(kind.family, run, payload), {
        kind: /** @type {Span["kind"]} */ (kind.family),
        text: spanText(kind.family, payload),
        run,
        at: event.createdAt,
      });
      cap(agent.open, MOST_OPEN);
    } else if (kind.ends) {
      if (!kind.isError) agent.failing = false;
      if (kind.family === "run") endRun(agent, run);
      else endSpan(agent, kind.family, run, payload);
    } else {
      return kind.isError;
    }
    return true;
  }

  /** @param {Agent} agent @param {string} run */
  #answered(agent, run) {
    if (agent.waiting.delete(run) || agent.waiting.size > 0) {
      // An answer that names no run answers all; one that does, also a question that named none.
      if (run) agent.waiting.delete("");
      else agent.waiting.clear();
      return;
    }
    // Whoever answers may write it in a name of their own.
    if (run) for (const other of this.agents.values()) if (other.tenantId === agent.tenantId) other.waiting.delete(run);
  }
}

/** @type {Record<string, any>} */
const NOTHING = {};

/** @param {{tenantId: string, agentId: string}} event @returns {string} */
export function keyOf(event) {
  return event.tenantId + event.agentId;
}

/**
 * Leaves out what began at that time or later. @param {Map<string, {at: string | null}>} things
 * @param {number} sinceMs
 */
function forget(things, sinceMs) {
  for (const [key, { at }] of things) if (!at || Date.parse(at) >= sinceMs) things.delete(key);
}

/** @param {string} family @param {string} run @param {Record<string, any>} payload */
export function spanKey(family, run, payload) {
  if (family !== "tool") return `${family} ${run}`;
  const call = idOf(payload.tool_call_id);
  return call ? `tool ${call}` : `tool ${run} ${idOf(payload.tool)}`;
}

/** @param {Agent} agent @param {string} family @param {string} run @param {Record<string, any>} payload */
function endSpan(agent, family, run, payload) {
  agent.open.delete(spanKey(family, run, payload));
  if (family !== "turn") return;
  // A turn that says no more than that it is complete ends whichever is open.
  if (!run) for (const [key, span] of agent.open) if (span.kind === "turn") agent.open.delete(key);
}

/** @param {Agent} agent @param {string} run what ends it ends all that it had begun and asked */
function endRun(agent, run) {
  for (const [key, span] of agent.open) if (span.run === run) agent.open.delete(key);
  agent.waiting.delete(run);
}

/** @param {Agent} agent @param {number} nowMs @returns {Line} */
function lineOf(agent, nowMs) {
  const lastMs = ms(agent.lastAt);
  /** @type {Line} */
  const line = {
    key: agent.key,
    id: agent.id,
    tenantId: agent.tenantId,
    name: agent.name || shortId(agent.id),
    state: "idle",
    what: agent.lastType,
    sinceMs: lastMs,
    lastMs,
    run: agent.run,
    eventId: agent.lastId,
    error: agent.error?.text ?? "",
    unseen: agent.unseen,
    minutes: agent.minutes,
  };
  const span = newest(agent.open);
  if (span) {
    const quietMs = nowMs - lastMs;
    line.state = quietMs > staleAfter(agent.minutes) ? "stale" : "busy";
    line.what = span.text;
    line.run = span.run || agent.run;
    line.sinceMs = line.state === "stale" ? lastMs : ms(span.at);
  }
  if (agent.failing && agent.error) {
    line.state = "failing";
    line.what = agent.error.text;
    line.eventId = agent.error.id;
    line.sinceMs = ms(agent.error.at);
  }
  if (agent.waiting.size > 0) {
    const [run, question] = /** @type {[string, Question]} */ (agent.waiting.entries().next().value);
    line.state = "needsHuman";
    line.what = question.text;
    line.eventId = question.id;
    line.run = run || agent.run;
    line.sinceMs = ms(question.at);
  }
  return line;
}

/** @param {string | null} at RFC 3339 @returns {number} */
const ms = (at) => (at && Date.parse(at)) || 0;

/** What was begun last. @param {Map<string, Span>} open @returns {Span | undefined} */
function newest(open) {
  let last;
  for (const span of open.values()) last = span;
  return last;
}

/** @param {Minutes} minutes @returns {number} silent for longer than this, in ms, is unusual */
function staleAfter(minutes) {
  return Math.max(STALE_MS, STALE_INTERVALS * minutes.usualIntervalMs());
}

/** @param {Line} a @param {Line} b a name does not change when events come: lines that need the same stay in place */
function byNeed(a, b) {
  if (a.state !== b.state) return STATES.indexOf(a.state) - STATES.indexOf(b.state);
  if (a.name !== b.name) return a.name < b.name ? -1 : 1;
  return a.key < b.key ? -1 : 1;
}
