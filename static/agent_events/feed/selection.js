/** The row that is selected with the keyboard, by the id of its event. */

import { eventOf } from "./row.js";

/** @import { Feed } from "./feed.js" */

export class Selection {
  /** @param {Feed} feed */
  constructor(feed) {
    this.feed = feed;
    this.id = "";
    feed.list.root.addEventListener("focusin", ({ target }) => {
      const summary = /** @type {Element} */ (target).closest("summary");
      if (summary) this.#mark(/** @type {HTMLDetailsElement} */ (summary.parentElement));
    });
  }

  /** @returns {HTMLDetailsElement | null} */
  get row() {
    const row = this.id ? document.getElementById(`event-${this.id}`) : null;
    return row instanceof HTMLDetailsElement ? row : null;
  }

  get event() {
    const { row } = this;
    return row ? eventOf(row) : undefined;
  }

  /** @param {HTMLDetailsElement | null} row */
  set(row) {
    if (row) {
      row.querySelector("summary")?.focus({ preventScroll: true });
      this.#mark(row);
      return;
    }
    this.#mark(null);
    const { activeElement } = document;
    if (activeElement instanceof HTMLElement && this.feed.list.root.contains(activeElement)) activeElement.blur();
  }

  /** @param {number} step rows further down */
  move(step) {
    const { feed } = this;
    const here = this.row;
    let next = here ? neighbour(here, step) : this.#first();
    next ??= here;
    if (!next) return;
    feed.hold("selection", true);
    this.set(next);
    this.#show(next);
  }

  /** The first row in view. @returns {HTMLDetailsElement | null} */
  #first() {
    const top = this.feed.list.visibleTop;
    for (const row of this.feed.list.root.querySelectorAll(".row")) {
      if (row instanceof HTMLDetailsElement && row.getBoundingClientRect().top >= top - 1 && row.checkVisibility()) return row;
    }
    return null;
  }

  /** Scrolls no further than it takes. @param {Element} row */
  #show(row) {
    const box = row.getBoundingClientRect();
    const top = this.feed.list.visibleTop + 8;
    const bottom = window.innerHeight - 48;
    if (box.top < top) window.scrollBy({ top: box.top - top, behavior: "instant" });
    else if (Math.min(box.bottom, box.top + 200) > bottom) {
      window.scrollBy({ top: Math.min(box.top + 200, box.bottom) - bottom, behavior: "instant" });
    }
  }

  /** @param {HTMLDetailsElement | null} row */
  #mark(row) {
    this.feed.list.root.querySelector(".is-selected")?.classList.remove("is-selected");
    this.id = row?.dataset.id ?? "";
    row?.classList.add("is-selected");
  }
}

/** @param {Element} row @param {number} step @returns {HTMLDetailsElement | null} */
function neighbour(row, step) {
  /** @type {Element | null} */
  let next = row;
  do next = step > 0 ? next.nextElementSibling : next.previousElementSibling;
  while (next && !(next instanceof HTMLDetailsElement && next.checkVisibility()));
  return next;
}
