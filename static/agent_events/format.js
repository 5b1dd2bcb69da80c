/**
 * How times, numbers and ids are written. One formatter each: a formatter per row adds up over a day. Times are in the
 * viewer's zone or in UTC, for the whole page alike.
 */

const grouped = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "USD", maximumFractionDigits: 4 });
const instant = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** @type {Intl.DateTimeFormatOptions} */
const DAY = { weekday: "long", day: "numeric", month: "long", year: "numeric" };
const localDay = new Intl.DateTimeFormat(undefined, DAY);
const utcDay = new Intl.DateTimeFormat(undefined, { ...DAY, timeZone: "UTC" });

let utc = false;

/** @param {boolean} on times in UTC, from now on; what is written already is for its owner to write again */
export function useUtc(on) {
  utc = on;
}

/** @returns {boolean} */
export function inUtc() {
  return utc;
}

/** @param {number} value @param {number} width */
const pad = (value, width = 2) => String(value).padStart(width, "0");

/** @param {Date} date @returns {string} HH:MM:SS.mmm */
export function clock(date) {
  return `${clockSeconds(date)}.${pad(date.getUTCMilliseconds(), 3)}`;
}

/** @param {Date} date @returns {string} HH:MM:SS */
export function clockSeconds(date) {
  const [hours, minutes, seconds] = utc
    ? [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getHours(), date.getMinutes(), date.getSeconds()];
  return `${pad(hours)}:${pad(minutes)}:${pad(seconds)}`;
}

/** @param {Date} date @param {string} iso as sent, in UTC @returns {string} the exact instant, for a tooltip */
export function exactInstant(date, iso) {
  return `${instant.format(date)}\n${iso}`;
}

/** @param {Date} date @returns {string} the day in full */
export function dayName(date) {
  return (utc ? utcDay : localDay).format(date);
}

/** @param {Date} date @returns {number} the same for all instants of one day */
export function dayKey(date) {
  return utc
    ? date.getUTCFullYear() * 10000 + date.getUTCMonth() * 100 + date.getUTCDate()
    : date.getFullYear() * 10000 + date.getMonth() * 100 + date.getDate();
}

/**
 * What `<input type="datetime-local">` says, in the zone that the page shows.
 * @param {string} value @returns {string} RFC 3339 in UTC; empty where it is no time
 */
export function instantOf(value) {
  const date = new Date(utc ? `${value}Z` : value);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

/** @param {Date} date @returns {string} as `<input type="datetime-local">` takes it, to the second */
export function fieldOf(date) {
  const [year, month, day] = utc
    ? [date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate()]
    : [date.getFullYear(), date.getMonth(), date.getDate()];
  return `${pad(year, 4)}-${pad(month + 1)}-${pad(day)}T${clockSeconds(date)}`;
}

/** @param {number} value */
export function count(value) {
  return grouped.format(value);
}

/** @param {number} value @param {string} noun @returns {string} "1 error", "3 errors" */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** @param {number} dollars */
export function dollars(dollars) {
  return money.format(dollars);
}

/** @param {number} ms @returns {string} "820 ms", "1.2 s", "2 min 5 s" */
export function duration(ms) {
  if (ms < 1000) return `${grouped.format(Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1000)} s`;
}

/** @param {number} ms @returns {string} "42 s", "42 min", "3 h 5 min": a length of time, roughly */
export function span(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.floor(ms / 1000))} s`;
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return `${Math.floor(minutes / 60)} h${rest ? ` ${rest} min` : ""}`;
}

/** @param {number} ms @returns {string} "just now", "12 s ago", "5 min ago", "3 h ago", "2 d ago" */
export function age(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** @param {string} text @param {number} limit in characters @returns {string} on one line, and no longer */
export function clip(text, limit) {
  const line = text.slice(0, limit * 2).replace(/\s+/g, " ");
  return line.length > limit ? `${line.slice(0, limit - 1)}…` : line;
}

/** @param {string} id @returns {string} the first 8 characters of a UUID; other names as they are */
export function shortId(id) {
  return /^[0-9a-f]{8}-[0-9a-f-]{27}$/i.test(id) ? id.slice(0, 8) : id;
}
