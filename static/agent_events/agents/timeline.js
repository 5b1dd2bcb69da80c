/**
 * The panel above the feed: a histogram of the last half hour, and lanes of the last minutes. Folded, it costs nothing.
 */

import { byId, setText } from "../dom.js";
import { fetched } from "../feed/history.js";
import { parse } from "../json.js";
import { queryOf, UNFILTERED } from "../view/address.js";
import { keep, kept } from "../view/kept.js";
import { Histogram, summarise } from "./histogram.js";
import { Ink } from "./ink.js";
import { Lanes } from "./lanes.js";
import { Marks } from "./marks.js";

/** @import { AgentEvent, Batch } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { Minutes } from "./minutes.js" */
/** @import { Line } from "./state.js" */

const MEMORY = "agent_events.timeline";
const SMALL = "(max-width: 60rem)";
/** Events of the log that the lanes begin with. */
const BEGIN_WITH = 1_000;

export class Timeline {
  /** @param {Page} page @param {(tenantId: string) => string} tenantName empty where one tenant is shown */
  constructor(page, tenantName) {
    this.page = page;
    this.marks = new Marks();
    this.ink = new Ink(byId("timeline"));
    this.fold = /** @type {HTMLDetailsElement} */ (byId("timeline-fold"));
    this.begun = false;
    this.round = 0;
    /** @type {Batch[] | null} */
    this.waiting = null;
    /** @type {() => void} */
    this.again = () => {};
    /** @param {string} text */
    const tell = (text) => setText(byId("timeline-tip"), text);
    this.histogram = new Histogram(byId("histogram"), {
      go: (ms) => page.goTo({ at: new Date(ms).toISOString() }),
      tell,
    });
    this.lanes = new Lanes(byId("lanes"), this.marks, {
      open: (id) => page.goTo({ event: String(id) }),
      tell,
      tenantName,
    });
    const was = kept(MEMORY);
    this.fold.open = was ? was === "open" : !matchMedia(SMALL).matches;
    this.fold.addEventListener("toggle", () => {
      keep(MEMORY, this.fold.open ? "open" : "folded");
      this.again();
    });
    for (const name of ["pointermove", "keydown", "focusin"]) {
      byId("lanes").addEventListener(name, () => this.again(), { passive: true });
    }
    addEventListener("resize", () => this.again(), { passive: true });
  }

  /** @param {Batch} batch */
  take(batch) {
    if (this.waiting) {
      this.waiting.push(batch);
      if (this.waiting.length > BEGIN_WITH) this.waiting.shift();
      return;
    }
    if (this.begun) for (const event of batch.events) this.marks.take(event);
  }

  /** Other agents are shown. */
  clear() {
    this.marks.clear();
    this.waiting = null;
    this.begun = false;
    this.round += 1;
  }

  /**
   * @param {Line[]} lines @param {Minutes} minutes @param {number} nowMs
   */
  show(lines, minutes, nowMs) {
    summarise(byId("timeline-summary"), minutes, nowMs);
    this.again = () => this.fold.open && this.#draw(lines, minutes, nowMs);
    this.again();
  }

  /**
   * @param {Line[]} lines @param {Minutes} minutes @param {number} nowMs
   */
  #draw(lines, minutes, nowMs) {
    if (!this.begun) this.#begin();
    this.ink.read();
    this.histogram.show(minutes, nowMs, this.ink);
    this.lanes.show(lines, nowMs, this.ink);
  }

  /** The newest events of the log, so that the lanes do not begin empty. What comes meanwhile waits. */
  async #begin() {
    this.begun = true;
    const round = this.round;
    this.waiting = [];
    const { config, filter } = this.page;
    const query = queryOf({ ...UNFILTERED, tenants: filter.tenants });
    query.set("limit", String(BEGIN_WITH));
    /** @type {{events: AgentEvent[], after: string}} */
    let answer = { events: [], after: "" };
    try {
      const response = await fetched(`${config.eventsPath}?${query}`);
      answer = parse(await response.text());
    } catch {
      // Then they begin empty: the feed says what is wrong.
    }
    if (round !== this.round) return;
    const { waiting } = this;
    this.waiting = null;
    for (const event of answer.events.reverse()) this.marks.take(event);
    for (const batch of waiting ?? []) if (batch.cursor > answer.after) this.take(batch);
    this.again();
  }
}
