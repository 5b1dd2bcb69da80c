/** The dialog with the keys, and the command that shows in a terminal what the page shows. */

import { copyText } from "../copy.js";
import { byId, setText } from "../dom.js";
import { listenCommand } from "./command.js";

/** @import { Page } from "../page.js" */

export class Help {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.dialog = /** @type {HTMLDialogElement} */ (byId("help"));
    byId("help-open").addEventListener("click", () => this.open());
    this.dialog.addEventListener("click", ({ target }) => target === this.dialog && this.dialog.close());
    document.addEventListener("click", ({ target }) => target instanceof Element && copySample(target));
  }

  open() {
    setText(byId("help-command"), listenCommand(this.page.filter));
    this.dialog.showModal();
  }
}

/** A button that copies the sample below it. @param {Element} target */
function copySample(target) {
  const button = target.closest('[data-action="copy-sample"]');
  const sample = button?.parentElement?.nextElementSibling;
  if (button instanceof HTMLButtonElement && sample instanceof HTMLElement) copyText(sample, button);
}
