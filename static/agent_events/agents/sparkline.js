/** Events a minute as a line in a few pixels: an SVG path. Pure, but for setting it. */

import { MINUTES } from "./minutes.js";

/** @import { Minutes } from "./minutes.js" */

const WIDTH = 60;
const HEIGHT = 14;

/**
 * @param {Minutes} minutes @param {number} nowMinute @returns {string} a path's `d`, its last
 * point the minute of now; empty where nothing came
 */
export function pathOf(minutes, nowMinute) {
  let most = 0;
  for (let back = 0; back < MINUTES; back++) most = Math.max(most, minutes.at(nowMinute - back).events);
  if (most === 0) return "";
  let path = "";
  for (let i = 0; i < MINUTES; i++) {
    const { events } = minutes.at(nowMinute - MINUTES + 1 + i);
    const x = ((i * WIDTH) / (MINUTES - 1)).toFixed(1);
    // The square root, so that one busy minute does not flatten all others.
    const y = (HEIGHT - 1 - Math.sqrt(events / most) * (HEIGHT - 2)).toFixed(1);
    path += `${i ? "L" : "M"}${x} ${y}`;
  }
  return path;
}
