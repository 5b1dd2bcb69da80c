/** The view, as it stands in the address. Pure. */

/**
 * @typedef {object} View an empty value is the default, which is not written
 * @property {string} tenant
 * @property {string[]} agents @property {string[]} notAgents
 * @property {string[]} types @property {string[]} notTypes
 * @property {string[]} texts @property {string[]} where
 * @property {string} event the id of the event that is open
 * @property {string} at where the rows end: a cursor, or an RFC 3339 time
 * @property {string} run a run that is open alone
 *
 * @typedef {"agents" | "notAgents" | "types" | "notTypes" | "texts" | "where"} ListName the parts of a filter
 * @typedef {{tenants: string[]} & Record<ListName, string[]>} Filter what AgentEvents takes
 */

/** Names in the address, the same as on every door of the server. @type {Record<ListName, string>} */
export const QUERY_NAMES = {
  agents: "agent",
  notAgents: "not_agent",
  types: "type",
  notTypes: "not_type",
  texts: "text",
  where: "where",
};

/** @type {ListName[]} in the order in which they are written and shown */
export const LISTS = ["agents", "notAgents", "types", "notTypes", "texts", "where"];

/** The other way round: what is left out in place of what is shown. @type {Partial<Record<ListName, ListName>>} */
export const OPPOSITE = { agents: "notAgents", notAgents: "agents", types: "notTypes", notTypes: "types" };

/** A view that shows everything. @type {Pick<View, ListName>} */
export const UNFILTERED = { agents: [], notAgents: [], types: [], notTypes: [], texts: [], where: [] };

/** As `str(Cursor)` of the server writes it. */
const CURSOR = /^[0-9a-f]{12}-[0-9a-f]{16}-(0|[1-9a-f][0-9a-f]{0,11})$/;
const EVENT_ID = /^[1-9][0-9]{0,18}$/;
const TIME = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)$/;

/** @param {string} search @returns {View} */
export function readView(search) {
  const query = new URLSearchParams(search);
  const one = (/** @type {string} */ name) => query.get(name)?.trim() ?? "";
  const many = (/** @type {ListName} */ list) => [...new Set(query.getAll(QUERY_NAMES[list]).map((value) => value.trim()))].filter(Boolean);
  return {
    tenant: one("tenant"),
    agents: many("agents"),
    notAgents: many("notAgents"),
    types: many("types"),
    notTypes: many("notTypes"),
    texts: many("texts"),
    where: many("where"),
    event: one("event"),
    at: one("at"),
    run: one("run"),
  };
}

/** @param {View} view @returns {string} a query without its `?` */
export function writeView(view) {
  const query = new URLSearchParams();
  if (view.tenant) query.set("tenant", view.tenant);
  for (const list of LISTS) for (const value of view[list]) query.append(QUERY_NAMES[list], value);
  for (const name of /** @type {const} */ (["event", "at", "run"])) if (view[name]) query.set(name, view[name]);
  return query.toString();
}

/** @param {View} view @returns {Filter} what AgentEvents takes */
export function filterOf({ tenant, agents, notAgents, types, notTypes, texts, where }) {
  return { tenants: tenant ? [tenant] : [], agents, notAgents, types, notTypes, texts, where };
}

/** @param {Filter} filter @returns {URLSearchParams} as the history and the export take it */
export function queryOf(filter) {
  const query = new URLSearchParams();
  for (const tenant of filter.tenants) query.append("tenant", tenant);
  for (const list of LISTS) for (const value of filter[list]) query.append(QUERY_NAMES[list], value);
  return query;
}

/** @param {View} view @returns {number} how many conditions are set, the tenant aside */
export function conditions(view) {
  return LISTS.reduce((sum, list) => sum + view[list].length, 0);
}

/** @param {View} view @returns {boolean} */
export function isFiltered(view) {
  return conditions(view) > 0;
}

/** @param {View} a @param {View} b @returns {boolean} whether they show the same events */
export function sameFilter(a, b) {
  return JSON.stringify(filterOf(a)) === JSON.stringify(filterOf(b));
}

/**
 * @param {View} view @param {"agents" | "types" | "texts" | "where"} what @param {string} value @param {boolean} exclude
 * @returns {Partial<View>} with the value, or without it where it was there
 */
export function narrowed(view, what, value, exclude) {
  const list = (exclude && OPPOSITE[what]) || what;
  const other = OPPOSITE[list];
  const values = view[list];
  /** @type {Partial<View>} */
  const change = { [list]: values.includes(value) ? values.filter((one) => one !== value) : [...values, value] };
  // To show what is left out, or to leave out what is shown, would show nothing.
  if (other && view[other].includes(value)) change[other] = view[other].filter((one) => one !== value);
  return change;
}

/**
 * What somebody pasted, where it names a place in the log.
 * @param {string} text @returns {{event: string} | {at: string} | null}
 */
export function placeIn(text) {
  const word = text.trim();
  if (CURSOR.test(word)) return { at: word };
  if (TIME.test(word)) return { at: word };
  const id = word.replace(/^event[\s:#]*/i, "");
  return EVENT_ID.test(id) ? { event: id } : null;
}
