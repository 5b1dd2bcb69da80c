/** What an event says of an agent's state, in words. Payloads are agents' words: nothing here trusts their shape. */

import { clip } from "../format.js";
import { isRecord } from "../json.js";

const TEXT_LIMIT = 200;

/** @param {unknown} value an id, or a number that kept its own text (json.js) @returns {string} empty for none */
export function idOf(value) {
  if (typeof value === "string") return value;
  if (value === undefined || value === null || typeof value === "boolean") return "";
  return typeof value === "number" ? String(value) : clip(JSON.stringify(value), TEXT_LIMIT);
}

/**
 * @param {Record<string, any>} payload @param {...string} keys
 * @returns {string} the first of these that says something
 */
export function said(payload, ...keys) {
  for (const key of keys) {
    const value = payload[key];
    const text = typeof value === "string" ? value.trim() : "";
    if (text) return clip(text, TEXT_LIMIT);
  }
  return "";
}

/** @param {{type: string, payload: any}} event @returns {string} */
export function errorText(event) {
  const payload = isRecord(event.payload) ? event.payload : {};
  const error = isRecord(payload.error) ? payload.error : {};
  const where = said(payload, "tool");
  const words = [said(error, "type"), said(error, "message") || said(payload, "error", "message", "reason")];
  const text = words.filter(Boolean).join(": ") || event.type;
  return where ? `${where}: ${text}` : text;
}

/** @param {{payload: any}} event @returns {string} */
export function questionText(event) {
  const payload = isRecord(event.payload) ? event.payload : {};
  return said(payload, "question", "reason", "message", "text", "summary") || "waits for a human";
}

/** @param {string} family @param {Record<string, any>} payload @returns {string} what is being done */
export function spanText(family, payload) {
  if (family === "tool") return `calls ${said(payload, "tool", "name") || "a tool"}`;
  if (family === "run") return said(payload, "task", "goal", "title") || "a run";
  return typeof payload.step === "number" ? `turn ${payload.step}` : said(payload, "model") || "a turn";
}
