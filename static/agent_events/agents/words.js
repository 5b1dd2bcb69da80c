/**
 * What a type of event does to an agent's state, and what an event says, in words. Payloads are agents' words:
 * nothing here trusts their shape.
 */

/**
 * @typedef {object} Kind
 * @property {string} family run, turn, tool, handoff, message, human, guardrail; else ""
 * @property {boolean} begins a run, a turn or a tool
 * @property {boolean} ends one, well or badly
 * @property {boolean} isError
 * @property {boolean} asks a human
 * @property {boolean} answers such a question
 */

const ERROR = /(^|[._])(error|failed|failure)$/;
const SPANS = new Set(["run", "turn", "tool"]);
const FAMILIES = new Set([...SPANS, "handoff", "message", "human", "guardrail"]);
/** Types that are spelled otherwise but mean the same. @type {Record<string, string>} */
const ALIASES = { turn_complete: "turn.finished", escalation: "needs_human" };
/** Types that are known at a time: producers may make up any number of them. */
const MOST_KINDS = 1_000;
const TEXT_LIMIT = 200;

/** @type {Map<string, Kind>} */
const kinds = new Map();

/** @param {string} type @returns {Kind} the same object for the same type */
export function kindOf(type) {
  let kind = kinds.get(type);
  if (!kind) {
    if (kinds.size >= MOST_KINDS) kinds.clear();
    kind = readKind(type);
    kinds.set(type, kind);
  }
  return kind;
}

/** @param {string} sent @returns {Kind} */
function readKind(sent) {
  const type = Object.hasOwn(ALIASES, sent) ? ALIASES[sent] : sent;
  const [family, verb] = type.split(".", 2);
  const isSpan = SPANS.has(family);
  const asks = type === "needs_human";
  return {
    family: asks ? "human" : FAMILIES.has(family) ? family : "",
    begins: isSpan && verb === "started",
    ends: isSpan && (verb === "finished" || verb === "failed"),
    isError: ERROR.test(type),
    asks,
    answers: type === "human.answered",
  };
}

/** @param {unknown} value @returns {value is Record<string, any>} */
export function isRecord(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {unknown} value an id, or a number that kept its own text (json.js) @returns {string} empty for none */
export function idOf(value) {
  if (typeof value === "string") return value;
  if (value === undefined || value === null || typeof value === "boolean") return "";
  return typeof value === "number" ? String(value) : clip(JSON.stringify(value));
}

/**
 * @param {Record<string, any>} payload @param {...string} keys
 * @returns {string} the first of these that says something
 */
export function said(payload, ...keys) {
  for (const key of keys) {
    const value = payload[key];
    const text = typeof value === "string" ? value.trim() : "";
    if (text) return clip(text);
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

/** @param {string} text @returns {string} */
function clip(text) {
  return text.length > TEXT_LIMIT ? `${text.slice(0, TEXT_LIMIT - 1)}…` : text;
}
