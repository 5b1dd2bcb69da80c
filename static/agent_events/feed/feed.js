/**
 * The list of events: takes them in at any rate, draws at most once a frame, and stands still while somebody reads.
 * Reception never pauses: what arrives meanwhile waits, counted, and past a limit becomes a gap with its exact place.
 */

import { byId } from "../dom.js";
import { duration, plural } from "../format.js";
import { isError } from "../kinds.js";
import { isFiltered } from "../view/address.js";
import { Calls } from "./calls.js";
import { Drawing } from "./drawing.js";
import { History } from "./history.js";
import { GAP_BLOCK, List } from "./list.js";
import { Model } from "./model.js";
import { Older } from "./older.js";
import { Opened } from "./opened.js";
import { Pause } from "./pause.js";
import { steer } from "./payload.js";
import { Places } from "./places.js";
import { eventOf, explainTime, forgetDay, PAYLOAD_LIMIT, RowMaker, withinMemory } from "./row.js";
import { Selection } from "./selection.js";
import { Where } from "./where.js";

/** @import { Batch, Notice } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { HistoryPage } from "./model.js" */

/** Rows on the page. */
const ROW_LIMIT = 1_000;
/** Rows past the limit go in blocks of this: removing one for each that comes would lay the page out twice. */
const TRIM_BLOCK = 100;
/** Events that wait while nothing is drawn; of more, their places alone are kept. */
const WAITING_LIMIT = 900;
/** Parts above the list are still being filled so long after a row was brought into view. */
const SETTLING_MS = 5_000;

const HOLES = {
  gap: "Events were pruned from the log here before they could be shown",
  reset: "The log was put back to an earlier state: events around this place may be missing or shown twice",
};
/** How these holes are named in the document. */
const NAMES = { gap: "truncated", reset: "reset" };

/** @typedef {"button" | "scroll" | "open" | "selection" | "text" | "history" | "gap"} Hold why the feed stands still */

export class Feed {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.history = new History(page);
    this.model = new Model({ rows: ROW_LIMIT, block: TRIM_BLOCK, waiting: WAITING_LIMIT, isError });
    this.rows = new RowMaker({
      row: template("row-template"),
      notice: template("notice-template"),
      tenantName: (id) => page.tenantName(id),
    });
    this.opened = new Opened(page, template("detail-template"));
    this.calls = new Calls();
    this.list = new List(byId("events"), this.rows, {
      made: (row) => this.opened.made(row),
      removed: (row) => this.calls.remove(row),
    });
    this.selection = new Selection(this);
    this.older = new Older(this);
    this.where = new Where(this);
    this.pause = new Pause({ button: byId("pause"), words: byId("pause-words"), feed: this });
    /** @type {Set<Hold>} */
    this.holds = new Set();
    /** What the rows here were asked for by: the view's may be another one, whose rows are not here yet. */
    this.filter = page.filter;
    /** Counts what makes an answer of the log void that is still on its way. */
    this.turn = 0;
    /** Until then the row that was brought into view is kept there, in ms. */
    this.settledAt = 0;
    this.drawing = new Drawing(this);
    this.places = new Places(this);
    for (const above of document.querySelectorAll("#timeline, .toolbar")) this.#watchAbove(/** @type {HTMLElement} */ (above));
  }

  /** What grows above the list does not push it away from under the reader. @param {HTMLElement} above */
  #watchAbove(above) {
    let height = above.offsetHeight;
    new ResizeObserver(() => {
      const grown = above.offsetHeight - height;
      height += grown;
      if (!grown) return;
      // What is on the page's first screen may push the list down, but for a row that was just brought into view.
      const isOut = window.scrollY > 0 && above.getBoundingClientRect().bottom - grown <= this.list.visibleTop;
      if (isOut || performance.now() < this.settledAt) window.scrollBy({ top: grown, behavior: "instant" });
    }).observe(above);
  }

  /** Takes over the rows of the first render. */
  takeOver() {
    const { config, view } = this.page;
    const rows = /** @type {HTMLDetailsElement[]} */ ([...this.list.root.querySelectorAll(".row")]);
    const events = rows.map((row) => this.rows.takeOver(row));
    this.list.root.querySelector('[data-notice="newer"]')?.remove();
    this.model.replace({ events, before: config.before, after: config.after || config.cursor, more: config.more }, config.cursor);
    for (const item of this.model.shown) {
      if (item.kind === "rows") this.list.adopt(item, rows);
      else this.list.addTop([item]);
    }
    for (const row of rows.toReversed()) this.calls.add(row);
    this.list.root.addEventListener("toggle", (event) => this.#toggled(event), { capture: true });
    this.list.root.addEventListener("click", (event) => this.#clicked(event));
    this.list.root.addEventListener("keydown", (event) => steer(event) && event.preventDefault());
    this.list.root.addEventListener("pointerover", ({ target }) => target instanceof HTMLTimeElement && explainTime(target));
    const asked = view.event && this.list.root.querySelector(`#event-${CSS.escape(view.event)}`);
    if (this.model.topGap) this.hold("history", true);
    for (const row of rows) if (row.open) this.opened.toggled(row);
    if (asked instanceof HTMLDetailsElement) {
      this.hold("open", true);
      this.reveal(asked);
    }
    this.older.begin();
    this.changed();
  }

  /** @param {Notice} notice */
  notice(notice) {
    if (notice.kind !== "caughtUp") {
      this.model.edge = notice.cursor;
      this.say(NAMES[notice.kind], HOLES[notice.kind]);
      return;
    }
    const missed = notice.missed ? `: caught up ${plural(notice.missed, "event")}, below` : "";
    this.say("caught-up", `Reconnected after ${duration(notice.awayMs ?? 0)}${missed}`);
  }

  changed() {
    this.pause.show();
    const isEmpty = this.model.rows === 0 && this.newEvents === 0 && !this.model.topGap;
    byId("empty").hidden = !isEmpty;
    byId("pause").classList.toggle("is-needless", isEmpty && !this.paused);
    if (isEmpty) {
      const filtered = isFiltered(this.page.view);
      byId("empty-filtered").hidden = !filtered;
      byId("empty-first").hidden = filtered;
    }
    this.where.show();
    this.older.show();
  }

  zoneChanged() {
    forgetDay();
    this.list.retime();
    this.where.show();
  }

  get paused() {
    return this.holds.size > 0;
  }

  /** Events that wait to be drawn. */
  get newEvents() {
    return this.model.newEvents;
  }

  get newErrors() {
    return this.model.newErrors;
  }

  /** The selected event, or the one that has the focus. */
  get selected() {
    return this.selection.event;
  }

  /** @param {Batch} batch */
  take({ events, after, cursor, characters }) {
    this.model.take(characters > PAYLOAD_LIMIT ? events.map(withinMemory) : events, after, cursor);
    this.drawing.count(events.length);
    if (this.paused) this.pause.show();
    else if (!byId("empty").hidden) this.changed();
  }

  /** Says something between two events. @param {string} kind @param {string} text */
  say(kind, text) {
    this.model.say(kind, text);
    this.drawing.schedule();
  }

  /** @param {Hold} reason @param {boolean} on */
  hold(reason, on) {
    if (this.holds.has(reason) === on) return;
    if (on) this.holds.add(reason);
    else this.holds.delete(reason);
    this.drawing.goOn();
    this.changed();
  }

  resume() {
    this.holds.clear();
    this.drawing.goOn();
    this.changed();
  }

  // -- Going somewhere --------------------------------------------------------------------------------------------------

  toTop() {
    this.places.toTop();
  }

  toNow() {
    this.places.toNow();
  }

  toOldest() {
    return this.places.toOldest();
  }

  /** @param {string} id */
  showEvent(id) {
    return this.places.showEvent(id);
  }

  /** The rows of the page's view, in place of those that are here. @returns {Promise<string | null>} where the stream goes on */
  reload() {
    return this.places.reload();
  }

  /** Other rows in place of all. @param {HistoryPage} page newest first @param {string} edge where the stream goes on */
  replace(page, edge) {
    this.list.clear();
    this.model.replace(page, edge);
    this.calls.clear();
    for (const element of this.list.addTop(this.model.shown).toReversed()) this.calls.add(element);
    window.scrollTo({ top: 0, behavior: "instant" });
    this.holds.delete("scroll");
    this.holds.delete("selection");
    if (!this.list.root.querySelector(".row[open]")) this.holds.delete("open");
    this.holds.delete("history");
    if (this.model.topGap) this.holds.add("history");
    this.older.reset(page);
    this.changed();
    this.page.announce(`${plural(page.events.length, "event")} shown`);
  }

  /** Opens a row and brings it into view. @param {HTMLDetailsElement} row */
  reveal(row) {
    row.open = true;
    this.selection.set(row);
    this.settledAt = performance.now() + SETTLING_MS;
    const { top } = row.getBoundingClientRect();
    const room = window.innerHeight - this.list.visibleTop;
    window.scrollBy({ top: top - this.list.visibleTop - room / 4, behavior: "instant" });
  }

  // -- Rows that are pressed --------------------------------------------------------------------------------------------

  /** @param {number} step */
  select(step) {
    this.selection.move(step);
  }

  /** Closes the selected row, or selects nothing. */
  unselect() {
    const { row } = this.selection;
    if (row?.open) {
      row.open = false;
      return;
    }
    this.selection.set(null);
    this.hold("selection", false);
  }

  toggle() {
    const { row } = this.selection;
    if (row) row.open = !row.open;
  }

  async copySelected() {
    const { row } = this.selection;
    if (row && (await this.opened.copy(row, null))) this.page.announce("Copied");
  }

  /** @param {Event} event */
  #toggled({ target }) {
    if (!(target instanceof HTMLDetailsElement) || !target.classList.contains("row")) return;
    if (!this.opened.toggled(target)) return;
    this.hold("open", this.list.root.querySelector(".row[open]") !== null);
    const id = target.dataset.id ?? "";
    if (target.open) this.page.change({ event: id });
    else if (this.page.view.event === id) this.page.change({ event: "" });
  }

  /** @param {MouseEvent} click */
  #clicked(click) {
    const target = /** @type {Element} */ (click.target);
    const action = /** @type {HTMLElement | null} */ (target.closest("[data-action]"))?.dataset.action;
    if (action === "load-newest" || action === "load-oldest") {
      this.#fill(/** @type {HTMLButtonElement} */ (target.closest("button")), action === "load-newest");
      return;
    }
    if (this.opened.clicked(click)) return;
    const row = target.closest(".row");
    const event = row && eventOf(row);
    const named = /** @type {HTMLElement | null} */ (target.closest("[data-narrow]"));
    if (!event || !named || !getSelection()?.isCollapsed) return;
    click.preventDefault();
    if (named.dataset.narrow === "agents") this.page.narrow("agents", event.agentId, click.altKey);
    else this.page.narrow("types", event.type, click.altKey);
  }

  /** Reads a part of a gap from the log. @param {HTMLButtonElement} button @param {boolean} newest its newer end */
  async #fill(button, newest) {
    const element = /** @type {HTMLElement} */ (button.closest(".notice-row"));
    const gap = this.list.gaps.get(element);
    if (!gap || element.getAttribute("aria-busy") === "true") return;
    const { turn } = this;
    element.setAttribute("aria-busy", "true");
    // In a flood the gap would grow, and what is asked for would not be what it is by then.
    this.hold("gap", true);
    const { after, cursor } = gap;
    const words = /** @type {HTMLElement} */ (element.querySelector(".notice-text"));
    try {
      const ends = newest
        ? { order: "desc", cursor, until: after }
        : { order: "asc", cursor: after, until: cursor };
      const page = await this.history.look({ ...ends, limit: String(GAP_BLOCK) }, this.filter);
      if (turn !== this.turn || !this.model.shown.includes(gap) || gap.after !== after || gap.cursor !== cursor) return;
      const hadFocus = element.contains(document.activeElement);
      const hole = page.notice ? HOLES[page.notice === "reset" ? "reset" : "gap"] : "";
      const { added, word, done } = this.model.fill(gap, page, newest, hole);
      /** @type {HTMLElement[]} */
      let rows = [];
      this.list.keepStill(() => {
        if (word) this.list.addBeside(word, gap, false);
        if (added) rows = this.list.addBeside(added, gap, newest);
        if (done) this.list.remove([gap]);
        else this.list.update(gap);
      });
      this.page.announce(`${plural(rows.length, "event")} loaded`);
      if (hole) this.page.announce(hole);
      const next = done ? rows[0]?.querySelector("summary") : button;
      if (hadFocus) next?.focus({ preventScroll: true });
      if (!this.model.topGap) this.hold("history", false);
      this.changed();
    } catch (error) {
      words.textContent = `These events could not be loaded: ${/** @type {Error} */ (error).message}`;
      this.page.announce(words.textContent);
    } finally {
      element.removeAttribute("aria-busy");
      this.hold("gap", false);
    }
  }

  /** The next older rows are here. @param {HistoryPage} page */
  addOlder(page) {
    this.list.addBottom(this.model.older(page));
    const { removed, gap, isNew } = this.model.foldTop();
    if (!gap) return;
    this.list.keepStill(() => {
      this.list.remove(removed);
      if (isNew) this.list.addTop([gap]);
      else this.list.update(gap);
    });
  }
}

/** @param {string} id @returns {HTMLTemplateElement} */
function template(id) {
  return /** @type {HTMLTemplateElement} */ (byId(id));
}
