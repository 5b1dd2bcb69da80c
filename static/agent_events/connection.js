/**
 * The stream: one WebSocket at a time, resumed from a cursor for as long as the page is open. No DOM in here.
 *
 * The cursor alone decides what comes next: it moves with each frame that was taken, and the next socket opens with
 * it. Nothing is recognised by its id and dropped, so an event that came twice would show twice: that is deliberate.
 *
 * States: connecting -> live <-> catching_up, reconnecting -> connecting; signed_out and stopped are final.
 */

/** Without any frame for this long the socket is dead, whatever it says: heartbeats come at least every 10 s. */
const SILENCE_LIMIT_MS = 25_000;
const WATCH_INTERVAL_MS = 5_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
/** A connection that held for this long was a good one: the next retry is a quick one again. */
const STEADY_AFTER_MS = 10_000;

/** Close codes after which trying again cannot help. */
const FINAL_CLOSES = {
  4400: { name: "stopped", reason: "The server did not understand this filter or position." },
  4401: { name: "signed_out", reason: "Your session here has ended. Nothing new comes until you sign in again." },
  4403: { name: "stopped", reason: "You may not see these events." },
  4404: { name: "stopped", reason: "This tenant does not exist, or is not yours." },
  4413: { name: "stopped", reason: "The server took no frame of this size." },
};
/** Too many streams: trying again at once would not help. */
const TOO_MANY = 4429;

/**
 * @typedef {object} State
 * @property {"connecting" | "live" | "catching_up" | "reconnecting" | "signed_out" | "stopped"} name
 * @property {number} [retryAt] clock time in ms, where reconnecting
 * @property {string} [reason]
 *
 * @typedef {object} Listener
 * @property {(state: State) => void} state
 * @property {(events: import("./row.js").AgentEvent[], size: number) => void} events oldest first, and the characters
 *   of the frame that brought them
 * @property {(kind: "truncated" | "reset") => void} hole
 * @property {(away_ms: number, missed: number) => void} caughtUp after a reconnection, all that was missed is here
 */

export class Connection {
  /**
   * @param {object} options
   * @param {(cursor: string) => string} options.address where to connect, to go on after that cursor
   * @param {string} options.cursor where to begin
   * @param {(text: string) => any} options.parse reads a frame
   * @param {Listener} options.listener
   */
  constructor({ address, cursor, parse, listener }) {
    this.address = address;
    this.cursor = cursor;
    this.parse = parse;
    this.listener = listener;
    this.state = { name: "connecting" };
    this.failures = 0;
    this.socket = null;
    this.lostAt = null;
    this.missed = 0;
    this.problem = "";
  }

  open() {
    clearTimeout(this.retryTimer);
    clearInterval(this.watchTimer);
    this.#drop();
    this.#enter({ name: "connecting" });
    this.problem = "";
    this.parts = [];
    this.helloAt = null;
    this.heardAt = Date.now();
    const socket = new WebSocket(this.address(this.cursor));
    this.socket = socket;
    // A socket that was given up may still deliver: only the present one is heard.
    socket.onmessage = (message) => socket === this.socket && this.#hear(message.data);
    socket.onclose = (close) => socket === this.socket && this.#lost(close.code, close.reason);
    this.watchTimer = setInterval(() => this.#watch(), WATCH_INTERVAL_MS);
  }

  /** Try now what would be tried later, and look now whether the socket is still heard: the page woke up. */
  wake() {
    if (this.state.name === "reconnecting") this.open();
    else this.#watch();
  }

  /** The page goes away for now; `open` goes on from the same place. */
  pause() {
    clearTimeout(this.retryTimer);
    clearInterval(this.watchTimer);
    this.#drop();
    this.lostAt ??= Date.now();
  }

  #hear(data) {
    this.heardAt = Date.now();
    let frame = this.parse(data);
    if (frame.type === "part") {
      // A frame longer than servers send in one message comes in several.
      this.parts.push(frame.text);
      if (frame.more) return;
      data = this.parts.join("");
      this.parts = [];
      frame = this.parse(data);
    }
    switch (frame.type) {
      case "hello":
        this.helloAt = this.heardAt;
        this.#enter({ name: "live" });
        break;
      case "events":
        if (this.lostAt !== null) this.missed += frame.events.length;
        this.listener.events(frame.events, data.length);
        break;
      case "catching_up":
        this.#enter({ name: "catching_up" });
        break;
      case "live":
        this.#atHead();
        break;
      case "heartbeat":
        if (this.state.name !== "catching_up") this.#atHead();
        break;
      case "truncated":
      case "reset":
        this.listener.hole(frame.type);
        break;
      case "error":
        this.problem = frame.message;
        break;
    }
    if (frame.cursor) this.cursor = frame.cursor;
    if (frame.type === "events") this.socket.send(JSON.stringify({ type: "ack", cursor: frame.cursor }));
  }

  #atHead() {
    this.#enter({ name: "live" });
    if (this.lostAt === null) return;
    const away = this.heardAt - this.lostAt;
    const missed = this.missed;
    this.lostAt = null;
    this.missed = 0;
    this.listener.caughtUp(away, missed);
  }

  #lost(code, reason) {
    clearInterval(this.watchTimer);
    this.socket = null;
    this.lostAt ??= Date.now();
    if (code in FINAL_CLOSES) {
      const { name, reason: usual } = FINAL_CLOSES[code];
      // What the server says to somebody who is not signed in is for scripts: keys, tokens, headers.
      this.#enter({ name, reason: name === "signed_out" ? usual : this.problem || reason || usual });
      return;
    }
    if (this.helloAt !== null && Date.now() - this.helloAt > STEADY_AFTER_MS) this.failures = 0;
    // Jitter, because a server that restarts loses all its pages at the same moment.
    const soon = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.failures) * (0.5 + Math.random() / 2);
    this.failures += 1;
    const wait = code === TOO_MANY ? LONGEST_RETRY_MS : soon;
    this.#enter({ name: "reconnecting", retryAt: Date.now() + wait, reason: this.problem || reason });
    this.retryTimer = setTimeout(() => this.open(), wait);
  }

  /** Compares clocks: timers of a hidden page are slow, and a computer that slept has none at all. */
  #watch() {
    if (this.socket === null || Date.now() - this.heardAt < SILENCE_LIMIT_MS) return;
    this.#drop();
    this.#lost(0, "The server was silent for too long.");
  }

  #drop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  #enter(state) {
    this.state = state;
    this.listener.state(state);
  }
}
