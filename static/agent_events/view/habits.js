/** How somebody likes the page: its colours, the zone of its times; and what they missed while they looked elsewhere. */

import { byId, setText } from "../dom.js";
import { useUtc } from "../format.js";
import { Away } from "./away.js";
import { keep, kept } from "./kept.js";
import { closeMenusByThemselves } from "./menus.js";

/** @import { Batch } from "../client.js" */
/** @import { Page } from "../page.js" */

/** As Django's admin names it, which then has the same colours; theme.js reads it before anything is painted. */
const THEME = "theme";
const ZONE = "agent-events.zone";

export class Habits {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.away = new Away(page);
    useUtc(kept(ZONE) === "utc");
    setText(byId("zone-name"), `(${Intl.DateTimeFormat().resolvedOptions().timeZone})`);
    choice("theme", kept(THEME) || "auto", (value) => this.#theme(value));
    choice("zone", kept(ZONE) || "local", (value) => this.#zone(value));
    page.controls.zoneChanged();
    closeMenusByThemselves();
    // Another tab's choice is this one's too.
    addEventListener("storage", ({ key, newValue }) => {
      if (key === THEME) choose("theme", newValue || "auto");
      if (key === ZONE) choose("zone", newValue || "local");
    });
  }

  /** @param {Batch} detail */
  take(detail) {
    this.away.take(detail);
  }

  /** @param {string} value */
  #theme(value) {
    keep(THEME, value);
    if (value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
  }

  /** @param {string} value */
  #zone(value) {
    keep(ZONE, value);
    useUtc(value === "utc");
    for (const part of this.page.parts) part.zoneChanged?.();
  }
}

/** @param {string} id of a group of radio buttons @param {string} value @param {(value: string) => void} chosen */
function choice(id, value, chosen) {
  for (const radio of radios(id)) {
    radio.checked = radio.value === value;
    radio.addEventListener("change", () => chosen(radio.value));
  }
}

/** @param {string} id @param {string} value */
function choose(id, value) {
  const radio = radios(id).find((one) => one.value === value);
  if (radio && !radio.checked) radio.click();
}

/** @param {string} id @returns {HTMLInputElement[]} */
function radios(id) {
  return [...byId(id).querySelectorAll("input")];
}
