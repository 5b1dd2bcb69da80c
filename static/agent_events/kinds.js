/** What a type of event means. Agents name types, and each event asks: what was found out is remembered, up to a limit. */

/**
 * @typedef {object} Kind
 * @property {string} family run, turn, tool, handoff, message, human, guardrail; else ""
 * @property {string} verb what follows the family's name; may be empty
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
/** Types that are known at a time: past this the memory of them begins anew. */
const MOST_KINDS = 2_000;

/** @type {Map<string, Kind>} */
const kinds = new Map();

/** @param {string} type as sent @returns {Kind} the same object for the same type */
export function kindOf(type) {
  let kind = kinds.get(type);
  if (!kind) {
    if (kinds.size >= MOST_KINDS) kinds.clear();
    kind = readKind(type);
    kinds.set(type, kind);
  }
  return kind;
}

/** @param {string} type as sent @returns {boolean} */
export function isError(type) {
  return kindOf(type).isError;
}

/** @param {string} type as sent @returns {"plain" | "error" | "attention"} how much it matters to whoever watches */
export function toneOf(type) {
  const kind = kindOf(type);
  return kind.isError ? "error" : kind.asks ? "attention" : "plain";
}

/** @param {string} sent @returns {Kind} */
function readKind(sent) {
  const type = Object.hasOwn(ALIASES, sent) ? ALIASES[sent] : sent;
  const [family, verb = ""] = type.split(".", 2);
  const isSpan = SPANS.has(family);
  const asks = type === "needs_human";
  return {
    family: asks ? "human" : FAMILIES.has(family) ? family : "",
    verb,
    begins: isSpan && verb === "started",
    ends: isSpan && (verb === "finished" || verb === "failed"),
    isError: ERROR.test(type),
    asks,
    answers: type === "human.answered",
  };
}
