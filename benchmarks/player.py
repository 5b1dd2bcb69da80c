"""A stream of prepared frames for the live page, so that it is measured without PostgreSQL.

A process between a server and a browser: it hands on what the page asks for (itself, its scripts,
history), and answers the page's WebSocket itself, with the frames that the server would send, as
it would send them: whole updates a tick, no more than ACK_WINDOW_BYTES unacknowledged, on from the
cursor that the client comes back with. At `/naive` it has a page of the usual kind, to compare.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from agent_events.unacknowledged import Unacknowledged
from agent_events.wire import events_frames, frame
from benchmarks.page_events import FIRST_ID, PageEvents, Tape
from benchmarks.producers import SPAWN
from project.processes import end_with_parent, free_port

STREAM, SSE, NAIVE = "/ws/agents/stream", "/api/agents/stream", "/naive"
TICK_S = 0.01
"""As APPEND_INTERVAL_S."""
WINDOW_BYTES = 1_048_576
"""As ACK_WINDOW_BYTES."""
UPDATE_EVENTS = 2_000
"""An update of a client that is behind."""
HEARTBEAT_S, ACK_TIMEOUT_S, FETCH_TIMEOUT_S, START_TIMEOUT_S = 10.0, 60.0, 30.0, 30.0
PER_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")

NAIVE_PAGE = """<!doctype html><meta charset="utf-8"><title>Naive</title>
<style>
  body { margin: 0; font: 13px system-ui; }
  p { display: flex; gap: 1rem; margin: 0; padding: 4px 12px; border-bottom: 1px solid #ddd; }
  p :last-child { flex: 1; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
</style>
<div id="events"></div>
<script>
  const list = document.getElementById("events");
  const socket = new WebSocket("ws://" + location.host + "/ws/agents/stream?cursor=latest");
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    for (const event of frame.events ?? []) {
      const row = document.createElement("p");
      row.className = "row";
      row.dataset.id = event.id;
      const texts = [event.createdAt.slice(11, 23), event.agentId.slice(0, 8), event.type, JSON.stringify(event.payload)];
      for (const text of texts) row.appendChild(document.createElement("span")).textContent = text;
      list.prepend(row);
    }
    if (frame.events) socket.send(JSON.stringify({ type: "ack", cursor: frame.cursor }));
  };
</script>
"""  # noqa: E501
"""A row for each event as it comes; none ever goes."""


@dataclass(frozen=True)
class Play:
    """What is to happen from now on.

    Args:
        rate: events a second, as far as the client keeps up; 0: nothing.
        events: how many, then nothing.
        began_ago_ms: how long ago the first of them was created, for a day that is played
            faster than it was; None: as they come.
        apart_ms: how long after each the next one was, then.
    """

    rate: float
    events: int
    began_ago_ms: float | None = None
    apart_ms: float = 0.0


FILL = Play(500, 1_200)
"""So slow that a page shows each of them: then its list is full, and grows no more."""


@dataclass
class Played:
    """How far it is. Numbers of events, from the beginning."""

    due: int = 0
    taken: int = 0
    streams: int = 0
    most_behind: int = 0
    """The most that was due and not acknowledged, since the last `Play`."""


class Player:
    """The process; `port` is where the browser goes."""

    def __init__(self, site_port: int) -> None:
        """`site_port`: the server that has all but the stream."""
        self.port = free_port(None)
        self._end, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_run, args=(site_port, self.port, theirs), daemon=True)

    def __enter__(self) -> Player:
        self._process.start()
        self._ask(None)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.join()

    def play(self, order: Play) -> None:
        """Begins with this, in place of what was under way."""
        self._ask(order)

    def cut(self) -> None:
        """Ends all streams without a word, as a network does."""
        self._ask("cut")

    def played(self) -> Played:
        """How far it is."""
        answer: Played = self._ask("played")
        return answer

    def newest_id(self) -> int:
        """The id of the last event by now."""
        return FIRST_ID + self.played().due - 1

    def _ask(self, what: Any) -> Any:
        self._end.send(what)
        if not self._end.poll(START_TIMEOUT_S):
            raise TimeoutError(f"the player does not answer {what!r}")
        return self._end.recv()


def _run(site_port: int, port: int, control: Connection) -> None:
    end_with_parent()
    asyncio.run(_serve(site_port, port, control))


async def _serve(site_port: int, port: int, control: Connection) -> None:
    stage = _Stage(Tape(PageEvents(), 200))

    async def hand_on(connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        if path == STREAM:
            return None
        if path == NAIVE:
            return Response(200, "OK", Headers({"Content-Type": "text/html"}), NAIVE_PAGE.encode())
        if path == SSE:
            return Response(404, "Not Found", Headers())
        return await asyncio.to_thread(_fetch, site_port, request)

    async with serve(
        stage.stream, "127.0.0.1", port, process_request=hand_on, compression=None, max_queue=None
    ):
        loop = asyncio.get_running_loop()
        asked = asyncio.Queue[Any]()

        def hear() -> None:
            try:
                asked.put_nowait(control.recv())
            except EOFError:
                os._exit(0)  # whoever started us is gone

        loop.add_reader(control.fileno(), hear)
        while True:
            control.send(stage.obey(await asked.get()))


def _fetch(port: int, request: Request) -> Response:
    """The server's own answer to this GET."""
    connection = HTTPConnection("127.0.0.1", port, timeout=FETCH_TIMEOUT_S)
    try:
        kept = {k: v for k, v in request.headers.raw_items() if k.lower() not in PER_CONNECTION}
        connection.request("GET", request.path, headers=kept)
        answer = connection.getresponse()
        headers = Headers()
        for name, value in answer.getheaders():
            if name.lower() not in PER_CONNECTION:
                headers[name] = value
        body = answer.read()
        headers["Content-Length"] = str(len(body))
        return Response(answer.status, answer.reason, headers, body)
    finally:
        connection.close()


@dataclass
class _Stage:
    """The log as it grows by the clock, and the streams of it."""

    tape: Tape
    clock: Callable[[], float] = time.monotonic
    order: Play = Play(0, 0)
    began_s: float = 0.0
    base: int = 0
    """What was there before the order under way."""
    state: Played = field(default_factory=Played)
    open: set[ServerConnection] = field(default_factory=set)

    def obey(self, what: Any) -> Any:
        """Does what the other process says; the answer to it."""
        if isinstance(what, Play):
            self.base, self.began_s, self.order = self.due(), self.clock(), what
            self.state.most_behind = 0
        elif what == "cut":
            for connection in self.open:
                connection.transport.abort()
        self.state.due = self.due()
        return self.state

    def due(self) -> int:
        """How many events there are by now."""
        since_s = self.clock() - self.began_s
        return self.base + min(self.order.events, int(since_s * self.order.rate))

    async def stream(self, connection: ServerConnection) -> None:
        """One client's, until it goes."""
        assert connection.request is not None
        asked = parse_qs(urlsplit(connection.request.path).query)
        cursor = asked.get("cursor", ["latest"])[0]
        number = self.due() if cursor == "latest" else self.tape.number(cursor)
        if cursor != "latest":  # an acknowledgement may have been lost where it was cut
            self.state.taken = max(self.state.taken, number)
        self.state.streams += 1
        self.open.add(connection)
        unacknowledged = Unacknowledged(WINDOW_BYTES)
        listening = asyncio.create_task(self._listen(connection, unacknowledged))
        try:
            await self._pump(connection, unacknowledged, number)
        except ConnectionClosed:
            pass
        finally:
            self.open.discard(connection)
            listening.cancel()

    async def _listen(self, connection: ServerConnection, unacknowledged: Unacknowledged) -> None:
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "ack":
                unacknowledged.acknowledge(said["cursor"])
                self.state.taken = max(self.state.taken, self.tape.number(said["cursor"]))

    async def _pump(
        self, connection: ServerConnection, unacknowledged: Unacknowledged, number: int
    ) -> None:
        cursor = self.tape.cursor(number, _now_ms())
        await connection.send(frame("hello", cursor=cursor, tenants=None))
        behind = number < self.due()
        await connection.send(frame("catching_up" if behind else "live", cursor=cursor))
        said_s = self.clock()
        while True:
            due = self.due()
            self.state.most_behind = max(self.state.most_behind, due - self.state.taken)
            if number >= due:
                if behind:
                    behind = False
                    await connection.send(frame("live", cursor=cursor))
                elif self.clock() - said_s > HEARTBEAT_S:
                    said_s = self.clock()
                    await connection.send(frame("heartbeat", cursor=cursor))
                await asyncio.sleep(TICK_S)
                continue
            end = min(due, number + UPDATE_EVENTS)
            created_ms, step_ms = self._times(number)
            events = self.tape.read(number, end, created_ms, step_ms)
            number, cursor = end, self.tape.cursor(end, _now_ms())
            for text, upto in events_frames(events, cursor):
                await unacknowledged.room(ACK_TIMEOUT_S)
                await connection.send(text)
                unacknowledged.sent(upto, len(text))
            said_s = self.clock()
            if end == due:
                await asyncio.sleep(TICK_S)

    def _times(self, number: int) -> tuple[float, float]:
        """When this event was created, in ms since 1970, and how long after it the next one."""
        order = self.order
        if order.began_ago_ms is None:
            return _now_ms(), 0.0
        first_ms = _now_ms() - order.began_ago_ms
        return first_ms + (number - self.base) * order.apart_ms, order.apart_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
