/**
 * The rail: a line an agent, those first that need something. Lines are patched in place, once a second at most; one
 * that moves keeps the focus, and none moves under the pointer.
 */

import { byId, madeFrom, setText } from "../dom.js";
import { clockSeconds, plural } from "../format.js";
import { keep, kept } from "../view/kept.js";
import { hueOf } from "./colours.js";
import { pathOf } from "./sparkline.js";
import { STATES } from "./state.js";

/** @import { View } from "../view/address.js" */
/** @import { Line, StateName } from "./state.js" */

/** More agents than this have one short line each: forty fit on a screen. */
const ROOMY = 20;
/** Lines stand still for so long after the pointer moved over them, in ms: a click hits what was aimed at. */
const AIM_MS = 1_500;
const SMALL = "(max-width: 60rem)";
const MEMORY = "agent_events.rail";

/** What people read. @type {Record<StateName, string>} */
const STATE_WORDS = {
  needsHuman: "needs you",
  failing: "failing",
  stale: "silent",
  busy: "busy",
  idle: "idle",
};

/**
 * @typedef {{item: HTMLElement, button: HTMLButtonElement, name: Element, tenant: Element, state: Element, what: Element,
 *   age: Element, unseen: HTMLElement, spark: Element, path: string, title: string}} Parts
 */

export class Rail {
  /**
   * @param {object} options
   * @param {(id: string, exclude: boolean, key: string) => void} options.choose
   * @param {(tenantId: string) => string} options.tenantName of several tenants; empty where one is shown
   */
  constructor({ choose, tenantName }) {
    this.tenantName = tenantName;
    this.list = byId("agents");
    this.fold = /** @type {HTMLDetailsElement} */ (byId("rail-fold"));
    this.template = /** @type {HTMLTemplateElement} */ (byId("agent-template"));
    /** @type {Map<string, Parts>} */
    this.parts = new Map();
    this.aimedMs = 0;
    this.#remember();
    this.list.addEventListener("pointermove", () => (this.aimedMs = performance.now()), { passive: true });
    this.list.addEventListener("pointerleave", () => (this.aimedMs = 0), { passive: true });
    this.list.addEventListener("click", (event) => {
      const line = event.target instanceof Element ? event.target.closest("button") : null;
      if (!line) return;
      choose(line.dataset.agent ?? "", event.altKey, line.dataset.key ?? "");
    });
  }

  /** Something to know about the lines, quietly; or nothing. @param {string} text */
  note(text) {
    const note = byId("rail-note");
    setText(note, text);
    note.hidden = text === "";
  }

  /**
   * @param {Line[]} lines in the order of need @param {number} nowMs
   * @param {View} view which agents are chosen
   */
  show(lines, nowMs, view) {
    this.#heads(lines);
    if (!this.fold.open) return;
    byId("rail").toggleAttribute("data-compact", lines.length > ROOMY);
    const keys = new Set(lines.map((line) => line.key));
    for (const [key, { item }] of this.parts) {
      if (keys.has(key)) continue;
      item.remove();
      this.parts.delete(key);
    }
    const minute = Math.floor(nowMs / 60_000);
    for (const line of lines) this.#patch(line, nowMs, minute, view);
    if (performance.now() - this.aimedMs > AIM_MS || this.aimedMs === 0) this.#arrange(lines);
  }

  /** @param {Line[]} lines */
  #heads(lines) {
    const counts = new Map(STATES.map((state) => [state, 0]));
    for (const { state } of lines) counts.set(state, (counts.get(state) ?? 0) + 1);
    const needs = counts.get("needsHuman") ?? 0;
    const badge = byId("rail-needs");
    badge.hidden = needs === 0;
    setText(badge, `${needs} ${needs === 1 ? "needs" : "need"} you`);
    const others = STATES.slice(1).filter((state) => counts.get(state));
    setText(byId("rail-counts"), others.map((state) => `${counts.get(state)} ${STATE_WORDS[state]}`).join(" · "));
    byId("rail-empty").hidden = lines.length > 0;
  }

  /** @param {Line} line @returns {Parts} */
  #make(line) {
    const item = madeFrom(this.template);
    /** @param {string} name */
    const part = (name) => /** @type {HTMLElement} */ (item.querySelector(name));
    const button = /** @type {HTMLButtonElement} */ (part("button"));
    button.dataset.agent = line.id;
    button.dataset.key = line.key;
    button.style.setProperty("--agent-hue", String(hueOf(line.id)));
    const made = {
      item,
      button,
      name: part(".agent-called"),
      tenant: part(".agent-tenant"),
      state: part(".agent-state"),
      what: part(".agent-what"),
      age: part(".agent-age"),
      unseen: part(".agent-unseen"),
      spark: part(".agent-spark path"),
      path: "",
      title: "",
    };
    this.parts.set(line.key, made);
    this.list.append(item);
    return made;
  }

  /** @param {Line} line @param {number} nowMs @param {number} minute @param {View} view */
  #patch(line, nowMs, minute, view) {
    const parts = this.parts.get(line.key) ?? this.#make(line);
    const { button } = parts;
    if (button.dataset.state !== line.state) button.dataset.state = line.state;
    const tenant = this.tenantName(line.tenantId);
    setText(parts.name, line.name);
    setText(parts.tenant, tenant ? ` · ${tenant}` : "");
    setText(parts.state, ` ${STATE_WORDS[line.state]}: `);
    setText(parts.what, line.what);
    setText(parts.age, brief(nowMs - line.sinceMs, line.sinceMs));
    setText(parts.unseen, line.unseen > 99 ? "99+" : String(line.unseen));
    parts.unseen.hidden = line.unseen === 0;
    const pressed = String(view.agents.includes(line.id));
    if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    const excluded = view.notAgents.includes(line.id);
    if (button.hasAttribute("data-excluded") !== excluded) button.toggleAttribute("data-excluded", excluded);
    const path = pathOf(line.minutes, minute);
    if (path !== parts.path) {
      parts.spark.setAttribute("d", path);
      parts.path = path;
    }
    const title = titleOf(line, tenant, minute);
    if (title !== parts.title) {
      button.title = title;
      parts.title = title;
    }
  }

  /** @param {Line[]} lines */
  #arrange(lines) {
    const active = /** @type {HTMLElement | null} */ (document.activeElement);
    const focused = this.list.contains(active) ? active : null;
    let place = this.list.firstElementChild;
    for (const { key } of lines) {
      const item = /** @type {Parts} */ (this.parts.get(key)).item;
      if (item === place) place = place.nextElementSibling;
      else this.list.insertBefore(item, place);
    }
    if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  /** On a small screen the rail is folded until somebody opens it. */
  #remember() {
    const small = matchMedia(SMALL);
    const fit = () => {
      this.fold.open = !small.matches || kept(MEMORY) === "open";
    };
    fit();
    small.addEventListener("change", fit);
    this.fold.addEventListener("toggle", () => {
      if (small.matches) keep(MEMORY, this.fold.open ? "open" : "folded");
    });
  }
}

/** @param {number} ms @param {number} sinceMs @returns {string} "12s", "5m", "3h", "2d"; nothing where nobody knows */
function brief(ms, sinceMs) {
  if (!sinceMs) return "";
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** @param {Line} line @param {string} tenant @param {number} minute @returns {string} */
function titleOf(line, tenant, minute) {
  const { events } = line.minutes.at(minute - 1);
  const since = line.sinceMs ? ` since ${clockSeconds(new Date(line.sinceMs))}` : "";
  const said = [
    `${line.name}${tenant ? ` of ${tenant}` : ""} ${STATE_WORDS[line.state]}${since}: ${line.what}`,
    `${plural(events, "event")} in the last minute`,
    line.unseen ? `${plural(line.unseen, "error")} since you looked` : "",
    line.error && line.state !== "failing" ? `Last error: ${line.error}` : "",
    "Click: only this agent. Alt-click: without it.",
  ];
  return said.filter(Boolean).join("\n");
}
