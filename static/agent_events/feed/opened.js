/** What a row shows when it is open, and what can be done with it. Remembers by id what is open, whatever the list does. */

import { cap } from "../bounded.js";
import { copyText } from "../copy.js";
import { madeFrom } from "../dom.js";
import { parse, pretty } from "../json.js";
import { fetched } from "./history.js";
import { press, showPayload } from "./payload.js";
import { eventOf } from "./row.js";

/** @import { Page } from "../page.js" */
/** @import { AgentEvent } from "./row.js" */

/** Ids of opened events that are remembered: somebody who opens more than that has lost count too. */
const MOST_OPEN = 500;

export class Opened {
  /** @param {Page} page @param {HTMLTemplateElement} template */
  constructor(page, template) {
    this.page = page;
    this.template = template;
    /** @type {Set<number>} in the order in which they were opened */
    this.ids = new Set();
    /** Payloads that were fetched in full, as long as their row is open. @type {WeakMap<Element, any>} */
    this.whole = new WeakMap();
  }

  /** A row has come, or is back. @param {HTMLDetailsElement} row */
  made(row) {
    if (!this.ids.has(Number(row.dataset.id))) return;
    row.open = true;
    this.#fill(row);
  }

  /**
   * A row was opened or closed, by whomever.
   * @param {HTMLDetailsElement} row @returns {boolean} whether that is news
   */
  toggled(row) {
    const id = Number(row.dataset.id);
    const isNews = row.open !== this.ids.has(id);
    if (row.open) {
      this.ids.add(id);
      cap(this.ids, MOST_OPEN);
      if (!row.querySelector(".row-detail")) this.#fill(row);
    } else {
      this.ids.delete(id);
      row.querySelector(".row-detail")?.remove();
    }
    return isNews;
  }

  /** @param {Element} row @returns {Promise<any>} the payload, all of it */
  async payload(row) {
    const event = eventOf(row);
    if (!event) return null;
    if (!event.cut && !event.payloadHref) return event.payload;
    if (this.whole.has(row)) return this.whole.get(row);
    const answer = await fetched(event.payloadHref ?? `${this.page.config.eventsPath}/${event.id}`);
    const { payload } = parse(await answer.text());
    this.whole.set(row, payload);
    return payload;
  }

  /**
   * @param {Element} row @param {HTMLElement | null} button tells how it went
   * @returns {Promise<boolean>} whether it is copied
   */
  async copy(row, button) {
    try {
      return await copyText(pretty(await this.payload(row)), button);
    } catch (error) {
      this.page.announce(/** @type {Error} */ (error).message);
      return false;
    }
  }

  /** The address that opens this event among its neighbours. @param {number} id */
  address(id) {
    const query = new URLSearchParams();
    const { tenant } = this.page;
    if (tenant) query.set("tenant", tenant);
    query.set("event", String(id));
    return `${location.origin}${location.pathname}?${query}`;
  }

  /**
   * A click within an open row.
   * @param {MouseEvent} click @returns {boolean} whether it was for something here
   */
  clicked(click) {
    const target = /** @type {Element} */ (click.target);
    const row = target.closest(".row");
    const event = row && eventOf(row);
    if (!row || !event) return false;
    const link = /** @type {HTMLElement | null} */ (target.closest("[data-action]"));
    if (link) return this.#act(click, link, row, event);
    if (!target.closest(".row-payload") || !getSelection()?.isCollapsed) return false;
    const where = press(target);
    if (where) this.page.narrow("where", where);
    return true;
  }

  /** @param {MouseEvent} click @param {HTMLElement} link @param {Element} row @param {AgentEvent} event */
  #act(click, link, row, event) {
    if (click.ctrlKey || click.metaKey || click.shiftKey) return false; // another tab
    switch (link.dataset.action) {
      case "copy":
        this.copy(row, link);
        return true;
      case "copy-link":
        copyText(this.address(event.id), link);
        return true;
      case "only-agent":
        this.page.narrow("agents", event.agentId, click.altKey);
        break;
      case "only-type":
        this.page.narrow("types", event.type, click.altKey);
        break;
      case "around":
        this.page.goTo({ event: String(event.id) });
        break;
      case "run":
        this.page.change({ run: link.dataset.run ?? "" });
        break;
      default:
        return false;
    }
    click.preventDefault();
    return true;
  }

  /** @param {HTMLDetailsElement} row */
  async #fill(row) {
    const event = eventOf(row);
    if (!event) return;
    const detail = madeFrom(this.template);
    const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (detail.querySelector(name));
    part(".row-ids").textContent = `event ${event.id} · agent ${event.agentId} · tenant ${event.tenantId}`;
    const link = (/** @type {string} */ action, /** @type {string} */ address) => part(`[data-action="${action}"]`).setAttribute("href", address);
    link("only-agent", linkWith("agent", event.agentId));
    link("only-type", linkWith("type", event.type));
    link("around", this.address(event.id));
    const run = event.payload?.run_id;
    const runButton = part('[data-action="run"]');
    runButton.hidden = typeof run !== "string" || !run;
    if (!runButton.hidden) runButton.dataset.run = run;
    row.append(detail);
    const shown = part(".row-payload");
    if (event.cut || event.payloadHref) shown.textContent = "Loading the payload ...";
    try {
      const payload = await this.payload(row);
      if (detail.isConnected || !event.cut) showPayload(shown, payload);
    } catch (error) {
      shown.textContent = `The payload could not be loaded: ${/** @type {Error} */ (error).message} Close and open the row to try again.`;
    }
  }
}

/** @param {string} name @param {string} value */
function linkWith(name, value) {
  const query = new URLSearchParams(location.search);
  query.set(name, value);
  query.delete("event");
  query.delete("at");
  return `?${query}`;
}
