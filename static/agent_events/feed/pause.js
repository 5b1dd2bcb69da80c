/**
 * Why the feed stands still, in words on the bar and on its button. Rendering pauses, reception never does.
 */

import { setText } from "../dom.js";
import { count, plural } from "../format.js";

/** @import { Feed, Hold } from "./feed.js" */

/** Less than this from the top is the top: a touch screen rarely comes to rest at zero. */
const TOP_PX = 24;

/** @type {[Hold, string][]} the first that holds is the reason that is told */
const REASONS = [
  ["button", "Paused by you."],
  ["history", "Paused at an earlier place in the log."],
  ["open", "Paused while a row is open."],
  ["selection", "Paused while a row is selected."],
  ["text", "Paused while text is selected."],
  ["gap", "Paused while events are loaded."],
  ["scroll", "Paused while you are away from the top."],
];

export class Pause {
  /** @param {{button: HTMLElement, words: HTMLElement, feed: Feed}} parts */
  constructor({ button, words, feed }) {
    this.button = button;
    this.words = words;
    this.feed = feed;
    button.addEventListener("click", () => this.toggle());
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("scroll", () => feed.hold("scroll", window.scrollY > TOP_PX), { passive: true });
    document.addEventListener("selectionchange", () => feed.hold("text", isInside(feed.list.root)));
  }

  toggle() {
    if (this.feed.paused) this.feed.toTop();
    else this.feed.hold("button", true);
  }

  /** Writes on the button what waits. */
  show() {
    const { paused, newEvents, newErrors } = this.feed;
    const pressed = String(paused);
    if (this.button.getAttribute("aria-pressed") !== pressed) {
      this.button.setAttribute("aria-pressed", pressed);
      document.documentElement.toggleAttribute("data-paused", paused);
    }
    const errors = newErrors ? `, ${plural(newErrors, "error")}` : "";
    setText(this.words, paused ? `Paused: ${count(newEvents)} new${errors}` : "Pause");
    const title = paused ? `${this.#why()} Press to go on (Space).` : "Stand still; events go on arriving (Space)";
    if (this.button.title !== title) this.button.title = title;
  }

  #why() {
    return REASONS.find(([reason]) => this.feed.holds.has(reason))?.[1] ?? "";
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    // Where Space already means something (typing, pressing, opening a row) it goes on meaning that.
    const target = /** @type {Element} */ (event.target);
    if (target.closest("a, button, input, select, textarea, summary, dialog, [contenteditable], [role=button]")) return;
    event.preventDefault();
    if (!event.repeat) this.toggle();
  }
}

/** Is some text of it selected? @param {Element} root */
function isInside(root) {
  const selection = getSelection();
  if (!selection || selection.isCollapsed) return false;
  return selection.anchorNode !== null && root.contains(selection.anchorNode);
}
