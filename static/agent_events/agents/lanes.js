/**
 * Lanes of the last minutes: one an agent, a mark an event, a bar for what had a beginning and an end. On a canvas, so
 * that thousands of marks cost no elements. The pointer or the arrow keys choose a mark.
 */

import { clockSeconds } from "../format.js";
import { hueOf } from "./colours.js";
import { begin } from "./ink.js";
import { LOOKS } from "./marks.js";

/** @import { Ink } from "./ink.js" */
/** @import { Marks } from "./marks.js" */
/** @import { Line } from "./state.js" */

/** How far back the lanes reach, in ms. */
const REACH_MS = 5 * 60_000;
const LANE = 15;
const MOST_LANES = 40;
const NAMES = 110;
const NAMES_OF_TENANTS = 170;
const NAMES_SMALL = 64;
/** A pointer this near to a mark means it, in pixels. */
const NEAR = 7;

/**
 * @typedef {{x: number, y: number, place: number}} Spot
 * @typedef {{y: number, id: string, name: string, tenant: string}} Lane an agent's: `y` is its middle
 */

export class Lanes {
  /**
   * @param {HTMLElement} root @param {Marks} marks
   * @param {object} options
   * @param {(id: number) => void} options.open @param {(text: string) => void} options.tell
   * @param {(tenantId: string) => string} options.tenantName of several tenants; empty where one is shown
   */
  constructor(root, marks, { open, tell, tenantName }) {
    this.root = root;
    this.marks = marks;
    this.open = open;
    this.tell = tell;
    this.tenantName = tenantName;
    this.canvas = /** @type {HTMLCanvasElement} */ (root.querySelector("canvas"));
    /** Where marks were drawn, oldest first; the objects are used again. @type {Spot[]} */
    this.spots = [];
    this.drawn = 0;
    /** By their agent's key. @type {Map<string, Lane>} */
    this.lanes = new Map();
    /** The event that is chosen by keys or pointer; 0 for none. */
    this.chosen = 0;
    root.addEventListener("pointermove", (event) => this.#point(event));
    root.addEventListener("pointerleave", () => this.#choose(-1));
    root.addEventListener("click", (event) => {
      this.#point(event);
      if (this.chosen) open(this.chosen);
    });
    root.addEventListener("blur", () => this.#choose(-1));
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {Line[]} lines @param {number} nowMs @param {Ink} ink */
  show(lines, nowMs, ink) {
    const from = nowMs - REACH_MS;
    const width = this.root.clientWidth;
    const lanes = this.#lanesOf(lines, from);
    this.lanes = lanes;
    const height = Math.max(1, lanes.size) * LANE + 14;
    const context = begin(this.canvas, width, height);
    const isMixed = [...lanes.values()].some(({ tenant }) => tenant);
    const left = width < 500 ? NAMES_SMALL : isMixed ? NAMES_OF_TENANTS : NAMES;
    const scale = (width - left - 6) / REACH_MS;
    context.font = `11px ${ink.sans}`;
    context.textBaseline = "middle";
    this.#axis(context, ink, left, width, height, nowMs, scale);
    for (const lane of lanes.values()) this.#name(context, ink, lane, left, width);
    this.marks.eachSpan(from, (span) => {
      const lane = lanes.get(span.agent);
      if (!lane || (span.end === 0 && span.start < from - REACH_MS)) return;
      const x = left + Math.max(0, span.start - from) * scale;
      const end = left + ((span.end || nowMs) - from) * scale;
      const tall = span.kind === "run" ? 11 : span.kind === "turn" ? 7 : 3;
      const strength = span.kind === "human" ? 0.5 : 0.28;
      context.fillStyle = span.failed ? ink.kind("error", 0.45) : ink.kind(span.kind, strength);
      context.fillRect(x, lane.y - tall / 2, Math.max(1, end - x), tall);
    });
    this.drawn = 0;
    this.marks.each(from, (place) => {
      const lane = lanes.get(this.marks.agents[place]);
      if (!lane) return;
      const x = left + (this.marks.times[place] - from) * scale;
      const { y } = lane;
      this.#mark(context, ink, LOOKS[this.marks.looks[place]], x, y);
      const spot = (this.spots[this.drawn] ??= { x: 0, y: 0, place: 0 });
      spot.x = x;
      spot.y = y;
      spot.place = place;
      this.drawn += 1;
      if (this.chosen && this.marks.ids[place] === this.chosen) this.#ring(context, ink, x, y);
    });
  }

  /**
   * Each agent's lane, by name, so that none moves when events come. @param {Line[]} lines
   * @param {number} from @returns {Map<string, Lane>}
   */
  #lanesOf(lines, from) {
    const shown = lines.filter((line) => line.lastMs >= from || line.state !== "idle").slice(0, MOST_LANES);
    shown.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.key < b.key ? -1 : 1));
    const laneOf = (/** @type {Line} */ { id, name, tenantId }, /** @type {number} */ place) => ({
      y: (place + 0.5) * LANE,
      id,
      name,
      tenant: this.tenantName(tenantId),
    });
    return new Map(shown.map((line, place) => [line.key, laneOf(line, place)]));
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {Ink} ink
   * @param {number} left @param {number} width @param {number} height @param {number} nowMs @param {number} scale
   */
  #axis(context, ink, left, width, height, nowMs, scale) {
    const first = Math.ceil((nowMs - REACH_MS) / 60_000) * 60_000;
    context.strokeStyle = ink.line;
    context.fillStyle = ink.muted;
    context.textAlign = "center";
    for (let minute = first; minute <= nowMs; minute += 60_000) {
      const x = left + (minute - (nowMs - REACH_MS)) * scale;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height - 13);
      context.stroke();
      if (x > left + 14 && x < width - 16) context.fillText(clockSeconds(new Date(minute)).slice(0, 5), x, height - 6);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {Ink} ink
   * @param {Lane} lane @param {number} left @param {number} width
   */
  #name(context, ink, { y, id, name, tenant }, left, width) {
    context.fillStyle = ink.hue(hueOf(id));
    context.fillRect(0, y - 3, 6, 6);
    context.fillStyle = ink.text;
    context.textAlign = "left";
    const room = left - 16;
    const short = fitting(context, name, room, 3);
    context.fillText(short, 11, y);
    const used = context.measureText(short).width + 5;
    if (tenant && room - used > 16) {
      context.fillStyle = ink.muted;
      context.fillText(fitting(context, tenant, room - used, 2), 11 + used, y);
    }
    context.fillStyle = ink.line;
    context.fillRect(left, y + LANE / 2 - 0.5, width - left, 0.5);
  }

  /**
   * Kinds differ by shape as well as by hue.
   * @param {CanvasRenderingContext2D} context @param {Ink} ink
   * @param {string} look @param {number} x @param {number} y
   */
  #mark(context, ink, look, x, y) {
    context.fillStyle = look === "human" ? ink.warn : ink.kind(look);
    if (look === "tool") context.fillRect(x - 2, y - 2, 4, 4);
    else if (look === "turn") context.fillRect(x - 0.75, y - 4, 1.5, 8);
    else if (look === "run") context.fillRect(x - 1, y - 6, 2, 12);
    else if (look === "human") this.#polygon(context, x, y, 3, 5);
    else if (look === "handoff" || look === "guardrail") this.#polygon(context, x, y, 4, 5);
    else if (look === "error") {
      context.fillRect(x - 1, y - 5, 2, 10);
      context.fillRect(x - 5, y - 1, 10, 2);
    } else {
      context.beginPath();
      context.arc(x, y, 2, 0, 7);
      context.fill();
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} corners
   * @param {number} radius
   */
  #polygon(context, x, y, corners, radius) {
    context.beginPath();
    for (let i = 0; i < corners; i++) {
      const angle = (i * 2 * Math.PI) / corners - Math.PI / 2;
      context.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
    }
    context.fill();
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {Ink} ink @param {number} x @param {number} y
   */
  #ring(context, ink, x, y) {
    context.strokeStyle = ink.text;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, 6.5, 0, 7);
    context.stroke();
    context.lineWidth = 1;
  }

  /** @param {MouseEvent} event */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = -1;
    let near = NEAR;
    for (let i = 0; i < this.drawn; i++) {
      const spot = this.spots[i];
      const far = Math.abs(spot.x - x) + Math.abs(spot.y - y) / 2;
      if (far <= near) {
        near = far;
        best = i;
      }
    }
    this.#choose(best);
  }

  /** @param {number} i place among what was drawn; -1 for none */
  #choose(i) {
    const spot = i >= 0 && i < this.drawn ? this.spots[i] : null;
    this.root.classList.toggle("has-choice", spot !== null);
    if (!spot) {
      this.chosen = 0;
      this.tell("");
      return;
    }
    const { marks } = this;
    this.chosen = marks.ids[spot.place];
    const lane = this.lanes.get(marks.agents[spot.place]);
    const name = [lane?.name, lane?.tenant].filter(Boolean).join(" · ");
    this.tell(`${clockSeconds(new Date(marks.times[spot.place]))} ${name}: ${marks.types[spot.place]}`);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    let i = this.drawn;
    while (i-- > 0) if (this.marks.ids[this.spots[i].place] === this.chosen) break;
    if (event.key === "Enter" && this.chosen) this.open(this.chosen);
    else if (event.key === "ArrowLeft") this.#choose(i > 0 ? i - 1 : this.drawn - 1);
    else if (event.key === "ArrowRight") this.#choose(i >= 0 && i < this.drawn - 1 ? i + 1 : 0);
    else if (event.key === "End") this.#choose(this.drawn - 1);
    else if (event.key === "Home") this.#choose(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/**
 * @param {CanvasRenderingContext2D} context @param {string} text @param {number} room in pixels
 * @param {number} least characters that are kept in any case @returns {string}
 */
function fitting(context, text, room, least) {
  let short = text;
  while (short.length > least && context.measureText(short).width > room) short = `${short.slice(0, -2)}…`;
  return short;
}
