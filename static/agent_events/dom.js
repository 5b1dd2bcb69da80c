/** The few things that every part does with the document. */

/** @param {string} id @returns {HTMLElement} an element that the page always has */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no #${id}.`);
  return found;
}

/** @param {HTMLTemplateElement} template of one element @returns {HTMLElement} that, anew */
export function madeFrom(template) {
  return /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
}

/** Sets only what changed: a text that is set anew is laid out anew. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
