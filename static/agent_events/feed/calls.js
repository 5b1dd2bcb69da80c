/**
 * A call of a tool and its result are one line, where both are on the page: the result's, which says what was asked and
 * how long it took. The call's own line is folded away; it is there again while it is open or selected.
 */

import { cap } from "../bounded.js";
import { clip, duration } from "../format.js";
import { brief, callOf } from "../summary.js";
import { eventOf } from "./row.js";

/** @import { AgentEvent } from "./row.js" */

/** Calls without a result that are remembered: an agent may die in the middle of a call. */
const MOST_WAITING = 2_000;
const ASKED_CHARS = 72;

export class Calls {
  constructor() {
    /** @type {Map<string, HTMLElement>} rows of calls whose result has not come, and of results whose call has not */
    this.waiting = new Map();
    /** The folded line of a call, by its result's. @type {WeakMap<Element, HTMLElement>} */
    this.folded = new WeakMap();
  }

  /** @param {HTMLElement} row that has come onto the page */
  add(row) {
    const event = eventOf(row);
    const call = event && callOf(event);
    if (!call) return;
    const other = this.waiting.get(call.key);
    if (!other?.isConnected || other.dataset.call === call.part) {
      row.dataset.call = call.part;
      this.waiting.delete(call.key);
      this.waiting.set(call.key, row);
      cap(this.waiting, MOST_WAITING);
      return;
    }
    this.waiting.delete(call.key);
    const [start, end] = call.part === "start" ? [row, other] : [other, row];
    const [started, ended] = [eventOf(start), eventOf(end)];
    if (!started || !ended) return;
    this.#join(start, end, started, ended);
  }

  /** @param {HTMLElement} row that has left the page: a call whose result is not here any more stands for itself again */
  remove(row) {
    this.folded.get(row)?.classList.remove("is-folded");
    const event = row.dataset.call ? eventOf(row) : undefined;
    const call = event && callOf(event);
    if (call && this.waiting.get(call.key) === row) this.waiting.delete(call.key);
  }

  clear() {
    this.waiting.clear();
  }

  /**
   * @param {HTMLElement} start @param {HTMLElement} end
   * @param {AgentEvent} started @param {AgentEvent} ended
   */
  #join(start, end, started, ended) {
    start.classList.add("is-folded");
    this.folded.set(end, start);
    const what = end.querySelector(".row-what");
    const text = end.querySelector(".row-text");
    const asked = brief(started.payload?.arguments ?? started.payload?.args ?? started.payload?.input);
    const failed = end.dataset.tone === "error"; // which matters more than what was asked
    if (what && text && asked && !failed && !what.querySelector(".row-asked")) {
      const said = document.createElement("span");
      said.className = "row-asked";
      said.textContent = clip(asked, ASKED_CHARS);
      text.before(said, " ");
    }
    const facts = end.querySelector(".row-facts");
    if (!facts || facts.querySelector('[data-fact="time"]')) return;
    const ms = Date.parse(ended.createdAt ?? "") - Date.parse(started.createdAt ?? "");
    if (!(ms >= 0)) return;
    const time = document.createElement("span");
    time.dataset.fact = "time";
    time.textContent = duration(ms);
    facts.append(time);
  }
}
