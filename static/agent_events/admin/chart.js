// One line over the last ten minutes: an SVG with its axes, and the same as a table.
// It draws what it is given; where points come from is bus.js's affair.

const SVG = "http://www.w3.org/2000/svg";
const SPAN_MS = 10 * 60 * 1000;
const MINUTE_MS = 60 * 1000;
const LEFT = 44;
const RIGHT = 6;
const TOP = 22;
const BOTTOM = 18;

/** @typedef {[atMs: number, value: number | null]} Point ms since 1970, and null where nobody knows */

/** A number as people read it: few digits, thousands apart. @param {number} value */
export function readable(value) {
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/**
 * The top of an axis that has `value` on it, and does not twitch; half of it is a round number.
 * @param {number} value
 */
function ceiling(value) {
  if (value <= 2) return 2;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([2, 4, 6, 8].find((times) => times * power >= value) ?? 10) * power;
}

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
function make(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  if (text !== undefined) node.textContent = text;
  return node;
}

export class Chart {
  /** @param {HTMLElement} figure a `.bus-chart` of the page; its unit and its title are there */
  constructor(figure) {
    const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (figure.querySelector(selector));
    this.title = part("figcaption span").textContent;
    this.unit = figure.dataset.unit ?? "";
    this.now = part(".bus-now");
    this.plot = part(".bus-plot");
    this.body = part("tbody");
    this.details = /** @type {HTMLDetailsElement} */ (part("details"));
    /** @type {Point[]} oldest first */
    this.points = [];
    this.details.addEventListener("toggle", () => this.tabulate());
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Forgets what it has. */
  clear() {
    this.points = [];
  }

  /** Nothing is known from the last point on. */
  gap() {
    const last = this.points[this.points.length - 1];
    if (last) this.points.push([last[0], null]);
  }

  /**
   * One more point, unless it is no later than the last; what is older than ten minutes goes.
   * @param {number} atMs @param {number | null} value
   */
  add(atMs, value) {
    const last = this.points[this.points.length - 1];
    if (last && (atMs < last[0] || (atMs === last[0] && last[1] !== null))) return;
    this.points.push([atMs, value]);
    while (this.points.length && this.points[0][0] < atMs - SPAN_MS) this.points.shift();
  }

  /** Shows what it has. */
  draw() {
    const known = this.points.flatMap(([, value]) => (value === null ? [] : [value]));
    const last = this.points.length ? this.points[this.points.length - 1][1] : null;
    const highest = Math.max(0, ...known);
    this.now.textContent = last === null ? "–" : `${readable(last)} ${this.unit}`;
    const { width, height } = this.plot.getBoundingClientRect();
    if (width < LEFT + RIGHT || height < TOP + BOTTOM) return;
    const end = this.points.length ? this.points[this.points.length - 1][0] : Date.now();
    const most = ceiling(highest);
    const x = (/** @type {number} */ ms) => LEFT + ((ms - end + SPAN_MS) / SPAN_MS) * (width - LEFT - RIGHT);
    const y = (/** @type {number} */ value) => height - BOTTOM - (value / most) * (height - TOP - BOTTOM);
    const svg = make("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${this.title}, the last ten minutes, in ${this.unit}: ` +
        (known.length
          ? `now ${last === null ? "unknown" : readable(last)}, highest ${readable(highest)}`
          : "nothing yet"),
    });
    svg.append(make("text", { x: 0, y: 10 }, this.unit));
    for (const value of [0, most / 2, most]) {
      const at = Math.round(y(value)) + 0.5;
      svg.append(
        make("line", { class: "bus-grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }),
        make("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, readable(value)),
      );
    }
    for (const [minutes, anchor] of /** @type {[number, string][]} */ ([[10, "start"], [5, "middle"], [0, "end"]])) {
      const words = minutes ? `${minutes} min ago` : "now";
      svg.append(make("text", { x: x(end - minutes * MINUTE_MS), y: height - 4, "text-anchor": anchor }, words));
    }
    for (const run of this.runs()) {
      const line = run.map(([ms, value]) => `${x(ms).toFixed(1)},${y(value).toFixed(1)}`);
      const [first, final] = [x(run[0][0]), x(run[run.length - 1][0])];
      svg.append(
        make("polygon", { class: "bus-area", points: `${first},${y(0)} ${line.join(" ")} ${final},${y(0)}` }),
        make("polyline", { class: "bus-line", points: line.join(" ") }),
      );
    }
    this.plot.replaceChildren(svg);
    this.tabulate();
  }

  /** The points between two gaps, for each gap. */
  runs() {
    /** @type {[atMs: number, value: number][][]} */
    const runs = [[]];
    for (const [ms, value] of this.points) {
      if (value !== null) runs[runs.length - 1].push([ms, value]);
      else if (runs[runs.length - 1].length) runs.push([]);
    }
    return runs.filter((run) => run.length);
  }

  /** The same, a row a minute, newest first; only where somebody has opened it. */
  tabulate() {
    if (!this.details.open) return;
    /** @type {Map<number, number[]>} */
    const minutes = new Map();
    for (const [ms, value] of this.points) {
      if (value === null) continue;
      const minute = Math.floor(ms / MINUTE_MS);
      minutes.set(minute, [...(minutes.get(minute) ?? []), value]);
    }
    const rows = [...minutes].reverse().map(([minute, values]) => {
      const row = document.createElement("tr");
      const time = document.createElement("th");
      const mean = document.createElement("td");
      time.scope = "row";
      time.textContent = new Date(minute * MINUTE_MS).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      mean.className = "bus-number";
      mean.textContent = readable(values.reduce((sum, value) => sum + value, 0) / values.length);
      row.append(time, mean);
      return row;
    });
    this.body.replaceChildren(...rows);
  }
}
