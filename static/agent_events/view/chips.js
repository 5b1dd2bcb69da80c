/** The conditions that are set, each a chip: its words turn it round (agents and types), its cross takes it away. */

import { byId, madeFrom } from "../dom.js";
import { shortId } from "../format.js";
import { LISTS, OPPOSITE } from "./address.js";

/** @import { ListName, View } from "./address.js" */

/** @type {Record<ListName, string>} */
const NAMES = {
  agents: "agent",
  notAgents: "not agent",
  types: "type",
  notTypes: "not type",
  texts: "text",
  where: "payload",
};

export class Chips {
  /**
   * @param {{change: (change: Partial<View>) => void, nameOf: (agentId: string) => string}} hands
   */
  constructor({ change, nameOf }) {
    this.change = change;
    this.nameOf = nameOf;
    this.list = byId("chips");
    this.template = /** @type {HTMLTemplateElement} */ (byId("chip-template"));
  }

  /**
   * @param {View} view
   * @param {(list: ListName, value: string) => boolean} isDraft whether it stands in a field yet
   */
  show(view, isDraft) {
    const at = document.activeElement;
    const steered = this.list.contains(at) && Boolean(at?.matches(":focus-visible"));
    const chips = LISTS.flatMap((list) =>
      view[list].filter((value) => !isDraft(list, value)).map((value) => this.#chip(view, list, value)),
    );
    if (chips.length > 0) chips.push(this.#clear());
    this.list.replaceChildren(...chips);
    this.list.hidden = chips.length === 0;
    // Whoever removes chips by keyboard goes on where the chip was.
    if (steered) (this.list.querySelector("button") ?? byId("main")).focus({ preventScroll: true });
  }

  /**
   * @param {View} view @param {ListName} list @param {string} value
   * @returns {Element}
   */
  #chip(view, list, value) {
    const chip = madeFrom(this.template);
    const words = /** @type {HTMLButtonElement} */ (chip.querySelector(".chip-words"));
    const remove = /** @type {HTMLButtonElement} */ (chip.querySelector(".chip-remove"));
    const isAgent = list === "agents" || list === "notAgents";
    const text = isAgent ? this.nameOf(value) || shortId(value) : value;
    const rest = view[list].filter((one) => one !== value);
    /** @type {Element} */ (chip.querySelector(".chip-name")).textContent = NAMES[list];
    /** @type {Element} */ (chip.querySelector(".chip-value")).textContent = text;
    chip.classList.toggle("chip-not", list === "notAgents" || list === "notTypes");
    remove.setAttribute("aria-label", `Remove: ${NAMES[list]} ${text}`);
    remove.title = "Remove";
    remove.addEventListener("click", () => this.change({ [list]: rest }));
    const other = OPPOSITE[list];
    if (other) {
      words.title = `${value}\n${list === "agents" || list === "types" ? "Leave it out instead" : "Show only this instead"}`;
      words.addEventListener("click", () => this.change({ [list]: rest, [other]: [...view[other].filter((one) => one !== value), value] }));
    } else {
      words.replaceWith(inert(words));
    }
    return chip;
  }

  #clear() {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.id = "clear";
    button.className = "button button-small button-quiet";
    button.dataset.action = "clear-filters";
    button.textContent = "Clear";
    item.append(button);
    return item;
  }
}

/** @param {HTMLElement} button @returns {HTMLElement} its words where there is nothing to press */
function inert(button) {
  const span = document.createElement("span");
  span.className = button.className;
  span.append(...button.childNodes);
  return span;
}
