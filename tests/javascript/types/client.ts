/** How a project with TypeScript uses client.js; the compiler alone reads this. */

import { AgentEvents, type AgentEvent, type Batch, type State } from "../../../static/agent_events/client.js";

export async function use(signal: AbortSignal): Promise<void> {
  const stream = new AgentEvents({
    url: new URL("wss://events.example/ws/agents/stream"),
    transport: "auto",
    types: ["error", "tool.*"] as const,
    token: async () => "aet.token",
    share: true,
    shareKey: "user:7",
    signal,
  });
  stream.addEventListener("events", ({ detail }) => {
    const events: AgentEvent[] = detail.events;
    const place: [string, string, number, boolean] = [detail.after, detail.cursor, events[0].id, detail.missed];
    return place;
  });
  stream.addEventListener("state", function ({ detail }) {
    const final: boolean = detail.name === "signedOut" || this.state.name === "closed";
    const retryAt: number | undefined = detail.retryAt;
    return [final, retryAt];
  });
  stream.addEventListener("notice", ({ detail }) => detail.kind === "caughtUp" && detail.missed);
  for await (const batch of stream) {
    const { events, cursor }: Batch = batch;
    if (events.length > 100) console.log(cursor);
  }
  const state: State = stream.state;
  console.log(state.reason, stream.transport);

  // @ts-expect-error no such state
  if (stream.state.name === "signed_out") return;
  // @ts-expect-error no such transport
  new AgentEvents({ transport: "carrier pigeon" });
  // @ts-expect-error it says what it does, and is not told
  stream.state = state;
}
