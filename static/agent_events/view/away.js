/** What came while nobody looked: said when the page is seen again, with a way to the first error. */

import { byId, setText } from "../dom.js";
import { plural, span } from "../format.js";
import { toneOf } from "../kinds.js";
import { writeView } from "./address.js";

/** @import { Batch } from "../client.js" */
/** @import { Page } from "../page.js" */

/** Whoever looked elsewhere for less than this was not away. */
const AWAY_MS = 60_000;

export class Away {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.bar = byId("away");
    this.link = /** @type {HTMLAnchorElement} */ (byId("away-first"));
    /** When the page was hidden; null while it is seen. @type {number | null} */
    this.since = document.hidden ? Date.now() : null;
    this.events = 0;
    this.errors = 0;
    this.human = 0;
    /** @type {number | undefined} */
    this.firstError = undefined;
    /** @type {number | undefined} */
    this.firstHuman = undefined;
    // Clocks are compared, not ticks: a hidden page's timers hardly run.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#leave() : this.#comeBack()));
    byId("away-close").addEventListener("click", () => (this.bar.hidden = true));
    this.link.addEventListener("click", (event) => this.#go(event));
  }

  /** @param {Batch} detail */
  take({ events }) {
    if (this.since === null) return;
    this.events += events.length;
    for (const { id, type } of events) {
      const tone = toneOf(type);
      if (tone === "plain") continue;
      if (tone === "error") {
        this.errors += 1;
        this.firstError ??= id;
      } else {
        this.human += 1;
        this.firstHuman ??= id;
      }
    }
  }

  #leave() {
    this.since = Date.now();
    this.#forget();
  }

  #comeBack() {
    const awayMs = this.since === null ? 0 : Date.now() - this.since;
    this.since = null;
    if (awayMs < AWAY_MS || this.events === 0) return;
    const came = [plural(this.events, "event")];
    if (this.human) came.push(`${this.human} for a human`);
    if (this.errors) came.push(plural(this.errors, "error"));
    const first = this.firstHuman ?? this.firstError;
    const words = `You were away ${span(awayMs)}: ${came.join(", ")}`;
    setText(byId("away-words"), `${words}${first ? ":" : ""}`);
    this.link.hidden = first === undefined;
    if (first !== undefined) {
      setText(this.link, this.firstHuman === undefined ? "first error" : "first that needs a human");
      this.link.href = `?${writeView({ ...this.page.view, event: String(first), at: "" })}`;
      this.link.dataset.event = String(first);
    }
    this.bar.hidden = false;
    this.page.announce(words);
  }

  /** @param {MouseEvent} event */
  #go(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab or window
    event.preventDefault();
    this.bar.hidden = true;
    this.page.goTo({ event: this.link.dataset.event ?? "" });
  }

  #forget() {
    this.events = 0;
    this.errors = 0;
    this.human = 0;
    this.firstError = undefined;
    this.firstHuman = undefined;
  }
}
