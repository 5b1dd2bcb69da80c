/** Where in the log the rows are, when they are not the newest; and why other rows could not be had. */

import { byId, setText } from "../dom.js";
import { eventOf } from "./row.js";
import { moment } from "./times.js";

/** @import { Feed } from "./feed.js" */
/** @import { HistoryError } from "./history.js" */

export class Where {
  /** @param {Feed} feed */
  constructor(feed) {
    this.feed = feed;
    this.banner = byId("looking");
    this.words = byId("looking-words");
    this.problem = byId("feed-trouble");
    byId("looking-back").addEventListener("click", () => feed.toNow());
    byId("feed-trouble-again").addEventListener("click", () => this.#again());
  }

  show() {
    const { feed } = this;
    const gap = feed.model.topGap;
    const isElsewhere = feed.holds.has("history");
    this.banner.hidden = !gap && !isElsewhere;
    if (this.banner.hidden) return;
    const newest = feed.list.root.querySelector(".row");
    const at = Date.parse((newest && eventOf(newest)?.createdAt) ?? "");
    const words = isElsewhere ? "Looking at" : "Newer rows have made room for older ones. Reading on from";
    setText(this.words, at ? `${words} ${moment(at, feed.page.now())}` : "Looking at an earlier place in the log");
  }

  /** Rows could not be had. @param {HistoryError} error */
  failed(error) {
    if (error.status === 400) {
      // A mistake in the filter is said beside it.
      for (const part of this.feed.page.parts) part.refused?.(error.message);
      if (!this.feed.page.view.at) return;
    }
    this.trouble(`The rows below are not what was asked for: ${error.message ?? error}`);
  }

  /** @param {string} words none: all is well again */
  trouble(words) {
    this.problem.hidden = words === "";
    setText(byId("feed-trouble-words"), words);
  }

  #again() {
    const { page } = this.feed;
    if (page.view.event && !page.view.at && !page.isBehind) this.feed.showEvent(page.view.event);
    else page.reload();
  }
}
