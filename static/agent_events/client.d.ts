/**
 * Agent events in a browser, or anywhere else that has `fetch`: client.js, one file without imports.
 * docs/client.md says how to use it.
 */

/** An event, as on every stream and in the history. */
export interface AgentEvent {
  id: number;
  tenantId: string;
  agentId: string;
  type: string;
  /** Whatever the producer wrote; `null` where it was too large to travel, then `payloadHref` is there. */
  payload: any;
  /** The address of the whole event, where its payload was too large for a stream. */
  payloadHref?: string;
  /** RFC 3339 in UTC, microseconds; null where the producer stored an infinite time. */
  createdAt: string | null;
}

/** What the event `events` brings: the wanted events of the log between two positions, all of them. */
export interface Batch {
  /** Oldest first; never empty. */
  events: AgentEvent[];
  /** The position right before them. The history reads them again: `cursor=after&until=cursor&order=asc`. */
  after: string;
  /** The position right behind them: where a new stream goes on. */
  cursor: string;
  /** The length of the JSON text that brought them. */
  characters: number;
  /** They came by catching up, after a time without a connection or from the log. */
  missed: boolean;
}

/**
 * - `connecting`: the first answer is awaited
 * - `live`: the newest event is here, and each new one comes at once
 * - `catchingUp`: the log is being read; there is more than came yet
 * - `reconnecting`: the connection is lost; the next try is at `retryAt`
 * - `signedOut`: who asked is nobody (any more): HTTP's 401. Final
 * - `stopped`: trying again cannot help, `reason` says why. Final
 * - `closed`: by `close()`, or by the signal. Final
 */
export type StateName = "connecting" | "live" | "catchingUp" | "reconnecting" | "signedOut" | "stopped" | "closed";

export interface State {
  name: StateName;
  /** Since when, in ms since 1970 by this computer's clock. */
  since: number;
  /** When the next try is, in ms since 1970; where `reconnecting`. */
  retryAt?: number;
  /** Why, in words for people. */
  reason?: string;
  /** The HTTP status that says the same; where a server refused. */
  status?: number;
  /** About how many events are still to come; where the server has said so. */
  behind?: number;
}

/** What the event `notice` brings: something about the order of what is shown. */
export interface Notice {
  /**
   * - `gap`: events before `cursor` were pruned from the log before they could be read
   * - `reset`: the log was put back to an earlier state; events around here may be missing or come twice
   * - `caughtUp`: after `awayMs` without a connection all is here, `missed` events of it
   */
  kind: "gap" | "reset" | "caughtUp";
  /** Where in the log: right behind what came before the notice. */
  cursor: string;
  /** How long there was no connection, in ms; with `caughtUp`. */
  awayMs?: number;
  /** How many events came for that time; with `caughtUp`. */
  missed?: number;
}

/** A key or token, or what gives one: asked for each connection, and before one expires. Nothing: signed out. */
export type Token = string | (() => string | null | undefined | Promise<string | null | undefined>);

export interface Options {
  /** Where the WebSocket is. Left out: `/ws/agents/stream` of this site. `http:` is read as `ws:`. */
  url?: string | URL;
  /** Where the Server-Sent Events are. Left out: `url` with `/api/` in place of `/ws/`. */
  streamUrl?: string | URL;
  /** Where the history is, which tabs that share a connection read. Left out: `streamUrl`, with `/events` at its end. */
  historyUrl?: string | URL;
  /** `auto`, if left out: a WebSocket, and Server-Sent Events where none can be opened. */
  transport?: "auto" | "websocket" | "sse";
  /** Ids of tenants. Left out: all that may be seen. */
  tenants?: readonly string[];
  /** Only these agents: ids, or beginnings of ids with a `*`. */
  agents?: readonly string[];
  /** Only these types: names, or beginnings with a `*`. */
  types?: readonly string[];
  /** None of these agents. */
  notAgents?: readonly string[];
  /** None of these types. */
  notTypes?: readonly string[];
  /** Each of these texts occurs in the type or in the payload's JSON. */
  texts?: readonly string[];
  /** Each of these holds, such as `payload.tokens > 1000`. */
  where?: readonly string[];
  /** Where to begin: a cursor, `earliest`, or `latest`, which it is if left out. */
  cursor?: string;
  /** Who asks. Left out: the browser's cookies say so. */
  token?: Token;
  /** Tabs of one browser that ask for the same share a connection. Needs `shareKey`. */
  share?: boolean;
  /** Whose tabs may share: the user's id, say. Never the same for two users. */
  shareKey?: string;
  /** Reads JSON. Left out: `JSON.parse`, whose numbers are not exact beyond 2**53. */
  parse?: (text: string) => any;
  /** Closes it. */
  signal?: AbortSignal;
  /** Without a word for so long, in ms, a connection is dead. Servers say something each 10 s. Left out: 25,000. */
  silenceMs?: number;
}

export interface AgentEventsEventMap {
  events: CustomEvent<Batch>;
  state: CustomEvent<State>;
  notice: CustomEvent<Notice>;
}

/**
 * A live stream of agents' events that goes on at its own place whatever happens to the connection: each event once,
 * in the log's order. It opens by itself, after the code that makes it.
 */
export class AgentEvents extends EventTarget {
  /** @throws TypeError for options that make no sense */
  constructor(options?: Options);

  /** What it is doing. */
  readonly state: State;

  /** Right behind the last event that was handed over, and the place where a new stream goes on. */
  readonly cursor: string;

  /** Which way events come right now; null while there is no connection of its own. */
  readonly transport: "websocket" | "sse" | null;

  /** Ends it for good. */
  close(): void;

  /** Tries at once what would be tried later, and looks whether the connection is alive: the page woke up. */
  wake(): void;

  /** Gives the connection up for now: the page goes into the back-forward cache. */
  pause(): void;

  /** Goes on at the same place after `pause()`. */
  resume(): void;

  /**
   * Batch after batch. A loop that is slow slows the server down; nothing piles up here. It ends when the stream is
   * closed, throws where it was stopped or signed out (`cause` is the state), and closes the stream when it is left.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Batch>;

  addEventListener<K extends keyof AgentEventsEventMap>(
    type: K,
    listener: ((this: AgentEvents, event: AgentEventsEventMap[K]) => unknown) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof AgentEventsEventMap>(
    type: K,
    listener: ((this: AgentEvents, event: AgentEventsEventMap[K]) => unknown) | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
