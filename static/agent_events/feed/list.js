/**
 * The document's side of the list: real elements, newest first, which stand still under the reader's eyes whatever
 * comes or goes above them.
 */

import { count, dayName, plural } from "../format.js";
import { dayOf, eventOf } from "./row.js";

/** @import { Gap, Item } from "./model.js" */
/** @import { RowMaker } from "./row.js" */

/** So many events of a gap are read at a click. */
export const GAP_BLOCK = 200;

export class List {
  /**
   * @param {HTMLElement} root @param {RowMaker} rows
   * @param {object} on
   * @param {(row: HTMLDetailsElement) => void} on.made what a new row still needs
   * @param {(row: HTMLElement) => void} on.removed
   */
  constructor(root, rows, on) {
    this.root = root;
    this.rows = rows;
    this.on = on;
    /** @type {Map<Item, HTMLElement[]>} newest first */
    this.elements = new Map();
    /** @type {WeakMap<Element, Gap>} */
    this.gaps = new WeakMap();
  }

  /** Knows the rows that are there already. @param {Item} item @param {HTMLElement[]} elements newest first */
  adopt(item, elements) {
    this.elements.set(item, elements);
    this.#days(elements[0] ?? null, elements.at(-1) ?? null);
  }

  /** Above all. @param {Item[]} items oldest first @returns {HTMLElement[]} the new elements, newest first */
  addTop(items) {
    /** @type {HTMLElement[]} */
    const all = [];
    for (const item of items.toReversed()) all.push(...this.#make(item));
    this.root.prepend(...all);
    this.#days(all[0] ?? null, all.at(-1) ?? null);
    return all;
  }

  /** Below all. @param {Item[]} items newest first */
  addBottom(items) {
    const all = items.flatMap((item) => this.#make(item));
    this.root.append(...all);
    this.#days(all[0] ?? null, all.at(-1) ?? null);
    return all;
  }

  /** @param {Item} item @param {Gap} gap @param {boolean} above it, or below @returns {HTMLElement[]} */
  addBeside(item, gap, above) {
    const beside = this.elements.get(gap)?.[0];
    const all = this.#make(item);
    if (above) beside?.before(...all);
    else beside?.after(...all);
    this.#days(all[0] ?? null, all.at(-1) ?? null);
    return all;
  }

  /** @param {Item[]} items */
  remove(items) {
    for (const item of items) {
      const elements = this.elements.get(item) ?? [];
      const next = elements.at(-1)?.nextElementSibling ?? null;
      for (const element of elements) {
        if (isDay(element.previousElementSibling)) element.previousElementSibling.remove();
        element.remove();
        this.on.removed(element);
      }
      this.elements.delete(item);
      if (next?.isConnected) this.#days(next, next);
    }
    while (isDay(this.root.lastElementChild)) this.root.lastElementChild.remove();
  }

  clear() {
    this.elements.clear();
    this.root.replaceChildren();
  }

  /** What a gap says, again. @param {Gap} gap */
  update(gap) {
    const element = this.elements.get(gap)?.[0];
    if (element) writeGap(element, gap, this.#hasRowsBelow(element));
  }

  /** The zone has changed. */
  retime() {
    for (const row of this.root.querySelectorAll(".row")) this.rows.retime(row);
    for (const element of [...this.root.children]) if (isDay(element)) element.remove();
    this.#days(this.root.firstElementChild, this.root.lastElementChild);
  }

  /** Changes the list, and keeps what is in view in its place: not every browser does by itself. @param {() => void} change */
  keepStill(change) {
    const anchor = this.#anchor();
    const top = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (!anchor?.isConnected) return;
    const moved = anchor.getBoundingClientRect().top - top;
    if (moved) window.scrollBy({ top: moved, behavior: "instant" });
  }

  /** The part of the list that can be seen begins here. */
  get visibleTop() {
    const bar = document.querySelector(".topbar")?.getBoundingClientRect().bottom ?? 0;
    const toolbar = document.querySelector(".toolbar");
    if (!toolbar || getComputedStyle(toolbar).position !== "sticky") return Math.max(0, bar);
    return Math.max(bar, toolbar.getBoundingClientRect().bottom);
  }

  /** The first row in view. @returns {Element | null} */
  #anchor() {
    const box = this.root.getBoundingClientRect();
    const y = Math.max(box.top, this.visibleTop) + 3;
    const found = document.elementsFromPoint(box.left + box.width / 2, y).find((one) => one !== this.root && this.root.contains(one));
    let element = found?.closest("#events > *") ?? null;
    while (element && !element.classList.contains("row")) element = element.nextElementSibling;
    return element;
  }

  /** @param {Item} item @returns {HTMLElement[]} newest first */
  #make(item) {
    /** @type {HTMLElement[]} */
    let elements;
    if (item.kind === "rows") {
      elements = item.events.map((event) => {
        const row = this.rows.make(event);
        this.on.made(row);
        return row;
      });
      elements.reverse();
    } else if (item.kind === "word") {
      elements = [this.rows.notice(item.name, item.text)];
    } else {
      const element = this.rows.notice("gap", "");
      this.gaps.set(element, item);
      writeGap(element, item, true);
      elements = [element];
    }
    this.elements.set(item, elements);
    return elements;
  }

  /** @param {Element} element */
  #hasRowsBelow(element) {
    return element.nextElementSibling !== null;
  }

  /**
   * A word where the day changes, from one element to another and right below.
   * @param {Element | null} first the newest @param {Element | null} last
   */
  #days(first, last) {
    if (!first || !last) return;
    let above = previousRow(first);
    const after = nextRow(last);
    for (let row = isRow(first) ? first : nextRow(first); row; row = nextRow(row)) {
      const sign = isDay(row.previousElementSibling) ? row.previousElementSibling : null;
      const event = eventOf(row);
      const newer = above ? eventOf(above) : undefined;
      const [day, newerDay] = [dayOf(event?.createdAt ?? null), dayOf(newer?.createdAt ?? null)];
      const differs = day !== null && newerDay !== null && day !== newerDay;
      if (differs && event?.createdAt) {
        const name = dayName(new Date(event.createdAt));
        if (!sign) row.before(this.rows.notice("day", name));
        else if (sign.textContent !== name) sign.replaceWith(this.rows.notice("day", name));
      } else sign?.remove();
      above = row;
      if (row === after) break;
    }
  }
}

/** @param {HTMLElement} element @param {Gap} gap @param {boolean} rowsBelow */
function writeGap(element, gap, rowsBelow) {
  const { count: events, errors } = gap;
  const text = element.querySelector(".notice-text");
  const words = events === null ? "Newer events are not shown" : `${plural(events, "event")} not shown`;
  if (text) text.textContent = errors ? `${words}, ${plural(errors, "error")} among them` : words;
  const [newest, oldest] = element.querySelectorAll("button");
  newest.dataset.action = "load-newest";
  oldest.dataset.action = "load-oldest";
  const many = events === null || events > GAP_BLOCK;
  newest.hidden = events === null;
  newest.textContent = many ? `Load the newest ${count(GAP_BLOCK)}` : "Load";
  oldest.hidden = !many || !rowsBelow;
  oldest.textContent = events === null ? `Load the next ${count(GAP_BLOCK)}` : `Load the oldest ${count(GAP_BLOCK)}`;
}

/** @param {Element | null} element @returns {element is HTMLElement} */
function isDay(element) {
  return element instanceof HTMLElement && element.dataset.notice === "day";
}

/** @param {Element} element */
function isRow(element) {
  return element.classList.contains("row");
}

/** @param {Element} element @returns {Element | null} the next older one */
function nextRow(element) {
  let next = element.nextElementSibling;
  while (next && !isRow(next)) next = next.nextElementSibling;
  return next;
}

/** @param {Element} element @returns {Element | null} */
function previousRow(element) {
  let previous = element.previousElementSibling;
  while (previous && !isRow(previous)) previous = previous.previousElementSibling;
  return previous;
}
