/**
 * When what waits is drawn, and how much of it: at most once a frame, once a second while the page is hidden, and of a
 * flood only its end.
 */

/** @import { Feed } from "./feed.js" */

/** New rows in one drawing: more would make a long frame. */
const DRAW_LIMIT = 120;
/** So many events a second are a flood: nobody reads them, and only the newest screenful is drawn. */
const FLOOD_RATE = 1_000;
const FLOOD_ROWS = 30;
/** A flood that comes in bursts is one flood. */
const FLOOD_LASTS_MS = 1_500;
/** In a flood rows are replaced this often: what changes with each frame cannot be looked at. */
const FLOOD_DRAW_MS = 250;
/** A hidden page draws this often: animation frames stop there. */
const HIDDEN_DRAW_MS = 1_000;
/** More new rows than this at once light up nothing: it would be a flash, not a hint. */
const HIGHLIGHT_LIMIT = 12;

export class Drawing {
  /** @param {Feed} feed */
  constructor(feed) {
    this.feed = feed;
    this.scheduled = false;
    /** When something was drawn last, in ms. */
    this.drawnAt = 0;
    /** How many have come since the last look at the clock, to tell a flood. */
    this.came = { events: 0, since: performance.now(), floodUntil: 0 };
    document.addEventListener("visibilitychange", () => this.draw());
  }

  /** @param {number} events have come */
  count(events) {
    this.came.events += events;
    this.schedule();
  }

  /** What waited is no flood, however much it is. */
  goOn() {
    if (this.feed.paused) return;
    this.came = { events: 0, since: performance.now(), floodUntil: 0 };
    this.schedule();
  }

  schedule() {
    if (this.scheduled || this.feed.paused) return;
    this.scheduled = true;
    const since = performance.now() - this.drawnAt;
    if (document.hidden) setTimeout(() => this.draw(), HIDDEN_DRAW_MS);
    else if (this.#isFlood && since < FLOOD_DRAW_MS) setTimeout(() => requestAnimationFrame(() => this.draw()), FLOOD_DRAW_MS - since);
    else requestAnimationFrame(() => this.draw());
  }

  /** Do more events come than anybody could read? Clocks are compared: timers of a hidden page are slow. */
  get #isFlood() {
    const now = performance.now();
    const ms = now - this.came.since;
    if (ms >= FLOOD_DRAW_MS) {
      if ((this.came.events * 1000) / ms > FLOOD_RATE) this.came.floodUntil = now + FLOOD_LASTS_MS;
      this.came.events = 0;
      this.came.since = now;
    }
    return now < this.came.floodUntil;
  }

  draw() {
    this.scheduled = false;
    if (this.feed.paused || this.feed.model.waiting.length === 0) return;
    const flood = this.#isFlood;
    const { removed, added, changed } = this.feed.model.flush(flood ? FLOOD_ROWS : DRAW_LIMIT, flood);
    this.feed.list.remove(removed);
    const elements = this.feed.list.addTop(added);
    if (!flood) for (const element of elements.toReversed()) this.feed.calls.add(element);
    if (changed) this.feed.list.update(changed);
    if (!flood && elements.length <= HIGHLIGHT_LIMIT) for (const element of elements) element.classList.add("is-new");
    this.feed.list.remove(this.feed.model.trim());
    this.drawnAt = performance.now();
    this.feed.changed();
    if (this.feed.model.waiting.length) this.schedule();
  }
}
