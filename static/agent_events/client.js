/**
 * Agent events, live: one file without imports, for pages, workers and Node. docs/client.md says how to use it,
 * client.d.ts has the types with their documentation.
 *
 * The cursor alone decides what comes next: it moves with what was handed over and with nothing else, and each new
 * connection begins at it. Nothing is recognised by its id and dropped: an event that came twice would show twice.
 *
 * @typedef {import("./client.d.ts").AgentEvent} AgentEvent
 * @typedef {import("./client.d.ts").Batch} Batch
 * @typedef {import("./client.d.ts").Notice} Notice
 * @typedef {import("./client.d.ts").Options} Options
 * @typedef {import("./client.d.ts").State} State
 *
 * @typedef {{type: string, cursor?: string, events?: AgentEvent[], [field: string]: any}} Frame a WebSocket's, or one
 *   that stands for what Server-Sent Events said
 *
 * @typedef {object} Ending how a connection ended
 * @property {number} [status] the HTTP status that says the same; none: the network, or a restart
 * @property {string} [code] the server's word for it
 * @property {string} [reason] in words
 * @property {number} [retryMs] not sooner than so
 * @property {boolean} [planned] nothing went wrong: servers end long responses
 *
 * @typedef {object} Line what a connection tells; whoever has closed it hears nothing more
 * @property {(frame: Frame, text: string) => void} frame `text` is the JSON that the frame was
 * @property {() => void} alive a sign of life that is no frame
 * @property {(ending: Ending) => void} end at most once, the last word
 * @property {() => Promise<void>} room until whoever reads has room for more
 *
 * @typedef {object} Connection
 * @property {() => void} close
 * @property {((cursor: string) => void)} ack all up to there was taken
 * @property {((token: string) => void) | null} renew goes on by this token; null: only a new connection does
 */

/** Servers say something each 10 s at least. */
const SILENCE_MS = 25_000;
const WATCH_MS = 5_000;
/** A WebSocket of which nothing came by then is not waited for, where there is another way. */
const SOCKET_PATIENCE_MS = 5_000;
/** So often in a row a WebSocket that has worked before may come to nothing before the other way is tried. */
const SOCKET_TRIES = 3;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
/** A connection that held for so long was a good one: the next retry is a quick one again. */
const STEADY_MS = 10_000;
/** A tab that has just come does not wait for long for the one that leads: it may be frozen. */
const LEADER_PATIENCE_MS = 3_000;
/**
 * So long after a tab was heard of, events are given to it. A hidden one that leads asks once a minute who is there;
 * one that has just taken the lead knows of nobody, until they answer.
 */
const COMPANY_MS = 150_000;
const FIRST_COMPANY_MS = 10_000;
/** Messages that may wait for a tab; of more none is kept, and the history is read in their place. */
const MOST_WAITING = 200;
const HISTORY_LIMIT = 1_000;

/** HTTP statuses after which the same request may do better. All others from 400 to 499 are final. */
const WORTH_A_RETRY = new Set([408, 425, 429]);
const STOPPED = new Map([
  ["expired", 401],
  ["revoked", 401],
  ["signed_out", 401],
  ["not_yours", 404],
  ["right_lacking", 403],
]);
const WORDS = new Map([
  [400, "The server did not understand this filter or position."],
  [401, "Your session here has ended. Nothing new comes until you sign in again."],
  [403, "You may not see these events."],
  [404, "This tenant does not exist, or is not yours."],
  [429, "You have too many streams open."],
]);

/** What a token must be made of to go with a WebSocket's handshake (RFC 9110's tokens). */
const FIT_FOR_HANDSHAKE = /^[\w!#$%&'*+.^`|~-]+$/;

/** @param {number} ms */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @param {unknown} error @returns {string} */
const wordsOf = (error) => (error instanceof Error ? error.message : String(error));

// ---------------------------------------------------------------------------------------------------------------------
// Server-Sent Events
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Reads an event stream piece by piece (WHATWG HTML, section 9.2.6). What an unfinished message said is forgotten with
 * the reader.
 */
class EventStreamReader {
  /** @type {string[]} of a line that has not ended */
  #pieces = [];
  #afterReturn = false;
  #begun = false;
  #data = /** @type {string[]} */ ([]);
  #event = "";
  #id = /** @type {string | undefined} */ (undefined);
  /** What the server said last about when to come back, in ms. */
  retryMs = 0;
  /** Was that the last it said? */
  retryIsLast = false;
  /** The last comment: a server's words for people. */
  comment = "";

  /**
   * @param {string} text the next of it, cut anywhere
   * @returns {{event: string, data: string, id: string | undefined}[]} the messages that it completes
   */
  read(text) {
    /** @type {{event: string, data: string, id: string | undefined}[]} */
    const messages = [];
    if (!this.#begun && text) {
      this.#begun = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    if (this.#afterReturn && text) {
      this.#afterReturn = false;
      if (text.startsWith("\n")) text = text.slice(1);
    }
    const ends = /\r\n|\n|\r/g;
    let start = 0;
    for (let end = ends.exec(text); end; end = ends.exec(text)) {
      this.#pieces.push(text.slice(start, end.index));
      start = ends.lastIndex;
      const line = this.#pieces.join("");
      this.#pieces = [];
      if (line) this.#field(line);
      else if (this.#data.length) {
        messages.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
        this.retryIsLast = false;
      }
      if (!line) {
        this.#data = [];
        this.#event = "";
        this.#id = undefined;
      }
    }
    this.#afterReturn = text.endsWith("\r");
    if (start < text.length) this.#pieces.push(text.slice(start));
    return messages;
  }

  /** @param {string} line */
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "") this.comment = value;
    else if (name === "retry" && /^\d+$/.test(value)) {
      this.retryMs = Number(value);
      this.retryIsLast = true;
    }
  }
}

/**
 * A refusal's body is a problem as of RFC 9457, with the words in `detail`.
 * @param {Response} response @returns {Promise<Ending>}
 */
async function refusalOf(response) {
  const after = response.headers.get("retry-after") ?? "";
  const retryMs = /^\d+$/.test(after) ? Number(after) * 1000 : Math.max(0, (Date.parse(after) || 0) - Date.now());
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  const problem = isProblem ? await response.json().catch(() => null) : null;
  await response.body?.cancel().catch(() => {});
  if (response.status === 204) return { status: 401 };
  if (response.ok) return { reason: "The server answered with something else than events." };
  return { status: response.status, reason: problem?.detail ?? "", retryMs };
}

/** @param {string} token @returns {RequestInit} how a request says who asks */
function asking(token) {
  /** @type {Record<string, string>} */
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return { headers, cache: "no-store", credentials: token ? "same-origin" : "include" };
}

/**
 * Server-Sent Events by `fetch`, which unlike `EventSource` says why it was refused and takes a header.
 * @param {URL} address @param {string} token @param {(text: string) => any} parse @param {Line} line
 * @returns {Connection}
 */
function openStream(address, token, parse, line) {
  const abort = new AbortController();
  const reader = new EventStreamReader();

  /** @param {ReturnType<EventStreamReader["read"]>} messages @returns {Ending | null} */
  function passOn(messages) {
    /** @type {string[]} */
    let events = [];
    let cursor = "";
    const flush = () => {
      if (!events.length) return;
      // As one text, which is parsed once and can be given to other tabs.
      const text = `{"type":"events","events":[${events.join(",")}],"cursor":"${cursor}"}`;
      events = [];
      line.frame(parse(text), text);
    };
    for (const { event, data, id } of messages) {
      if (event === "message") {
        events.push(data);
        cursor = id ?? cursor;
        continue;
      }
      flush();
      const said = parse(data);
      if (event === "stopped") {
        return { status: STOPPED.get(said.reason) ?? 403, code: said.reason, reason: said.message };
      }
      line.frame({ ...said, type: event }, data);
    }
    flush();
    return null;
  }

  /** @returns {Promise<Ending>} */
  async function run() {
    const { headers, ...how } = asking(token);
    const response = await fetch(address, {
      ...how,
      headers: { ...headers, Accept: "text/event-stream" },
      signal: abort.signal,
    });
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (response.status !== 200 || !isStream || !response.body) return refusalOf(response);
    const body = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      await line.room();
      const { done, value } = await body.read();
      if (done) break;
      line.alive();
      const stopped = passOn(reader.read(decoder.decode(value, { stream: true })));
      if (stopped) return stopped;
    }
    // A server that cannot begin says when to come back, too: what tells them apart is whether anything came.
    return { planned: reader.retryIsLast, retryMs: reader.retryMs, reason: reader.comment };
  }

  run()
    .catch((error) => ({ reason: wordsOf(error) }))
    .then((ending) => {
      abort.abort();
      line.end(ending);
    });
  return { close: () => abort.abort(), ack: () => {}, renew: null };
}

// ---------------------------------------------------------------------------------------------------------------------
// WebSocket
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @param {URL} address @param {string} token @param {(text: string) => any} parse @param {Line} line
 * @returns {Connection}
 */
function openSocket(address, token, parse, line) {
  // With the handshake, where it wins over whatever cookies the browser sends.
  const withHandshake = FIT_FOR_HANDSHAKE.test(token);
  const socket = new WebSocket(address, withHandshake ? ["agent-events", `bearer.${token}`] : []);
  /** @type {string[]} */
  let parts = [];
  /** @type {Frame | null} */
  let error = null;
  let ended = false;
  const begun = Date.now();
  /** @param {object} frame */
  const say = (frame) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(frame));
  /** @param {Ending} ending */
  const end = (ending) => {
    if (ended) return;
    ended = true;
    socket.close();
    line.end(ending);
  };

  socket.onopen = () => token && !withHandshake && say({ type: "auth", token });
  socket.onmessage = ({ data }) => {
    if (ended) return;
    try {
      let text = data;
      let frame = parse(text);
      if (frame.type === "part") {
        // A frame longer than servers send in one message comes in several.
        parts.push(frame.text);
        if (frame.more) return line.alive();
        text = parts.join("");
        parts = [];
        frame = parse(text);
      }
      if (frame.type === "error") error = frame;
      line.frame(frame, text);
    } catch (problem) {
      // To go on behind a frame that was not understood would lose what is in it.
      end({ reason: wordsOf(problem) });
    }
  };
  socket.onclose = ({ code, reason }) => {
    const status = code >= 4400 && code < 4600 ? code - 4000 : undefined;
    end({ status, code: error?.code, reason: error?.message || reason });
  };
  return {
    close() {
      ended = true;
      // Browsers complain on the console of one that is closed before it is open.
      if (socket.readyState !== WebSocket.CONNECTING || Date.now() - begun > SOCKET_PATIENCE_MS) socket.close();
      else socket.onopen = () => socket.close();
    },
    ack: (cursor) => say({ type: "ack", cursor }),
    renew: (renewed) => say({ type: "auth", token: renewed }),
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Tabs
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The tabs of a browser that ask for the same: whoever has the lock leads, and has the connection. The browser passes
 * the lock on when a tab is closed, or dies; one that is frozen has it stolen.
 */
class Tabs {
  #name;
  #on;
  #channel;
  #request = new AbortController();
  #gone = false;
  #letGo = () => {};
  leads = false;

  static get arePossible() {
    return globalThis.navigator?.locks !== undefined && globalThis.BroadcastChannel !== undefined;
  }

  /**
   * @param {string} name
   * @param {{lead: () => void, follow: () => void, hear: (message: any) => void}} on lead: from now on. follow: the
   *   lead was stolen. hear: what another tab says
   */
  constructor(name, on) {
    this.#name = name;
    this.#on = on;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => on.hear(data);
    this.#queue();
  }

  /** @param {object} message to all others */
  say(message) {
    if (!this.#gone) this.#channel.postMessage(message);
  }

  steal() {
    this.#request.abort();
    this.#queue(true);
  }

  leave() {
    this.#gone = true;
    this.leads = false;
    this.#request.abort();
    this.#letGo();
    this.#channel.close();
  }

  async #queue(steal = false) {
    const request = (this.#request = new AbortController());
    const lead = () => {
      if (this.#gone) return undefined;
      this.leads = true;
      this.#on.lead();
      return new Promise((resolve) => (this.#letGo = () => resolve(undefined)));
    };
    try {
      await navigator.locks.request(this.#name, steal ? { steal } : { signal: request.signal }, lead);
    } catch (error) {
      if (this.#gone || request !== this.#request) return;
      if (!(error instanceof DOMException && error.name === "AbortError")) {
        lead(); // there are no locks here, after all
        return;
      }
      this.leads = false;
      this.#queue();
      this.#on.follow();
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The stream
// ---------------------------------------------------------------------------------------------------------------------

class AgentEvents extends EventTarget {
  #options;
  #urls;
  #cursor;
  /** @type {State} */
  #state = Object.freeze({ name: "connecting", since: Date.now() });
  /** @type {Connection | null} */
  #connection = null;
  /** Counts what makes all that was begun before void: a connection, a read, the wait for a token. */
  #turn = 0;
  /** @type {"websocket" | "sse"} */
  #transport = "websocket";
  /** WebSockets in a row that came to nothing; how many are tried before the other way is. */
  #misses = 0;
  #patience = 1;
  #failures = 0;
  #opening = false;
  #heardAt = 0;
  #helloAt = 0;
  #renewing = false;
  /** Since when there has been no connection; null: there is one, and all is here. */
  #lostAt = /** @type {number | null} */ (null);
  #missed = 0;
  #unacknowledged = "";
  /** @type {Set<Reading>} */
  #readings = new Set();
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retryTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #socketTimer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watchTimer;
  #paused = false;
  /** @type {Tabs | null} */
  #tabs = null;
  /** @type {any[]} what the leading tab said and was not dealt with yet */
  #inbox = [];
  /** The turn of whoever deals with it. */
  #following = -1;
  #leaderKnown = false;
  /** Until then there is a tab that follows, as far as the one that leads knows. */
  #companyUntil = 0;

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    this.#options = { ...options };
    const { transport = "auto" } = options;
    if (!["auto", "websocket", "sse"].includes(transport)) throw new TypeError(`There is no transport ${transport}.`);
    this.#urls = addressesOf(options);
    this.#cursor = options.cursor || "latest";
    this.#transport = transport === "sse" || !globalThis.WebSocket ? "sse" : "websocket";
    options.signal?.addEventListener("abort", () => this.close(), { once: true });
    queueMicrotask(() => this.#begin());
  }

  get state() {
    return this.#state;
  }

  get cursor() {
    return this.#cursor;
  }

  get transport() {
    return this.#connection ? this.#transport : null;
  }

  close() {
    this.#finish({ name: "closed" });
  }

  wake() {
    if (this.#isFinal || this.#paused) return;
    if (this.#follows) this.#tabs?.say({ kind: "wake" });
    if (this.#follows || this.#state.name !== "reconnecting") this.#watch(true);
    else this.#open();
  }

  pause() {
    if (this.#isFinal || this.#paused) return;
    this.#paused = true;
    this.#lostAt ??= Date.now();
    this.#rest();
  }

  resume() {
    if (!this.#paused) return;
    this.#paused = false;
    this.#begin();
  }

  get #isFinal() {
    return ["signedOut", "stopped", "closed"].includes(this.#state.name);
  }

  // -- Connecting -----------------------------------------------------------------------------------------------------

  #begin() {
    if (this.#isFinal || this.#paused) return;
    if (this.#options.signal?.aborted) return this.close();
    this.#rest();
    this.#watchTimer = setInterval(() => this.#watch(), WATCH_MS);
    const { share, shareKey } = this.#options;
    if (share && shareKey && Tabs.arePossible) this.#join(shareKey);
    else this.#open();
  }

  /** Nothing is open and nothing will be tried. */
  #rest() {
    clearInterval(this.#watchTimer);
    this.#tabs?.leave();
    this.#tabs = null;
    this.#drop();
  }

  #drop() {
    this.#turn += 1;
    this.#inbox = [];
    this.#opening = false;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#socketTimer);
    this.#connection?.close();
    this.#connection = null;
  }

  /** @param {{quiet?: boolean, token?: string}} [how] quiet: nothing is wrong, and nothing is said */
  async #open({ quiet = false, token } = {}) {
    this.#drop();
    const turn = this.#turn;
    this.#opening = true;
    this.#heardAt = Date.now();
    this.#helloAt = 0;
    if (!quiet) this.#enter({ name: "connecting" });
    try {
      await this.#room();
      token ??= await this.#token();
    } catch (error) {
      if (turn === this.#turn) this.#lost({ reason: wordsOf(error) });
      return;
    }
    if (turn !== this.#turn) return;
    if (token === "" && this.#options.token !== undefined) return this.#lost({ status: 401, code: "no_token" });
    this.#heardAt = Date.now();
    /** @type {Line} */
    const line = {
      frame: (frame, text) => turn === this.#turn && this.#hear(frame, text),
      alive: () => turn === this.#turn && (this.#heardAt = Date.now()),
      end: (ending) => turn === this.#turn && this.#lost(ending),
      room: () => this.#room(),
    };
    const parse = (/** @type {string} */ text) => this.#parse(text);
    const isSocket = this.#transport === "websocket";
    try {
      const address = this.#address(isSocket ? this.#urls.socket : this.#urls.stream, { cursor: this.#cursor });
      this.#connection = (isSocket ? openSocket : openStream)(address, token, parse, line);
    } catch (error) {
      this.#lost({ reason: wordsOf(error) });
      return;
    }
    if (isSocket && this.#mayFallBack) {
      this.#socketTimer = setTimeout(() => this.#helloAt || this.#lost({}), SOCKET_PATIENCE_MS);
    }
  }

  get #mayFallBack() {
    return (this.#options.transport ?? "auto") === "auto" && globalThis.WebSocket !== undefined;
  }

  /** The filter goes by the same names at every door. @param {URL} base @param {Record<string, string>} more */
  #address(base, more) {
    const url = new URL(base);
    const { tenants, agents, types, notAgents, notTypes, texts, where } = this.#options;
    const nots = { not_agent: notAgents, not_type: notTypes };
    const asked = { tenant: tenants, agent: agents, type: types, ...nots, text: texts, where };
    for (const [name, values] of Object.entries(asked)) {
      for (const value of values ?? []) url.searchParams.append(name, value);
    }
    for (const [name, value] of Object.entries(more)) url.searchParams.set(name, value);
    return url;
  }

  /** @param {string} text */
  #parse(text) {
    return (this.#options.parse ?? JSON.parse)(text);
  }

  /** @returns {Promise<string>} "" where there is none */
  async #token() {
    const { token } = this.#options;
    return (typeof token === "function" ? await token() : token) ?? "";
  }

  /** What the connection was opened with ends soon. */
  async #renew() {
    if (typeof this.#options.token !== "function") return;
    const turn = this.#turn;
    // (Where none can be had now, its end is the next occasion.)
    const token = await this.#token().catch(() => "");
    if (!token || turn !== this.#turn) return;
    if (this.#connection?.renew) this.#connection.renew(token);
    else this.#open({ quiet: true, token });
  }

  // -- What comes -----------------------------------------------------------------------------------------------------

  /** @param {Frame} frame @param {string} text */
  #hear(frame, text) {
    this.#heardAt = Date.now();
    this.#opening = false;
    const before = this.#cursor;
    switch (frame.type) {
      case "hello":
        this.#helloAt = this.#heardAt;
        this.#renewing = false;
        if (this.#transport === "websocket") [this.#misses, this.#patience] = [0, SOCKET_TRIES];
        // (A place of ours stays: what the server has to say about it comes in a frame of its own.)
        if (!isPlace(before)) this.#cursor = frame.cursor ?? before;
        break;
      case "events":
        this.#handOver(frame, text);
        break;
      case "catching_up":
        this.#enter({ name: "catchingUp", behind: frame.behind });
        break;
      case "live":
        this.#allHere();
        break;
      case "truncated":
      case "reset":
        this.#jump(frame.type === "reset" ? "reset" : "gap", frame.cursor ?? before);
        break;
      case "expiring":
        this.#renew();
        break;
    }
    if (frame.cursor && frame.cursor > this.#cursor && isPlace(this.#cursor)) this.#cursor = frame.cursor;
    if (frame.type !== "events") this.#relay({ kind: "at", after: before, cursor: this.#cursor });
  }

  /** The log does not go on at our place, but at this one. @param {"gap" | "reset"} kind @param {string} cursor */
  #jump(kind, cursor) {
    this.#cursor = cursor;
    this.#relay({ kind, cursor });
    this.#tell("notice", { kind, cursor });
  }

  /** @param {Frame} frame @param {string} text */
  #handOver(frame, text) {
    const { events = [], cursor = this.#cursor } = frame;
    const missed = this.#lostAt !== null || this.#state.name === "catchingUp";
    if (this.#lostAt !== null) this.#missed += events.length;
    const batch = { events, after: this.#cursor, cursor, characters: text.length, missed };
    // To write them for nobody costs as much as to read them. A tab that was forgotten is told the place, and reads.
    if (Date.now() < this.#companyUntil) this.#relay({ kind: "events", after: this.#cursor, cursor, text });
    this.#cursor = cursor;
    for (const reading of this.#readings) reading.give(batch);
    this.#unacknowledged = cursor;
    if (!this.#isFull) this.#connection?.ack(cursor);
    this.#tell("events", batch);
  }

  #allHere() {
    this.#enter({ name: "live" });
    if (this.#lostAt === null) return;
    const [awayMs, missed] = [Date.now() - this.#lostAt, this.#missed];
    this.#lostAt = null;
    this.#missed = 0;
    this.#tell("notice", { kind: "caughtUp", cursor: this.#cursor, awayMs, missed });
  }

  // -- What goes wrong ------------------------------------------------------------------------------------------------

  /** @param {Ending} ending */
  #lost({ status, code, reason = "", retryMs = 0, planned = false }) {
    const heard = this.#helloAt > 0;
    const steady = heard && Date.now() - this.#helloAt > STEADY_MS;
    this.#drop();
    if (planned && heard) {
      this.#opening = true;
      this.#heardAt = Date.now();
      const goOn = () => this.#open({ quiet: true });
      // (Without a timer where it may be: those of a hidden page are a minute late.)
      if (steady) goOn();
      else this.#retryTimer = setTimeout(goOn, retryMs);
      return;
    }
    this.#lostAt ??= Date.now();
    if (this.#isForGood(status)) {
      if (status === 401 && this.#mayAskAgain(code)) {
        this.#renewing = true;
        this.#open();
        return;
      }
      this.#finish(this.#last(status, reason));
      return;
    }
    if (steady) this.#failures = 0;
    if (this.#mayFallBack && this.#transport === "websocket" && !heard && status === undefined) {
      this.#misses += 1;
      if (this.#misses >= this.#patience) {
        this.#transport = "sse";
        this.#open();
        return;
      }
    } else if (this.#mayFallBack) {
      this.#transport = "websocket"; // perhaps it is another network by now
    }
    const turn = this.#turn;
    const wait = this.#waitFor({ status, reason, retryMs });
    // (Whoever heard of it may have closed it, or woken it up.)
    if (turn === this.#turn) this.#retryTimer = setTimeout(() => this.#open(), wait);
  }

  /** What goes wrong is tried again. @param {Ending} ending @returns {number} in so many ms */
  #waitFor({ status, reason = "", retryMs = 0 }) {
    // Jitter, because a server that restarts loses all its clients at the same moment.
    const soon = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    this.#failures += 1;
    const wait = Math.max(soon, retryMs, status === 429 ? LONGEST_RETRY_MS * 0.8 : 0);
    const now = Date.now();
    this.#enter({ name: "reconnecting", retryAt: now + wait, reason: this.#why(status, reason), status }, now);
    return wait;
  }

  /** @param {number | undefined} status */
  #isForGood(status) {
    return status !== undefined && status < 500 && !WORTH_A_RETRY.has(status);
  }

  /** @param {number | undefined} status @param {string} reason the server's @returns {Omit<State, "since">} */
  #last(status, reason) {
    return { name: status === 401 ? "signedOut" : "stopped", reason: this.#why(status, reason), status };
  }

  /** Could the same request be somebody's again, with what is there now? Once, until it was. @param {string} [code] */
  #mayAskAgain(code) {
    const { token } = this.#options;
    const isNew = typeof token === "function" || (token === undefined && code === "expired");
    return isNew && code !== "no_token" && !this.#renewing;
  }

  /** @param {number | undefined} status @param {string} said by the server @returns {string} */
  #why(status, said) {
    const ours = status === undefined ? "" : (WORDS.get(status) ?? "");
    // What a server says to somebody who is not signed in is for scripts: keys, tokens, headers.
    return status === 401 && this.#options.token === undefined ? ours : said || ours;
  }

  /**
   * Compares clocks: timers of a hidden page are slow, and a computer that slept has none at all.
   * @param {boolean} [now] somebody is there who waits
   */
  #watch(now = false) {
    if (this.#follows) return this.#watchLeader();
    this.#callTabs();
    if (!this.#connection && !this.#opening) return;
    if (this.#isFull) this.#heardAt = Date.now(); // nobody listens, so that nothing can be heard
    const silent = Date.now() - this.#heardAt;
    if (silent < (this.#options.silenceMs ?? SILENCE_MS)) return;
    this.#lost({ reason: "The server was silent for too long." });
    if (now) this.wake();
  }

  /** @param {Omit<State, "since">} state */
  #finish(state) {
    if (this.#isFinal) return;
    if (state.name !== "closed") this.#enter(state); // while others still hear it
    this.#rest();
    this.#enter(state);
    for (const reading of this.#readings) reading.end(this.#state);
    this.#drained();
  }

  // -- Sharing --------------------------------------------------------------------------------------------------------

  /** Is there another tab that has the connection? */
  get #follows() {
    return this.#tabs !== null && !this.#tabs.leads;
  }

  /** @param {string} shareKey */
  #join(shareKey) {
    const asked = this.#address(this.#urls.socket, {});
    asked.searchParams.sort();
    this.#leaderKnown = false;
    this.#heardAt = Date.now();
    this.#tabs = new Tabs(`agent-events 1 ${JSON.stringify([shareKey, asked])}`, {
      lead: () => this.#lead(),
      follow: () => this.#yield(),
      hear: (message) => this.#hearTab(message),
    });
    this.#tabs.say({ kind: "ask" });
    setTimeout(() => this.#watch(), LEADER_PATIENCE_MS);
  }

  #lead() {
    this.#companyUntil = Date.now() + FIRST_COMPANY_MS;
    this.#callTabs();
    this.#open({ quiet: ["live", "catchingUp"].includes(this.#state.name) });
  }

  /** Another tab took the lead. */
  #yield() {
    this.#drop();
    this.#heardAt = Date.now();
    this.#tabs?.say({ kind: "ask" });
  }

  /** @param {object} message to the tabs that follow */
  #relay(message) {
    if (this.#tabs?.leads) this.#tabs.say(message);
  }

  /** Where it is: whoever has missed something reads it; and who is there? */
  #callTabs() {
    this.#relay({ kind: "at", after: this.#cursor, cursor: this.#cursor, whoIsThere: true });
  }

  /** @param {any} message */
  #hearTab(message) {
    if (["wake", "ask", "here"].includes(message.kind)) {
      if (!this.#tabs?.leads) return;
      this.#companyUntil = Date.now() + COMPANY_MS;
      if (message.kind === "here") return;
      if (message.kind === "wake") this.wake();
      this.#relay({ kind: "at", after: this.#cursor, cursor: this.#cursor });
      this.#relay({ kind: "state", state: this.#state });
      return;
    }
    if (message.whoIsThere && this.#follows) this.#tabs?.say({ kind: "here" });
    const { state } = message;
    // Cookies are every tab's; a token is each one's own.
    const forAll = this.#options.token === undefined && (state?.name === "signedOut" || state?.name === "stopped");
    if (forAll && (this.#follows || state.name === "signedOut")) return this.#finish(state);
    if (!this.#follows) return;
    this.#heardAt = Date.now();
    this.#leaderKnown = true;
    if (this.#inbox.length >= MOST_WAITING) {
      // What is dropped here is read from the history, for what comes next; the state is told once more.
      this.#inbox = this.#inbox.filter(({ kind }) => kind === "reset");
      this.#tabs?.say({ kind: "ask" });
    }
    this.#inbox.push(message);
    this.#follow();
  }

  /** Deals with what the leading tab said. One at a time, as what is missing has to be read first. */
  async #follow() {
    if (this.#following === this.#turn) return;
    const turn = (this.#following = this.#turn);
    while (turn === this.#turn && this.#inbox.length) {
      await this.#room();
      if (turn !== this.#turn) return;
      if (!isPlace(this.#cursor)) {
        const order = this.#cursor === "latest" ? "desc" : "asc";
        const found = await this.#history({ cursor: this.#cursor, order, limit: "1" }, turn);
        if (found && !isPlace(this.#cursor)) this.#cursor = order === "desc" ? found.after : found.before;
        continue;
      }
      // (What cannot be parsed is missing for the next one, and is read.)
      await this.#heed(this.#inbox.shift(), turn).catch(() => {});
    }
    if (turn === this.#turn) this.#following = -1;
  }

  /** The one rule: what is behind us is dropped, what begins here is taken, else something is missing and is read. */
  async #heed(/** @type {any} */ { kind, after, cursor, text, state }, /** @type {number} */ turn) {
    if (kind === "state") {
      const { name, retryAt, reason, status, behind } = state;
      if (name === "reconnecting") this.#lostAt ??= Date.now();
      if (name === "live") this.#allHere();
      else if (!["signedOut", "stopped"].includes(name)) this.#enter({ name, retryAt, reason, status, behind });
    } else if (kind === "reset") {
      if (cursor !== this.#cursor) this.#jump("reset", cursor);
    } else if (cursor > this.#cursor && isPlace(cursor)) {
      if (after !== this.#cursor) await this.#readUpTo(this.#farthest(cursor), turn);
      else if (kind === "events") this.#handOver({ ...this.#parse(text), cursor }, text);
      else this.#cursor = cursor;
    }
  }

  /** @param {string} cursor @returns {string} what is read up to, so that a tab that lags behind does so once */
  #farthest(cursor) {
    const resets = this.#inbox.findIndex((message) => message.kind === "reset");
    const until = this.#inbox.slice(0, resets < 0 ? undefined : resets).findLast((message) => message.cursor)?.cursor;
    return until > cursor ? until : cursor;
  }

  /** @param {string} until @param {number} turn */
  async #readUpTo(until, turn) {
    while (this.#cursor < until) {
      await this.#room();
      const limit = String(HISTORY_LIMIT);
      const found = await this.#history({ cursor: this.#cursor, until, order: "asc", limit }, turn);
      if (!found) return;
      if (found.notice) this.#jump(found.notice === "reset" ? "reset" : "gap", found.before);
      // (A server of the last version, in the middle of a deployment, knows no `until` and may go beyond it.)
      const isThere = !found.more && found.notice !== "reset" && found.after <= until;
      const cursor = isThere ? until : found.after;
      // It reads a copy of the log that has not come so far.
      const waits = found.more && cursor <= this.#cursor;
      if (found.events.length) this.#handOver({ type: "events", events: found.events, cursor }, found.text);
      else this.#cursor = cursor;
      if (found.notice === "reset") return;
      if (waits) await pause(FIRST_RETRY_MS);
      if (turn !== this.#turn) return;
    }
  }

  /**
   * A page of the log, however often it must be asked for.
   * @param {Record<string, string>} asked @param {number} turn
   * @returns {Promise<any>} null: there is no use for it any more
   */
  async #history(asked, turn) {
    for (;;) {
      /** @type {Ending} */
      let ending;
      try {
        const token = await this.#token();
        const signal = AbortSignal.timeout(this.#options.silenceMs ?? SILENCE_MS);
        const response = await fetch(this.#address(this.#urls.history, asked), { ...asking(token), signal });
        const isJson = response.headers.get("content-type")?.startsWith("application/json");
        if (response.ok && isJson) {
          const text = await response.text();
          if (turn !== this.#turn) return null;
          this.#failures = 0;
          return { ...this.#parse(text), text };
        }
        ending = await refusalOf(response);
      } catch (error) {
        ending = { reason: wordsOf(error) };
      }
      if (turn !== this.#turn) return null;
      if (this.#isForGood(ending.status)) {
        const last = this.#last(ending.status, ending.reason ?? "");
        this.#tabs?.say({ kind: "state", state: last });
        this.#finish(last);
        return null;
      }
      await pause(this.#waitFor(ending));
      if (turn !== this.#turn) return null;
      this.#tabs?.say({ kind: "ask" }); // its state takes the place of ours
    }
  }

  #watchLeader() {
    const patience = this.#options.silenceMs ?? SILENCE_MS;
    const isSilent = () => Date.now() - this.#heardAt >= (this.#leaderKnown ? patience : LEADER_PATIENCE_MS);
    if (!isSilent()) return;
    // It may be ourselves who slept. Not all at the same moment, either: the first who leads is heard by the others.
    this.#tabs?.say({ kind: "ask" });
    setTimeout(() => this.#follows && isSilent() && this.#tabs?.steal(), 500 + Math.random() * 1000);
  }

  // -- Whoever listens ------------------------------------------------------------------------------------------------

  /** @param {Omit<State, "since">} state @param {number} now */
  #enter(state, now = Date.now()) {
    const { since, ...was } = this.#state;
    // (In one order, without what is not there.)
    const { name, retryAt, reason, status, behind } = state;
    const is = JSON.parse(JSON.stringify({ name, retryAt, reason: reason || undefined, status, behind }));
    if (JSON.stringify(was) === JSON.stringify(is)) return;
    this.#state = Object.freeze({ ...is, since: was.name === name ? since : now });
    this.#relay({ kind: "state", state: this.#state });
    this.#tell("state", this.#state);
  }

  /** @param {"events" | "state" | "notice"} name @param {Batch | State | Notice} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Does a loop still have something to read? */
  get #isFull() {
    for (const reading of this.#readings) if (reading.length) return true;
    return false;
  }

  /** @returns {Promise<void>} */
  async #room() {
    while (this.#isFull && !this.#isFinal) await new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
  }

  #drained() {
    if (this.#isFull && !this.#isFinal) return;
    this.#heardAt = Date.now();
    if (this.#unacknowledged) this.#connection?.ack(this.#unacknowledged);
    for (const go of this.#waiting.splice(0)) go();
  }

  [Symbol.asyncIterator]() {
    const reading = new Reading(
      () => this.#drained(),
      () => {
        this.#readings.delete(reading);
        this.close();
      },
    );
    this.#readings.add(reading);
    if (this.#isFinal) reading.end(this.#state);
    return reading;
  }
}

/** @param {Options} options @throws TypeError for what is no address, or no whole one where there is no page */
function addressesOf({ url, streamUrl, historyUrl }) {
  const here = globalThis.location?.href;
  const socket = new URL(url ?? "/ws/agents/stream", here);
  const stream = new URL(streamUrl ?? socket.href.replace("/ws/", "/api/"), here);
  const history = new URL(historyUrl ?? stream.href.replace(/\/stream\b/, "/events"), here);
  for (const one of [socket, stream, history]) one.protocol = one.protocol.replace("ws", "http");
  socket.protocol = socket.protocol.replace("http", "ws");
  return { socket, stream, history };
}

/** @param {string} cursor @returns {boolean} not a word that only a server understands */
function isPlace(cursor) {
  return cursor !== "latest" && cursor !== "earliest";
}

/** A `for await` over a stream. @implements {AsyncIterableIterator<Batch>} */
class Reading {
  /** @type {Batch[]} */
  #batches = [];
  /** @type {State | null} */
  #end = null;
  /** @type {(() => void)[]} */
  #waiting = [];
  #taken;
  #left;

  /** @param {() => void} taken one batch fewer waits @param {() => void} left nobody reads any more */
  constructor(taken, left) {
    this.#taken = taken;
    this.#left = left;
  }

  get length() {
    return this.#batches.length;
  }

  /** @param {Batch} batch */
  give(batch) {
    this.#batches.push(batch);
    this.#rouse();
  }

  /** @param {State} state */
  end(state) {
    this.#end = state;
    this.#rouse();
  }

  #rouse() {
    for (const go of this.#waiting.splice(0)) go();
  }

  /** @returns {Promise<IteratorResult<Batch, undefined>>} */
  async next() {
    for (;;) {
      const batch = this.#batches.shift();
      if (batch) {
        this.#taken();
        return { done: false, value: batch };
      }
      if (this.#end) {
        const { name, reason } = this.#end;
        if (name === "closed") return { done: true, value: undefined };
        throw new Error(reason || name, { cause: this.#end });
      }
      await new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
    }
  }

  /** @returns {Promise<IteratorResult<Batch, undefined>>} */
  async return() {
    this.#batches = [];
    this.#left();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** As client.d.ts declares it: the compiler compares. @type {typeof import("./client.d.ts").AgentEvents} */
const declared = AgentEvents;
export { declared as AgentEvents };
