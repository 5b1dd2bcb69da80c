/**
 * When the feed stands still: the button, the Space key, a page scrolled away from its top, a row that is open.
 * The button says which events wait; pressing it goes back to the top and on.
 */

import { plural } from "./format.js";
import { setText } from "./status.js";

/** Less than this from the top is the top: a touch screen rarely comes to rest at zero. */
const TOP_PX = 24;

export class Pause {
  /** @param {{button: HTMLButtonElement, words: HTMLElement, feed: import("./feed.js").Feed}} parts */
  constructor({ button, words, feed }) {
    this.button = button;
    this.words = words;
    this.feed = feed;
    button.addEventListener("click", () => this.toggle());
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("scroll", () => feed.hold("scroll", window.scrollY > TOP_PX), { passive: true });
    feed.list.addEventListener("toggle", () => this.rowToggled(), { capture: true });
  }

  toggle() {
    if (!this.feed.paused) {
      this.feed.hold("button", true);
      return;
    }
    window.scrollTo({ top: 0, behavior: "instant" });
    this.feed.resume();
  }

  rowToggled() {
    this.feed.hold("open", this.feed.list.querySelector("details[open]") !== null);
  }

  /** Writes on the button what waits. */
  show() {
    const { paused, newEvents, newErrors } = this.feed;
    this.button.setAttribute("aria-pressed", String(paused));
    document.documentElement.toggleAttribute("data-paused", paused);
    const errors = newErrors ? `, ${plural(newErrors, "error")}` : "";
    setText(this.words, paused ? `Paused: ${newEvents.toLocaleString()} new${errors}` : "Pause");
    this.button.title = paused ? `${this.#why()} Press to go on (Space).` : "Stand still; events go on arriving (Space)";
  }

  #why() {
    if (this.feed.holds.has("button")) return "Paused by you.";
    return this.feed.holds.has("open") ? "Paused while a row is open." : "Paused while you are away from the top.";
  }

  #key(event) {
    if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    // Where Space already means something (typing, pressing, opening a row) it goes on meaning that.
    if (event.target.closest("a, button, input, select, textarea, summary, [contenteditable]")) return;
    event.preventDefault();
    if (!event.repeat) this.toggle();
  }
}
