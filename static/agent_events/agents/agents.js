/** Agents now: the rail, the timeline, a run alone. Feeds what came to what shows it. */

import { clockSeconds } from "../format.js";
import { parse } from "../json.js";
import { isFiltered, queryOf, sameFilter, UNFILTERED } from "../view/address.js";
import { Now } from "./now.js";
import { Rail } from "./rail.js";
import { RunAlone } from "./run.js";
import { AgentsNow } from "./state.js";
import { Timeline } from "./timeline.js";

/** @import { Batch, Notice, State } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { View } from "../view/address.js" */
/** @import { Answer } from "./now.js" */
/** @import { Line } from "./state.js" */

/** Lines are drawn anew so often at most, in ms, */
const TICK_MS = 1_000;
/** but so soon after an agent's state changed. */
const SOON_MS = 100;
/** Events that are kept while the server's answer is awaited; where more come, it is asked again. */
const MOST_PENDING = 20_000;

/** States of the connection in which nothing comes. */
const OFFLINE = new Set(["reconnecting", "signedOut", "stopped"]);

export class Agents {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.now = new AgentsNow();
    /** How many agents need a human. */
    this.waiting = 0;
    /** The newest question that was told to those who listen. */
    this.told = 0;
    /** What came since the server was asked: its answer may be from before. @type {Batch[]} */
    this.pending = [];
    this.pendingEvents = 0;
    this.drawnMs = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.soon = undefined;
    this.loaded = false;
    this.isOffline = false;
    /** @param {string} id */
    const ofSeveral = (id) => (page.config.everything && !page.view.tenant ? page.tenantName(id) : "");
    this.rail = new Rail({
      choose: (id, exclude, key) => {
        this.now.looked(key);
        page.narrow("agents", id, exclude);
      },
      tenantName: ofSeveral,
    });
    this.timeline = new Timeline(page, ofSeveral);
    this.run = new RunAlone(page);
    this.asker = new Now({
      url: () => nowUrl(page),
      parse,
      filtered: () => this.filtered,
      loaded: (answer, offsetMs) => this.#load(answer, offsetMs),
      failed: (why) => this.isOffline || this.rail.note(`The server does not say how the agents are (${why}): this is what came here.`),
    });
    setInterval(() => this.#tick(), TICK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#woken());
    // When all parts are there, and the stream is about to open.
    queueMicrotask(() => {
      this.asker.doubt();
      this.run.show(page.view);
    });
  }

  /** Does the stream leave something out that the rail shows? */
  get filtered() {
    return isFiltered(this.page.view);
  }

  /** @param {Batch} batch */
  take(batch) {
    this.timeline.take(batch);
    this.run.take(batch);
    if (this.filtered) return;
    if (this.asker.asking) this.#keep(batch);
    if (this.#apply(batch)) this.#drawSoon();
  }

  /** @param {Notice} _notice there was a hole: what is known may be wrong */
  notice(_notice) {
    this.asker.doubt();
  }

  /** Who looks at the rail is not left to believe what nobody says any more. @param {State} state */
  state(state) {
    this.asker.rest(state.name === "signedOut" || state.name === "stopped");
    if (state.name === "live" && this.now.cursor) this.#check();
    const isOffline = OFFLINE.has(state.name);
    if (isOffline === this.isOffline) return;
    this.isOffline = isOffline;
    document.documentElement.toggleAttribute("data-offline", isOffline);
    this.rail.note(isOffline ? `Not live: this is how they were at ${clockSeconds(new Date(state.since))}.` : "");
  }

  /** @param {View} view @param {View} before */
  viewChanged(view, before) {
    if (view.tenant !== before.tenant) {
      this.now = new AgentsNow();
      this.timeline.clear();
      this.asker.restart();
    } else if (!sameFilter(view, before)) {
      // With or without a filter: the stream said less than all, or will.
      this.asker.doubt();
    }
    if (view.run !== before.run) this.run.show(view);
    this.#draw();
  }

  /** @param {Batch} batch @returns {boolean} */
  #apply(batch) {
    // Cursors compare as text; what was looked at is known.
    if (batch.cursor <= this.now.cursor) return false;
    const nowMs = this.page.now();
    let changed = false;
    for (const event of batch.events) if (this.now.take(event, nowMs)) changed = true;
    return changed;
  }

  /** @param {Batch} batch */
  #keep(batch) {
    this.pending.push(batch);
    this.pendingEvents += batch.events.length;
    if (this.pendingEvents <= MOST_PENDING) return;
    this.pending = [];
    this.pendingEvents = 0;
    this.asker.restart();
  }

  /** @param {Answer} answer @param {number} offsetMs */
  #load(answer, offsetMs) {
    this.page.clockOffsetMs = offsetMs;
    this.now.load(answer);
    const { pending } = this;
    this.pending = [];
    this.pendingEvents = 0;
    if (!this.filtered) for (const batch of pending) this.#apply(batch);
    if (!this.isOffline) this.rail.note("");
    this.#check();
    if (!this.loaded) this.told = this.#newestQuestion();
    this.loaded = true;
    this.#draw();
  }

  /** Between the last answer and the place where our stream began there may be something. */
  #check() {
    const { place } = this.page;
    if (place && place !== "latest" && this.now.cursor < place) this.asker.doubt();
  }

  #tick() {
    this.asker.tick();
    // Timers come late where the page is hidden, and together: clocks are compared, never counted.
    if (performance.now() - this.drawnMs > TICK_MS / 2) this.#draw();
  }

  #woken() {
    if (this.filtered) this.asker.doubt();
    this.#draw();
  }

  #drawSoon() {
    this.soon ??= setTimeout(() => {
      this.soon = undefined;
      this.#draw();
    }, Math.max(SOON_MS, TICK_MS / 2 - (performance.now() - this.drawnMs)));
  }

  #draw() {
    this.drawnMs = performance.now();
    const nowMs = this.page.now();
    const lines = this.now.lines(nowMs);
    this.waiting = lines.filter((line) => line.state === "needsHuman").length;
    this.#tell(lines);
    if (document.hidden) return;
    this.rail.show(lines, nowMs, this.page.view);
    this.timeline.show(lines, this.now.minutes, nowMs);
    this.run.tick();
  }

  /** @param {Line[]} lines */
  #tell(lines) {
    if (!this.loaded) return;
    for (const line of lines) {
      if (line.state !== "needsHuman" || line.eventId <= this.told) continue;
      this.told = line.eventId;
      this.page.announce(`${line.name} needs you: ${line.what}`, true);
    }
  }

  #newestQuestion() {
    let newest = 0;
    for (const agent of this.now.agents.values()) {
      for (const { id } of agent.waiting.values()) newest = Math.max(newest, id);
    }
    return newest;
  }
}

/** @param {Page} page */
function nowUrl({ config, filter }) {
  return `${config.nowPath}?${queryOf({ ...UNFILTERED, tenants: filter.tenants })}`;
}
