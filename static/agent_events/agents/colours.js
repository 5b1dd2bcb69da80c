/** One colour for each agent: the same in the feed, in the rail, in the lanes, and in `manage.py listen_events`. */

/** Hues that are told apart at the size of a dot: each 15 degrees. */
export const HUES = 24;

/** @param {string} text an agent's id @returns {number} a hue in degrees, always the same for the same text */
export function hueOf(text) {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  return ((hash >>> 8) % HUES) * (360 / HUES);
}
