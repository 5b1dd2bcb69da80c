import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { filterOf, readView } from "../../static/agent_events/view/address.js";
import { listenCommand, quoted } from "../../static/agent_events/view/command.js";

test("a shell reads each word back unchanged", () => {
  const words = ["tool.*", "it's", "$HOME `id` \"x\" \\", "a  b", "*", "-x", "\n", "", "~", "#", "!!", "ü"];
  for (const word of words) {
    assert.equal(execFileSync("sh", ["-c", `printf %s ${quoted(word)}`], { encoding: "utf8" }), word);
  }
});

test("the command has an option for each condition", () => {
  const view = readView("?tenant=t-1&agent=a&not_agent=b*&type=tool.*&not_type=error&text=it's&where=payload.tokens > 1000");
  assert.equal(
    listenCommand(filterOf(view)),
    "python manage.py listen_events --tenant=t-1 --agent=a --not-agent='b*' --type='tool.*' --not-type=error" +
      " --text='it'\\''s' --where='payload.tokens > 1000'",
  );
});

test("without a filter it is the bare command", () => {
  assert.equal(listenCommand(filterOf(readView(""))), "python manage.py listen_events");
});
