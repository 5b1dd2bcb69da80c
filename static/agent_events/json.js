/**
 * JSON as PostgreSQL wrote it. JavaScript's numbers would round a 20-digit id and turn 1.0 into 1, so a number that
 * does not survive the round trip keeps its own text (where the browser can: JSON.rawJSON).
 */

/**
 * @typedef {{rawJSON: string}} RawNumber
 * @type {{rawJSON?: (text: string) => unknown, isRawJSON?: (value: unknown) => boolean}}
 */
const raw = /** @type {any} */ (JSON);

/**
 * Text without any of these survives plain JSON.parse: a number of more than 15 digits, one that ends in a zero behind
 * its point, a very small one, an exponent, a negative zero. (Cursors and times look alike, but are in quotation marks.)
 * To ask first is worth it: with a reviver parsing takes several times as long.
 */
const DELICATE =
  /[:,[]\s?-?(?:[\d.]{16}|0\.0{5}|0(?![.\d])[^,}\]\s]|\d*\.\d*0[,}\]\s]|\d[\d.]*[eE])|[:,[]\s?-0[,}\]\s]|^\s*[-\d]/;

/** @param {string} _key @param {unknown} value @param {{source?: string}} [context] */
function keepNumberText(_key, value, context) {
  if (typeof value !== "number" || context?.source === undefined) return value;
  return String(value) === context.source ? value : raw.rawJSON?.(context.source);
}

/** @param {string} text @returns {any} @throws {SyntaxError} when the text is not JSON */
export function parse(text) {
  return raw.rawJSON && DELICATE.test(text) ? JSON.parse(text, keepNumberText) : JSON.parse(text);
}

/** @param {unknown} value @returns {string} two spaces a level */
export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** @param {unknown} value @returns {value is Record<string, any>} */
export function isRecord(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {unknown} value @returns {value is RawNumber} whether it is a number that kept its own text */
export function isRawNumber(value) {
  return raw.isRawJSON?.(value) ?? false;
}

/** @param {unknown} value @returns {number | undefined} a finite number, also one that kept its text */
export function toNumber(value) {
  const number = isRawNumber(value) ? Number(value.rawJSON) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}
