/**
 * Asks the server what the agents are at: at the start, after a hole in the stream, each minute; and all the time
 * while the page has a filter, for then the stream does not carry what the others do.
 */

/** @import { AgentEvent } from "../client.js" */

/**
 * @typedef {object} Answer
 * @property {number} time the server's clock, ms since 1970
 * @property {string} cursor right behind all that was looked at
 * @property {number} lookedAt
 * @property {number} since the oldest event that was looked at, ms since 1970; 0: all there are
 * @property {{agentId: string, tenantId: string, minutes: [number, number, number][], events: AgentEvent[]}[]} agents
 * @property {AgentEvent[]} human questions and answers, oldest first
 */

/** How often the server is asked, in ms: to correct what the stream says, */
const CORRECT_MS = 60_000;
/** in place of the stream, */
const FILTERED_MS = 2_000;
/** the same while nobody looks, */
const HIDDEN_MS = 15_000;
/** and after it did not answer. */
const FAILED_MS = 5_000;
/** So long an answer is waited for. */
const LIMIT_MS = 10_000;

export class Now {
  /**
   * @param {object} options
   * @param {() => string} options.url
   * @param {(text: string) => any} options.parse
   * @param {() => boolean} options.filtered does the stream leave something out?
   * @param {(answer: Answer, offsetMs: number) => void} options.loaded `offsetMs`: the server's clock less ours
   * @param {(why: string) => void} options.failed
   */
  constructor({ url, parse, filtered, loaded, failed }) {
    this.url = url;
    this.parse = parse;
    this.filtered = filtered;
    this.loaded = loaded;
    this.failed = failed;
    this.dueMs = 0;
    this.asking = false;
    this.doubted = false;
    this.resting = false;
    /** Whoever is to be asked about changed meanwhile: the answer is somebody else's. */
    this.round = 0;
  }

  /** What is known may be wrong: ask at once. */
  doubt() {
    this.dueMs = 0;
    this.doubted = this.asking; // the answer that is on its way may be from before
    this.tick();
  }

  /** Nobody may ask any more, or may again. @param {boolean} on */
  rest(on) {
    this.resting = on;
  }

  /** Others are asked about. */
  restart() {
    this.round += 1;
    this.asking = false;
    this.doubt();
  }

  /** Called each second or so. */
  tick() {
    if (!this.asking && !this.resting && Date.now() >= this.dueMs) this.#ask();
  }

  async #ask() {
    const round = this.round;
    this.asking = true;
    this.doubted = false;
    const began = Date.now();
    let wait = FAILED_MS;
    try {
      const response = await fetch(this.url(), { signal: AbortSignal.timeout(LIMIT_MS) });
      const text = await response.text();
      if (round !== this.round) return;
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      const answered = Date.now();
      /** @type {Answer} */
      const answer = this.parse(text);
      this.loaded(answer, answer.time - (began + answered) / 2);
      wait = this.filtered() ? (document.hidden ? HIDDEN_MS : FILTERED_MS) : CORRECT_MS;
    } catch (error) {
      if (round !== this.round) return;
      this.failed(/** @type {Error} */ (error).message);
    }
    this.asking = false;
    this.dueMs = this.doubted ? 0 : Date.now() + wait;
  }
}
