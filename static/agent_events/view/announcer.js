/**
 * Speaks to people who do not see the page: politely, and what cannot wait as an alarm. Neither more often than can be
 * listened to.
 */

import { byId } from "../dom.js";
import { count } from "../format.js";

const POLITE_MS = 4_000;
const ALARM_MS = 10_000;
/** What waits to be said together; of more, only how many. */
const MOST = 3;

/** One live region: what is said too early waits, and is said together. */
class Voice {
  /** @param {HTMLElement} region @param {number} intervalMs between two sayings at least */
  constructor(region, intervalMs) {
    this.region = region;
    this.intervalMs = intervalMs;
    /** @type {string[]} */
    this.waiting = [];
    this.unsaid = 0;
    this.saidAt = -Infinity;
    this.timer = 0;
  }

  /** @param {string} text */
  say(text) {
    if (this.waiting.length >= MOST) this.unsaid += 1;
    else if (!this.waiting.includes(text)) this.waiting.push(text);
    if (this.timer) return;
    const wait = this.saidAt + this.intervalMs - performance.now();
    if (wait <= 0) this.#flush();
    else this.timer = setTimeout(() => this.#flush(), wait);
  }

  #flush() {
    this.timer = 0;
    this.saidAt = performance.now();
    const text = this.waiting.join(". ") + (this.unsaid ? `. And ${count(this.unsaid)} more` : "");
    this.waiting = [];
    this.unsaid = 0;
    // The same text again would be no change, and nothing would be said.
    this.region.textContent = this.region.textContent === text ? `${text}\u00a0` : text;
  }
}

export class Announcer {
  constructor() {
    this.polite = new Voice(byId("announcer"), POLITE_MS);
    this.alarm = new Voice(byId("alarm"), ALARM_MS);
  }

  /** @param {string} text @param {boolean} urgent */
  say(text, urgent) {
    (urgent ? this.alarm : this.polite).say(text);
  }
}
