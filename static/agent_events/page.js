/**
 * The page as a whole: the view (what the address says), the stream, and the parts that show them. The parts know
 * the page and not each other.
 */

import { Agents } from "./agents/agents.js";
import { BusLine } from "./bus/line.js";
import { AgentEvents } from "./client.js";
import { byId } from "./dom.js";
import { Feed } from "./feed/feed.js";
import { shortId } from "./format.js";
import { parse } from "./json.js";
import { filterOf, narrowed, readView, sameFilter, writeView } from "./view/address.js";
import { Controls } from "./view/controls.js";
import { Habits } from "./view/habits.js";
import { Keys } from "./view/keys.js";
import { Status } from "./view/status.js";

/** @import { Batch, Notice, State } from "./client.js" */
/** @import { View } from "./view/address.js" */

/** The address follows the view so often at most: browsers refuse to be told more often than 100 times in 30 s. */
const ADDRESS_MS = 300;

/**
 * @typedef {object} Part what a part of the page may have, besides `constructor(page)`; all are optional
 * @property {(detail: Batch) => void} [take] events came, oldest first
 * @property {(state: State) => void} [state] the connection has another state
 * @property {(notice: Notice) => void} [notice] a gap, a reset, or all that was missed is here
 * @property {(view: View, before: View) => void} [viewChanged]
 * @property {() => void} [zoneChanged] times are in another zone from now on (`format.js`)
 * @property {(detail: string) => void} [refused] the history did not take the filter (400), in its own words: the rows and the
 *   stream stay as they are
 *
 * @typedef {object} Config what the server says in the page's `data-` attributes
 * @property {string} streamPath WebSocket
 * @property {string} ssePath Server-Sent Events
 * @property {string} eventsPath history, and single events below it
 * @property {string} nowPath agents at a glance
 * @property {string} exportPath what is filtered, to keep
 * @property {string} cursor right behind the newest event of the first render
 * @property {string} before right before its oldest event
 * @property {string} after right behind its newest event; less than `cursor` where newer ones are left out
 * @property {boolean} more whether the log goes on below its oldest event
 * @property {string} loginUrl
 * @property {string} tenant the one tenant that is shown, where the address names none; empty for all
 * @property {string} user who is signed in: tabs share a connection only within one
 * @property {boolean} everything whether several tenants are shown
 */

export class Page {
  /** @param {HTMLElement} main */
  constructor(main) {
    this.main = main;
    /** @type {Config} */
    this.config = {
      streamPath: main.dataset.streamPath ?? "",
      ssePath: main.dataset.ssePath ?? "",
      eventsPath: main.dataset.eventsPath ?? "",
      nowPath: main.dataset.nowPath ?? "",
      exportPath: main.dataset.exportPath ?? "",
      cursor: main.dataset.cursor ?? "latest",
      before: main.dataset.before ?? "",
      after: main.dataset.after ?? "",
      more: "more" in main.dataset,
      loginUrl: main.dataset.loginUrl ?? "",
      tenant: main.dataset.tenant ?? "",
      user: main.dataset.user ?? "",
      everything: "everything" in main.dataset,
    };
    this.view = readView(location.search);
    const { options } = /** @type {HTMLSelectElement} */ (byId("tenant"));
    this.tenantNames = new Map(Array.from(options, (option) => [option.value, option.textContent?.trim() ?? ""]));
    /** When the address was last written, in ms since the page was loaded. */
    this.addressMs = -ADDRESS_MS;
    /** Server's clock less ours, in ms; the first answer of the server says. */
    this.clockOffsetMs = 0;
    this.status = new Status(this);
    this.feed = new Feed(this);
    this.controls = new Controls(this);
    this.agents = new Agents(this);
    this.bus = new BusLine(this);
    this.keys = new Keys(this);
    this.habits = new Habits(this);
    /** @type {Part[]} in the order in which they hear */
    this.parts = /** @type {any[]} */ ([this.status, this.bus, this.agents, this.feed, this.controls, this.keys, this.habits]);
  }

  start() {
    this.feed.takeOver();
    this.#open(this.config.cursor);
    addEventListener("online", () => this.stream?.wake());
    addEventListener("pagehide", () => this.stream?.pause());
    addEventListener("pageshow", (event) => event.persisted && this.stream?.resume());
    addEventListener("popstate", () => this.#goBack());
    document.addEventListener("visibilitychange", () => document.hidden || this.stream?.wake());
  }

  /** The one tenant that is shown; empty for all. */
  get tenant() {
    return this.view.tenant || this.config.tenant;
  }

  /** What AgentEvents, the history and the export are asked for. */
  get filter() {
    return filterOf({ ...this.view, tenant: this.tenant });
  }

  /** @param {string} id @returns {string} what the choice of tenants calls it */
  tenantName(id) {
    return this.tenantNames.get(id) ?? shortId(id);
  }

  /** @returns {number} the server's clock, in ms since 1970 */
  now() {
    return Date.now() + this.clockOffsetMs;
  }

  /** Says something to people who do not see the page. @param {string} text @param {boolean} [urgent] interrupts */
  announce(text, urgent = false) {
    this.status.announce(text, urgent);
  }

  /** Another view. @param {Partial<View>} change what is different in it */
  change(change) {
    const before = this.view;
    this.view = { ...before, ...change };
    clearTimeout(this.addressTimer);
    const waitMs = this.addressMs + ADDRESS_MS - performance.now();
    if (waitMs <= 0) this.#writeAddress();
    else this.addressTimer = setTimeout(() => this.#writeAddress(), waitMs);
    for (const part of this.parts) part.viewChanged?.(this.view, before);
    if (!sameFilter(before, this.view) || (this.view.at && this.view.at !== before.at)) this.reload();
  }

  /**
   * To an event, among its neighbours; or to the rows that end at a time or cursor.
   * @param {{event: string} | {at: string}} place
   */
  goTo(place) {
    this.#writeAddress(); // which may be behind the view
    history.pushState(null, "", location.href); // what is written next is an address of its own: Back leads back here
    if ("at" in place) {
      this.change({ event: "", at: place.at });
      return;
    }
    this.change({ event: place.event, at: "" });
    this.feed.showEvent(place.event);
  }

  /**
   * Adds a value to the filter, or takes it away where it is there.
   * @param {"agents" | "types" | "texts" | "where"} what @param {string} value @param {boolean} [exclude]
   */
  narrow(what, value, exclude = false) {
    this.change(narrowed(this.view, what, value, exclude));
  }

  /** The newest rows of the view, then the stream from there on. What is shown stays until they are here. */
  async reload() {
    const cursor = await this.feed.reload();
    if (cursor !== null) this.#open(cursor);
  }

  /** Does the stream still bring what another filter asked for? Its rows could not be had yet, or were not waited for. */
  get isBehind() {
    return JSON.stringify(this.filter) !== JSON.stringify(this.streamed);
  }

  /** Other rows of the view are here than its newest ones. @param {string} cursor where the stream goes on */
  catchUp(cursor) {
    if (this.isBehind) this.#open(cursor);
  }

  /** The address has another view. */
  #goBack() {
    const { event, at } = this.view;
    const view = readView(location.search);
    this.change(view);
    if (view.event && view.event !== event) this.feed.showEvent(view.event);
    else if (at && !view.at) this.feed.toNow();
  }

  /** @param {string} cursor */
  #open(cursor) {
    this.stream?.close();
    /** Where the stream begins: it says nothing of what came before. */
    this.place = cursor;
    const { config } = this;
    /** What the stream was asked for. */
    this.streamed = this.filter;
    const stream = new AgentEvents({
      ...this.filter,
      url: config.streamPath,
      streamUrl: config.ssePath,
      historyUrl: config.eventsPath,
      cursor,
      parse,
      share: true,
      shareKey: config.user,
    });
    this.stream = stream;
    /** @param {"take" | "state" | "notice"} what */
    const tell = (what) => (/** @type {any} */ { detail }) => {
      if (stream !== this.stream) return; // closed meanwhile
      for (const part of this.parts) part[what]?.(detail);
    };
    stream.addEventListener("events", tell("take"));
    stream.addEventListener("state", tell("state"));
    stream.addEventListener("notice", tell("notice"));
  }

  #writeAddress() {
    clearTimeout(this.addressTimer);
    this.addressMs = performance.now();
    const query = writeView(this.view);
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
  }
}
