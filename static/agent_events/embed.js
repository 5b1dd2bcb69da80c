/** Feeds in other people's pages: keeps each one that the template tag rendered live. docs/embedding.md */

import { AgentEvents } from "./client.js";
import { madeFrom, setText } from "./dom.js";
import { clockSeconds, plural, shortId } from "./format.js";
import { parse } from "./json.js";
import { summarise } from "./summary.js";

/** @import { AgentEvent, State } from "./client.js" */

/** @type {Record<string, string>} */
const STATES = {
  connecting: "Connecting",
  live: "Live",
  catchingUp: "Catching up",
  reconnecting: "Connection lost, trying again",
  signedOut: "Signed out",
  stopped: "Stopped",
  closed: "Closed",
};
/** @type {Record<string, string>} */
const TONES = { error: "Error", attention: "Needs a person" };
const HIDDEN_MS = 1000;

class Embed {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.rows = this.part(".ae-rows");
    this.template = /** @type {HTMLTemplateElement} */ (root.querySelector("template"));
    this.most = Number(root.dataset.most);
    /** @type {AgentEvent[]} oldest first */
    this.waiting = [];
    this.newEvents = 0;
    this.leftOut = false;
    this.planned = false;
    const options = JSON.parse(root.dataset.options ?? "{}");
    for (const row of this.rows.children) this.takeOver(/** @type {HTMLElement} */ (row));
    const shared = Boolean(options.historyUrl && options.shareKey);
    this.stream = new AgentEvents({ ...options, historyUrl: options.historyUrl || undefined, parse, share: shared });
    this.stream.addEventListener("events", ({ detail }) => this.take(detail.events));
    this.stream.addEventListener("state", ({ detail }) => this.say(detail));
    this.stream.addEventListener("notice", ({ detail }) => {
      if (detail.kind !== "caughtUp") this.lacks("Some events are missing here: load the page again");
    });
    for (const name of ["pointerleave", "focusout", "scroll"]) this.rows.addEventListener(name, () => this.plan());
    addEventListener("online", () => this.stream.wake());
    addEventListener("pagehide", () => this.stream.pause());
    addEventListener("pageshow", (event) => event.persisted && this.stream.resume());
    document.addEventListener("visibilitychange", () => document.hidden || this.stream.wake());
  }

  /** @param {string} selector @returns {HTMLElement} */
  part(selector) {
    return /** @type {HTMLElement} */ (this.root.querySelector(selector));
  }

  get isHeld() {
    return this.rows.matches(":hover, :focus-within") || this.rows.scrollTop > 0;
  }

  /** @param {AgentEvent[]} events oldest first */
  take(events) {
    this.newEvents += events.length;
    this.waiting.push(...events.slice(-this.most));
    if (this.waiting.length > this.most) this.waiting.splice(0, this.waiting.length - this.most);
    this.plan();
  }

  plan() {
    if (this.planned) return;
    this.planned = true;
    const draw = () => {
      this.planned = false;
      this.draw();
    };
    if (document.hidden) setTimeout(draw, HIDDEN_MS);
    else requestAnimationFrame(draw);
  }

  draw() {
    const held = this.isHeld && this.newEvents > 0;
    setText(this.part(".ae-paused"), held ? `Paused: ${this.newEvents} new` : "");
    if (held || !this.waiting.length) return;
    const made = document.createDocumentFragment();
    for (const event of this.waiting.toReversed()) made.append(this.make(event));
    const cut = this.newEvents > this.waiting.length || this.rows.children.length + this.waiting.length > this.most;
    this.waiting = [];
    this.newEvents = 0;
    this.rows.prepend(made);
    while (this.rows.children.length > this.most) this.rows.lastElementChild?.remove();
    if (cut) this.leftOut = true;
    this.lacks(this.leftOut ? `Only the newest ${plural(this.most, "event")} are shown` : "");
  }

  /** @param {string} words */
  lacks(words) {
    setText(this.part(".ae-left"), words);
  }

  /** @param {State} state */
  say({ name, reason }) {
    this.root.dataset.state = name;
    const words = STATES[name] ?? name;
    setText(this.part(".ae-state"), name === "stopped" && reason ? `${words}: ${reason}` : words);
  }

  /** @param {AgentEvent} event */
  make(event) {
    const row = madeFrom(this.template);
    row.dataset.id = String(event.id);
    const { feed } = this.root.dataset;
    const line = /** @type {HTMLAnchorElement} */ (row.firstElementChild);
    if (feed) line.href = `${feed}?${new URLSearchParams({ tenant: event.tenantId, event: String(event.id) })}`;
    this.fill(row, event);
    return row;
  }

  /** @param {HTMLElement} row of the first render */
  takeOver(row) {
    const { id, agent = "", tenant = "", type = "", payload } = row.dataset;
    const createdAt = row.querySelector("time")?.getAttribute("datetime") || null;
    delete row.dataset.payload;
    if (payload === undefined) return; // too long for the page: the server's line stays
    this.fill(row, { id: Number(id), tenantId: tenant, agentId: agent, type, payload: parse(payload), createdAt });
  }

  /** @param {HTMLElement} row @param {AgentEvent} event */
  fill(row, event) {
    const { tone, subject, text } = summarise(event);
    const [time, agent, type, mark, what] = /** @type {HTMLElement[]} */ ([...(row.firstElementChild?.children ?? [])]);
    row.dataset.tone = tone;
    const date = new Date(event.createdAt ?? "");
    /** @type {HTMLTimeElement} */ (time).dateTime = event.createdAt ?? "";
    setText(time, Number.isNaN(date.getTime()) ? (event.createdAt ?? "no time") : clockSeconds(date));
    time.title = event.createdAt ?? "";
    setText(agent, shortId(event.agentId));
    agent.title = event.agentId;
    setText(type, event.type);
    setText(mark, TONES[tone] ?? "");
    setText(what, subject ? `${subject} ${text}` : text);
  }
}

for (const root of document.querySelectorAll(".agent-events-embed[data-options]")) {
  new Embed(/** @type {HTMLElement} */ (root));
}
