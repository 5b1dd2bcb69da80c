/** The feed's list: what is forgotten is always an exact interval of the log, and nothing is in two places. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { isFirst, Model, placeOf, timeOf } from "../../static/agent_events/feed/model.js";

const cursor = (id) => `${id.toString(16).padStart(12, "0")}-0000000000000000-19abc`;
const event = (id) => ({ id, type: id % 10 === 0 ? "error" : "message", tenantId: "", agentId: "", payload: {}, createdAt: null });
const events = (from, to) => Array.from({ length: to - from }, (_, at) => event(from + at));

/** The log's part [from, to), as the stream brings it. */
const batch = (model, from, to) => model.take(events(from, to), cursor(from), cursor(to));
/** ... and as the history answers. */
function page(from, to, { newestFirst, limit = 100 }) {
  const size = Math.min(limit, to - from);
  const [first, last] = newestFirst ? [to - size, to] : [from, from + size];
  const found = events(first, last);
  return {
    events: newestFirst ? found.toReversed() : found,
    before: cursor(first),
    after: cursor(last),
    more: size < to - from,
    notice: null,
  };
}

function made(limits = {}) {
  return new Model({ rows: 100, block: 10, waiting: 90, isError: (type) => type === "error", ...limits });
}

const idsOf = (items) => items.flatMap((item) => (item.kind === "rows" ? item.events.map(({ id }) => id) : []));
const placeIn = (text) => Number.parseInt(text.slice(0, 12), 16);

/** Each event of [from, to) is in a stretch or in a gap, once. */
function assertWhole(model, from, to) {
  const items = [...model.shown, ...model.waiting].filter(({ kind }) => kind !== "word");
  let at = from;
  for (const item of items) {
    if (item.kind === "rows") {
      for (const { id } of item.events) assert.equal(id, at++);
    } else {
      assert.equal(placeIn(item.after), at);
      // (A gap below the end of a batch counts what it leaves out, and reaches to where the batch ends.)
      if (item.count === null) at = placeIn(item.cursor);
      else at += item.count;
      assert.ok(at <= placeIn(item.cursor));
    }
  }
  assert.equal(at, to);
}

test("what comes is drawn in order, a budget at a time", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  for (let at = 11; at < 71; at += 5) batch(model, at, at + 5);
  assert.equal(model.newEvents, 60);
  assert.equal(model.newErrors, 6);
  const first = model.flush(20, false);
  assert.deepEqual(idsOf(first.added), events(11, 31).map(({ id }) => id));
  model.flush(100, false);
  assert.equal(model.newEvents, 0);
  assert.deepEqual(idsOf(model.shown), events(1, 71).map(({ id }) => id));
});

test("past the limit whole batches become one gap with its exact interval, count and errors", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  for (let at = 11; at < 1011; at += 10) batch(model, at, at + 10);
  assert.equal(model.newEvents, 1000);
  assert.equal(model.waitingRows, 90);
  assert.equal(model.newErrors, 100);
  const [gap] = model.waiting;
  assert.deepEqual(gap, { kind: "gap", after: cursor(11), cursor: cursor(921), count: 910, errors: 91 });
  assertWhole(model, 1, 1011);
});

test("one batch larger than all that may wait is kept until it is drawn", () => {
  const model = made();
  model.replace(page(1, 2, { newestFirst: true }), cursor(2));
  batch(model, 2, 302);
  assert.equal(model.newEvents, 300);
  model.flush(50, true);
  assert.deepEqual(idsOf(model.shown).slice(1), events(252, 302).map(({ id }) => id));
  assertWhole(model, 1, 302);
});

test("a flood shows its end alone, and one gap that grows", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  let at = 11;
  for (let draw = 0; draw < 50; draw++) {
    for (let i = 0; i < 3; i++) batch(model, at, (at += 70));
    const { removed } = model.flush(20, true);
    assert.equal(idsOf(removed).length, draw ? 20 : 0);
    assertWhole(model, 1, at);
  }
  assert.deepEqual(model.shown.map(({ kind }) => kind), ["rows", "gap", "rows"]);
  assert.equal(model.rows, 30);
  // Afterwards the rows of the flood's end stay.
  batch(model, at, at + 5);
  model.flush(100, false);
  assertWhole(model, 1, at + 5);
  assert.deepEqual(model.shown.map(({ kind }) => kind), ["rows", "gap", "rows", "rows"]);
});

test("in a flood what fits is added, and gives way to what does not", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  batch(model, 11, 111);
  model.flush(20, true);
  batch(model, 111, 114);
  assert.equal(model.flush(20, true).removed.length, 0);
  assert.equal(model.rows, 10 + 20 + 3);
  batch(model, 114, 214);
  assert.equal(idsOf(model.flush(20, true).removed).length, 23);
  assert.deepEqual(model.shown.map(({ kind }) => kind), ["rows", "gap", "rows"]);
  assertWhole(model, 1, 214);
});

test("words stay where they were said, and break no count", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  batch(model, 11, 61);
  model.say("reset", "put back");
  batch(model, 61, 121);
  model.flush(1000, false);
  assert.deepEqual(model.shown.map(({ kind }) => kind), ["rows", "gap", "word", "rows"]);
  assertWhole(model, 1, 121);
});

test("the oldest rows go in blocks, and what is below the rest can be read again", () => {
  const model = made();
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  model.more = false;
  for (let at = 11; at < 151; at += 10) {
    batch(model, at, at + 10);
    model.flush(100, false);
    model.trim();
    assert.ok(model.rows <= 110);
  }
  assert.equal(model.more, true);
  const oldest = idsOf(model.shown)[0];
  assert.equal(placeIn(model.before), oldest);
  model.older(page(1, oldest, { newestFirst: true, limit: 20 }));
  assertWhole(model, oldest - 20, 151);
});

test("reading history folds the newest rows into a gap, which can be read from either end", () => {
  const model = made();
  model.replace({ ...page(401, 501, { newestFirst: true }), more: true }, cursor(501));
  while (model.more) {
    model.older(page(1, placeIn(model.before), { newestFirst: true, limit: 50 }));
    model.foldTop();
    assert.ok(model.rows <= 110);
    assertWhole(model, placeIn(model.before), 501);
  }
  assert.equal(idsOf(model.shown)[0], 1);
  const gap = model.topGap;
  assert.equal(gap.cursor, cursor(501));
  const read = (newest, limit) => model.fill(gap, page(placeIn(gap.after), placeIn(gap.cursor), { newestFirst: newest, limit }), newest);
  assert.equal(read(false, 30).done, false);
  assertWhole(model, 1, 501);
  assert.equal(read(true, 30).done, false);
  assertWhole(model, 1, 501);
  assert.equal(read(true, 1000).done, true);
  assertWhole(model, 1, 501);
  assert.equal(model.topGap, null);
});

test("the rest of a batch whose end is shown comes without that end", () => {
  for (const newest of [true, false]) {
    const model = made();
    model.replace(page(1, 11, { newestFirst: true }), cursor(11));
    batch(model, 11, 111);
    model.flush(20, true);
    const gap = model.shown.find(({ kind }) => kind === "gap");
    assert.equal(gap.count, 80);
    const { added, done } = model.fill(gap, page(11, 111, { newestFirst: newest, limit: 200 }), newest);
    assert.equal(added.events.length, 80);
    assert.ok(done);
    assertWhole(model, 1, 111);
  }
});

test("the shown end of a batch is folded with the rest of it", () => {
  const model = made({ rows: 45, block: 5 });
  model.replace(page(101, 121, { newestFirst: true }), cursor(121));
  batch(model, 121, 221);
  model.flush(20, true);
  model.older(page(1, 101, { newestFirst: true, limit: 20 }));
  const { gap } = model.foldTop();
  assert.equal(gap.after, cursor(121));
  assert.equal(gap.count, 100);
  assertWhole(model, 81, 221);
});

test("rows of an earlier place end in a gap up to now, which nobody has counted", () => {
  const model = made();
  model.replace(page(1, 51, { newestFirst: true }), cursor(500));
  assert.deepEqual(model.topGap, { kind: "gap", after: cursor(51), cursor: cursor(500), count: null, errors: 0 });
  batch(model, 500, 510);
  assert.equal(model.newEvents, 10);
  assertWhole(model, 1, 510);
});

test("what the log gave before the stream did is not there twice", () => {
  const model = made();
  model.replace(page(1, 51, { newestFirst: true }), cursor(51));
  batch(model, 31, 41);
  batch(model, 41, 61);
  batch(model, 61, 71);
  model.flush(1000, false);
  assertWhole(model, 1, 71);
});

test("what was pruned meanwhile ends a gap, and the list", () => {
  const model = made();
  model.replace(page(101, 111, { newestFirst: true }), cursor(200));
  const gap = model.topGap;
  const { done } = model.fill(gap, { ...page(150, 200, { newestFirst: true, limit: 20 }), notice: "truncated" }, true);
  assert.ok(done);
  model.older({ ...page(1, 101, { newestFirst: true, limit: 10 }), notice: "truncated" });
  assert.equal(model.more, false);
});

test("cursors tell the first event and the time", () => {
  assert.ok(isFirst("000000000001-0000000000000000-0"));
  assert.ok(!isFirst(cursor(7)));
  assert.equal(timeOf(cursor(7)), 0x19abc);
  assert.equal(placeOf(cursor(7)).length, 29);
});

test("what was pruned out of a gap is said in its place, and what is left of it stays a gap", () => {
  const model = made({ waiting: 10 });
  model.replace(page(1, 11, { newestFirst: true }), cursor(11));
  for (let at = 11; at < 71; at += 5) batch(model, at, at + 5);
  model.flush(100, false);
  const gap = model.shown.find(({ kind }) => kind === "gap");
  // The log begins at 31 by now.
  const { added, word, done } = model.fill(gap, { ...page(31, 61, { limit: 10 }), notice: "truncated" }, false, "pruned");
  assert.deepEqual([idsOf([added]).at(0), idsOf([added]).at(-1), done], [31, 40, false]);
  const at = model.shown.indexOf(gap);
  assert.deepEqual(model.shown.slice(at - 2, at), [word, added]);
  assert.equal(placeIn(gap.after), 41);
  const rest = model.fill(gap, { ...page(41, 61, { newestFirst: true }), notice: null }, true, "");
  assert.deepEqual([rest.done, rest.word], [true, null]);
  assert.ok(!model.shown.includes(gap));
});
