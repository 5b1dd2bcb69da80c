import assert from "node:assert/strict";
import { test } from "node:test";

import { HEIGHT, pathOf, WIDTH } from "../../static/agent_events/bus/chart.js";
import { Delays } from "../../static/agent_events/bus/delays.js";
import { SECONDS, Seconds } from "../../static/agent_events/bus/seconds.js";
import { delayOf, delays, rateOf, rates } from "../../static/agent_events/bus/words.js";

const NOW = 1_800_000_000_000;

test("events a second are those of the last whole seconds, over as many as were counted", () => {
  const seconds = new Seconds(NOW);
  seconds.add(30, NOW);
  seconds.add(99, NOW + 2_000); // of a second that is not over
  assert.equal(seconds.rate(NOW + 2_500, 5), 15);
  assert.equal(seconds.rate(NOW + 5_000, 5), 129 / 5);
  assert.equal(seconds.rate(NOW + 60_000, 5), 0);
});

test("a tab that slept finds the seconds between empty, whatever the ring had there", () => {
  const seconds = new Seconds(NOW);
  for (let i = 0; i < SECONDS; i++) seconds.add(7, NOW + i * 1000);
  const later = NOW + 400_000;
  seconds.add(1, later);
  assert.equal(seconds.most(later), 1);
  assert.equal(seconds.at(later / 1000 - 1), 0);
  seconds.add(5, NOW); // longer ago than the ring goes back
  assert.equal(seconds.most(later), 1);
});

test("what was missed counts where it was made, and no further back than is shown", () => {
  const seconds = new Seconds(NOW - 600_000);
  seconds.spread(100, NOW - 9_000, NOW, NOW);
  assert.equal(seconds.at(NOW / 1000), 10);
  assert.equal(seconds.at(NOW / 1000 - 9), 10);
  seconds.clear(NOW);
  seconds.spread(36_000, NOW - 3_599_000, NOW + 5_000, NOW);
  assert.equal(seconds.at(NOW / 1000), 10);
  assert.equal(seconds.rate(NOW + 1_000, 5), 10);
});

test("delays are those of the last ten seconds, sampled where there are many", () => {
  const found = new Delays();
  assert.equal(found.figures(NOW), null);
  found.add(90_000, NOW - 11_000);
  for (let i = 1; i <= 100; i++) found.add(i, NOW - i * 50);
  assert.deepEqual(found.figures(NOW), { median: 50, most: 95 });
  assert.equal(found.wants(found.lastMs + 1), false);
  assert.equal(found.wants(found.lastMs + 20), true);
  for (let i = 0; i < 5_000; i++) found.add(3, NOW + i);
  assert.deepEqual(found.figures(NOW + 5_000), { median: 3, most: 3 });
  assert.equal(found.figures(NOW + 60_000), null);
});

test("the chart ends now, begins where counting began, and shows the least of it", () => {
  const seconds = new Seconds(NOW);
  assert.equal(pathOf(seconds, NOW + 30_000), "");
  seconds.add(10_000, NOW + 1_000);
  seconds.add(1, NOW + 4_000);
  const path = pathOf(seconds, NOW + 30_000);
  assert.ok(path.startsWith(`M${WIDTH - 30} ${HEIGHT}V1H${WIDTH - 27}V30.5H`), path);
  assert.ok(path.endsWith(`H${WIDTH}V${HEIGHT}Z`), path);
  assert.equal(pathOf(seconds, NOW + 32_000), path, "it moves step by step");
  assert.equal(pathOf(seconds, NOW + 600_000), "");
});

test("figures in words", () => {
  assert.equal(rateOf(0), "0");
  assert.equal(rateOf(0.2), "0.2");
  assert.equal(rateOf(123.4), "123");
  assert.equal(delayOf(-3), "under 10 ms");
  assert.equal(delayOf(3_240), "3.2 s");
  assert.match(rates(2, 8, 180, true), /^2 now that match the filter; at most 8 in the last 3 minutes$/);
  assert.match(rates(2, 8, 1, false), /^2 now; at most 8 in the last 1 second$/);
  assert.match(delays(null), /no event/);
  assert.match(delays({ median: 45, most: 120 }), /half within 45 ms, 95 of 100 within 120 ms/);
});
