"""`GET /api/agents/now`: what each agent is at, for whoever may see its events.

Deliberately an ASGI application and no Django view: the page asks again and again, and all who ask
for the same share a look, so that forty viewers cost one look a second.
"""

import time
from collections import OrderedDict
from functools import partial
from typing import Any

from agent_events.access import admit
from agent_events.agents_now import look
from agent_events.conf import get_settings
from agent_events.credentials import of_scope
from agent_events.errors import AgentEventsError, TryAgain
from agent_events.filters import Filter
from agent_events.inline import inline
from agent_events.lookups import Lookups
from agent_events.principals import Right
from agent_events.requests import AWAY, query_of
from agent_events.responses import JSON, Receive, Send, refuse, respond
from agent_events.tasks import OfLoop, SharedLook
from agent_events.window import Tenants
from agent_events.wire import Inline

FRESH_S = 1.0
"""A look serves for so long, however many ask."""
MOST_LOOKS = 2
"""Threads of a process that look, and database connections that they have at most."""
MOST_KEPT = 200
"""Looks that are kept, for as many sets of tenants; the one that was asked for longest ago goes."""

_lookups = Lookups(MOST_LOOKS, "agent_events now")

Seen = str | Exception
"""What there is to say, but for the time; or why there is nothing."""


async def now(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET /api/agents/now?tenant=`, which may repeat. docs/agents.md has the answer's fields."""
    if scope["method"] not in ("GET", "HEAD"):
        await refuse(scope, send, 405, "Use GET.", headers={"Allow": "GET, HEAD"})
        return
    try:
        principal = await admit(of_scope(scope), Right.SUBSCRIBE)
        tenants = principal.choose(query_of(scope).get("tenant", []))
        looks = _looks.get(_Looks)
        seen = await looks.of(tenants, principal.only, inline(scope.get("root_path", "")))
    except (AgentEventsError, *AWAY) as error:
        await refuse(scope, send, error)
        return
    # The clock's time is each answer's own: the page sets its clock by it.
    body = f'{{"time":{int(time.time() * 1000)},{seen}'
    await respond(scope, send, 200, body.encode(), [(b"content-type", JSON.encode())])


class _Looks:
    """The looks of an event loop, one for each set of tenants and what may be seen of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Tenants, Filter, Inline], SharedLook[Seen]] = OrderedDict()

    async def of(self, tenants: Tenants, only: Filter, inline: Inline) -> str:
        """The look, or the one that somebody had a moment ago. Raises as `look` does, TryAgain."""
        key = (tenants, only, inline)
        limit_s = get_settings().query_timeout_s
        if key not in self._kept:
            self._kept[key] = SharedLook(
                "agent_events now", partial(_try, key, limit_s), fresh_s=FRESH_S, limit_s=limit_s
            )
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        seen = await self._kept[key].answer()
        if seen is None:
            raise TryAgain(f"The database did not answer within {limit_s:g} s.")
        if isinstance(seen, Exception):
            raise seen
        return seen


async def _try(key: tuple[Tenants, Filter, Inline], limit_s: float) -> Seen:
    try:
        return await _lookups.run(lambda: look(*key).json(), limit_s)
    except Exception as error:  # it is whoever asked who is told
        return error


_looks: OfLoop[_Looks] = OfLoop()
