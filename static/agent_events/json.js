/**
 * JSON as PostgreSQL wrote it. JavaScript's numbers would round a 20-digit id and turn 1.0 into 1, so a number that
 * does not survive the round trip keeps its own text (where the browser can: JSON.rawJSON).
 */

const canKeepText = typeof JSON.rawJSON === "function";

/** @param {string} key @param {unknown} value @param {{source?: string}} [context] */
function keepNumberText(key, value, context) {
  if (typeof value !== "number" || context?.source === undefined) return value;
  return String(value) === context.source ? value : JSON.rawJSON(context.source);
}

/** @param {string} text @returns {any} @throws {SyntaxError} when the text is not JSON */
export function parse(text) {
  return canKeepText ? JSON.parse(text, keepNumberText) : JSON.parse(text);
}

/** @param {unknown} value @returns {string} two spaces a level */
export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** @param {unknown} value @returns {number | undefined} a finite number, also one that kept its text */
export function toNumber(value) {
  const number = canKeepText && JSON.isRawJSON(value) ? Number(value.rawJSON) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}
