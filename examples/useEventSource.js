import { useEffect, useState } from "react";

/**
 * A React hook on the browser's own EventSource: the newest events of a stream, newest first. It comes back by itself
 * and goes on where it was; it cannot say why it was refused, nor send a token, and each tab has a connection.
 */
export function useEventSource(url, keep = 100) {
  const [events, setEvents] = useState([]);
  useEffect(() => {
    const source = new EventSource(url);
    source.onmessage = ({ data }) => setEvents((before) => [JSON.parse(data), ...before].slice(0, keep));
    return () => source.close();
  }, [url, keep]);
  return events;
}
