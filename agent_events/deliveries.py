"""What this process handed over lately, and its answer to whoever asks how far it is. Pure.

A question comes as a notification: `{"nonce": "<hex>", "batch": n or null, "tenant": "<uuid>" or
null}`. Any role of the database can send one, so nothing in it is believed, and the answer names no
tenant. (`asking` asks, and gathers the answers.)
"""

import json
from collections import deque
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

from agent_events.window import Window

ASK_CHANNEL = "agent_events_ask"
ANSWER_CHANNEL = "agent_events_answer"

MOST_WINDOWS = 4_000
"""So many windows are remembered: at 100 batches a second, the last 40 seconds."""
MOST_TENANTS = 100_000
"""So many names of tenants are kept with them: where viewers come and go all the time, fewer
windows."""
NONCE_CHARS = 64
MOST_INT = 2**47
"""No batch and no time (in ms since 1970: the year 6429) is beyond this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a process is. Times in ms since 1970, by its own clock.

    Of the batch that was asked for, `delivered_ms` says when it was handed over (None: not yet,
    before `began`, or so long ago that it is forgotten) and `covered` whether the tenant's events
    went with it (None: nobody knows; false: nobody there watched the tenant, or the window was too
    large to carry and its subscribers read the log).
    """

    backend: int  # the server's process of its listening connection
    process: int
    host: str
    now_ms: int  # its clock, as it answered
    batch: int | None  # the last that was handed over, or was there as it began
    at_ms: int | None  # when that was handed over
    began: int | None  # the first batch that it could have handed over
    leads: bool
    coalescing: bool
    watches: int | None  # tenants that somebody there watches; None: all
    delivered_ms: int | None = None
    covered: bool | None = None

    @classmethod
    def parse(cls, text: str, nonce: str) -> "Answer | None":
        """What `Deliveries.answer` made, if it answers the question with this nonce; else None.

        Anybody may notify, so anything may come.
        """
        try:
            told = json.loads(text)
            if not isinstance(told, dict) or told.pop("nonce") != nonce:
                return None
            answer = cls(**told)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        well = all(_may_be(field.type, getattr(answer, field.name)) for field in fields(cls))
        return answer if well and answer.host.isprintable() else None


def _may_be(annotation: object, value: object) -> bool:
    if annotation in (bool, bool | None):
        return isinstance(value, bool) or (annotation is not bool and value is None)
    if annotation is str:
        return isinstance(value, str)
    if value is None:
        return annotation is not int
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_INT


class _Handed(NamedTuple):
    first: int
    last: int
    at_ms: int
    covers: frozenset[str] | None


class Deliveries:
    """Remembers the last windows that were handed over, and answers questions about them.

    `began` is the first batch that could have been among them, `batch` the last that was handed
    over or was there at the beginning, `at_ms` when (None: none yet).
    """

    def __init__(self, most: int = MOST_WINDOWS) -> None:
        """`most`: how many windows are remembered."""
        self.began: int | None = None
        self.batch: int | None = None
        self.at_ms: int | None = None
        self._most = most
        self._closed_at_ms: int | None = None  # of `batch`
        self._handed: deque[_Handed] = deque()
        self._tenants = 0  # names in the different sets of `_handed`

    def record(self, window: Window, now_ms: int) -> None:
        """Takes down that `window` was handed over at `now_ms` (milliseconds since 1970).

        One that does not continue the last one is of another ledger: the past is forgotten.
        """
        if (window.first - 1, window.before_ms) != (self.batch, self._closed_at_ms):
            self._handed.clear()
            self._tenants = 0
            self.began, self.at_ms = window.first, None
        self.batch, self._closed_at_ms = window.last, window.closed_at_ms
        if window.first > window.last:
            return
        self.at_ms = now_ms
        covers = window.covers
        if self._handed and covers == self._handed[-1].covers:
            covers = self._handed[-1].covers  # one set for as long as the viewers stay the same
        else:
            self._tenants += len(covers or ())
        self._handed.append(_Handed(window.first, window.last, now_ms, covers))
        while len(self._handed) > self._most or (
            self._tenants > MOST_TENANTS and len(self._handed) > 1
        ):
            gone = self._handed.popleft()
            if self._handed and self._handed[0].covers is not gone.covers:
                self._tenants -= len(gone.covers or ())

    def answer(
        self,
        question: str,
        *,
        now_ms: int,
        backend: int,
        process: int,
        host: str,
        leads: bool,
        coalescing: bool,
        watches: int | None,
    ) -> str | None:
        """The `Answer`, as JSON; None where the question is none.

        `now_ms` is this process's clock (whoever asks compares it with another one), `backend` the
        server's process of the listening connection, `process` this one, `watches` the number of
        tenants that somebody here watches (None: all).
        """
        asked = _parsed(question)
        if asked is None:
            return None
        nonce, batch, tenant = asked
        found = self._find(batch) if batch is not None else None
        covered = None
        if found is not None and tenant is not None:
            covered = found.covers is None or tenant in found.covers
        answer = Answer(
            backend=backend,
            process=process,
            host=host,
            now_ms=now_ms,
            batch=self.batch,
            at_ms=self.at_ms,
            began=self.began,
            leads=leads,
            coalescing=coalescing,
            watches=watches,
            delivered_ms=found.at_ms if found is not None else None,
            covered=covered,
        )
        return json.dumps({"nonce": nonce, **asdict(answer)})

    def _find(self, batch: int) -> _Handed | None:
        for handed in reversed(self._handed):
            if handed.first <= batch:
                return handed if batch <= handed.last else None
        return None


def _parsed(question: str) -> tuple[str, int | None, str | None] | None:
    try:
        asked = json.loads(question)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict):
        return None
    nonce, batch, tenant = asked.get("nonce"), asked.get("batch"), asked.get("tenant")
    if not isinstance(nonce, str) or not 0 < len(nonce) <= NONCE_CHARS:
        return None
    if not (nonce.isascii() and nonce.isalnum()):
        return None
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool)):
        return None
    if tenant is not None and not isinstance(tenant, str):
        return None
    return nonce, batch, tenant
