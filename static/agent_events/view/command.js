/** The command that prints in a terminal what the page shows. Pure. */

import { LISTS, QUERY_NAMES } from "./address.js";

/** @import { Filter } from "./address.js" */

/** Nothing of these means anything to a shell, not even at the beginning of a word. */
const PLAIN = /^[A-Za-z0-9_@%+=:,./-]+$/;

/** @param {string} word @returns {string} as a POSIX shell reads it back unchanged */
export function quoted(word) {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** @param {Filter} filter @returns {string} one line, to be pasted */
export function listenCommand(filter) {
  const words = ["python", "manage.py", "listen_events"];
  // With `=`: a value that begins with a dash would be taken for an option.
  const add = (/** @type {string} */ option, /** @type {string} */ value) => words.push(`--${option}=${quoted(value)}`);
  for (const tenant of filter.tenants) add("tenant", tenant);
  for (const list of LISTS) for (const value of filter[list]) add(QUERY_NAMES[list].replace("_", "-"), value);
  return words.join(" ");
}
