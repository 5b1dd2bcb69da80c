/** Events a minute, as bars: errors in them, questions to people above them. A minute is chosen by pointer or keys. */

import { setText } from "../dom.js";
import { clockSeconds, plural } from "../format.js";
import { begin } from "./ink.js";
import { MINUTE_MS, MINUTES } from "./minutes.js";

/** @import { Ink } from "./ink.js" */
/** @import { Minutes } from "./minutes.js" */

const HEIGHT = 44;

export class Histogram {
  /**
   * @param {HTMLElement} root
   * @param {{go: (atMs: number) => void, tell: (text: string) => void}} options what to do with a minute
   */
  constructor(root, { go, tell }) {
    this.root = root;
    this.go = go;
    this.tell = tell;
    this.canvas = /** @type {HTMLCanvasElement} */ (root.querySelector("canvas"));
    this.pick = /** @type {HTMLElement} */ (root.querySelector(".histogram-pick"));
    /** @type {Minutes | null} */
    this.minutes = null;
    this.last = 0;
    this.chosen = MINUTES - 1;
    root.addEventListener("pointerdown", (event) => {
      root.setPointerCapture(event.pointerId);
      this.#choose(this.#at(event));
    });
    root.addEventListener("pointermove", (event) => this.#choose(this.#at(event)));
    root.addEventListener("pointerup", (event) => {
      this.#choose(this.#at(event));
      this.#go();
    });
    root.addEventListener("pointerleave", () => this.#leave());
    root.addEventListener("blur", () => this.#leave());
    root.addEventListener("focus", () => this.#choose(this.chosen));
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {Minutes} minutes @param {number} nowMs @param {Ink} ink */
  show(minutes, nowMs, ink) {
    this.minutes = minutes;
    this.last = Math.floor(nowMs / MINUTE_MS);
    const width = this.root.clientWidth;
    const context = begin(this.canvas, width, HEIGHT);
    const step = width / MINUTES;
    let most = 1;
    for (let i = 0; i < MINUTES; i++) most = Math.max(most, this.#of(i).events);
    for (let i = 0; i < MINUTES; i++) {
      const { events, errors, questions } = this.#of(i);
      const x = i * step + 1;
      const across = Math.max(1, step - 2);
      const height = events ? Math.max(2, (events / most) * (HEIGHT - 8)) : 1;
      const bad = errors ? Math.max(2, (errors / most) * (HEIGHT - 8)) : 0;
      context.fillStyle = events ? ink.accent : ink.line;
      context.fillRect(x, HEIGHT - height, across, height);
      if (bad) {
        context.fillStyle = ink.bad;
        context.fillRect(x, HEIGHT - bad, across, bad);
      }
      if (questions) {
        context.fillStyle = ink.warn;
        context.beginPath();
        context.moveTo(x + across / 2, HEIGHT - height - 7);
        context.lineTo(x + across / 2 + 4, HEIGHT - height - 1);
        context.lineTo(x + across / 2 - 4, HEIGHT - height - 1);
        context.fill();
      }
    }
    this.#say();
  }

  /** @param {number} i 0 is the oldest minute @returns {number} since 1970 */
  #minute(i) {
    return this.last - MINUTES + 1 + i;
  }

  /** @param {number} i */
  #of(i) {
    return this.minutes?.at(this.#minute(i)) ?? { events: 0, errors: 0, questions: 0 };
  }

  /** @param {PointerEvent} event */
  #at(event) {
    const box = this.root.getBoundingClientRect();
    return Math.floor(((event.clientX - box.left) / Math.max(1, box.width)) * MINUTES);
  }

  /** @param {number} i */
  #choose(i) {
    this.chosen = Math.min(MINUTES - 1, Math.max(0, i));
    this.pick.hidden = false;
    this.pick.style.setProperty("--place", String(this.chosen / MINUTES));
    this.pick.style.setProperty("--width", String(1 / MINUTES));
    this.tell(this.#say());
  }

  #leave() {
    this.pick.hidden = true;
    this.tell("");
  }

  #go() {
    this.go(this.#minute(this.chosen) * MINUTE_MS);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    /** @type {Record<string, number>} */
    const places = {
      ArrowLeft: this.chosen - 1,
      ArrowDown: this.chosen - 1,
      ArrowRight: this.chosen + 1,
      ArrowUp: this.chosen + 1,
      PageUp: this.chosen + 5,
      PageDown: this.chosen - 5,
      Home: 0,
      End: MINUTES - 1,
    };
    if (event.key === "Enter") this.#go();
    else if (event.key in places) this.#choose(places[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @returns {string} the chosen minute in words */
  #say() {
    const { events, errors, questions } = this.#of(this.chosen);
    const at = clockSeconds(new Date(this.#minute(this.chosen) * MINUTE_MS)).slice(0, 5);
    const words = [plural(events, "event")];
    if (errors) words.push(plural(errors, "error"));
    if (questions) words.push(`${plural(questions, "question")} to a human`);
    const text = `${at}: ${words.join(", ")}`;
    if (this.root.getAttribute("aria-valuetext") !== text) {
      this.root.setAttribute("aria-valuenow", String(this.chosen));
      this.root.setAttribute("aria-valuetext", text);
    }
    return text;
  }
}

/** @param {HTMLElement} element @param {Minutes} minutes @param {number} nowMs */
export function summarise(element, minutes, nowMs) {
  const last = Math.floor(nowMs / MINUTE_MS);
  let [events, errors] = [0, 0];
  for (let back = 0; back < MINUTES; back++) {
    const at = minutes.at(last - back);
    events += at.events;
    errors += at.errors;
  }
  setText(element, `${plural(events, "event")} in ${MINUTES} min${errors ? `, ${plural(errors, "error")}` : ""}`);
}
