/** The end of the list: what lies below the oldest row, read as somebody comes near it. */

import { byId, setText } from "../dom.js";
import { isFirst, timeOf } from "./model.js";
import { moment } from "./times.js";

/** @import { Feed } from "./feed.js" */
/** @import { HistoryPage } from "./model.js" */

/** Older rows are asked for when the end of the list is nearer than this below what can be seen. */
const NEAR_PX = 1_500;
const BLOCK = "100";

/** @typedef {"quiet" | "loading" | "failed" | "looked" | "pruned"} OlderState looked: nothing found yet, the log goes on */

export class Older {
  /** @param {Feed} feed */
  constructor(feed) {
    this.feed = feed;
    this.foot = byId("foot");
    this.words = byId("foot-words");
    this.button = /** @type {HTMLButtonElement} */ (byId("foot-action"));
    /** @type {OlderState} */
    this.state = "quiet";
    this.reason = "";
    this.button.addEventListener("click", () => this.load());
  }

  begin() {
    for (const link of this.foot.querySelectorAll("a")) link.remove();
    new IntersectionObserver(() => this.#near(), { rootMargin: `0px 0px ${NEAR_PX}px 0px` }).observe(this.foot);
    document.addEventListener("scroll", () => this.#near(), { passive: true });
  }

  /** Other rows are shown. @param {HistoryPage} page */
  reset(page) {
    this.state = stateAfter(page);
    this.#near();
  }

  async load() {
    const { feed } = this;
    if (this.state === "loading" || !feed.model.more) return;
    const { turn } = feed;
    this.state = "loading";
    this.show();
    try {
      const cursor = feed.model.before;
      const page = await feed.history.look({ order: "desc", cursor, limit: BLOCK }, feed.filter);
      if (turn !== feed.turn || cursor !== feed.model.before) {
        this.#giveUp();
        return;
      }
      this.state = stateAfter(page);
      feed.addOlder(page);
    } catch (error) {
      if (turn !== feed.turn) {
        this.#giveUp();
        return;
      }
      this.state = "failed";
      this.reason = /** @type {Error} */ (error).message;
    }
    feed.changed();
    this.#near();
  }

  /** Other rows were asked for meanwhile. */
  #giveUp() {
    if (this.state === "loading") this.state = "quiet";
    this.show();
  }

  show() {
    const { model } = this.feed;
    const begun = model.before !== "";
    const [words, action] = this.#say();
    setText(this.words, words);
    setText(this.button, action);
    this.button.hidden = action === "";
    this.foot.hidden = !begun || (words === "" && action === "");
    this.foot.dataset.state = this.state === "quiet" && !model.more ? "end" : this.state;
  }

  /** @returns {[string, string]} words, and what can be done */
  #say() {
    const { model } = this.feed;
    switch (this.state) {
      case "loading":
        return ["Loading older events", ""];
      case "failed":
        return [`Older events could not be loaded. ${this.reason}`, "Try again"];
      case "looked":
        return [`Nothing ${model.rows ? "more " : ""}found back to ${moment(timeOf(model.before) ?? 0)}`, "Look further"];
      case "pruned":
        return ["Older events were pruned from the log", ""];
    }
    if (model.more) return ["", "Load older events"];
    if (!isFirst(model.before)) return ["Older events were pruned from the log", ""];
    if (model.rows === 0) return ["", ""];
    return ["This is the first event of the log", ""];
  }

  #near() {
    if (this.state !== "quiet" || !this.feed.model.more || document.hidden) return;
    if (this.foot.hidden || this.foot.getBoundingClientRect().top > window.innerHeight + NEAR_PX) return;
    this.load();
  }
}

/** @param {HistoryPage} page the oldest that was read @returns {OlderState} */
function stateAfter(page) {
  if (page.notice === "truncated") return "pruned";
  return page.more && !page.events.length ? "looked" : "quiet";
}
