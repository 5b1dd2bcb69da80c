import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

process.env.TZ = "America/New_York";
const format = await import("../../static/agent_events/format.js");

// Half past ten in the evening in New York, half past three of the next day in UTC.
const LATE = new Date("2026-11-26T03:30:05.007Z");

afterEach(() => format.useUtc(false));

test("times have milliseconds, in the viewer's zone or in UTC", () => {
  assert.equal(format.clock(LATE), "22:30:05.007");
  assert.equal(format.clockSeconds(LATE), "22:30:05");
  format.useUtc(true);
  assert.equal(format.clock(LATE), "03:30:05.007");
  assert.ok(format.inUtc());
});

test("the day changes at midnight of the zone that is shown", () => {
  const before = new Date("2026-11-26T04:59:59.999Z");
  const after = new Date("2026-11-26T05:00:00Z");
  assert.notEqual(format.dayKey(before), format.dayKey(after));
  assert.match(format.dayName(before), /25/);
  assert.match(format.dayName(after), /26/);
  format.useUtc(true);
  assert.equal(format.dayKey(before), format.dayKey(after));
  assert.match(format.dayName(before), /26/);
});

test("the exact instant names its zone, and is followed by UTC as sent", () => {
  const [words, iso] = format.exactInstant(LATE, "2026-11-26T03:30:05.007123Z").split("\n");
  assert.match(words, /10:30:05.*EST/u);
  assert.equal(iso, "2026-11-26T03:30:05.007123Z");
});

test("a field's time is read and written in the zone that is shown", () => {
  assert.equal(format.fieldOf(LATE), "2026-11-25T22:30:05");
  assert.equal(format.instantOf("2026-11-25T22:30:05"), "2026-11-26T03:30:05.000Z");
  format.useUtc(true);
  assert.equal(format.fieldOf(LATE), "2026-11-26T03:30:05");
  assert.equal(format.instantOf("2026-11-26T03:30"), "2026-11-26T03:30:00.000Z");
  assert.equal(format.instantOf(""), "");
});

test("ages and lengths of time are in words", () => {
  assert.equal(format.age(0), "just now");
  assert.equal(format.age(12_000), "12 s ago");
  assert.equal(format.age(-5), "just now");
  assert.equal(format.age(3 * 3600_000), "3 h ago");
  assert.equal(format.span(42 * 60_000), "42 min");
  assert.equal(format.span(185 * 60_000), "3 h 5 min");
  assert.equal(format.span(3600_000), "1 h");
  assert.equal(format.duration(820), "820 ms");
  assert.equal(format.plural(1204, "event"), "1,204 events");
  assert.equal(format.plural(1, "error"), "1 error");
});
