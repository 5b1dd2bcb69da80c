/** What is done with the whole view: going to a time, taking it away as a file. */

import { byId, setText } from "../dom.js";
import { fieldOf, instantOf, inUtc } from "../format.js";
import { conditions, queryOf } from "./address.js";

/** @import { Page } from "../page.js" */

export class Tools {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.menu = /** @type {HTMLDetailsElement} */ (byId("jump"));
    this.time = /** @type {HTMLInputElement} */ (byId("jump-time"));
    byId("jump-form").addEventListener("submit", (event) => this.#jump(event));
    this.menu.addEventListener("toggle", () => this.#opened());
    this.zoneChanged();
  }

  viewChanged() {
    const { config, filter, view } = this.page;
    for (const id of ["download-jsonl", "download-csv"]) {
      const link = /** @type {HTMLAnchorElement} */ (byId(id));
      const query = queryOf(filter);
      query.set("format", link.dataset.format ?? "");
      link.href = `${config.exportPath}?${query}`;
    }
    const set = conditions(view);
    setText(byId("download-what"), set ? `The events that match ${set === 1 ? "the filter" : `all ${set} filters`}.` : "All events that this page shows.");
  }

  zoneChanged() {
    setText(byId("jump-zone"), inUtc() ? "(UTC)" : "(your time)");
    this.time.value = "";
    if (this.menu.open) this.#opened();
  }

  #opened() {
    if (!this.menu.open) return;
    if (!this.time.value) this.time.value = fieldOf(new Date(this.page.now()));
    this.time.focus();
  }

  /** @param {SubmitEvent} event */
  #jump(event) {
    event.preventDefault();
    const at = instantOf(this.time.value);
    if (!at) return;
    this.menu.open = false;
    this.page.goTo({ at });
  }
}
