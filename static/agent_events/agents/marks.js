/**
 * The newest events as marks on lanes, and what had a beginning and an end as spans. Bounded, whatever comes: the
 * oldest make room. Pure.
 */

import { cap } from "../bounded.js";
import { isRecord } from "../json.js";
import { kindOf } from "../kinds.js";
import { spanKey, keyOf } from "./state.js";
import { idOf } from "./words.js";

/** @import { AgentEvent } from "../client.js" */
/** @import { Kind } from "../kinds.js" */

const MOST_MARKS = 4_000;
const MOST_SPANS = 1_000;
const MOST_OPEN = 500;

/** What marks look like. */
export const LOOKS = ["other", "run", "turn", "tool", "handoff", "message", "guardrail", "human", "error"];
const ERROR = LOOKS.indexOf("error");
const HUMAN = LOOKS.indexOf("human");

/**
 * @typedef {{agent: string, kind: string, start: number, end: number, failed: boolean, id: number}} Span
 * `end` is 0 while it is open
 */

export class Marks {
  constructor() {
    this.times = new Float64Array(MOST_MARKS);
    this.ids = new Float64Array(MOST_MARKS);
    this.looks = new Uint8Array(MOST_MARKS);
    /** @type {string[]} */
    this.agents = [];
    /** @type {string[]} */
    this.types = [];
    this.size = 0;
    this.next = 0;
    /** @type {Map<string, Span>} */
    this.open = new Map();
    /** @type {Span[]} */
    this.spans = [];
  }

  clear() {
    this.size = 0;
    this.open.clear();
    this.spans = [];
  }

  /** @param {AgentEvent} event */
  take(event) {
    const time = Date.parse(event.createdAt ?? "");
    if (Number.isNaN(time)) return;
    const kind = kindOf(event.type);
    const agent = keyOf(event);
    const place = this.next;
    this.times[place] = time;
    this.ids[place] = event.id;
    this.looks[place] = kind.asks ? HUMAN : kind.isError ? ERROR : Math.max(0, LOOKS.indexOf(kind.family));
    this.agents[place] = agent;
    this.types[place] = event.type;
    this.next = (place + 1) % MOST_MARKS;
    this.size = Math.min(MOST_MARKS, this.size + 1);
    if (kind.begins || kind.ends || kind.asks || kind.answers) this.#span(event, kind, agent, time);
  }

  /**
   * Each mark from that time on, in the order in which they came. @param {number} fromMs
   * @param {(place: number) => void} see
   */
  each(fromMs, see) {
    for (let back = this.size; back > 0; back--) {
      const place = (this.next - back + MOST_MARKS) % MOST_MARKS;
      if (this.times[place] >= fromMs) see(place);
    }
  }

  /** @param {number} fromMs @param {(span: Span) => void} see */
  eachSpan(fromMs, see) {
    for (const span of this.spans) if (span.end >= fromMs) see(span);
    for (const span of this.open.values()) see(span);
  }

  /** @param {AgentEvent} event @param {Kind} kind @param {string} agent @param {number} time */
  #span(event, kind, agent, time) {
    const payload = isRecord(event.payload) ? event.payload : {};
    const run = idOf(payload.run_id);
    const key = `${agent} ${kind.family === "human" ? `human ${run}` : spanKey(kind.family, run, payload)}`;
    if (kind.begins || kind.asks) {
      this.open.set(key, { agent, kind: kind.family, start: time, end: 0, failed: false, id: event.id });
      cap(this.open, MOST_OPEN);
      return;
    }
    const span = this.open.get(key);
    if (!span) return;
    this.open.delete(key);
    span.end = Math.max(time, span.start);
    span.failed = kind.isError;
    this.spans.push(span);
    if (this.spans.length > MOST_SPANS) this.spans.splice(0, MOST_SPANS / 4);
  }
}
