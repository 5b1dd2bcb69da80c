/**
 * The keyboard. Keys rest while somebody types, while a dialog is open, and with Ctrl, Alt or Meta, which are the
 * browser's. (Space is the pause's own, in feed/pause.js.)
 */

import { copyText } from "../copy.js";
import { byId } from "../dom.js";
import { placeIn, writeView } from "./address.js";
import { Help } from "./help.js";
import { toast } from "./toast.js";

/** @import { Page } from "../page.js" */

const TYPED_INTO = "input, textarea, select, [contenteditable]";
const PRESSED = "a, button, summary, [role=button], [role=tab]";

export class Keys {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.help = new Help(page);
    const { feed } = page;
    /** @type {Record<string, () => unknown>} */
    this.actions = {
      j: () => feed.select(1),
      k: () => feed.select(-1),
      Enter: () => feed.toggle(),
      o: () => feed.toggle(),
      "/": () => this.#search(),
      g: () => feed.toTop(),
      G: () => feed.toOldest(),
      "?": () => this.help.open(),
      c: () => feed.copySelected(),
      l: () => this.#copyLink(),
      Escape: () => feed.unselect(),
    };
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("paste", (event) => this.#paste(event));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || event.isComposing) return;
    if (!(target instanceof Element) || document.querySelector("dialog[open]")) return;
    if (target.closest(TYPED_INTO)) {
      if (key === "Escape" && target instanceof HTMLElement) target.blur();
      return;
    }
    if (!Object.hasOwn(this.actions, key)) return;
    // Enter presses what has the focus.
    if (key === "Enter" && target.closest(PRESSED)) return;
    event.preventDefault();
    this.actions[key]();
  }

  #search() {
    const field = /** @type {HTMLInputElement} */ (byId("filter-text"));
    // On a telephone's width the fields are folded away.
    if (field.offsetParent === null) byId("filters-open").click();
    field.focus();
    field.select();
  }

  async #copyLink() {
    const id = this.page.feed.selected?.id;
    const view = { ...this.page.view, tenant: this.page.tenant };
    const query = writeView(id ? { ...view, event: String(id), at: "" } : view);
    const copied = await copyText(`${location.origin}${location.pathname}${query ? `?${query}` : ""}`);
    if (copied) toast(this.page, id ? "Link to the event copied" : "Link to this view copied");
    else toast(this.page, "This browser does not let the page copy: the address bar has the link to the open event");
  }

  /** An id, a cursor or a time, pasted anywhere but into a field: there. @param {ClipboardEvent} event */
  #paste(event) {
    if (event.target instanceof Element && event.target.closest(TYPED_INTO)) return;
    const place = placeIn(event.clipboardData?.getData("text") ?? "");
    if (!place) return;
    event.preventDefault();
    this.page.goTo(place);
  }
}
