/**
 * A row of the feed: made from the page's <template>, or taken over from the first render. Text goes in by
 * textContent only. The pretty payload is written when a row is first opened: most never are.
 */

import { clock, dayKey, dayName, exactInstant, hueOf, shortId } from "./format.js";
import { parse, pretty } from "./json.js";
import { summarise } from "./summary.js";

/**
 * @typedef {object} AgentEvent one event as it is on the wire
 * @property {number} id
 * @property {string} tenantId
 * @property {string} agentId
 * @property {string} type
 * @property {any} payload
 * @property {string | null} createdAt RFC 3339, UTC, microseconds
 * @property {string} [payloadHref] where the whole event is, where its payload was too large for the stream
 * @property {string} [cut] the beginning of a payload too long to keep (then `payload` is null)
 * @property {import("./summary.js").Summary} [summary] made before the payload was cut
 */

/** Characters of a payload that a row keeps: a thousand rows of 5 MB each would not fit into a browser. */
export const PAYLOAD_LIMIT = 100_000;

/** What each row shows, kept until the row is gone. @type {WeakMap<Element, AgentEvent>} */
const eventOf = new WeakMap();

export class RowMaker {
  /**
   * @param {HTMLTemplateElement} rowTemplate
   * @param {HTMLTemplateElement} noticeTemplate
   * @param {Map<string, string>} tenantNames by id
   */
  constructor(rowTemplate, noticeTemplate, tenantNames) {
    this.rowTemplate = rowTemplate;
    this.noticeTemplate = noticeTemplate;
    this.tenantNames = tenantNames;
  }

  /** @param {AgentEvent} event @returns {HTMLDetailsElement} */
  make(event) {
    const row = /** @type {HTMLDetailsElement} */ (this.rowTemplate.content.firstElementChild.cloneNode(true));
    row.id = `event-${event.id}`;
    row.dataset.id = String(event.id);
    this.#fill(row, event);
    return row;
  }

  /** Gives a row of the first render what only scripts can: local time, colour, summary. @param {HTMLDetailsElement} row */
  takeOver(row) {
    const { id, tenant, agent, type } = row.dataset;
    const createdAt = row.querySelector("time").dateTime;
    let payload;
    try {
      payload = parse(row.querySelector(".row-payload").textContent);
    } catch {
      // The server cut a long payload: its beginning is no JSON, and stays as it is.
      paint(row, { agentId: agent, createdAt, kind: "other", tone: "plain" });
      return;
    }
    this.#fill(row, { id: Number(id), tenantId: tenant, agentId: agent, type, payload, createdAt });
  }

  /** @param {string} kind names its look in row.css @param {string} text @returns {HTMLElement} a row that is no event */
  notice(kind, text) {
    const row = /** @type {HTMLElement} */ (this.noticeTemplate.content.firstElementChild.cloneNode(true));
    row.dataset.notice = kind;
    row.querySelector(".notice-text").textContent = text;
    return row;
  }

  /** @param {HTMLDetailsElement} row @param {AgentEvent} event */
  #fill(row, event) {
    const { kind, tone, agent, subject, text, facts } = event.summary ?? summarise(event);
    const part = (name) => row.querySelector(`.row-${name}`);
    paint(row, { agentId: event.agentId, createdAt: event.createdAt, kind, tone });
    const tenant = part("tenant");
    if (tenant) {
      tenant.textContent = this.tenantNames.get(event.tenantId) ?? shortId(event.tenantId);
      tenant.title = event.tenantId;
    }
    part("agent").textContent = agent;
    part("agent").title = event.agentId;
    row.querySelector(".badge").textContent = event.type;
    row.querySelector(".badge").title = event.type;
    part("subject").textContent = subject;
    part("text").textContent = text;
    part("what").title = subject ? `${subject}  ${text}` : text;
    part("facts").replaceChildren(...facts.map(factElement));
    part("ids").textContent = `event ${event.id} · agent ${event.agentId} · tenant ${event.tenantId}`;
    row.querySelector('[data-action="only-agent"]').href = linkWith("agent", event.agentId);
    row.querySelector('[data-action="only-type"]').href = linkWith("type", event.type);
    eventOf.set(row, event);
  }
}

/** Writes the payload into a row that has just been opened. @param {HTMLElement} row */
export async function showPayload(row) {
  let event = eventOf.get(row);
  if (!event) return;
  if (event.payloadHref) event = await fetched(row, event);
  if (!event) return;
  const text = event.cut ?? pretty(event.payload);
  row.querySelector(".row-payload").textContent = text.slice(0, PAYLOAD_LIMIT);
  row.querySelector(".row-cut").hidden = !event.cut && text.length <= PAYLOAD_LIMIT;
}

/**
 * The event with the payload that was too large for the stream; where it cannot be had, the row says why.
 * @param {HTMLElement} row @param {AgentEvent} event @returns {Promise<AgentEvent | undefined>}
 */
async function fetched(row, event) {
  const where = row.querySelector(".row-payload");
  where.textContent = "Loading the payload ...";
  try {
    const answer = await fetch(event.payloadHref);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const { payload } = parse(await answer.text());
    const { payloadHref, ...whole } = withinMemory({ ...event, payload });
    eventOf.set(row, whole);
    return whole;
  } catch (error) {
    where.textContent = `The payload could not be loaded: ${error.message}. Close and open the row to try again.`;
    return undefined;
  }
}

/** @param {AgentEvent} event @returns {AgentEvent} the event, its payload cut to text where it is very long */
export function withinMemory(event) {
  const text = JSON.stringify(event.payload);
  if (text.length <= PAYLOAD_LIMIT) return event;
  return { ...event, payload: null, summary: summarise(event), cut: text.slice(0, PAYLOAD_LIMIT) };
}

/** @param {string | null} createdAt @returns {{key: number, name: string} | null} its local day */
export function dayOf(createdAt) {
  if (!createdAt) return null;
  const date = new Date(createdAt);
  return { key: dayKey(date), name: dayName(date) };
}

function paint(row, { agentId, createdAt, kind, tone }) {
  row.dataset.kind = kind;
  row.dataset.tone = tone;
  row.style.setProperty("--agent-hue", String(hueOf(agentId)));
  const time = row.querySelector("time");
  // A producer may store an infinite time, which the wire leaves out.
  const date = createdAt ? new Date(createdAt) : null;
  time.dateTime = createdAt ?? "";
  time.textContent = date ? clock(date) : "no time";
  time.title = date ? exactInstant(date, createdAt) : "The producer stored no finite time.";
}

function factElement({ name, text }) {
  const fact = document.createElement("span");
  fact.dataset.fact = name;
  fact.textContent = text;
  return fact;
}

function linkWith(name, value) {
  const query = new URLSearchParams(location.search);
  query.set(name, value);
  return `?${query}`;
}
