/** The bus itself, in a quiet line: events a second, the delay from the INSERT to here, and more for who asks. */

import { byId, setText } from "../dom.js";
import { isFiltered, sameFilter } from "../view/address.js";
import { pathOf } from "./chart.js";
import { Delays } from "./delays.js";
import { SECONDS, Seconds } from "./seconds.js";
import { connected, delayOf, delays, holes, rateOf, rates, reconnections } from "./words.js";

/** @import { Batch, Notice, State } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { View } from "../view/address.js" */

const TICK_MS = 1_000;
/** "Now" is so many seconds. */
const NOW_S = 5;
/** Later than so, in ms, is lag, */
const LAG_MS = 2_000;
/** where it lasts as long as this. */
const LASTS_MS = 3_000;
/** A tick that comes later than so was held back: the browser slept, and the page with it. */
const SLEPT_MS = 5_000;

export class BusLine {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.root = /** @type {HTMLDetailsElement} */ (byId("bus"));
    this.rate = byId("bus-rate");
    this.delay = byId("bus-delay");
    this.path = /** @type {Element} */ (document.getElementById("bus-path"));
    this.chart = byId("bus-chart");
    this.drawn = "";
    this.seconds = new Seconds(Date.now());
    /** By this computer's clock: the server's is known later, and better with each answer. */
    this.delays = new Delays();
    this.connectedAt = 0;
    this.isConnected = false;
    this.reconnections = { times: 0, lastAt: 0 };
    /** The last hole in what is shown. @type {{kind: string, at: number} | null} */
    this.hole = null;
    this.lagSince = 0;
    this.lags = false;
    this.tickedAt = Date.now();
    setInterval(() => this.#tick(), TICK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#tick());
    this.root.addEventListener("toggle", () => this.#explain(Date.now()));
  }

  /** One event of a batch stands for all of it: a batch was closed at one time. @param {Batch} batch */
  take({ events, missed }) {
    const now = Date.now();
    // (What comes before the first "live" is from the log too.)
    if (missed || !this.isConnected) {
      const first = this.#madeAt(events[0].createdAt);
      const last = this.#madeAt(events[events.length - 1].createdAt);
      if (first !== null && last !== null) this.seconds.spread(events.length, first, last, now);
      return;
    }
    this.seconds.add(events.length, now);
    if (!this.delays.wants(now)) return;
    const { createdAt } = events[events.length >> 1];
    const made = createdAt === null ? Number.NaN : Date.parse(createdAt);
    if (!Number.isNaN(made)) this.delays.add(now - made, now);
  }

  /** @param {State} state */
  state({ name }) {
    const now = Date.now();
    const isConnected = name === "live" || name === "catchingUp";
    if (name === "reconnecting" && this.isConnected) {
      this.reconnections = { times: this.reconnections.times + 1, lastAt: now };
    }
    if (isConnected === this.isConnected) return;
    this.isConnected = isConnected;
    if (isConnected) this.connectedAt = now;
    this.#forgetDelays();
    this.#draw(now);
  }

  /** @param {Notice} notice */
  notice({ kind }) {
    if (kind !== "caughtUp") this.hole = { kind, at: Date.now() };
  }

  /** Events are of the view: another one begins anew. @param {View} view @param {View} before */
  viewChanged(view, before) {
    if (sameFilter(view, before)) return;
    this.seconds.clear(Date.now());
    this.#forgetDelays();
    this.#draw(Date.now());
  }

  zoneChanged() {
    this.#explain(Date.now());
  }

  /** @param {string | null} createdAt @returns {number | null} ms by this computer's clock */
  #madeAt(createdAt) {
    const made = createdAt === null ? Number.NaN : Date.parse(createdAt);
    return Number.isNaN(made) ? null : made - this.page.clockOffsetMs;
  }

  /** @returns {{median: number, most: number} | null} null too while nobody knows the server's clock */
  #delay(/** @type {number} */ now) {
    const { clockOffsetMs, agents } = this.page;
    const found = clockOffsetMs || agents.loaded ? this.delays.figures(now) : null;
    return found && { median: found.median + clockOffsetMs, most: found.most + clockOffsetMs };
  }

  #tick() {
    const now = Date.now();
    // What waited while the browser slept says nothing of the bus.
    if (!document.hidden && now - this.tickedAt > SLEPT_MS) this.#forgetDelays();
    this.tickedAt = now;
    this.#draw(now);
  }

  /** @param {number} now */
  #draw(now) {
    const delay = this.#delay(now);
    this.#watchLag(delay ? delay.median : null);
    if (document.hidden) return;
    const unit = isFiltered(this.page.view) ? "matching/s" : "events/s";
    setText(this.rate, `${this.isConnected ? rateOf(this.seconds.rate(now, NOW_S)) : "–"} ${unit}`);
    setText(this.delay, delay ? `${this.lags ? "lag" : "delay"} ${delayOf(delay.median)}` : "");
    const path = pathOf(this.seconds, now);
    if (path !== this.drawn) this.path.setAttribute("d", path);
    this.drawn = path;
    this.#explain(now, delay);
  }

  /** @param {number | null} median null: nobody knows, which is no news */
  #watchLag(median) {
    if (median === null) return;
    const { lastMs } = this.delays;
    if (median <= LAG_MS) this.lagSince = 0;
    else this.lagSince ||= lastMs;
    // By what came, not by the clock: one late event alone is no lag, however long it is the last one.
    const lags = this.lagSince > 0 && lastMs - this.lagSince >= LASTS_MS;
    if (lags === this.lags) return;
    this.lags = lags;
    this.root.toggleAttribute("data-lag", lags);
    this.page.announce(lags ? `Events come late: lag ${delayOf(median)}` : "Events do not come late any more");
  }

  /** What was measured is about another time, or another view. */
  #forgetDelays() {
    this.delays.clear();
    this.lagSince = 0;
    this.lags = false;
    this.root.removeAttribute("data-lag");
  }

  /** The figures in words, for whoever has opened them. @param {number} now */
  #explain(now, delay = this.#delay(now)) {
    if (!this.root.open) return;
    const seconds = Math.min(SECONDS, Math.round((now - this.seconds.sinceMs) / 1000));
    const filtered = isFiltered(this.page.view);
    const most = this.seconds.most(now);
    setText(byId("bus-rates"), rates(this.seconds.rate(now, NOW_S), most, seconds, filtered));
    setText(byId("bus-delays"), delays(delay));
    setText(byId("bus-connected"), this.isConnected ? connected(this.connectedAt, now) : "not now");
    setText(byId("bus-reconnections"), reconnections(this.reconnections.times, this.reconnections.lastAt));
    setText(byId("bus-holes"), holes(this.hole));
    setText(byId("bus-most"), most ? `${rateOf(most)}/s` : "");
  }
}
