/** The connection in words, with the age of the last event, on the page, in the title and for screen readers. */

import { age, count, plural } from "./format.js";

const TICK_MS = 1_000;
/** Screen readers hear a sum of what came at most this often. */
const SUM_INTERVAL_MS = 15_000;

const WORDS = {
  connecting: () => "Connecting",
  live: () => "Live",
  catching_up: () => "Catching up",
  reconnecting: ({ retryAt }, now) => `Reconnecting in ${Math.max(0, Math.ceil((retryAt - now) / 1000))} s`,
  signed_out: () => "Signed out",
  stopped: () => "Stopped",
};

export class Status {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.root
   * @param {HTMLElement} parts.words
   * @param {HTMLElement} parts.age
   * @param {HTMLAnchorElement} parts.action what to do where it ended
   * @param {HTMLElement} parts.announcer the polite region that screen readers speak
   * @param {string} parts.loginUrl
   */
  constructor(parts) {
    this.parts = parts;
    this.state = { name: "connecting" };
    this.lastEventAt = null;
    this.title = document.title;
    this.escalations = 0;
    this.unsaid = { events: 0, errors: 0 };
    this.saidAt = Date.now();
    setInterval(() => this.#tick(), TICK_MS);
    document.addEventListener("visibilitychange", () => this.#seen());
  }

  /** @param {import("./connection.js").State} state */
  show(state) {
    const changed = state.name !== this.state.name;
    this.state = state;
    const { root, action, loginUrl } = this.parts;
    root.dataset.state = state.name;
    root.title = state.reason ?? "";
    action.hidden = !this.#ended;
    action.textContent = state.name === "signed_out" ? "Sign in again" : "Reload";
    action.href = state.name === "signed_out" ? loginUrl : location.href;
    this.#tick();
    const words = WORDS[state.name](state, Date.now());
    if (changed) this.announce(this.#ended ? `${words}. ${state.reason}` : words);
  }

  /** @param {number} at clock time in ms of the newest event */
  sawEvent(at) {
    this.lastEventAt = at;
  }

  /** @param {{events: number, errors: number, escalations: number}} sum what has just come */
  came({ events, errors, escalations }) {
    this.lastEventAt = Date.now();
    this.unsaid.events += events;
    this.unsaid.errors += errors;
    if (escalations && document.hidden) {
      this.escalations += escalations;
      document.title = `(${count(this.escalations)}) ${this.title}`;
    }
  }

  /** @param {string} text */
  announce(text) {
    this.parts.announcer.textContent = text;
  }

  get #ended() {
    return this.state.name === "signed_out" || this.state.name === "stopped";
  }

  #seen() {
    if (document.hidden) return;
    this.escalations = 0;
    document.title = this.title;
  }

  #tick() {
    const now = Date.now();
    const { words, age: ageElement } = this.parts;
    // Set only what changed: a text that is set anew is laid out anew, and a selection in it is lost.
    setText(words, WORDS[this.state.name](this.state, now));
    const last = this.lastEventAt === null ? "no event yet" : `last event ${age(now - this.lastEventAt)}`;
    setText(ageElement, this.#ended ? this.state.reason : last);
    if (this.unsaid.events && now - this.saidAt >= SUM_INTERVAL_MS) {
      const { events, errors } = this.unsaid;
      this.announce(`${plural(events, "new event")}${errors ? `, ${plural(errors, "error")}` : ""}`);
      this.unsaid = { events: 0, errors: 0 };
      this.saidAt = now;
    }
  }
}

/** @param {HTMLElement} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
