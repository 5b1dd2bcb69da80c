/**
 * A payload as highlighted JSON that can be folded. Agents' words are hostile: all is textContent. A large value is
 * made piece by piece as it is opened; what nobody opened has no elements.
 *
 * Arrow keys go from value to value, Enter folds, unfolds, or offers to filter by the value.
 */

import { count, plural } from "../format.js";
import { isRawNumber } from "../json.js";

/** Values that are made at once; deeper and later ones when they are opened. */
const BUDGET = 300;
/** Open at first down to this depth. */
const OPEN_DEPTH = 4;
/** Children of one value that are made at once. */
const BLOCK = 100;
/** Characters of a text that are shown at once. */
const TEXT_BLOCK = 2_000;
/** A filter by a longer value would not be readable. */
const FILTER_CHARS = 120;

/** What the lazily made parts are of. @type {WeakMap<Element, {value: any, path: string, from?: number}>} */
const partOf = new WeakMap();

/** @param {HTMLElement} root what shows it @param {unknown} value */
export function showPayload(root, value) {
  const budget = { left: BUDGET };
  root.replaceChildren(...valueNodes(value, "payload", 0, budget));
}

/** What a click, or Enter, does in it. @param {Element} target @returns {string | null} a filter that is asked for */
export function press(target) {
  const button = target.closest("[data-json]");
  if (!(button instanceof HTMLElement)) return null;
  switch (button.dataset.json) {
    case "fold":
      fold(button);
      break;
    case "more":
      more(button);
      break;
    case "text":
      button.replaceWith(textNode(partOf.get(button)?.value ?? ""));
      break;
    case "value":
      offer(button);
      break;
    case "where":
      return button.dataset.where ?? null;
  }
  return null;
}

/** Arrow keys, and Enter. @param {KeyboardEvent} event @returns {boolean} whether it meant something here */
export function steer(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const root = target.closest(".row-payload");
  if (!root || event.ctrlKey || event.altKey || event.metaKey) return false;
  if (event.key === "Enter" && target.dataset.json) {
    target.click();
    return true;
  }
  const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
  if (!step) return false;
  const stops = /** @type {HTMLElement[]} */ ([...root.querySelectorAll("[data-json]")]).filter((one) => one.checkVisibility());
  const at = stops.indexOf(target);
  stops[at < 0 ? 0 : Math.min(stops.length - 1, Math.max(0, at + step))]?.focus();
  return true;
}

/** @param {string} path @param {unknown} value @returns {string} as a filter; "" where it would be unwieldy */
export function whereOf(path, value) {
  const text = JSON.stringify(value);
  return text.length <= FILTER_CHARS ? `${path} = ${text}` : "";
}

/** @param {string} path @param {string | number} key @returns {string} one step further down, as filters spell it */
export function stepInto(path, key) {
  if (typeof key === "number") return `${path}[${key}]`;
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`;
}

/** @typedef {{left: number}} Budget */

/** @param {any} value @param {string} path @param {number} depth @param {Budget} budget @returns {Node[]} */
function valueNodes(value, path, depth, budget) {
  budget.left -= 1;
  if (isTree(value)) return treeNodes(value, path, depth, budget);
  const kind = value === null ? "null" : typeof value === "object" ? "number" : typeof value;
  const shown = element("span", "json-value");
  shown.dataset.json = "value";
  shown.dataset.kind = kind;
  shown.setAttribute("role", "button");
  shown.tabIndex = -1;
  partOf.set(shown, { value, path });
  if (kind !== "string") {
    shown.textContent = JSON.stringify(value);
    return [shown];
  }
  const isShort = value.length <= TEXT_BLOCK;
  shown.textContent = `"${readable(value.slice(0, TEXT_BLOCK))}${isShort ? '"' : ""}`;
  if (isShort) return [shown];
  const rest = value.slice(TEXT_BLOCK);
  const words = `… ${count(rest.length)} more characters`;
  return [shown, control("text", words, { value: `${readable(rest)}"`, path })];
}

/** @param {any} value an object or a list @param {string} path @param {number} depth @param {Budget} budget */
function treeNodes(value, path, depth, budget) {
  const [start, end] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const size = Array.isArray(value) ? value.length : Object.keys(value).length;
  if (!size) return [textNode(start + end)];
  const button = control("fold", start, { value, path });
  const children = element("span", "json-children");
  const isOpen = depth < OPEN_DEPTH && budget.left > 0;
  if (isOpen) fill(children, value, path, 0, depth + 1, budget);
  else partOf.set(children, { value, path });
  const words = element("span", "json-size");
  words.textContent = plural(size, Array.isArray(value) ? "item" : "key");
  setOpen(button, children, words, isOpen);
  return [button, words, children, textNode(end)];
}

/** @param {HTMLElement} button */
function fold(button) {
  const size = /** @type {HTMLElement} */ (button.nextElementSibling);
  const children = /** @type {HTMLElement} */ (size.nextElementSibling);
  const waiting = partOf.get(children);
  if (waiting) {
    fill(children, waiting.value, waiting.path, 0, OPEN_DEPTH - 1, { left: BUDGET });
    partOf.delete(children);
  }
  setOpen(button, children, size, button.getAttribute("aria-expanded") !== "true");
}

/** @param {HTMLElement} button @param {HTMLElement} children @param {HTMLElement} size @param {boolean} isOpen */
function setOpen(button, children, size, isOpen) {
  button.setAttribute("aria-expanded", String(isOpen));
  children.hidden = !isOpen;
  size.hidden = isOpen;
}

/** @param {HTMLElement} button */
function more(button) {
  const { value, path, from = 0 } = /** @type {{value: any, path: string, from?: number}} */ (partOf.get(button));
  const children = /** @type {HTMLElement} */ (button.parentElement?.parentElement);
  button.parentElement?.remove();
  fill(children, value, path, from, OPEN_DEPTH - 1, { left: BUDGET });
}

/**
 * @param {HTMLElement} children @param {any} value @param {string} path @param {number} from the first that is not made yet
 * @param {number} depth @param {Budget} budget
 */
function fill(children, value, path, from, depth, budget) {
  const isList = Array.isArray(value);
  const keys = isList ? null : Object.keys(value);
  const size = keys ? keys.length : value.length;
  const end = Math.min(size, from + BLOCK);
  for (let at = from; at < end; at++) {
    const line = element("span", "json-line");
    const key = keys ? keys[at] : at;
    if (keys) {
      const name = element("span", "json-key");
      name.textContent = JSON.stringify(key);
      line.append(name, ": ");
    }
    line.append(...valueNodes(value[key], stepInto(path, key), depth, budget), at < size - 1 ? "," : "");
    children.append(line);
  }
  if (end === size) return;
  const line = element("span", "json-line");
  line.append(control("more", `… ${count(size - end)} more`, { value, path, from: end }));
  children.append(line);
}

/** Offers to filter by a value, or takes the offer back. @param {HTMLElement} shown */
function offer(shown) {
  const next = shown.nextElementSibling;
  if (next instanceof HTMLElement && next.dataset.json === "where") {
    next.remove();
    return;
  }
  const root = shown.closest(".row-payload");
  for (const other of root?.querySelectorAll('[data-json="where"]') ?? []) other.remove();
  const { value, path } = partOf.get(shown) ?? { value: null, path: "" };
  const where = whereOf(path, value);
  if (!where) return;
  const button = element("button", "button button-small json-where");
  button.setAttribute("type", "button");
  button.dataset.json = "where";
  button.dataset.where = where;
  button.textContent = "Filter by this value";
  button.title = where;
  shown.after(button);
}

/** Line breaks and tabs as they are, all else as JSON writes it. @param {string} text */
function readable(text) {
  return JSON.stringify(text).slice(1, -1).replaceAll("\\n", "\n").replaceAll("\\t", "\t");
}

/** @param {any} value @returns {boolean} */
function isTree(value) {
  return typeof value === "object" && value !== null && !isRawNumber(value);
}

/** @param {string} what @param {string} text @param {{value: any, path: string, from?: number}} of */
function control(what, text, of) {
  const button = element("span", `json-${what}`);
  button.dataset.json = what;
  button.setAttribute("role", "button");
  button.tabIndex = -1;
  button.textContent = text;
  partOf.set(button, of);
  return button;
}

/** @param {string} name @param {string} classes @returns {HTMLElement} */
function element(name, classes) {
  const made = document.createElement(name);
  made.className = classes;
  return made;
}

/** @param {string} text */
function textNode(text) {
  return document.createTextNode(text);
}
