// The admin's page of the bus: asks every two seconds how it does, and shows the answer.
// While the tab is hidden nothing is asked; then it begins anew, with the past as the ledger has it.

/**
 * @typedef {[name: string, value: string, note: string]} Figure
 * @typedef {{code: string, message: string, hint: string}} Problem
 * @typedef {Record<string, [atMs: number, value: number | null][]>} Past
 *
 * @typedef {object} Now what the server answers
 * @property {number | null} at_ms
 * @property {string} advice
 * @property {Problem[]} problems
 * @property {Figure[]} figures
 * @property {Record<string, number | null>} points
 * @property {Record<string, string[][]>} tables
 * @property {Past} [history]
 */

const page = /** @type {HTMLElement} */ (document.querySelector(".bus-page"));
// By the page's own address of it, which a hashed name is in, whatever the storage does to imports.
/** @type {typeof import("./chart.js")} */
const { Chart } = await import(page.dataset.chart ?? "");

const EVERY_MS = 2_000;
const PAUSE_MS = 1_000; // at least, where answers take long
const LIMIT_MS = 10_000;

const advice = byId("bus-advice");
const error = byId("bus-error");
const problems = byId("bus-problems");
const figures = byId("bus-figures");
const charts = Array.from(/** @type {NodeListOf<HTMLElement>} */ (page.querySelectorAll(".bus-chart")), (figure) => ({
  chart: new Chart(figure),
  series: figure.dataset.series ?? "",
}));

let begun = false; // there is a past on the page
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** @type {AbortController | null} */
let asking = null; // while a question is open
let round = 0; // a loop of questions ends where another one has begun
/** @type {Date | null} */
let shownAt = null; // of when the figures on the page are

/** @param {string} id @returns {HTMLElement} which the page has */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} name @param {string} text */
function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** The past, as far as the ledger knows it; of what it does not, there is a gap. @param {Past} history */
function fill(history) {
  for (const { chart, series } of charts) {
    if (!(series in history)) {
      chart.gap();
      continue;
    }
    chart.clear();
    for (const [atMs, value] of history[series]) chart.add(atMs, value);
  }
}

/** @param {string} table @param {string[][]} rows */
function showRows(table, rows) {
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => element("td", cell)));
    return row;
  });
  /** @type {HTMLTableElement} */ (byId(`bus-${table}`)).tBodies[0].replaceChildren(...made);
}

/** @param {Figure[]} found */
function showFigures(found) {
  const boxes = found.map(([name, value, note]) => {
    const box = document.createElement("div");
    const definition = element("dd", value);
    definition.append(element("small", note));
    box.append(element("dt", name), definition);
    return box;
  });
  figures.replaceChildren(...boxes);
}

/** @param {Problem[]} found */
function showProblems(found) {
  problems.hidden = !found.length;
  problems.replaceChildren(
    ...found.map(({ code, message, hint }) => {
      const item = document.createElement("li");
      item.append(element("code", code), ` ${message}`, element("span", hint));
      return item;
    }),
  );
}

/** @param {Now} now */
function show(now) {
  if (advice.textContent !== now.advice) advice.textContent = now.advice;
  advice.hidden = !now.advice;
  showProblems(now.problems);
  if (now.history) fill(now.history);
  showFigures(now.figures);
  for (const { chart, series } of charts) {
    const value = now.points[series] ?? null;
    if (now.at_ms === null) chart.gap();
    else if (value !== null || !now.history) chart.add(now.at_ms, value);
    chart.draw();
  }
  for (const [table, rows] of Object.entries(now.tables)) showRows(table, rows);
  begun = true;
  shownAt = new Date();
}

/** Why there is no answer, in words. @param {Response} response */
function why(response) {
  if (response.redirected || response.status === 403) {
    return "You are signed out, or may not see this any more: load the page again.";
  }
  return `The site answered ${response.status}: its database may be away.`;
}

/** @param {number} mine the round */
async function ask(mine) {
  const url = `${page.dataset.figures}${begun ? "" : "?history=1"}`;
  const limit = new AbortController();
  asking = limit;
  const late = setTimeout(() => limit.abort(), LIMIT_MS);
  let answer = null;
  let words = "";
  try {
    const response = await fetch(url, { signal: limit.signal });
    if (response.ok && !response.redirected) answer = await response.json();
    else words = why(response);
  } catch {
    words = "The site does not answer.";
  } finally {
    clearTimeout(late);
  }
  if (mine !== round) return; // given up on purpose
  if (answer) show(answer);
  if (words && shownAt) words += ` The figures are of ${shownAt.toLocaleTimeString()}.`;
  error.hidden = !words;
  error.textContent = words && `${words} Trying again every ${EVERY_MS / 1000} s.`;
}

/** @param {number} mine the round */
async function run(mine) {
  const began = performance.now();
  await ask(mine).catch((failure) => {
    error.hidden = false;
    error.textContent = "This page broke: load it again.";
    throw failure;
  });
  if (mine === round) timer = setTimeout(run, Math.max(PAUSE_MS, began + EVERY_MS - performance.now()), mine);
}

function watch() {
  round += 1;
  clearTimeout(timer);
  asking?.abort();
  begun = false; // the ledger knows what happened meanwhile
  if (!document.hidden) run(round);
}

document.addEventListener("visibilitychange", watch);
watch();

export {}; // a module, to the compiler too
