"""One filter, at every door: what it shows live is what it shows read back, in one order, once."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import psycopg
import pytest

from agent_events import subscribe
from agent_events.client_frames import Refilter, read
from agent_events.errors import InvalidQuery
from agent_events.filters import Filter
from agent_events.requests import FILTER_NAMES, filter_of, filter_query
from tests.conftest import Connect
from tests.support import Server, make_tenant, wait_until
from tests.support.django_log import django_on
from tests.support.keys import make_key
from tests.support.streams import Socket, event_stream, insert, websocket
from tests.support.tokens import make_token, token_settings

ONE, TWO = (str(uuid.UUID(int=n)) for n in (0xA1, 0xA2))
LATE_S = 30.0
LAST = '{"tokens": 1, "words": "the end"}'

QUERIES: list[dict[str, list[str]]] = [
    {"text": ["TIMEOUT"]},
    {"text": ['say "hi"']},
    {"where": ["payload.tokens > 10", "error.type ~ Time"]},
    {"not_type": ["tool.do*"], "where": ["tokens"]},
    {"not_agent": [ONE], "type": ["tool.*"], "text": ["time"]},
    {"agent": [TWO, "nobody"], "not_type": ["message"], "where": ["tokens >= 5"]},
]


@dataclass
class Site:
    """A server, a tenant and its key, and who writes."""

    server: Server
    tenant: str
    key: str
    producer: psycopg.Connection[Any]

    def write(self, count: int) -> list[int]:
        """Events of two agents, of some types and payloads; some share a transaction."""
        made: list[int] = []
        for n in range(count):
            payload = {
                "tokens": n,
                "error": {"type": "TimeoutError" if n % 3 else "ValueError"},
                "words": 'say "hi"' if n % 4 == 0 else "say no",
            }
            with self.producer.transaction():
                for kind in ("tool.done", "message")[: 1 + n % 2]:
                    made.append(
                        insert(
                            self.producer,
                            self.tenant,
                            agent=(ONE, TWO)[n // 2 % 2],
                            kind=kind,
                            payload=json.dumps({} if n % 5 == 0 else payload),
                        )
                    )
        return made

    def end(self) -> int:
        """The last event, which each of `QUERIES` lets through."""
        payload = (
            '{"tokens": 1000, "error": {"type": "TimeoutError"}, "words": "say \\"hi\\"", "end": 1}'
        )
        return insert(self.producer, self.tenant, agent=TWO, kind="tool.end", payload=payload)

    def history(self, query: dict[str, list[str]], **more: Any) -> list[int]:
        """The ids of the history, from the first on, or as `more` says."""
        found: list[int] = []
        asked = {"order": "asc", "limit": 7, **more}
        url: str | None = f"/api/agents/events?{urlencode({**query, **asked}, doseq=True)}"
        while url:
            answer = httpx.get(self.server.url + url, headers=self.headers, timeout=LATE_S)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += [event["id"] for event in page["events"]]
            url = page["next"]
        return found

    def cursor_of(self, event: int, headers: dict[str, str]) -> str:
        """The cursor right behind an event; empty where it is not in the log yet."""
        url = f"{self.server.url}/api/agents/events/{event}"
        answer = httpx.get(url, headers=headers, timeout=LATE_S)
        return answer.headers.get("Agent-Events-Cursor", "")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def site(dsn: str, connect: Connect, server: Callable[..., Server]) -> Site:
    tenant = make_tenant(dsn, "Harbour")
    # Small pages, so that what is replayed comes in several.
    running = server(env=token_settings(PAGE_ROWS=10, HEARTBEAT_S=0.5))
    return Site(running, tenant, make_key(dsn, tenant), connect())


@pytest.fixture
def log_here(dsn: str) -> Iterator[None]:
    """The log of this process is the test's."""
    with django_on(dsn):
        yield


async def of_socket(socket: Socket, last: int) -> list[int]:
    """The ids that come, up to `last`; another event of the same transaction is waited for."""
    seen: list[int] = []
    async with asyncio.timeout(LATE_S):
        while last not in seen:
            frame = await socket.frame()
            assert frame["type"] != "error", frame
            seen += [event["id"] for event in frame.get("events", [])]
    return seen


def of_event_stream(site: Site, query: str, last: int) -> list[int]:
    seen: list[int] = []
    with event_stream(site.server, {}, query, token=site.key, timeout_s=LATE_S) as stream:
        for name, data in stream.messages():
            if name == "message":
                seen.append(data["id"])
                if data["id"] == last:
                    break
    return seen


async def of_python(site: Site, filter: Filter, last: int) -> list[int]:
    seen: list[int] = []
    async with (
        asyncio.timeout(LATE_S),
        subscribe(
            site.tenant,
            agents=filter.agents,
            types=filter.types,
            not_agents=filter.not_agents,
            not_types=filter.not_types,
            texts=filter.texts,
            where=filter.where,
            cursor="earliest",
        ) as events,
    ):
        async for event in events:
            seen.append(event.id)
            if event.id == last:
                break
    return seen


async def test_live_and_read_back_show_the_same_at_every_door(log_here: None, site: Site) -> None:
    async with AsyncExitStack() as stack:
        sockets: list[Socket] = []
        for query in QUERIES:
            url = urlencode(query, doseq=True)
            socket = await stack.enter_async_context(
                websocket(site.server, {}, url, token=site.key)
            )
            await socket.until("live")
            sockets.append(socket)
        made = await asyncio.to_thread(site.write, 40)
        last = await asyncio.to_thread(site.end)
        lives = [await of_socket(socket, last) for socket in sockets]
    everything = await asyncio.to_thread(site.history, {})
    assert sorted(everything) == sorted([*made, last])
    for query, live in zip(QUERIES, lives, strict=True):
        assert 1 < len(live) < len(everything), query
        assert live == [id_ for id_ in everything if id_ in set(live)], "in the log's order"
        url = urlencode({**query, "cursor": "earliest"}, doseq=True)
        assert await asyncio.to_thread(site.history, query) == live
        assert await asyncio.to_thread(site.history, query, order="desc") == live[::-1]
        assert await asyncio.to_thread(of_event_stream, site, url, last) == live
        async with websocket(site.server, {}, url, token=site.key) as socket:
            assert await of_socket(socket, last) == live
        assert await of_python(site, filter_of(query), last) == live


async def test_a_filter_sent_in_mid_stream_goes_on_from_the_same_place(site: Site) -> None:
    async with websocket(site.server, {}, "where=tokens+%3C+0", token=site.key) as socket:
        await socket.until("live")
        cursor = socket.cursor
        before = await asyncio.to_thread(site.write, 6)
        wanted = {"agents": [], "types": [], "texts": ["timeout"], "where": ["tokens > 2"]}
        wanted["notAgents"] = [ONE]
        await socket.connection.send(json.dumps({"type": "filter", **wanted}))
        after = await asyncio.to_thread(site.write, 20)
        last = await asyncio.to_thread(site.end)
        seen = await of_socket(socket, last)
    query = {"text": ["timeout"], "where": ["tokens > 2"], "not_agent": [ONE]}
    matching = await asyncio.to_thread(site.history, query, cursor=cursor)
    # What came before the frame was taken is shown or was passed over by the filter before, as a
    # whole: no event behind the first that is shown is missing, and none comes twice.
    assert seen
    assert seen == matching[-len(seen) :]
    assert set(matching) - set(seen) <= set(before)
    assert set(seen) & set(after)


@pytest.mark.parametrize(
    "asked",
    [
        {"text": ["e"]},
        {"where": ["tokens >= 0"]},
        {"not_agent": [ONE]},
        {"not_type": ["tool.*"]},
        {"agent": ["*"], "not_agent": ["nobody"]},
    ],
    ids=json.dumps,
)
async def test_no_part_of_a_filter_shows_more_than_a_token_may_see(
    site: Site, asked: dict[str, list[str]]
) -> None:
    whole = {"Authorization": f"Bearer {site.key}"}
    names = ("agents", "types", "notAgents", "notTypes", "texts", "where")
    lists = filter_query(filter_of(asked)).values()
    frame = {"type": "filter", **{name: list(of) for name, of in zip(names, lists, strict=True)}}
    site.key = make_token(site.key, site.tenant, 600, agents=(ONE,), types=("message", "tool.end"))
    async with websocket(site.server, {}, "", token=site.key) as socket:
        await socket.until("live")
        await socket.connection.send(json.dumps(frame))
        await asyncio.to_thread(site.write, 20)
        await asyncio.to_thread(site.end)  # is another agent's
        last = insert(site.producer, site.tenant, agent=ONE, kind="message", payload=LAST)
        place = await asyncio.to_thread(wait_until, lambda: site.cursor_of(last, whole), LATE_S)
        live: list[int] = []
        async with asyncio.timeout(LATE_S):
            # (Cursors sort as text. A heartbeat passes over what the filter does not show.)
            while (socket.cursor or "") < place:
                frame_of = await socket.frame()
                assert frame_of["type"] != "error", frame_of
                live += [event["id"] for event in frame_of.get("events", [])]
    url = f"{site.server.url}/api/agents/events?limit=1000&agent={ONE}&type=message&type=tool.end"
    answer = await asyncio.to_thread(httpx.get, url, headers=whole, timeout=LATE_S)
    allowed = {event["id"] for event in answer.json()["events"]}
    shown = await asyncio.to_thread(site.history, asked)
    assert set(live) <= allowed
    assert set(shown) <= allowed
    assert last in shown or asked.get("not_agent") == [ONE]


def test_the_names_of_a_filter_in_a_url_lead_there_and_back() -> None:
    query = {name: [f"{name}1", f"{name}2"] for name in FILTER_NAMES}
    filter = filter_of(query)
    assert (
        filter_of({name: list(values) for name, values in filter_query(filter).items()}) == filter
    )
    assert filter == Filter.of(*query.values())


def test_a_filter_frame_may_leave_out_what_it_does_not_want_but_takes_no_other_forms() -> None:
    frame = {"type": "filter", "agents": [], "types": ["a"]}
    assert read(json.dumps(frame)) == Refilter(Filter.of(types=["a"]))
    full = {**frame, "notAgents": ["b"], "notTypes": ["c"], "texts": ["d"], "where": ["e = 1"]}
    assert read(json.dumps(full)) == Refilter(Filter.of([], ["a"], ["b"], ["c"], ["d"], ["e = 1"]))
    for wrong in ({"texts": "d"}, {"where": [1]}, {"notAgents": None}):
        with pytest.raises(InvalidQuery, match=r'"notAgents", "notTypes", "texts", "where"'):
            read(json.dumps({**frame, **wrong}))
