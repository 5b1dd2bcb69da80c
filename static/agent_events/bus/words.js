/** What the bus does, in words. Pure, but for the zone that times are in. */

import { clockSeconds, count, duration, plural, span } from "../format.js";

/** Nearer than so, in ms, two computers' clocks cannot be compared over a network. */
const CLOSE_MS = 10;

/** @param {number} rate events a second @returns {string} */
export function rateOf(rate) {
  return count(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate));
}

/** @param {number} ms @returns {string} */
export function delayOf(ms) {
  return ms < CLOSE_MS ? `under ${CLOSE_MS} ms` : duration(ms);
}

/** @param {number} since ms since 1970 @param {number} now */
export function connected(since, now) {
  return `since ${clockSeconds(new Date(since))}, for ${span(now - since)}`;
}

/** @param {number} times @param {number} lastAt */
export function reconnections(times, lastAt) {
  return times === 0 ? "none since this page was opened" : `${count(times)}, the last at ${clockSeconds(new Date(lastAt))}`;
}

/** @param {{kind: string, at: number} | null} hole */
export function holes(hole) {
  if (!hole) return "none since this page was opened";
  const at = clockSeconds(new Date(hole.at));
  return hole.kind === "reset"
    ? `the log was put back to an earlier state, seen at ${at}`
    : `events were pruned before they could be read, seen at ${at}`;
}

/** @param {number} rate @param {number} most @param {number} seconds @param {boolean} filtered */
export function rates(rate, most, seconds, filtered) {
  const of = filtered ? " that match the filter" : "";
  const past = seconds < 60 ? plural(Math.max(1, seconds), "second") : plural(Math.round(seconds / 60), "minute");
  return `${rateOf(rate)} now${of}; at most ${rateOf(most)} in the last ${past}`;
}

/** @param {{median: number, most: number} | null} delay */
export function delays(delay) {
  if (!delay) return "no event came in the last 10 s";
  return `half within ${delayOf(delay.median)}, 95 of 100 within ${delayOf(delay.most)}`;
}
