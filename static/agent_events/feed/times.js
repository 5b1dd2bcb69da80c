/** When, in few words: "14:03:22", "14:03:22, 26 Nov". */

import { clockSeconds, dayKey, inUtc } from "../format.js";

/** @type {Intl.DateTimeFormatOptions} */
const DAY = { day: "numeric", month: "short" };
const localDay = new Intl.DateTimeFormat(undefined, DAY);
const utcDay = new Intl.DateTimeFormat(undefined, { ...DAY, timeZone: "UTC" });

/** @param {number} ms since 1970 @param {number} now @returns {string} with its day, where that is not today */
export function moment(ms, now = Date.now()) {
  const date = new Date(ms);
  if (dayKey(date) === dayKey(new Date(now))) return clockSeconds(date);
  return `${clockSeconds(date)}, ${(inUtc() ? utcDay : localDay).format(date)}`;
}
