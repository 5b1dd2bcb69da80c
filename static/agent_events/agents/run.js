/** A run alone, in a dialog: read from the log, and live while it goes on. */

import { cap } from "../bounded.js";
import { byId, madeFrom, setText } from "../dom.js";
import { fetched } from "../feed/history.js";
import { count, dollars, duration } from "../format.js";
import { parse } from "../json.js";
import { queryOf, UNFILTERED } from "../view/address.js";
import { isOf, readRun, waitedMs } from "./runs.js";

/** @import { AgentEvent, Batch } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { View } from "../view/address.js" */
/** @import { Step } from "./runs.js" */

/** Events of a run that are read; its newest. */
const MOST_EVENTS = 2_000;
/** Pages of the log that are asked for: each looks at some thousands of events. */
const MOST_PAGES = 12;
const PAGE = 1_000;
/** Steps that are shown. */
const MOST_STEPS = 500;
/** How often the log is asked for more, where the page's filter keeps it off the stream, in ms. */
const AGAIN_MS = 3_000;

const STATES = {
  running: "Running",
  waiting: "Waits for a human",
  finished: "Finished",
  failed: "Failed",
  unknown: "Not found",
};
const KINDS = {
  run: "Run",
  turn: "Turn",
  tool: "Tool",
  wait: "Human",
  handoff: "Hand-off",
  message: "Message",
  guardrail: "Guardrail",
  error: "Error",
  other: "Event",
};
const OLDER = "Older events of this run may be in the log: only the newest were read.";
const NONE = "Nothing was found among the newest events of the log: this run may be further back.";

export class RunAlone {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.dialog = /** @type {HTMLDialogElement} */ (byId("run"));
    this.list = byId("run-steps");
    this.template = /** @type {HTMLTemplateElement} */ (byId("run-step-template"));
    this.id = "";
    /** @type {Map<number, AgentEvent>} */
    this.events = new Map();
    /** Right behind what was read of the log. */
    this.cursor = "";
    this.run = readRun([]);
    this.note = "";
    /** Is what was read not in `run` and on the page yet? */
    this.stale = false;
    this.reading = false;
    this.againMs = 0;
    byId("run-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.id && page.change({ run: "" }));
    // A click beside it closes it, as Escape does.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.list.addEventListener("click", (event) => this.#open(event));
  }

  /** @param {View} view */
  show(view) {
    if (view.run === this.id) return;
    this.id = view.run;
    this.events.clear();
    this.stale = true;
    this.cursor = "";
    this.list.replaceChildren();
    if (!this.id) {
      this.dialog.close();
      return;
    }
    if (!this.dialog.open) this.dialog.showModal();
    this.note = "Reading the log ...";
    this.#draw();
    this.#read(this.id);
  }

  /** @param {Batch} batch */
  take(batch) {
    if (!this.id) return;
    for (const event of batch.events) if (isOf(event, this.id)) this.#keep(event);
  }

  /** Called each second or so. */
  tick() {
    if (!this.id) return;
    if (this.page.agents.filtered && !this.reading && Date.now() >= this.againMs) this.#more(this.id);
    this.#draw();
  }

  /** @param {AgentEvent} event */
  #keep(event) {
    this.events.set(event.id, event);
    this.stale = true;
    if (this.events.size <= MOST_EVENTS) return;
    cap(this.events, MOST_EVENTS);
    this.note = `This run has more events than ${count(MOST_EVENTS)}: only the newest are shown.`;
  }

  /** Its newest events, page by page backwards. @param {string} id */
  async #read(id) {
    this.reading = true;
    this.note = "";
    try {
      let url = this.#url(id, { order: "desc", limit: String(PAGE) });
      let looked = 0;
      /** @type {AgentEvent[]} */
      const found = [];
      for (; url && looked < MOST_PAGES && found.length < MOST_EVENTS; looked++) {
        const page = await ask(url);
        if (id !== this.id) return;
        this.cursor ||= page.after;
        for (const event of page.events) if (isOf(event, id)) found.push(event);
        url = page.next ?? "";
        if (found.some((event) => event.type === "run.started")) url = "";
      }
      if (url) this.note = found.length ? OLDER : NONE;
      const live = [...this.events.values()];
      this.events.clear();
      for (const event of found.reverse()) this.#keep(event);
      for (const event of live) this.#keep(event);
    } catch (error) {
      if (id !== this.id) return;
      this.note = `The run could not be read: ${/** @type {Error} */ (error).message}`;
    } finally {
      if (id === this.id) this.reading = false;
    }
    this.stale = true;
    this.#draw();
  }

  /** What came since, where the stream does not carry it. @param {string} id */
  async #more(id) {
    if (!this.cursor) return;
    this.reading = true;
    try {
      const page = await ask(this.#url(id, { order: "asc", limit: String(PAGE), cursor: this.cursor }));
      if (id !== this.id) return;
      this.cursor = page.after;
      for (const event of page.events) if (isOf(event, id)) this.#keep(event);
    } catch {
      // Asked again a moment later.
    }
    this.reading = false;
    this.againMs = Date.now() + AGAIN_MS;
  }

  /** @param {string} id @param {Record<string, string>} more @returns {string} */
  #url(id, more) {
    const { config, filter } = this.page;
    const query = queryOf({ ...UNFILTERED, tenants: filter.tenants, where: [`run_id = ${JSON.stringify(id)}`] });
    for (const [name, value] of Object.entries(more)) query.set(name, value);
    return `${config.eventsPath}?${query}`;
  }

  #draw() {
    if (this.stale) this.run = readRun([...this.events.values()]);
    const { run } = this;
    const nowMs = this.page.now();
    const open = run.state === "running" || run.state === "waiting";
    const end = open ? Math.max(nowMs, run.end) : run.end;
    setText(byId("run-title"), run.title || "Run");
    const state = this.reading && !this.events.size ? "Reading the log ..." : STATES[run.state];
    setText(byId("run-state"), state);
    byId("run-state").dataset.state = run.state;
    setText(byId("run-agents"), run.agents.join(", "));
    setText(byId("run-id"), this.id);
    setText(byId("run-note"), this.reading && !this.events.size ? "" : this.note);
    this.#totals([
      ["Took", run.start ? duration(end - run.start) : "", ""],
      ["Turns", count(run.turns), ""],
      ["Tools", count(run.tools), ""],
      ["Tokens", run.tokens ? count(run.tokens) : "", ""],
      ["Cost", run.cost ? dollars(run.cost) : "", ""],
      ["Waited for humans", run.waitMs || run.state === "waiting" ? duration(waitedMs(run, end)) : "", "human"],
      ["Hand-offs", run.handoffs ? count(run.handoffs) : "", ""],
      ["Errors", run.errors ? count(run.errors) : "", "error"],
    ]);
    if (!this.stale && !open) return;
    this.stale = false;
    const steps = run.steps.slice(-MOST_STEPS);
    const length = Math.max(1, end - run.start);
    while (this.list.children.length > steps.length) this.list.lastElementChild?.remove();
    steps.forEach((step, i) => {
      const item = /** @type {HTMLElement} */ (this.list.children[i] ?? this.#add());
      this.#step(item, step, run.start, length, end);
    });
  }

  #add() {
    const item = madeFrom(this.template);
    this.list.append(item);
    return item;
  }

  /** @param {HTMLElement} item @param {Step} step @param {number} start @param {number} length @param {number} now */
  #step(item, step, start, length, now) {
    /** @param {string} name */
    const part = (name) => /** @type {HTMLElement} */ (item.querySelector(`.run-step-${name}`));
    const end = step.end || now;
    item.dataset.kind = step.kind;
    item.toggleAttribute("data-failed", step.failed);
    item.toggleAttribute("data-open", step.end === 0);
    item.toggleAttribute("data-point", step.isPoint);
    setText(part("kind"), KINDS[step.kind]);
    setText(part("label"), step.label);
    const { tokens, cost } = step.kind === "run" ? { tokens: 0, cost: 0 } : step; // (those of a run are above)
    const said = [tokens ? `${count(tokens)} tokens` : "", cost ? dollars(cost) : "", step.detail];
    setText(part("detail"), said.filter(Boolean).join(" · "));
    setText(part("took"), step.isPoint ? "" : `${duration(end - step.start)}${step.end ? "" : " so far"}`);
    const bar = part("bar");
    bar.style.setProperty("--from", `${((step.start - start) / length) * 100}%`);
    bar.style.setProperty("--length", `${((end - step.start) / length) * 100}%`);
    const link = /** @type {HTMLAnchorElement} */ (item.querySelector("a"));
    const href = this.page.feed.opened.address(step.event);
    if (link.getAttribute("href") !== href) link.setAttribute("href", href);
    link.dataset.event = String(step.event);
  }

  /** @param {[string, string, string][]} totals name, text, look; without a text it is left out */
  #totals(totals) {
    const wanted = totals.filter(([, text]) => text !== "");
    const root = byId("run-totals");
    const names = Array.from(root.children, (group) => group.firstElementChild?.textContent);
    const same = names.length === wanted.length && wanted.every(([name], i) => names[i] === name);
    if (!same) {
      root.replaceChildren(
        ...wanted.map(([name, , look]) => {
          const group = document.createElement("div");
          group.dataset.look = look;
          const term = document.createElement("dt");
          term.textContent = name;
          group.append(term, document.createElement("dd"));
          return group;
        }),
      );
    }
    wanted.forEach(([, text], i) => setText(/** @type {Element} */ (root.children[i].lastElementChild), text));
  }

  /** @param {MouseEvent} event */
  #open(event) {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!(link instanceof HTMLAnchorElement) || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.dialog.close();
    this.page.goTo({ event: link.dataset.event ?? "" });
  }
}

/** @param {string} url @returns {Promise<{events: AgentEvent[], after: string, next: string | null}>} */
async function ask(url) {
  const response = await fetched(url);
  return parse(await response.text());
}
