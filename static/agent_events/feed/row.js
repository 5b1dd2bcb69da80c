/**
 * A row of the feed: made from the page's <template>, or taken over from the first render. Text goes in by
 * textContent only. What a row shows when it is open is made when it is opened: most never are.
 */

import { hueOf } from "../agents/colours.js";
import { madeFrom } from "../dom.js";
import { clock, dayKey, exactInstant } from "../format.js";
import { parse } from "../json.js";
import { summarise } from "../summary.js";

/** @import { AgentEvent as WireAgentEvent } from "../client.js" */
/** @import { Summary } from "../summary.js" */

/**
 * @typedef {WireAgentEvent & {summary?: Summary, cut?: boolean}} AgentEvent
 *   `cut`: the payload was too long to keep (and is null); the summary was made before
 */

/** Characters of a payload that a row keeps: a thousand rows of 5 MB each would not fit into a browser. */
export const PAYLOAD_LIMIT = 100_000;

/** What each row shows, kept until the row is gone. @type {WeakMap<Element, AgentEvent>} */
const shownBy = new WeakMap();

/** @param {Element} row @returns {AgentEvent | undefined} */
export function eventOf(row) {
  return shownBy.get(row);
}

export class RowMaker {
  /**
   * @param {object} from
   * @param {HTMLTemplateElement} from.row @param {HTMLTemplateElement} from.notice
   * @param {(tenantId: string) => string} from.tenantName
   */
  constructor({ row, notice, tenantName }) {
    this.rowTemplate = row;
    this.noticeTemplate = notice;
    this.tenantName = tenantName;
  }

  /** @param {AgentEvent} event @returns {HTMLDetailsElement} */
  make(event) {
    const row = /** @type {HTMLDetailsElement} */ (madeFrom(this.rowTemplate));
    row.id = `event-${event.id}`;
    row.dataset.id = String(event.id);
    this.#fill(row, event);
    return row;
  }

  /**
   * Gives a row of the first render what only scripts can: local time, colour, summary.
   * @param {HTMLDetailsElement} row @returns {AgentEvent}
   */
  takeOver(row) {
    const { id, tenant = "", agent = "", type = "" } = row.dataset;
    /** @type {AgentEvent} */
    let event = {
      id: Number(id),
      tenantId: tenant,
      agentId: agent,
      type,
      payload: null,
      createdAt: row.querySelector("time")?.getAttribute("datetime") || null,
    };
    try {
      event.payload = parse(row.querySelector(".row-payload")?.textContent ?? "");
    } catch {
      // The server cut a long payload: its beginning is no JSON, but it is what the line says.
      event = { ...event, cut: true };
      event.summary = { ...summarise(event), text: row.querySelector(".row-text")?.textContent ?? "" };
    }
    row.querySelector(".row-detail")?.remove();
    this.#fill(row, event);
    return event;
  }

  /** @param {string} kind names its look in row.css @param {string} text @returns {HTMLElement} a row that is no event */
  notice(kind, text) {
    const row = madeFrom(this.noticeTemplate);
    row.dataset.notice = kind;
    part(row, "notice-text").textContent = text;
    return row;
  }

  /** The times again: the viewer chose another zone. @param {Element} row */
  retime(row) {
    const event = shownBy.get(row);
    if (event) writeTime(/** @type {HTMLTimeElement} */ (row.querySelector("time")), event.createdAt);
  }

  /** @param {HTMLDetailsElement} row @param {AgentEvent} event */
  #fill(row, event) {
    const { kind, tone, agent, subject, text, facts } = event.summary ?? summarise(event);
    row.dataset.kind = kind;
    row.dataset.tone = tone;
    row.style.setProperty("--agent-hue", String(hueOf(event.agentId)));
    writeTime(/** @type {HTMLTimeElement} */ (row.querySelector("time")), event.createdAt);
    const tenant = /** @type {HTMLElement | null} */ (row.querySelector(".row-tenant"));
    if (tenant) {
      tenant.textContent = this.tenantName(event.tenantId);
      tenant.title = event.tenantId;
    }
    const name = part(row, "row-agent");
    name.textContent = agent;
    name.title = event.agentId;
    const badge = part(row, "badge");
    badge.textContent = event.type;
    badge.title = event.type;
    part(row, "row-subject").textContent = subject;
    part(row, "row-text").textContent = text;
    part(row, "row-what").title = subject ? `${subject}  ${text}` : text;
    const line = part(row, "row-facts");
    if (facts.length || line.firstChild) line.replaceChildren(...facts.map(factElement));
    shownBy.set(row, event);
  }
}

/** @param {AgentEvent} event @returns {AgentEvent} the event, without its payload where that is very long */
export function withinMemory(event) {
  if (event.payload === null || typeof event.payload !== "object") return event;
  if (JSON.stringify(event.payload).length <= PAYLOAD_LIMIT) return event;
  return { ...event, payload: null, summary: summarise(event), cut: true };
}

/** The same quarter of an hour is the same day, in every zone there is. */
let lastDay = { quarter: "", key: 0 };

/** @param {string | null} createdAt @returns {number | null} its local day */
export function dayOf(createdAt) {
  if (!createdAt) return null;
  // (In UTC, to the ten minutes.)
  const quarter = createdAt.slice(0, 15);
  if (lastDay.quarter !== quarter) lastDay = { quarter, key: dayKey(new Date(createdAt)) };
  return Number.isNaN(lastDay.key) ? null : lastDay.key;
}

/** The zone has changed. */
export function forgetDay() {
  lastDay = { quarter: "", key: 0 };
}

/** @param {HTMLTimeElement} time @param {string | null} createdAt */
function writeTime(time, createdAt) {
  // A producer may store an infinite time, which the wire leaves out.
  const date = createdAt ? new Date(createdAt) : null;
  time.dateTime = createdAt ?? "";
  time.textContent = !date ? "no time" : isKnown(date) ? clock(date) : String(createdAt);
  time.removeAttribute("title");
}

/**
 * The exact instant, written when somebody points at the time: most rows are never pointed at, and its formatter is slow.
 * @param {HTMLTimeElement} time
 */
export function explainTime(time) {
  if (time.title) return;
  if (!time.dateTime) {
    time.title = "The producer stored no finite time.";
    return;
  }
  const date = new Date(time.dateTime);
  time.title = isKnown(date) ? exactInstant(date, time.dateTime) : time.dateTime;
}

/** PostgreSQL knows years that JavaScript does not. @param {Date} date */
function isKnown(date) {
  return !Number.isNaN(date.getTime());
}

/** @param {{name: string, text: string}} fact */
function factElement({ name, text }) {
  const fact = document.createElement("span");
  fact.dataset.fact = name;
  fact.textContent = text;
  return fact;
}

/** @param {Element} row @param {string} name a class @returns {HTMLElement} */
function part(row, name) {
  return /** @type {HTMLElement} */ (row.querySelector(`.${name}`));
}
