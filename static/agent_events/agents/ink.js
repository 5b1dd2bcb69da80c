/** Canvases: their size in the screen's own pixels, and the page's colours, which follow its theme. */

/**
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height in CSS pixels
 * @returns {CanvasRenderingContext2D} empty, in CSS pixels
 */
export function begin(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across) canvas.width = across;
  if (canvas.height !== down) canvas.height = down;
  if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Custom properties that a canvas draws with. */
const NAMES = /** @type {const} */ (["text", "muted", "line", "accent", "bad", "warn"]);
/** Kinds of event that have a hue of their own. */
const KINDS = ["run", "turn", "tool", "handoff", "message", "guardrail", "human", "error"];

export class Ink {
  /** @param {HTMLElement} root inside of the page: a canvas knows no custom properties, an element does */
  constructor(root) {
    this.root = root;
    this.text = this.muted = this.line = this.accent = this.bad = this.warn = "";
    this.probes = NAMES.map((name) => {
      const probe = document.createElement("span");
      probe.hidden = true;
      probe.style.setProperty("color", `var(--${name})`);
      root.append(probe);
      return { name, style: getComputedStyle(probe) };
    });
    this.style = getComputedStyle(root);
    this.sans = this.lightness = this.chroma = "";
    /** @type {Map<string, string>} */
    this.hues = new Map();
  }

  /** The colours of now; asked for once a drawing. */
  read() {
    for (const { name, style } of this.probes) this[name] = style.color;
    this.sans = this.style.fontFamily;
    this.lightness = this.style.getPropertyValue("--hue-lightness");
    this.chroma = this.style.getPropertyValue("--hue-chroma");
    for (const kind of KINDS) this.hues.set(kind, this.style.getPropertyValue(`--hue-${kind}`));
  }

  /** @param {string} kind @param {number} [alpha] */
  kind(kind, alpha = 1) {
    if (kind === "error" && alpha === 1) return this.bad;
    const hue = this.hues.get(kind);
    return hue === undefined ? this.muted : this.hue(hue, alpha);
  }

  /** @param {number | string} hue @param {number} [alpha] */
  hue(hue, alpha = 1) {
    return `oklch(${this.lightness} ${this.chroma} ${hue} / ${alpha})`;
  }
}
