"""A part of the log as a file, a page at a time. On Django's connection, like `history`.

What is exported is what was committed, and in the log, when it began: the file ends there. Between
two pages nothing is held, no transaction and no lock; whoever runs it (`export_door`) may give the
connection back meanwhile.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import django.db

from agent_events import history
from agent_events.conf import get_settings
from agent_events.errors import AgentEventsError
from agent_events.export_forms import Form, Incomplete
from agent_events.filters import Filter
from agent_events.position import EARLIEST, LATEST, Cursor
from agent_events.problems import trouble_of
from agent_events.window import Tenants
from agent_events.wire import Event

logger = logging.getLogger("agent_events")

PAGE_EVENTS = 1_000
"""Events a page; it is 1 MiB (`PAGE_BYTES`) at most, but for one event of more."""
LOOK_S = 30.0
"""An export that has found nothing for so long ends, and says so: proxies wait no longer than a
minute for a byte."""
ASK_AGAIN_SHARE = 0.5
"""Whether it may go on is asked after this share of REVOKE_WITHIN_S."""

_DETAILS = {
    "bytes": 'A file ends after AGENT_EVENTS["EXPORT_BYTES"] = {} bytes.',
    "looked": "Nothing that matches for {} s. The log goes on.",
    "truncated": "Part of what was asked for is pruned from the log.",
    "reset": "The log is another one by now, or the cursor is of another one.",
    "failed": "The server made a mistake; its log says which.",
    "waits": "Some of the events have no place in the log: no batch yet, or none any more.",
}


def _nothing() -> None:
    """Whoever began may go on."""


def _no_address(_cursor: str) -> str:
    return ""


class Source(Protocol):
    """What an export reads: `begin` once, then `read` until `done`."""

    done: bool
    lacking: str

    def begin(self) -> list[Event]:
        """The first events. Raises as `history.read`."""
        ...

    def read(self) -> list[Event]:
        """The next ones, maybe none. Raises as `history.read`."""
        ...

    @property
    def cursor(self) -> str:
        """Where to go on."""
        ...


class Range:
    """The tenants' events (None: of all) from a cursor to another: whole, or it is said.

    Attributes:
        done: nothing more is to be read.
        lacking: why it is not all that was asked for: `truncated`, `reset`; else empty.
        left: how many events may still come; None: any number.
    """

    def __init__(
        self,
        tenants: Tenants,
        filter: Filter,
        newest_first: bool,
        cursor: str = "",
        until: str = "",
        limit: int | None = None,
    ) -> None:
        """`cursor`, `until`: as a client wrote them; empty: the ends of the log now.

        `limit`: events at most; None: all.
        """
        self.done = False
        self.lacking = ""
        self.left = limit
        self._tenants, self._filter, self._newest_first = tenants, filter, newest_first
        self._at = cursor or (LATEST if newest_first else EARLIEST)
        self._asked_until = until
        self._until: Cursor | None = None

    def begin(self) -> list[Event]:
        """Finds out where it ends, before it reads: what comes meanwhile is not in the file.

        Raises InvalidCursor, WrongDatabase, django.db.Error.
        """
        end = self._asked_until or (EARLIEST if self._newest_first else LATEST)
        # (One event at most is read for it, and its place is what counts.)
        page = history.read(self._tenants, Filter(), end, newest_first=True, limit=1)
        # (Of another history: it ends where a stream would go on, and the file says so.)
        self.lacking, self._until = page.notice, page.after
        return self._read(first=True)

    def read(self) -> list[Event]:
        """The next page, within what was asked for."""
        return self._read()

    @property
    def cursor(self) -> str:
        """Where to go on."""
        return self._at

    @property
    def until(self) -> str:
        """The cursor at which it ends."""
        return str(self._until)

    def _read(self, first: bool = False) -> list[Event]:
        wanted = PAGE_EVENTS if self.left is None else min(PAGE_EVENTS, self.left)
        page = history.read(
            self._tenants, self._filter, self._at, newest_first=self._newest_first, limit=wanted
        )
        if page.notice and not first:
            # What comes next was pruned since the last page: these are others.
            self.done, self.lacking = True, page.notice
            return []
        self.lacking = self.lacking or page.notice
        end = page.before if self._newest_first else page.after
        events = [event for event in page.events if self._holds(event)]
        self._at = str(end)
        if self.left is not None:
            self.left -= len(events)
        arrived = self._has_arrived(end)
        self.done = arrived or self.left == 0 or not page.more
        if not page.more and not arrived and self.left != 0:
            self.lacking = "truncated"  # the log has become shorter meanwhile
        return events

    def _holds(self, event: Event) -> bool:
        assert self._until is not None  # since `begin`
        last = self._until.position
        return event.position > last if self._newest_first else event.position <= last

    def _has_arrived(self, end: Cursor) -> bool:
        assert self._until is not None  # since `begin`
        last = self._until.position
        return end.position <= last if self._newest_first else end.position >= last


class Chosen:
    """Single events by their ids, in the log's order, newest first."""

    def __init__(self, ids: Iterable[int]) -> None:
        """As many as a page of the admin shows: each is looked up by itself."""
        self.done = False
        self.lacking = ""
        self._ids = set(ids)
        self._left: list[int] = []

    def begin(self) -> list[Event]:
        """Finds their places; of what it reads for that it keeps nothing, however large it is."""
        places = {id_: one.position for id_ in self._ids if (one := history.one(id_, None))}
        self.lacking = "waits" if len(places) < len(self._ids) else ""
        self._left = sorted(places, key=lambda id_: places[id_])
        return self.read()

    def read(self) -> list[Event]:
        """The next ones, `page_bytes` of JSON at most, but for one event of more."""
        events: list[Event] = []
        room = get_settings().page_bytes
        while self._left and (not events or room > 0):
            event = history.one(self._left.pop(), None)
            if event is None:
                self.lacking = "truncated"  # since its place was found
            else:
                events.append(event)
                room -= len(event.json)
        self.done = not self._left
        return events

    @property
    def cursor(self) -> str:
        """Nowhere."""
        return ""


@dataclass(slots=True)
class Export:
    """A file that is being written: `begin`; then, until `done`, `mark` and `step`.

    Not for several threads, but that `failed` may be called while a `step` is not over.

    Attributes:
        source: what is in it.
        form: how it is written.
        address: where one that ends early goes on, for a cursor; empty: nowhere.
        check: raises an AgentEventsError where whoever asked may not go on.
        done: nothing more comes.
    """

    source: Source
    form: Form
    address: Callable[[str], str] = _no_address
    check: Callable[[], None] = _nothing
    done: bool = False
    _bytes: int = 0
    _sent: tuple[str, str] = ("", "")
    _found_at: float = field(default_factory=time.monotonic)
    _asked_at: float = field(default_factory=time.monotonic)

    def begin(self) -> bytes:
        """The beginning of the file. Raises what `history.read` raises: nothing is written yet."""
        return self._written(self.form.head, self.source.begin())

    def mark(self) -> None:
        """All pieces so far are sent: a file that fails now goes on from here."""
        self._sent = self._here()

    def step(self) -> bytes:
        """The next piece, maybe an empty one. Whatever goes wrong is said in it, and ends it."""
        try:
            self._ask_again()
            return self._written("", self.source.read())
        except AgentEventsError as error:
            return self._ended("refused", str(error))
        except Exception as error:
            return self.failed(error)

    def failed(self, error: Exception) -> bytes:
        """The last line of a file that something went wrong with since it was marked.

        (A response that breaks off would look whole over HTTP/1.0, and Daphne would never end it.)
        """
        trouble = trouble_of(error) if isinstance(error, django.db.Error) else None
        if trouble is None:
            logger.error("A download ended by a mistake", exc_info=error)
        words = f"The log could not be read. {trouble}" if trouble else ""
        return self._ended("failed", words, self._sent)

    def _ask_again(self) -> None:
        if time.monotonic() - self._asked_at >= get_settings().revoke_within_s * ASK_AGAIN_SHARE:
            self.check()
            self._asked_at = time.monotonic()

    def _written(self, head: str, events: list[Event]) -> bytes:
        piece = (head + self.form.lines(events)).encode()
        self._bytes += len(piece)
        most, now = get_settings().export_bytes, time.monotonic()
        if events:
            self._found_at = now
        if self.source.done:
            self.done = True
            if self.source.lacking:
                return piece + self._ended(self.source.lacking)
        elif self._bytes >= most:
            return piece + self._ended("bytes", _DETAILS["bytes"].format(f"{most:,}"))
        elif now - self._found_at >= LOOK_S:
            return piece + self._ended("looked", _DETAILS["looked"].format(f"{LOOK_S:g}"))
        return piece

    def _here(self) -> tuple[str, str]:
        """A cursor, and the address that goes on there."""
        cursor = self.source.cursor
        return cursor, self.address(cursor) if cursor else ""

    def _ended(self, reason: str, detail: str = "", at: tuple[str, str] | None = None) -> bytes:
        self.done = True
        why = Incomplete(reason, detail or _DETAILS[reason], *(at or self._here()))
        return self.form.end(why).encode()
