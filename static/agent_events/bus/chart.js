/** Events a second over the last minutes, as one path. Pure. */

import { SECONDS } from "./seconds.js";

/** @import { Seconds } from "./seconds.js" */

/** What one step of the line stands for. Steps are the same ones each time, or their heights would flicker. */
const STEP_S = 3;
/** The chart's own measures (its `viewBox`): a second is 1 wide. */
export const WIDTH = SECONDS;
export const HEIGHT = 32;
/** Something is not nothing, however little it is beside the most. */
const LEAST = 1.5;

/**
 * @param {Seconds} seconds @param {number} nowMs
 * @returns {string} a path's `d`: an area with its right edge now; empty where nothing came
 */
export function pathOf(seconds, nowMs) {
  const end = Math.floor(nowMs / 1000 / STEP_S);
  const begin = Math.max(end - SECONDS / STEP_S + 1, Math.floor(seconds.sinceMs / 1000 / STEP_S));
  /** @type {number[]} */
  const steps = [];
  let most = 0;
  for (let step = begin; step < end; step++) {
    let events = 0;
    for (let i = 0; i < STEP_S; i++) events += seconds.at(step * STEP_S + i);
    steps.push(events);
    most = Math.max(most, events);
  }
  if (most === 0) return "";
  let x = WIDTH - steps.length * STEP_S;
  let path = `M${x} ${HEIGHT}`;
  for (const events of steps) {
    const y = events ? HEIGHT - Math.max(LEAST, (events / most) * (HEIGHT - 1)) : HEIGHT;
    path += `V${Number(y.toFixed(1))}H${(x += STEP_S)}`;
  }
  return `${path}V${HEIGHT}Z`;
}
