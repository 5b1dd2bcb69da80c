/** Payloads: numbers keep their text, paths are spelled as filters read them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { stepInto, whereOf } from "../../static/agent_events/feed/payload.js";
import { parse, pretty } from "../../static/agent_events/json.js";

const canKeepText = typeof JSON.rawJSON === "function";

test("a number keeps its own text", { skip: !canKeepText && "this Node has no JSON.rawJSON" }, () => {
  const texts = ["12345678901234567890", "1.50", "0.10", "-0", "0.00000001", "1.0", "123456789.123456789", "1e5", "100.0"];
  for (const text of texts) {
    for (const whole of [`{"a": ${text}}`, `{"a":${text}}`, `[1, ${text}]`, `[${text},1]`, `[${text}]`, text, `{"a": {"b": [${text}, 2]}}`]) {
      assert.equal(JSON.stringify(parse(whole)), whole.replaceAll(/\s/g, ""), whole);
    }
  }
});

test("text that looks like such a number changes nothing", () => {
  const whole = '{"createdAt":"2026-11-26T02:30:22.123450Z","id":17,"x":[0.5,1,-2.25],"s":"1.50, 12345678901234567890"}';
  assert.equal(JSON.stringify(parse(whole)), whole);
  assert.equal(pretty(parse('{"a":1}')), '{\n  "a": 1\n}');
});

test("a value says which filter finds it", () => {
  const path = stepInto(stepInto(stepInto("payload", "items"), 0), "a b");
  assert.equal(path, 'payload.items[0]["a b"]');
  assert.equal(whereOf(path, "x\"y"), 'payload.items[0]["a b"] = "x\\"y"');
  assert.equal(whereOf("payload.n", null), "payload.n = null");
  assert.equal(whereOf("payload.text", "x".repeat(500)), "");
});
