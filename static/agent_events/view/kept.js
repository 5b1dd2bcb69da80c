/** What a browser keeps of somebody's habits. It may refuse to: then they last as long as the page. */

/** @param {string} name @returns {string} empty where nothing is kept */
export function kept(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} name @param {string} value */
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Not kept, then.
  }
}
