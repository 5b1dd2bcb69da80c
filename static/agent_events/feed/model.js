/**
 * What the feed shows, as stretches of the log between two cursors; no document, no clock, no network.
 *
 * All that was ever handed to it is either in a stretch of rows or in a gap. A gap has its exact interval of the log,
 * so that it can be read again; forgetting is always folding whole stretches into a gap. Oldest first throughout.
 *
 * @typedef {object} Stretch events in a row
 * @property {"rows"} kind
 * @property {AgentEvent[]} events
 * @property {string} after the cursor right before them; "" where only the end of a batch is shown, the rest of which
 *   is in the gap below
 * @property {string} cursor right behind them
 * @property {number} errors how many of them are errors
 * @property {boolean} [fleeting] drawn in a flood: it gives way to what comes next
 *
 * @typedef {object} Gap events that are not shown
 * @property {"gap"} kind
 * @property {string} after @property {string} cursor
 * @property {number | null} count null: nobody has counted them
 * @property {number} errors
 *
 * @typedef {object} Word something that is said between two events
 * @property {"word"} kind
 * @property {string} name @property {string} text
 *
 * @typedef {Stretch | Gap | Word} Item
 *
 * @typedef {object} HistoryPage an answer of the history
 * @property {AgentEvent[]} events in the order asked for
 * @property {string} before @property {string} after
 * @property {boolean} more
 * @property {"truncated" | "reset" | null} [notice]
 */

/** @import { AgentEvent } from "../client.js" */

/** Words that wait: a night of reconnections is not worth more. */
const MOST_WORDS = 100;

export class Model {
  /**
   * @param {object} limits
   * @param {number} limits.rows on the page
   * @param {number} limits.block rows past that go in blocks of at least so many
   * @param {number} limits.waiting events that are kept while nothing is drawn
   * @param {(type: string) => boolean} limits.isError
   */
  constructor({ rows, block, waiting, isError }) {
    this.limits = { rows, block, waiting };
    this.isError = isError;
    /** @type {Item[]} */
    this.shown = [];
    /** @type {Item[]} what came since, and is not drawn yet */
    this.waiting = [];
    this.rows = 0;
    this.waitingRows = 0;
    /** Right behind the newest event that was handed over. */
    this.edge = "";
    /** Right before the oldest row. */
    this.before = "";
    /** Does the log go on below the oldest row? */
    this.more = true;
  }

  /** Events that wait, those of their gaps too. */
  get newEvents() {
    return sum(this.waiting, (item) => (item.kind === "word" ? 0 : sizeOf(item)));
  }

  get newErrors() {
    return sum(this.waiting, (item) => (item.kind === "word" ? 0 : item.errors));
  }

  /** The gap above all rows, where there is one. @returns {Gap | null} */
  get topGap() {
    const top = this.shown.at(-1);
    return top?.kind === "gap" ? top : null;
  }

  /** Other rows in place of all. @param {HistoryPage} page newest first @param {string} edge where the stream goes on */
  replace({ events, before, after, more }, edge) {
    this.shown = [];
    this.waiting = [];
    this.waitingRows = 0;
    this.rows = 0;
    this.before = before;
    this.more = more;
    this.edge = edge;
    if (events.length) this.#show(this.#stretch(events.toReversed(), before, after));
    // (Cursors of one batch may differ in their times alone.)
    if (placeOf(after) < placeOf(edge)) this.shown.push({ kind: "gap", after, cursor: edge, count: null, errors: 0 });
  }

  /**
   * What the stream brought. What was read from the log in the meantime is here already.
   * @param {AgentEvent[]} events oldest first @param {string} after @param {string} cursor
   */
  take(events, after, cursor) {
    if (placeOf(cursor) <= placeOf(this.edge)) return;
    if (placeOf(after) < placeOf(this.edge)) {
      const top = [...this.shown, ...this.waiting].findLast((item) => item.kind === "rows");
      const known = top ? idsOf(top) : new Set();
      this.take(events.filter(({ id }) => !known.has(id)), this.edge, cursor);
      return;
    }
    this.edge = cursor;
    if (!events.length) return;
    this.waiting.push(this.#stretch(events, after, cursor));
    this.waitingRows += events.length;
    if (this.waitingRows > this.limits.waiting) this.#forgetWaiting(this.limits.waiting);
  }

  /** @param {string} name @param {string} text */
  say(name, text) {
    this.waiting.push({ kind: "word", name, text });
    if (this.waiting.length <= MOST_WORDS) return;
    const words = this.waiting.filter((item) => item.kind === "word");
    if (words.length > MOST_WORDS) this.waiting.splice(this.waiting.indexOf(words[0]), 1);
  }

  /**
   * Moves what waits to the top: some of it, the oldest first; or in a flood only its end, and the end that was shown
   * last time goes into the gap.
   * @param {number} budget events @param {boolean} flood
   * @returns {{removed: Item[], added: Item[], changed: Gap | null}}
   */
  flush(budget, flood) {
    /** @type {Item[]} */
    const removed = [];
    if (flood && this.waitingRows >= budget) {
      this.#forgetWaiting(budget, true);
      for (let top = this.shown.at(-1); top?.kind === "rows" && top.fleeting; top = this.shown.at(-1)) {
        this.#hide(top);
        removed.push(top);
        this.waiting.unshift(gapOf(top));
      }
      this.#mergeWaiting();
    }
    /** @type {Item[]} */
    const added = [];
    /** @type {Gap | null} */
    let changed = null;
    let room = budget;
    while (this.waiting.length && room > 0) {
      const item = /** @type {Item} */ (this.waiting.shift());
      const top = this.shown.at(-1);
      if (item.kind === "gap" && top?.kind === "gap") {
        merge(top, item);
        if (!added.includes(top)) changed = top;
        continue;
      }
      if (item.kind === "rows") {
        if (flood) item.fleeting = true;
        room -= item.events.length;
        this.waitingRows -= item.events.length;
      }
      this.#show(item);
      added.push(item);
    }
    return { removed, added, changed };
  }

  /** Lets the oldest rows go, where there are too many. @returns {Item[]} */
  trim() {
    /** @type {Item[]} */
    const removed = [];
    if (this.rows <= this.limits.rows + this.limits.block) return removed;
    while (this.rows > this.limits.rows && this.shown.length > 1) {
      const item = this.shown[0];
      this.#hide(item);
      removed.push(item);
      if (item.kind === "word") continue;
      this.before = item.cursor;
      this.more = true;
    }
    return removed;
  }

  /**
   * Folds the newest rows into a gap, where there are too many: somebody reads further down.
   * @returns {{removed: Item[], gap: Gap | null, isNew: boolean}}
   */
  foldTop() {
    /** @type {Item[]} */
    const removed = [];
    if (this.rows <= this.limits.rows + this.limits.block) return { removed, gap: null, isNew: false };
    let gap = this.topGap;
    const isNew = !gap;
    if (gap) this.shown.pop();
    while (this.shown.length > 1) {
      const item = /** @type {Item} */ (this.shown.at(-1));
      // (The shown end of a batch goes with the rest of it: where it begins is not known.)
      if (this.rows <= this.limits.rows && gap?.after) break;
      this.#hide(item);
      removed.push(item);
      if (item.kind === "word") continue;
      const folded = gapOf(item);
      if (gap) {
        merge(folded, gap);
        Object.assign(gap, folded);
      } else gap = folded;
    }
    if (gap) this.shown.push(gap);
    return { removed, gap, isNew };
  }

  /**
   * The next older rows.
   * @param {HistoryPage} page newest first, from `before` on
   * @returns {Item[]} what is to be shown below all, newest first
   */
  older({ events, before, more, notice }) {
    /** @type {Item[]} */
    const added = [];
    const fresh = withoutEnd(events, this.shown[0]);
    if (fresh.length) {
      const stretch = this.#stretch(fresh.toReversed(), before, this.before);
      this.shown.unshift(stretch);
      this.rows += fresh.length;
      added.push(stretch);
    }
    this.before = before;
    this.more = more && notice !== "truncated";
    return added;
  }

  /**
   * What was read of a gap.
   * @param {Gap} gap @param {HistoryPage} page @param {boolean} newest it was read from its newer end, newest first
   * @param {string} [hole] what is to be said where the log says that some of it is not there any more
   * @returns {{added: Stretch | null, word: Word | null, done: boolean}} `word`: below `added`; `done`: nothing is left
   *   of the gap
   */
  fill(gap, { events, before, after, more, notice }, newest, hole = "") {
    const at = this.shown.indexOf(gap);
    const fresh = withoutEnd(newest ? events.toReversed() : events, this.shown[at + 1]);
    // (A full page that ends with the last event says that there is more; the stream has counted them.)
    const isAll = gap.count !== null && fresh.length >= gap.count;
    // (Pruning takes the oldest: what was read from that end goes on.)
    const done = !more || isAll || (notice === "truncated" && newest) || notice === "reset";
    const [from, to] = newest ? [done ? gap.after : before, gap.cursor] : [gap.after, done ? gap.cursor : after];
    const added = fresh.length ? this.#stretch(fresh, from, to) : null;
    if (newest) gap.cursor = before;
    else gap.after = after;
    if (gap.count !== null) gap.count = Math.max(0, gap.count - fresh.length);
    gap.errors = Math.max(0, gap.errors - (added?.errors ?? 0));
    if (done) this.shown.splice(at, 1);
    if (added) {
      this.shown.splice(done ? at : newest ? at + 1 : at, 0, added);
      this.rows += fresh.length;
    }
    /** @type {Word | null} */
    const word = notice && hole ? { kind: "word", name: notice, text: hole } : null;
    if (word) this.shown.splice(added ? this.shown.indexOf(added) : at, 0, word);
    return { added, word, done };
  }

  /** @param {Item} item */
  #show(item) {
    this.shown.push(item);
    if (item.kind === "rows") this.rows += item.events.length;
  }

  /** @param {Item} item the oldest or the newest that is shown */
  #hide(item) {
    if (this.shown[0] === item) this.shown.shift();
    else this.shown.pop();
    if (item.kind === "rows") this.rows -= item.events.length;
  }

  /** @param {AgentEvent[]} events @param {string} after @param {string} cursor @returns {Stretch} */
  #stretch(events, after, cursor) {
    let errors = 0;
    for (const { type } of events) if (this.isError(type)) errors += 1;
    return { kind: "rows", events, after, cursor, errors };
  }

  /** Keeps so many of the events that wait. @param {number} most @param {boolean} [cut] also within a batch */
  #forgetWaiting(most, cut = false) {
    for (let at = 0; at < this.waiting.length && this.waitingRows > most; at++) {
      const item = this.waiting[at];
      if (item.kind !== "rows") continue;
      const excess = this.waitingRows - most;
      if (excess >= item.events.length) {
        this.waitingRows -= item.events.length;
        this.waiting[at] = gapOf(item);
      } else if (cut) {
        const rest = this.#stretch(item.events.slice(excess), "", item.cursor);
        const gap = { ...gapOf(item), count: excess, errors: item.errors - rest.errors };
        this.waitingRows -= excess;
        this.waiting.splice(at, 1, gap, rest);
      } else if (at < this.waiting.length - 1 || item.after === "") {
        this.waitingRows -= item.events.length;
        this.waiting[at] = gapOf(item);
      }
    }
    this.#mergeWaiting();
  }

  #mergeWaiting() {
    for (let at = 1; at < this.waiting.length; ) {
      const [below, item] = [this.waiting[at - 1], this.waiting[at]];
      if (below.kind !== "gap" || item.kind !== "gap") {
        at += 1;
        continue;
      }
      merge(below, item);
      this.waiting.splice(at, 1);
    }
  }
}

/** A cursor compares as text, but for the time at its end. @param {string} cursor */
export function placeOf(cursor) {
  return cursor.slice(0, 29);
}

/** When the batch was closed that a cursor is in or behind. @param {string} cursor @returns {number | null} ms since 1970 */
export function timeOf(cursor) {
  const ms = Number.parseInt(cursor.split("-")[2] ?? "", 16);
  return Number.isFinite(ms) ? ms : null;
}

/** Is a cursor before the first event that a log ever had? @param {string} cursor */
export function isFirst(cursor) {
  return Number.parseInt(cursor.slice(0, 12), 16) <= 1;
}

/** @param {Stretch | Gap} item @returns {number} */
function sizeOf(item) {
  return item.kind === "rows" ? item.events.length : (item.count ?? 0);
}

/** @param {Stretch | Gap} item @returns {Gap} */
function gapOf(item) {
  const count = item.kind === "rows" ? item.events.length : item.count;
  return { kind: "gap", after: item.after, cursor: item.cursor, count, errors: item.errors };
}

/** @param {Gap} below grows @param {Gap} above by this one, right above it */
function merge(below, above) {
  below.cursor = above.cursor;
  below.count = below.count === null || above.count === null ? null : below.count + above.count;
  below.errors += above.errors;
}

/** @param {Stretch} stretch */
function idsOf(stretch) {
  return new Set(stretch.events.map(({ id }) => id));
}

/**
 * Of a batch whose end alone is shown all is read again: what is new of it.
 * @param {AgentEvent[]} events @param {Item | undefined} above what is shown right above them
 */
function withoutEnd(events, above) {
  if (above?.kind !== "rows" || above.after !== "") return events;
  const known = idsOf(above);
  return events.filter(({ id }) => !known.has(id));
}

/** @template T @param {T[]} items @param {(item: T) => number} of */
function sum(items, of) {
  let total = 0;
  for (const item of items) total += of(item);
  return total;
}
