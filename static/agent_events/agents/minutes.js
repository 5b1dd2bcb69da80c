/** Events and errors, counted by the minute: a ring of the last half hour. Pure. */

/** Minutes that are kept. */
export const MINUTES = 30;
export const MINUTE_MS = 60_000;
/** Producers' clocks differ: what is from later than this many minutes from now counts as now. */
const MOST_AHEAD = 1;

let cachedText = "";
let cachedMinute = 0;

/**
 * @param {string | null} createdAt RFC 3339 in UTC @param {number} nowMs
 * @returns {number} its minute since 1970; that of now, where it has none or one that is still to come
 */
export function minuteOf(createdAt, nowMs) {
  const now = Math.floor(nowMs / MINUTE_MS);
  if (!createdAt) return now;
  // Most events are of the same minute as the one before: its text is compared, not read.
  if (!createdAt.startsWith(cachedText) || cachedText === "") {
    cachedMinute = Math.floor(Date.parse(createdAt) / MINUTE_MS);
    cachedText = createdAt.slice(0, 16);
  }
  // (Nor does JavaScript know all years that PostgreSQL does.)
  return cachedMinute <= now + MOST_AHEAD ? cachedMinute : now;
}

export class Minutes {
  constructor() {
    this.events = new Uint32Array(MINUTES);
    this.errors = new Uint32Array(MINUTES);
    this.questions = new Uint32Array(MINUTES);
    /** The newest minute that has a place. */
    this.newest = 0;
  }

  /** @param {number} minute @param {number} events @param {number} errors @param {number} [questions] */
  add(minute, events, errors, questions = 0) {
    if (!this.#hasPlace(minute)) return;
    const place = minute % MINUTES;
    this.events[place] += events;
    this.errors[place] += errors;
    this.questions[place] += questions;
  }

  /**
   * The server's counts in place of ours, for whole minutes that it looked at.
   * @param {[number, number, number][]} minutes minute, events, errors @param {number} sinceMs
   */
  replace(minutes, sinceMs) {
    const from = Math.ceil(sinceMs / MINUTE_MS);
    for (let minute = Math.max(from, this.newest - MINUTES + 1); minute <= this.newest; minute++) {
      this.events[minute % MINUTES] = 0;
      this.errors[minute % MINUTES] = 0;
    }
    for (const [minute, events, errors] of minutes) {
      if (minute >= from) this.add(minute, events, errors);
      else this.#atLeast(minute, events, errors);
    }
  }

  /** All of these together, in place of what is here. @param {Minutes[]} parts */
  sum(parts) {
    const newest = parts.reduce((most, part) => Math.max(most, part.newest), this.newest);
    if (newest > this.newest) this.#advance(newest);
    this.events.fill(0);
    this.errors.fill(0);
    for (const part of parts) {
      for (let minute = Math.max(0, newest - MINUTES + 1); minute <= part.newest; minute++) {
        this.events[minute % MINUTES] += part.events[minute % MINUTES];
        this.errors[minute % MINUTES] += part.errors[minute % MINUTES];
      }
    }
  }

  /**
   * @param {number} minute @returns {{events: number, errors: number, questions: number}} of that minute
   */
  at(minute) {
    const known = minute <= this.newest && minute > this.newest - MINUTES && minute >= 0;
    const place = minute % MINUTES;
    return known
      ? { events: this.events[place], errors: this.errors[place], questions: this.questions[place] }
      : { events: 0, errors: 0, questions: 0 };
  }

  /** @returns {number} ms between two events, in minutes that had any; 0 where there were none */
  usualIntervalMs() {
    let events = 0;
    let minutes = 0;
    for (const count of this.events) {
      events += count;
      if (count > 0) minutes += 1;
    }
    return events ? (minutes * MINUTE_MS) / events : 0;
  }

  /** @param {number} minute @param {number} events @param {number} errors */
  #atLeast(minute, events, errors) {
    if (!this.#hasPlace(minute)) return;
    const place = minute % MINUTES;
    this.events[place] = Math.max(this.events[place], events);
    this.errors[place] = Math.max(this.errors[place], errors);
  }

  /** Makes one for a new minute; one that is too old has none. @param {number} minute @returns {boolean} */
  #hasPlace(minute) {
    if (minute > this.newest) this.#advance(minute);
    return minute > this.newest - MINUTES;
  }

  /** @param {number} minute the newest from now on */
  #advance(minute) {
    const steps = Math.min(MINUTES, minute - this.newest);
    for (let step = 0; step < steps; step++) {
      const place = (minute - step) % MINUTES;
      this.events[place] = 0;
      this.errors[place] = 0;
      this.questions[place] = 0;
    }
    this.newest = minute;
  }
}
