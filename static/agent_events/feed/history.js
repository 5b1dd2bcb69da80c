/** Reading the log: pages either way, one event. What goes wrong is an error whose message is for people. */

import { parse } from "../json.js";
import { queryOf } from "../view/address.js";
import { withinMemory } from "./row.js";

/** @import { AgentEvent } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { Filter } from "../view/address.js" */
/** @import { HistoryPage } from "./model.js" */

const PATIENCE_MS = 25_000;
/** A look of the server's is some thousand rows of the log; a filter that matches little takes several. */
const MOST_LOOKS = 8;
const MOST_LOOKING_MS = 4_000;

const WORDS = new Map([
  [401, "You are signed out. Sign in again."],
  [403, "You may not see these events."],
  [404, "There is no such event any more, or it is not yours."],
  [429, "Too many requests at once. Try again in a moment."],
  [503, "The log cannot be read now. Try again in a moment."],
]);

export class HistoryError extends Error {
  /** @param {string} message @param {number} [status] none: no answer */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class History {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
  }

  /**
   * @param {Record<string, string>} asked `order`, `cursor`, `until`, `at`, `limit`
   * @param {Filter} [filter] none: the view's
   * @returns {Promise<HistoryPage>}
   */
  async read(asked, filter = this.page.filter) {
    const query = queryOf(filter);
    for (const [name, value] of Object.entries(asked)) query.set(name, value);
    const text = await fetched(`${this.page.config.eventsPath}?${query}`);
    const page = parse(await text.text());
    page.events = page.events.map(withinMemory);
    return page;
  }

  /**
   * The same, looking on for a while where a page is empty though the log goes on.
   * @param {Record<string, string>} asked with `order`
   * @param {Filter} [filter]
   */
  async look(asked, filter = this.page.filter) {
    const begun = Date.now();
    const newestFirst = asked.order === "desc";
    let page = await this.read(asked, filter);
    const { before, after, notice } = page;
    for (let looks = 1; page.more && !page.events.length; looks++) {
      if (looks >= MOST_LOOKS || Date.now() - begun > MOST_LOOKING_MS) break;
      const { at: _, ...again } = asked;
      page = await this.read({ ...again, cursor: newestFirst ? page.before : page.after }, filter);
    }
    page.notice ??= notice;
    // (From where the first look began.)
    return newestFirst ? { ...page, after } : { ...page, before };
  }

  /** @param {string} id @returns {Promise<{event: AgentEvent, cursor: string}>} `cursor` is right behind it */
  async one(id) {
    const answer = await fetched(`${this.page.config.eventsPath}/${encodeURIComponent(id)}`);
    const event = withinMemory(parse(await answer.text()));
    return { event, cursor: answer.headers.get("agent-events-cursor") ?? "" };
  }
}

/** @param {string} address @returns {Promise<Response>} */
export async function fetched(address) {
  /** @type {Response} */
  let answer;
  try {
    answer = await fetch(address, { signal: AbortSignal.timeout(PATIENCE_MS), headers: { Accept: "application/json" } });
  } catch {
    throw new HistoryError("The server did not answer.");
  }
  if (answer.ok) return answer;
  const isProblem = answer.headers.get("content-type")?.startsWith("application/problem+json");
  const detail = isProblem ? (await answer.json().catch(() => null))?.detail : "";
  const words = answer.status === 400 ? detail : WORDS.get(answer.status) || detail;
  throw new HistoryError(words || `The server answered ${answer.status}.`, answer.status);
}
