import assert from "node:assert/strict";
import { test } from "node:test";

import {
  conditions,
  filterOf,
  isFiltered,
  narrowed,
  placeIn,
  queryOf,
  readView,
  sameFilter,
  writeView,
} from "../../static/agent_events/view/address.js";

const WHOLE =
  "tenant=t-1&agent=a-1&agent=a-2*&not_agent=b&type=tool.*&type=x%2Cy&not_type=error&text=a+%26+b&where=payload.tokens+%3E+1000&event=17&at=2026-11-26T02%3A00%3A00Z&run=run-17";

test("a view is written and read back as it was", () => {
  const view = readView(`?${WHOLE}`);
  assert.equal(writeView(view), WHOLE);
  assert.deepEqual(readView(writeView(view)), view);
});

test("defaults are not written", () => {
  assert.equal(writeView(readView("")), "");
  assert.equal(writeView(readView("?tenant=&agent=&text=%20&event=")), "");
  assert.equal(writeView(readView("?type=error")), "type=error");
});

test("a comma is part of a value, and several values are repeated", () => {
  assert.deepEqual(readView("?type=a,b&type=c").types, ["a,b", "c"]);
});

test("a value that is said twice counts once", () => {
  assert.deepEqual(readView("?type=a&type=a&type=%20a").types, ["a"]);
});

test("names that are not ours are left alone", () => {
  assert.equal(writeView(readView("?utm_source=x&type=a")), "type=a");
});

test("a filter has the names that the stream takes, and the history those of the address", () => {
  const filter = filterOf(readView(`?${WHOLE}`));
  assert.deepEqual(filter, {
    tenants: ["t-1"],
    agents: ["a-1", "a-2*"],
    notAgents: ["b"],
    types: ["tool.*", "x,y"],
    notTypes: ["error"],
    texts: ["a & b"],
    where: ["payload.tokens > 1000"],
  });
  assert.equal(queryOf(filter).toString(), WHOLE.slice(0, WHOLE.indexOf("&event=")));
});

test("the open event, the place and the run are no filter", () => {
  assert.ok(sameFilter(readView("?type=a&event=1&at=x&run=r"), readView("?type=a")));
  assert.ok(!sameFilter(readView("?type=a"), readView("?not_type=a")));
  assert.ok(!isFiltered(readView("?tenant=t&event=1")));
  assert.equal(conditions(readView(`?${WHOLE}`)), 8);
});

test("a value is added, and taken away where it is there", () => {
  const view = readView("?type=a");
  assert.deepEqual(narrowed(view, "types", "b", false), { types: ["a", "b"] });
  assert.deepEqual(narrowed(view, "types", "a", false), { types: [] });
  assert.deepEqual(narrowed(view, "texts", "hello", true), { texts: ["hello"] });
});

test("what is left out is not shown at the same time", () => {
  assert.deepEqual(narrowed(readView("?type=a"), "types", "a", true), { notTypes: ["a"], types: [] });
  assert.deepEqual(narrowed(readView("?not_type=a"), "types", "a", false), { types: ["a"], notTypes: [] });
});

test("what is pasted names a place: a cursor, an event's id, a time, and nothing else", () => {
  const cursor = "00000000002a-0000000000000011-19b2f6a1c00";
  assert.deepEqual(placeIn(` ${cursor}\n`), { at: cursor });
  assert.deepEqual(placeIn("17"), { event: "17" });
  assert.deepEqual(placeIn("event 17"), { event: "17" });
  assert.deepEqual(placeIn("2026-11-26T02:00:00.5Z"), { at: "2026-11-26T02:00:00.5Z" });
  for (const text of ["", "0", "hello", "1.5", "17 18", "-3", "2026-11-26", `${cursor}x`, "9".repeat(20)]) {
    assert.equal(placeIn(text), null, text);
  }
});
