/** Agents and types that were seen, to be suggested where somebody types one. */

import { byId } from "../dom.js";

/** @import { Batch } from "../client.js" */

/** Of each at most: a list of suggestions that is longer helps nobody. */
const MOST = 200;

export class Known {
  constructor() {
    /** Names by id. @type {Map<string, string>} */
    this.agents = new Map();
    /** @type {Set<string>} */
    this.types = new Set();
    for (const row of document.querySelectorAll("#events .row")) {
      if (row instanceof HTMLElement) this.#saw(row.dataset.agent ?? "", row.dataset.type ?? "", null);
    }
  }

  /** @param {Batch} detail */
  take({ events }) {
    for (const { agentId, type, payload } of events) this.#saw(agentId, type, payload);
  }

  /** @param {string} agentId @returns {string} what it calls itself; empty where it never said */
  nameOf(agentId) {
    return this.agents.get(agentId) ?? "";
  }

  /** @param {string} text a name or an id @returns {string[]} ids: agents of several tenants may have one name */
  agentsOf(text) {
    if (!text) return []; // there are agents without a name
    const sought = text.toLowerCase();
    if (this.agents.has(sought)) return [sought];
    return [...this.agents].filter(([, name]) => name.toLowerCase() === sought).map(([id]) => id);
  }

  /** Writes the suggestions: when somebody begins to type, not as events come. */
  suggest() {
    const names = new Set([...this.agents].map(([id, name]) => name || id));
    byId("known-agents").replaceChildren(...[...names].sort().map(option));
    const types = [...this.types].sort();
    const families = new Set(types.filter((type) => type.includes(".")).map((type) => `${type.split(".", 1)[0]}.*`));
    byId("known-types").replaceChildren(...[...families, ...types].map(option));
  }

  /** @param {string} agentId @param {string} type @param {any} payload */
  #saw(agentId, type, payload) {
    if (type && this.types.size < MOST) this.types.add(type);
    if (!agentId) return;
    const known = this.agents.get(agentId);
    if (known || (known === undefined && this.agents.size >= MOST)) return;
    const name = typeof payload?.agent === "string" ? payload.agent.trim().slice(0, 80) : "";
    this.agents.set(agentId, name);
  }
}

/** @param {string} value */
function option(value) {
  const made = document.createElement("option");
  made.value = value;
  return made;
}
