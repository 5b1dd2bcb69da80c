/** How many agents need a human, in the title and on the icon of the tab: the number of the rail, and nothing else. */

import { count } from "../format.js";

export class Attention {
  constructor() {
    this.title = document.title;
    this.icon = document.querySelector('link[rel="icon"]');
    this.plainIcon = this.icon?.getAttribute("href") ?? "";
    this.waiting = 0;
  }

  /** @param {number} waiting */
  show(waiting) {
    if (waiting === this.waiting) return;
    this.waiting = waiting;
    document.title = waiting ? `(${count(waiting)}) ${this.title}` : this.title;
    const alert = this.icon instanceof HTMLElement ? this.icon.dataset.alert : undefined;
    this.icon?.setAttribute("href", waiting && alert ? alert : this.plainIcon);
  }
}
