/**
 * The filter form. What is typed acts after a pause, without leaving its field; Enter, or leaving the field, makes it
 * a chip. A mistake is said in the server's own words, and the rows stay.
 */

import { byId, setText } from "../dom.js";
import { conditions, UNFILTERED } from "./address.js";
import { Chips } from "./chips.js";
import { Known } from "./known.js";
import { Tools } from "./tools.js";

/** @import { Batch } from "../client.js" */
/** @import { Page } from "../page.js" */
/** @import { View } from "./address.js" */

const TYPING_MS = 400;
const RELEASES = ["pointerup", "pointercancel"];

/** @typedef {"agents" | "types" | "texts" | "where"} FieldName */

/** @type {[FieldName, string][]} */
const FIELDS = [
  ["agents", "filter-agent"],
  ["types", "filter-type"],
  ["texts", "filter-text"],
  ["where", "filter-where"],
];

export class Controls {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.form = /** @type {HTMLFormElement} */ (byId("filters"));
    this.tenant = /** @type {HTMLSelectElement} */ (byId("tenant"));
    this.error = byId("filter-error");
    this.known = new Known();
    this.chips = new Chips({ change: (change) => this.#change(change), nameOf: (id) => this.known.nameOf(id) });
    this.tools = new Tools(page);
    /** The values of the view that stand in a field and are no chips yet. @type {Record<FieldName, string>} */
    this.drafts = { agents: "", types: "", texts: "", where: "" };
    /** What was set last: where the server refuses, that is the mistake. @type {FieldName | null} */
    this.last = null;
    this.fields = new Map(FIELDS.map(([name, id]) => [name, /** @type {HTMLInputElement} */ (byId(id))]));
    for (const [name, field] of this.fields) this.#listen(name, field);
    this.form.addEventListener("submit", (event) => this.#submit(event));
    this.tenant.addEventListener("change", () => this.#chooseTenant(this.tenant.value));
    byId("filters-open").addEventListener("click", () => this.#fold());
    document.addEventListener("click", (event) => this.#clearPressed(event));
    this.isPressed = false;
    addEventListener("pointerdown", () => (this.isPressed = true), { capture: true, passive: true });
    for (const name of RELEASES) addEventListener(name, () => (this.isPressed = false), { capture: true, passive: true });
    this.#show(page.view);
  }

  /** @param {Batch} detail */
  take(detail) {
    this.known.take(detail);
  }

  /** @param {View} view */
  viewChanged(view) {
    for (const [name, field] of this.fields) {
      if (!this.drafts[name] || view[name].includes(this.drafts[name])) continue;
      this.drafts[name] = "";
      field.value = "";
    }
    this.#show(view);
  }

  zoneChanged() {
    this.tools.zoneChanged();
  }

  /** The last change is taken back: what is refused is not what the page shows. @param {string} detail */
  refused(detail) {
    setText(this.error, detail);
    this.error.hidden = false;
    const name = this.last;
    if (!name) return;
    const field = /** @type {HTMLInputElement} */ (this.fields.get(name));
    field.setAttribute("aria-invalid", "true");
    const wrong = this.drafts[name] || this.page.view[name].at(-1) || "";
    if (!field.value) field.value = wrong;
    this.drafts[name] = "";
    this.last = null;
    this.page.change({ [name]: this.page.view[name].filter((value) => value !== wrong) });
  }

  /** @param {FieldName} name @param {HTMLInputElement} field */
  #listen(name, field) {
    let timer = 0;
    field.addEventListener("focus", () => this.known.suggest());
    field.addEventListener("input", () => {
      this.#forgive();
      clearTimeout(timer);
      timer = setTimeout(() => this.#typed(name, field), TYPING_MS);
    });
    field.addEventListener("change", () => {
      clearTimeout(timer);
      this.#whenReleased(() => this.#settle(name, field));
    });
  }

  /** A chip takes room: were it made between a press and its release, the click would miss. @param {() => void} act */
  #whenReleased(act) {
    if (!this.isPressed) act();
    else for (const name of RELEASES) addEventListener(name, () => setTimeout(act), { once: true });
  }

  /**
   * Half a name matches nothing: agents and types act while they are typed only where they are known, or a prefix.
   * @param {FieldName} name @param {HTMLInputElement} field
   */
  #typed(name, field) {
    const text = field.value.trim();
    const [value, ...more] = this.#valuesOf(name, text);
    const isWhole = name === "texts" || name === "where" || text.endsWith("*") || this.#isKnown(name, text);
    this.#set(name, isWhole && more.length === 0 ? (value ?? "") : "");
  }

  /** What is typed becomes a chip. @param {FieldName} name @param {HTMLInputElement} field */
  #settle(name, field) {
    const values = this.#valuesOf(name, field.value.trim());
    if (values.length === 0 || !this.error.hidden) return;
    field.value = "";
    const others = this.page.view[name].filter((one) => one !== this.drafts[name]);
    this.drafts[name] = "";
    this.#put(name, [...new Set([...others, ...values])]);
  }

  /** What stands in the field. @param {FieldName} name @param {string} value none: nothing of it */
  #set(name, value) {
    const others = this.page.view[name].filter((one) => one !== this.drafts[name]);
    this.drafts[name] = others.includes(value) ? "" : value;
    this.#put(name, this.drafts[name] ? [...others, value] : others);
  }

  /** @param {FieldName} name @param {string[]} values */
  #put(name, values) {
    this.last = name;
    if (JSON.stringify(values) === JSON.stringify(this.page.view[name])) this.#show(this.page.view);
    else this.page.change({ [name]: values });
  }

  /** @param {FieldName} name @param {string} text @returns {string[]} one, but for a name of several agents */
  #valuesOf(name, text) {
    const agents = name === "agents" ? this.known.agentsOf(text) : [];
    return agents.length > 0 ? agents : [text].filter(Boolean);
  }

  /** @param {FieldName} name @param {string} text */
  #isKnown(name, text) {
    return name === "agents" ? this.known.agentsOf(text).length > 0 : this.known.types.has(text);
  }

  /** @param {SubmitEvent} event */
  #submit(event) {
    event.preventDefault();
    for (const [name, field] of this.fields) this.#settle(name, field);
  }

  /** @param {Partial<View>} change */
  #change(change) {
    this.#forgive();
    this.last = null;
    this.page.change(change);
  }

  /** @param {string} tenant */
  #chooseTenant(tenant) {
    const { page } = this;
    // A page of one tenant's events has no column that tells tenants apart.
    if (!tenant && !page.config.everything) {
      this.tenant.form?.submit();
      return;
    }
    this.#change({ tenant });
  }

  /** @param {MouseEvent} event */
  #clearPressed(event) {
    if (!(event.target instanceof Element) || !event.target.closest('[data-action="clear-filters"]')) return;
    event.preventDefault();
    for (const [name, field] of this.fields) {
      field.value = "";
      this.drafts[name] = "";
    }
    this.#change({ ...UNFILTERED });
  }

  #forgive() {
    this.error.hidden = true;
    for (const field of this.fields.values()) field.removeAttribute("aria-invalid");
  }

  #fold() {
    const open = this.form.classList.toggle("is-open");
    byId("filters-open").setAttribute("aria-expanded", String(open));
    if (open) byId("filter-text").focus();
  }

  /** @param {View} view */
  #show(view) {
    this.chips.show(view, (list, value) => this.drafts[/** @type {FieldName} */ (list)] === value);
    const { tenant } = this.page;
    if (this.tenant.value !== tenant) this.tenant.value = tenant;
    const set = conditions(view);
    const badge = byId("filters-count");
    badge.hidden = set === 0;
    setText(badge, set ? String(set) : "");
    this.tools.viewChanged();
  }
}
