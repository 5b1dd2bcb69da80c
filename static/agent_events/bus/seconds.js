/** How many events each of the last seconds had: a ring, so that memory stays flat. Pure. */

/** Seconds that are remembered. */
export const SECONDS = 180;

export class Seconds {
  /** @param {number} nowMs from when on events are counted, ms since 1970 */
  constructor(nowMs) {
    this.counts = new Float64Array(SECONDS);
    /** Which second a place of the ring is about: what is older counts as nothing, and nobody has to clear it. */
    this.seconds = new Float64Array(SECONDS).fill(-1);
    this.sinceMs = nowMs;
  }

  /** Counts anew. @param {number} nowMs */
  clear(nowMs) {
    this.seconds.fill(-1);
    this.sinceMs = nowMs;
  }

  /** @param {number} events @param {number} atMs */
  add(events, atMs) {
    const second = Math.floor(atMs / 1000);
    const place = second % SECONDS;
    if (this.seconds[place] > second) return; // of longer ago than is remembered
    if (this.seconds[place] < second) {
      this.seconds[place] = second;
      this.counts[place] = 0;
    }
    this.counts[place] += events;
  }

  /**
   * Events that come late, all at once: they count where they were made.
   * @param {number} events @param {number} firstMs of the oldest @param {number} lastMs of the newest @param {number} nowMs
   */
  spread(events, firstMs, lastMs, nowMs) {
    const last = Math.floor(Math.min(lastMs, nowMs) / 1000);
    const first = Math.min(last, Math.floor(firstMs / 1000));
    const each = events / (last - first + 1);
    for (let second = Math.max(first, Math.floor(nowMs / 1000) - SECONDS + 1); second <= last; second++) {
      this.add(each, second * 1000);
    }
  }

  /** @param {number} second since 1970 @returns {number} */
  at(second) {
    const place = second % SECONDS;
    return this.seconds[place] === second ? this.counts[place] : 0;
  }

  /**
   * @param {number} nowMs @param {number} seconds whole ones, the last of them just over
   * @returns {number} events a second, on average over as much of them as was counted
   */
  rate(nowMs, seconds) {
    const now = Math.floor(nowMs / 1000);
    const counted = Math.max(1, Math.min(seconds, now - Math.floor(this.sinceMs / 1000)));
    let events = 0;
    for (let back = 1; back <= counted; back++) events += this.at(now - back);
    return events / counted;
  }

  /** @param {number} nowMs @returns {number} the most events that one of the seconds had */
  most(nowMs) {
    const now = Math.floor(nowMs / 1000);
    let most = 0;
    for (let back = 0; back < SECONDS; back++) most = Math.max(most, this.at(now - back));
    return most;
  }
}
