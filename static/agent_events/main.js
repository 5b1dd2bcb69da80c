/** The live page: joins what the server rendered, the stream, the list and the words about them. */

import { Connection } from "./connection.js";
import { copyText } from "./copy.js";
import { Feed } from "./feed.js";
import { duration, plural } from "./format.js";
import { parse } from "./json.js";
import { Pause } from "./pause.js";
import { PAYLOAD_LIMIT, RowMaker, showPayload } from "./row.js";
import { Status } from "./status.js";
import { toneOf } from "./summary.js";

const HOLES = {
  truncated: "Older events were pruned from the log before they could be shown here.",
  reset: "The log was restored from an earlier state: events around this place may be missing or shown twice.",
};

const byId = (id) => document.getElementById(id);

function start(main) {
  const list = byId("events");
  const rows = new RowMaker(byId("row-template"), byId("notice-template"), tenantNames());
  const feed = new Feed({ list, rows, changed: () => refresh() });
  const pause = new Pause({ button: byId("pause"), words: byId("pause-words"), feed });
  const status = new Status({
    root: byId("state"),
    words: byId("state-words"),
    age: byId("state-age"),
    action: byId("state-action"),
    announcer: byId("announcer"),
    loginUrl: main.dataset.loginUrl,
  });

  function refresh() {
    pause.show();
    byId("empty").hidden = list.childElementCount > 0 || feed.newEvents > 0;
    if (feed.trimmed) byId("foot").hidden = false;
  }

  const connection = new Connection({
    address: (cursor) => streamAddress(main, cursor),
    cursor: main.dataset.cursor,
    parse,
    listener: {
      state: (state) => status.show(state),
      events: (events, size) => {
        const tones = events.map((event) => toneOf(event.type));
        status.came({
          events: events.length,
          errors: tones.filter((tone) => tone === "error").length,
          escalations: tones.filter((tone) => tone === "attention").length,
        });
        feed.take(events, size > PAYLOAD_LIMIT);
      },
      hole: (kind) => feed.say(kind, HOLES[kind]),
      caughtUp: (away, missed) => {
        if (missed) feed.say("caught-up", `Reconnected after ${duration(away)}: caught up ${plural(missed, "event")}, below`);
      },
    },
  });

  feed.takeOver();
  const newest = list.querySelector(".row time");
  if (newest?.dateTime) status.sawEvent(Date.parse(newest.dateTime));
  pause.rowToggled();
  refresh();
  connection.open();

  list.addEventListener("toggle", (event) => event.target.open && showPayload(event.target), { capture: true });
  main.addEventListener("click", pressed);
  byId("tenant")?.addEventListener("change", (event) => event.target.form.requestSubmit());
  byId("filters").addEventListener("submit", leaveOutEmpty);
  addEventListener("online", () => connection.wake());
  addEventListener("pagehide", () => connection.pause());
  addEventListener("pageshow", (event) => event.persisted && connection.open());
  document.addEventListener("visibilitychange", () => document.hidden || connection.wake());
}

/** The names that the tenant choice shows. @returns {Map<string, string>} by id */
function tenantNames() {
  return new Map(Array.from(byId("tenant").options, (option) => [option.value, option.textContent.trim()]));
}

function streamAddress(main, cursor) {
  const address = new URL(main.dataset.streamPath, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.search = main.dataset.streamQuery;
  address.searchParams.set("cursor", cursor);
  return address;
}

function pressed(event) {
  const button = event.target.closest("[data-action]");
  if (button?.dataset.action === "copy") copyText(button.closest(".row").querySelector(".row-payload"), button);
  if (button?.dataset.action === "copy-sample") copyText(button.parentElement.nextElementSibling, button);
}

/** Fields without a value stay out of the address. */
function leaveOutEmpty(event) {
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
}

const main = document.querySelector("main[data-cursor]");
if (main) start(main);
