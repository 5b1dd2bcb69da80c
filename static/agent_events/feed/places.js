/** Going somewhere in the log: to now, to its first event, to a time, to one event, to another filter's newest. */

import { placeOf } from "./model.js";

/** @import { Feed } from "./feed.js" */
/** @import { HistoryError } from "./history.js" */
/** @import { HistoryPage } from "./model.js" */

export class Places {
  /** @param {Feed} feed */
  constructor(feed) {
    this.feed = feed;
  }

  /** The newest events, and on. */
  toTop() {
    const isElsewhere = this.feed.holds.has("history") || this.feed.page.view.at !== "";
    window.scrollTo({ top: 0, behavior: "instant" });
    if (isElsewhere) {
      this.toNow();
      return;
    }
    this.feed.resume();
  }

  /** Back from an earlier place. */
  toNow() {
    this.feed.holds.clear();
    this.feed.page.change({ at: "", event: "" });
    this.feed.page.reload();
  }

  /** The first event of the log. */
  async toOldest() {
    if (!this.feed.model.more) {
      window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
      return;
    }
    const done = await this.#by(async () => {
      const page = await this.feed.history.look({ order: "asc", cursor: "earliest" });
      page.events.reverse();
      return { page: { ...page, more: false }, edge: this.feed.model.edge };
    });
    if (!done) return;
    this.feed.page.catchUp(this.feed.model.edge);
    window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }

  /** An event among its neighbours, wherever in the log it is. @param {string} id */
  async showEvent(id) {
    const there = document.getElementById(`event-${id}`);
    if (there instanceof HTMLDetailsElement && this.feed.list.root.contains(there)) {
      this.feed.reveal(there);
      return;
    }
    const done = await this.#by(async () => {
      const { event, cursor } = await this.feed.history.one(id);
      const [older, newer] = await Promise.all([
        this.feed.history.read({ order: "desc", cursor, limit: "11" }),
        this.feed.history.read({ order: "asc", cursor, limit: "10" }),
      ]);
      const below = older.events.filter((one) => one.id !== event.id);
      // (Its own tenant's and filter's neighbours; it is shown itself in any case.)
      const events = [...newer.events.toReversed(), event, ...below];
      const { after } = newer;
      return { page: { events, before: older.before, after, more: older.more }, edge: this.feed.model.edge };
    });
    if (!done) return;
    this.feed.page.catchUp(this.feed.model.edge);
    const row = document.getElementById(`event-${id}`);
    if (row instanceof HTMLDetailsElement) this.feed.reveal(row);
  }

  /** The rows of the page's view, in place of those that are here. @returns {Promise<string | null>} where the stream goes on */
  async reload() {
    const { at } = this.feed.page.view;
    const done = await this.#by(async () => {
      if (!at) {
        const page = await this.feed.history.look({ order: "desc" });
        return { page, edge: page.after };
      }
      const newest = await this.feed.history.read({ order: "desc", limit: "1" });
      const page = await this.feed.history.look({ order: "desc", [/^\d{4}-/.test(at) ? "at" : "cursor"]: at });
      return { page, edge: newest.after };
    });
    return done ? this.feed.model.edge : null;
  }

  /**
   * Other rows, when they are here; until then, and where they cannot be had, the old ones stay.
   * @param {() => Promise<{page: HistoryPage, edge: string}>} find @returns {Promise<boolean>}
   */
  async #by(find) {
    const turn = ++this.feed.turn;
    const { filter } = this.feed.page;
    const busy = (/** @type {boolean} */ on) => this.feed.list.root.setAttribute("aria-busy", String(on));
    busy(true);
    try {
      const { page, edge } = await find();
      if (turn !== this.feed.turn) return false;
      this.feed.where.trouble("");
      this.feed.filter = filter;
      this.feed.replace(page, placeOf(edge) > placeOf(page.after) ? edge : page.after);
      busy(false);
      return true;
    } catch (error) {
      if (turn !== this.feed.turn) return false;
      busy(false);
      this.feed.where.failed(/** @type {HistoryError} */ (error));
      return false;
    }
  }
}
