import { useEffect, useState } from "react";

import { AgentEvents } from "/static/agent_events/client.js";

/** A React hook: the newest events, newest first, and what the connection is doing. `options` are AgentEvents'. */
export function useAgentEvents(options = {}, keep = 100) {
  const [events, setEvents] = useState([]);
  const [state, setState] = useState({ name: "connecting" });
  useEffect(() => {
    const stream = new AgentEvents(options);
    stream.addEventListener("state", ({ detail }) => setState(detail));
    stream.addEventListener("events", ({ detail }) =>
      setEvents((before) => [...detail.events.toReversed(), ...before].slice(0, keep)),
    );
    return () => stream.close();
  }, [JSON.stringify(options), keep]);
  return { events, state };
}
