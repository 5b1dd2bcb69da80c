/**
 * The list of events: takes them in at any rate, draws at most once a frame, and stands still while somebody reads.
 * Reception never pauses: what arrives meanwhile waits, counted.
 */

import { count } from "./format.js";
import { dayOf, withinMemory } from "./row.js";
import { toneOf } from "./summary.js";

/** Rows on the page. Events that wait are bounded by it too: what cannot be shown afterwards is only counted. */
const ROW_LIMIT = 1_000;
/** Rows past the limit go in blocks of this: removing one for each that comes would lay the page out twice. */
const TRIM_BLOCK = 100;
/** New rows in one drawing. Fewer than the page holds, so that the word for those left out has its place on it. */
const DRAW_LIMIT = ROW_LIMIT - TRIM_BLOCK;
/** A hidden page draws this often: animation frames stop there. */
const HIDDEN_DRAW_MS = 1_000;
/** More new rows than this at once light up nothing: it would be a flash, not a hint. */
const HIGHLIGHT_LIMIT = 12;

/** @typedef {"button" | "scroll" | "open"} Hold why the feed stands still */

export class Feed {
  /**
   * @param {object} options
   * @param {HTMLElement} options.list the rows, newest first
   * @param {import("./row.js").RowMaker} options.rows
   * @param {() => void} options.changed called after each change of what waits, is held or is shown
   */
  constructor({ list, rows, changed }) {
    this.list = list;
    this.rows = rows;
    this.changed = changed;
    /** @type {Set<Hold>} */
    this.holds = new Set();
    this.waiting = [];
    this.#forgetCounts();
    this.trimmed = false;
    this.scheduled = false;
    this.topDay = null;
    document.addEventListener("visibilitychange", () => this.#draw());
  }

  /** Takes over the rows of the first render. */
  takeOver() {
    for (const row of this.list.querySelectorAll(".row")) this.rows.takeOver(row);
    const newest = this.list.querySelector(".row time");
    if (newest) this.topDay = dayOf(newest.dateTime);
  }

  get paused() {
    return this.holds.size > 0;
  }

  /** @param {import("./row.js").AgentEvent[]} events oldest first @param {boolean} large whether any may be long */
  take(events, large) {
    for (const event of events) {
      this.waiting.push({ event: large ? withinMemory(event) : event });
      this.newEvents += 1;
      if (toneOf(event.type) === "error") this.newErrors += 1;
    }
    if (this.waiting.length > ROW_LIMIT) this.#forgetOldest();
    this.#schedule();
    this.changed();
  }

  /** Says something between two events. @param {string} kind @param {string} text */
  say(kind, text) {
    this.waiting.push({ notice: { kind, text } });
    this.#schedule();
  }

  /** @param {Hold} reason @param {boolean} on */
  hold(reason, on) {
    if (this.holds.has(reason) === on) return;
    if (on) this.holds.add(reason);
    else this.holds.delete(reason);
    this.#schedule();
    this.changed();
  }

  resume() {
    this.holds.clear();
    this.#schedule();
    this.changed();
  }

  #forgetOldest() {
    const excess = Math.max(0, this.waiting.length - DRAW_LIMIT);
    for (const { event } of this.waiting.splice(0, excess)) if (event) this.notShown += 1;
  }

  #schedule() {
    if (this.scheduled || this.paused) return;
    this.scheduled = true;
    if (document.hidden) setTimeout(() => this.#draw(), HIDDEN_DRAW_MS);
    else requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.scheduled = false;
    if (this.paused || this.waiting.length === 0) return;
    const elements = this.#elements();
    if (elements.length <= HIGHLIGHT_LIMIT) for (const element of elements) element.classList.add("is-new");
    this.list.prepend(...elements.reverse());
    this.waiting = [];
    this.#forgetCounts();
    this.#trim();
    this.changed();
  }

  /** What waits as rows, oldest first, with a word where events are left out and where the day changes. */
  #elements() {
    this.#forgetOldest();
    const elements = [];
    if (this.notShown) elements.push(this.rows.notice("gap", `${count(this.notShown)} events not shown`));
    for (const { event, notice } of this.waiting) {
      if (notice) {
        elements.push(this.rows.notice(notice.kind, notice.text));
        continue;
      }
      const day = dayOf(event.createdAt) ?? this.topDay;
      if (this.topDay !== null && this.topDay.key !== day.key) elements.push(this.rows.notice("day", this.topDay.name));
      this.topDay = day;
      elements.push(this.rows.make(event));
    }
    return elements;
  }

  #trim() {
    const excess = this.list.childElementCount - ROW_LIMIT;
    if (excess < TRIM_BLOCK) return;
    for (let i = 0; i < excess; i++) this.list.lastElementChild.remove();
    this.trimmed = true;
  }

  #forgetCounts() {
    this.newEvents = 0;
    this.newErrors = 0;
    this.notShown = 0;
  }
}
