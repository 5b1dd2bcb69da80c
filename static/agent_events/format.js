/** How times, numbers and ids are written. One formatter each: a formatter per row adds up over a day. */

const grouped = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "USD", maximumFractionDigits: 4 });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const instant = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** @param {number} value @param {number} width */
const pad = (value, width = 2) => String(value).padStart(width, "0");

/** @param {Date} date @returns {string} local HH:MM:SS.mmm */
export function clock(date) {
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** @param {Date} date @param {string} iso as sent, in UTC @returns {string} the exact instant, for a tooltip */
export function exactInstant(date, iso) {
  return `${instant.format(date)}\n${iso}`;
}

/** @param {Date} date @returns {string} the local day in full */
export function dayName(date) {
  return day.format(date);
}

/** @param {Date} date @returns {number} the same for all instants of one local day */
export function dayKey(date) {
  return date.getFullYear() * 10000 + date.getMonth() * 100 + date.getDate();
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

/** @param {number} ms @returns {string} "just now", "12 s", "5 min", "3 h", "2 d" */
export function age(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** @param {string} id @returns {string} the first 8 characters of a UUID; other names as they are */
export function shortId(id) {
  return /^[0-9a-f]{8}-[0-9a-f-]{27}$/i.test(id) ? id.slice(0, 8) : id;
}

/** @param {string} text @returns {number} a hue in degrees, always the same for the same text */
export function hueOf(text) {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  // Steps of 15 degrees: nearer hues than that are not told apart at this size.
  return ((hash >>> 8) % 24) * 15;
}
