/** A few words at the lower edge for what has been done where nothing else shows it. */

import { byId } from "../dom.js";

/** @import { Page } from "../page.js" */

const SHOWN_MS = 2_500;

let timer = 0;

/** @param {Page} page @param {string} text */
export function toast(page, text) {
  const element = byId("toast");
  element.textContent = text;
  element.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (element.hidden = true), SHOWN_MS);
  page.announce(text);
}
