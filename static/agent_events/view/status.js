/** The connection in words, with the age of the last event: on the page, and said to who does not see it. */

import { byId, setText } from "../dom.js";
import { age, clockSeconds, count, plural } from "../format.js";
import { toneOf } from "../kinds.js";
import { summarise } from "../summary.js";
import { isFiltered } from "./address.js";
import { Announcer } from "./announcer.js";
import { Attention } from "./attention.js";

/** @import { AgentEvent, Batch, State, StateName } from "../client.js" */
/** @import { Page } from "../page.js" */

const TICK_MS = 1_000;
/** Screen readers hear a sum of what came at most this often. */
const SUM_INTERVAL_MS = 15_000;

/** @type {Record<StateName, (state: State, now: number) => string>} */
const WORDS = {
  connecting: () => "Connecting",
  live: () => "Live",
  catchingUp: ({ behind }) => (behind ? `Catching up (${count(behind)} behind)` : "Catching up"),
  reconnecting: ({ retryAt }, now) => `Reconnecting in ${Math.max(0, Math.ceil(((retryAt ?? now) - now) / 1000))} s`,
  signedOut: () => "Signed out",
  stopped: () => "Stopped",
  closed: () => "Stopped",
};

/** Where trying again by itself cannot help: what is the matter, and what to do. */
const ENDS = {
  signedOut: { title: "You are signed out.", action: "Sign in again" },
  stopped: { title: "The stream has stopped.", action: "Reload" },
};

export class Status {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.root = byId("state");
    this.words = byId("state-words");
    this.ageLead = byId("state-age-lead");
    this.age = byId("state-age-time");
    this.action = /** @type {HTMLAnchorElement} */ (byId("state-action"));
    this.again = this.#tryNow();
    this.announcer = new Announcer();
    this.attention = new Attention();
    /** @type {State} */
    this.now = { name: "connecting", since: Date.now() };
    /** @type {number | null} */
    this.lastEventAt = timeOfFirstRow();
    this.unsaid = { events: 0, errors: 0 };
    this.saidAt = Date.now();
    setInterval(() => this.#tick(), TICK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#tick());
    this.#tick();
  }

  /** @param {State} state */
  state(state) {
    if (state.name === "closed") return; // by the page itself, which opens another one
    const changed = state.name !== this.now.name;
    this.now = state;
    this.root.dataset.state = state.name;
    this.again.hidden = state.name !== "reconnecting";
    this.#showEnd();
    this.#tick();
    const words = WORDS[state.name](state, Date.now());
    const ended = this.#end;
    if (changed) this.announce(ended ? `${ended.title} ${state.reason ?? ""}` : words, Boolean(ended));
  }

  /** @param {Batch} detail */
  take({ events }) {
    this.lastEventAt = Date.now();
    this.unsaid.events += events.length;
    /** @type {{events: number, last: AgentEvent | null}} */
    const alarms = { events: 0, last: null };
    for (const event of events) {
      const tone = toneOf(event.type);
      if (tone === "error") this.unsaid.errors += 1;
      if (tone === "plain") continue;
      alarms.events += 1;
      alarms.last = event;
    }
    if (!alarms.last) return;
    const { agent, subject, text } = summarise(alarms.last);
    const what = [toneOf(alarms.last.type) === "error" ? "Error" : "Needs a human", agent, subject, text].filter(Boolean);
    this.announce(`${what.join(": ")}${alarms.events > 1 ? `, and ${count(alarms.events - 1)} more` : ""}`, true);
  }

  /** @param {string} text @param {boolean} [urgent] */
  announce(text, urgent = false) {
    this.announcer.say(text, urgent);
  }

  get #end() {
    const { name } = this.now;
    return name === "signedOut" || name === "stopped" ? ENDS[name] : null;
  }

  #showEnd() {
    const end = this.#end;
    byId("trouble").hidden = !end;
    this.action.hidden = !end;
    if (!end) return;
    setText(byId("trouble-title"), end.title);
    setText(byId("trouble-reason"), sentence(this.now.reason ?? ""));
    for (const link of [this.action, /** @type {HTMLAnchorElement} */ (byId("trouble-action"))]) {
      setText(link, end.action);
      link.href = this.now.name === "signedOut" ? this.#signIn() : location.href;
    }
  }

  /** The sign-in page, and from there back to what is shown now: the view may have changed since the first render. */
  #signIn() {
    const url = new URL(this.page.config.loginUrl, location.href);
    url.searchParams.set("next", location.pathname + location.search);
    return url.href;
  }

  #tryNow() {
    const button = document.createElement("button");
    button.type = "button";
    button.id = "state-again";
    button.className = "button button-small";
    button.textContent = "Try now";
    button.hidden = true;
    button.addEventListener("click", () => this.page.stream?.wake());
    this.action.after(button);
    return button;
  }

  #tick() {
    const now = Date.now();
    // Set only what changed: a text that is set anew is laid out anew, and a selection in it is lost.
    setText(this.words, WORDS[this.now.name](this.now, now));
    const none = isFiltered(this.page.view) ? "no event that matches yet" : "no event yet";
    setText(this.ageLead, this.lastEventAt === null ? "" : "last event ");
    setText(this.age, this.lastEventAt === null ? none : age(now - this.lastEventAt));
    const since = `Since ${clockSeconds(new Date(this.now.since))}${this.now.reason ? `: ${this.now.reason}` : ""}`;
    if (this.root.title !== since) this.root.title = since;
    this.attention.show(this.page.agents?.waiting ?? 0); // (they are made later)
    this.#sumUp(now);
  }

  /** @param {number} now */
  #sumUp(now) {
    if (!this.unsaid.events || now - this.saidAt < SUM_INTERVAL_MS) return;
    const { events, errors } = this.unsaid;
    this.announce(`${plural(events, "new event")}${errors ? `, ${plural(errors, "error")}` : ""}`);
    this.unsaid = { events: 0, errors: 0 };
    this.saidAt = now;
  }
}

/** @returns {number | null} when the newest event of the first render was made */
function timeOfFirstRow() {
  const time = document.querySelector("#events .row time");
  const at = time instanceof HTMLTimeElement ? Date.parse(time.dateTime) : Number.NaN;
  return Number.isNaN(at) ? null : at;
}

/** @param {string} reason @returns {string} with a capital and a full stop */
function sentence(reason) {
  if (!reason) return "";
  return `${reason[0].toUpperCase()}${reason.slice(1)}${/[.!?]$/.test(reason) ? "" : "."}`;
}
