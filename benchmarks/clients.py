"""Clients that cost little: many WebSockets or event streams in one process, over raw sockets.

They count events and acknowledge frames; those that measure also note when each event came. JSON
is not parsed: on a small machine a client that does would be what is measured.
"""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psycopg

from benchmarks.cluster import wait_until
from benchmarks.producers import SPAWN
from benchmarks.servers import Site
from project.processes import end_with_parent

SENT = re.compile(rb'"sent\\?": ?(\d+)')
CURSOR = re.compile(rb'"cursor\\?":\\?"([^"\\]+)')
READ_BYTES = 1 << 20
READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Target:
    """What clients ask for.

    Args:
        path: with its query.
        events: do frames bear events of ours (acknowledged), or is each message one event?
        live: is there a word to wait for, which says that the stream is at the head?
    """

    site: Site
    path: str
    websocket: bool = True
    events: bool = True
    live: bool = True


class Audience:
    """A process with clients of one target, or of several, for as long as the `with` block lasts.

    Attributes:
        counts: a shared array: how many events each client has had.
    """

    def __init__(self, target: Target | Sequence[Target], clients: int, measuring: int = 0) -> None:
        """`clients`: of all targets together, who get them by turns. `measuring`: so many of them,
        the first ones, note the time of each event.
        """
        targets = [target] if isinstance(target, Target) else list(target)
        self.counts = SPAWN.RawArray("q", clients)
        self._ready = SPAWN.RawArray("b", clients)
        self._end, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(
            target=_read_all,
            args=(targets, clients, measuring, self.counts, self._ready, theirs),
            daemon=True,
        )

    def __enter__(self) -> Audience:
        """Returns once every client is connected and live."""
        self._process.start()
        wait_until(lambda: self._alive() and all(self._ready), READY_TIMEOUT_S, "all clients")
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join(10)

    @property
    def pid(self) -> int:
        """The process."""
        pid = self._process.pid
        assert pid is not None
        return pid

    def delays(self) -> tuple[array[int], array[int]]:
        """When the events since the last call were sent, and how long each took, both in ns."""
        self._end.send(None)
        sent, delays = self._end.recv()
        return array("q", sent), array("q", delays)

    def caught_up(self, count: int, timeout_s: float) -> None:
        """Waits until every client has had `count` events. Raises TimeoutError."""
        wait_until(
            lambda: self._alive() and min(self.counts) >= count,
            timeout_s,
            f"{count} events at each client; the slowest had {min(self.counts)}",
        )

    def _alive(self) -> bool:
        if not self._process.is_alive():
            raise RuntimeError("the clients' process ended: it said why")
        return True


class Listener(Audience):
    """The bare client to compare with: psycopg, LISTEN, one notification an event."""

    def __init__(self, dsn: str, channel: str) -> None:
        """`channel`: where it listens."""
        self.counts = SPAWN.RawArray("q", 1)
        self._ready = SPAWN.RawArray("b", 1)
        self._end, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(
            target=_listen, args=(dsn, channel, self.counts, self._ready, theirs), daemon=True
        )


class Client:
    """One connection; `feed` takes what came."""

    def __init__(self, target: Target, notes: Notes | None) -> None:
        self.ready = not target.live
        self._target = target
        self._notes = notes
        self._parts: list[str] = []
        self.socket, self._buffer = connect(target)
        self.socket.setblocking(False)

    def read(self) -> int:
        """Reads what there is; returns how many events that was. Raises EOFError at the end."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            raise EOFError(f"the server ended a connection: {bytes(self._buffer[-300:])!r}")
        self._buffer += data
        return self.take()

    def take(self) -> int:
        """The events in what was read so far."""
        got = time.monotonic_ns()
        return self._messages(got) if self._target.websocket else self._blocks(got)

    def _messages(self, got: int) -> int:
        """WebSocket frames (RFC 6455)."""
        buffer, at, events = self._buffer, 0, 0
        while len(buffer) - at >= 2:
            size, head = buffer[at + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if len(buffer) - at < head:
                    break
                size = int.from_bytes(buffer[at + 2 : at + head], "big")
            if len(buffer) - at < head + size:
                break
            data = bytes(buffer[at + head : at + head + size])
            opcode = buffer[at] & 15
            at += head + size
            if opcode == 1:
                events += self._message(data, got)
            elif opcode == 9:
                self._send(10, data)
            elif opcode == 8:
                raise EOFError(f"the server closed a connection: {data!r}")
        del buffer[:at]
        return events

    def _message(self, data: bytes, got: int) -> int:
        if not self._target.events:
            self._note(data, got)
            return 1
        if data.startswith(b'{"type":"part"'):
            part = json.loads(data)
            self._parts.append(part["text"])
            if part["more"]:
                return 0
            data = "".join(self._parts).encode()
            self._parts.clear()
        if data.startswith(b'{"type":"events"'):
            (cursor,) = CURSOR.findall(data, len(data) - 100)
            self._send(1, b'{"type":"ack","cursor":"%s"}' % cursor)
            self._note(data, got)
            return data.count(b'"tenantId"')
        if data.startswith(b'{"type":"live"'):
            self.ready = True
        elif data.startswith((b'{"type":"reset"', b'{"type":"truncated"', b'{"type":"error"')):
            raise EOFError(f"events may be missing: {data!r}")
        return 0

    def _send(self, opcode: int, data: bytes) -> None:
        # The mask is all zeros: what is masked with it is itself.
        head = bytes([128 | opcode, 128 | len(data)]) + bytes(4)
        self.socket.setblocking(True)
        self.socket.sendall(head + data)
        self.socket.setblocking(False)

    def _blocks(self, got: int) -> int:
        """Event-stream blocks; the chunks' headers between them do no harm."""
        end = self._buffer.rfind(b"\n\n") + 2
        if end < 2:
            return 0
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        if b"\nevent: live\n" in data:
            self.ready = True
        if b"\nevent: reset\n" in data or b"\nevent: truncated\n" in data:
            raise EOFError("events may be missing")
        self._note(data, got)
        return data.count(b"\ndata: ") - data.count(b"\nevent: ")

    def _note(self, data: bytes, got: int) -> None:
        if self._notes is not None:
            self._notes.add(data, got)


class Notes:
    """When events were sent and how long they took."""

    def __init__(self) -> None:
        self._sent, self._delays = array("q"), array("q")

    def add(self, data: bytes, got: int) -> None:
        """Notes the events in `data`, which came at `got`."""
        for found in SENT.findall(data):
            sent = int(found)
            self._sent.append(sent)
            self._delays.append(got - sent)

    def give(self, asked: Connection) -> None:
        """Answers `Audience.delays`, if that asked."""
        if asked.poll():
            asked.recv()
            asked.send((self._sent.tobytes(), self._delays.tobytes()))
            self._sent, self._delays = array("q"), array("q")


def connect(target: Target, headers: str = "") -> tuple[socket.socket, bytearray]:
    """Opens a connection; returns it, and what came behind the head of the answer.

    `headers`: lines of more of them, each with its line break. Raises ConnectionError.
    """
    one = socket.create_connection(("127.0.0.1", target.site.port), timeout=30)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host = f"127.0.0.1:{target.site.port}"
    if target.websocket:
        key = base64.b64encode(os.urandom(16)).decode()
        headers += (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nOrigin: http://{host}\r\n"
        )
    if target.site.cookie:
        headers += f"Cookie: {target.site.cookie}\r\n"
    one.sendall(f"GET {target.path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
    buffer = bytearray()
    while b"\r\n\r\n" not in buffer:
        data = one.recv(65_536)
        if not data:
            raise ConnectionError(f"the server ended a handshake: {bytes(buffer)!r}")
        buffer += data
    status = int(buffer.split(b" ", 2)[1])
    if status != (101 if target.websocket else 200):
        raise ConnectionError(f"HTTP {status} for {target.path}: {bytes(buffer[-300:])!r}")
    del buffer[: buffer.index(b"\r\n\r\n") + 4]
    return one, buffer


def many_files() -> None:
    """Lets this process, and those that it starts, have as many connections as may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _read_all(
    targets: Sequence[Target],
    clients: int,
    measuring: int,
    counts: Any,
    ready: Any,
    asked: Connection,
) -> None:
    end_with_parent()
    many_files()
    notes = Notes()
    poll = select.epoll()
    poll.register(asked.fileno(), select.EPOLLIN)
    readers: dict[int, tuple[int, Client]] = {}

    def count(place: int, client: Client, read: Callable[[], int]) -> None:
        counts[place] += read()
        if client.ready:
            ready[place] = 1

    def serve(timeout_s: float | None) -> None:
        for number, _ in poll.poll(timeout_s):
            if number in readers:
                place, client = readers[number]
                count(place, client, client.read)
            else:
                notes.give(asked)

    for place in range(clients):
        target = targets[place % len(targets)]
        client = Client(target, notes if place < measuring else None)
        count(place, client, client.take)
        readers[client.socket.fileno()] = place, client
        poll.register(client.socket.fileno(), select.EPOLLIN)
        serve(0)  # a server ends connections that answer no ping
    while True:
        serve(None)


def _listen(dsn: str, channel: str, counts: Any, ready: Any, asked: Connection) -> None:
    end_with_parent()
    notes = Notes()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'LISTEN "{channel}"'.encode())
        ready[0] = 1
        while True:
            for note in connection.notifies(timeout=0.2):
                notes.add(note.payload.encode(), time.monotonic_ns())
                counts[0] += 1
            notes.give(asked)
