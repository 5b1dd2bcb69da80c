/** How long events took from their INSERT to here, in the last seconds: a ring of samples. Pure. */

/** So far back samples count, in ms. */
const WINDOW_MS = 10_000;
/** More than so many in a window are not kept, and tell nothing more. */
const MOST = 500;
const APART_MS = WINDOW_MS / MOST;

export class Delays {
  constructor() {
    this.times = new Float64Array(MOST).fill(Number.NEGATIVE_INFINITY);
    this.values = new Float64Array(MOST);
    this.next = 0;
    this.lastMs = Number.NEGATIVE_INFINITY;
  }

  clear() {
    this.times.fill(Number.NEGATIVE_INFINITY);
    this.lastMs = Number.NEGATIVE_INFINITY;
  }

  /** @param {number} nowMs @returns {boolean} whether a sample is wanted now */
  wants(nowMs) {
    return Math.abs(nowMs - this.lastMs) >= APART_MS;
  }

  /** @param {number} delayMs @param {number} nowMs */
  add(delayMs, nowMs) {
    this.times[this.next] = nowMs;
    this.values[this.next] = delayMs;
    this.next = (this.next + 1) % MOST;
    this.lastMs = nowMs;
  }

  /**
   * @param {number} nowMs
   * @returns {{median: number, most: number} | null} `most`: 95 of 100 took no longer. null: there is no sample
   */
  figures(nowMs) {
    const found = this.values.filter((_, i) => Math.abs(nowMs - this.times[i]) <= WINDOW_MS).sort();
    if (found.length === 0) return null;
    const rank = (/** @type {number} */ share) => found[Math.max(0, Math.ceil(found.length * share) - 1)];
    return { median: rank(0.5), most: rank(0.95) };
  }
}
