"""What many subscribers get is made once: frames, blocks, joined slices, pages read together."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers

from agent_events import sse
from agent_events.bus import current_bus
from agent_events.conf import Settings
from agent_events.feed import Feed
from agent_events.filters import Filter
from agent_events.layer import LayerReceiver, LayerSink
from agent_events.log import Log, Page, Resolved
from agent_events.position import Cursor, Position
from agent_events.stretch import Stretch
from agent_events.subscriber import Kind, Subscriber, Update
from agent_events.window import Tenants, Window
from agent_events.wire import Event, Inline
from tests.conftest import Connect
from tests.support.django_log import django_on
from tests.support.streams import insert

HARBOUR, MEADOW = (str(uuid.UUID(int=n)) for n in (1, 2))
EVERYTHING = Filter()
INLINE = Inline(65_536, "/events/")
SUPERUSER = {"PRINCIPAL_RESOLVER": "tests.support.resolvers.superuser"}
PATH = "/api/agents/stream"


def event(batch: int, tenant: str = HARBOUR, kind: str = "run") -> Event:
    """An event in that batch, of which it is the one of its tenant."""
    text = (
        f'{{"id":{batch},"tenantId":"{tenant}","agentId":"{uuid.UUID(int=9)}","type":"{kind}",'
        '"payload":"\u00e9","createdAt":null}'
    )
    return Event(batch, batch, batch, text)


def window(batch: int, *events: Event) -> Window:
    """The window of that one batch."""
    return Window(batch, batch, batch - 1, batch, frozenset({HARBOUR, MEADOW}), events)


class Pages:
    """A log of which every page is the same events; the head is where they end."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.events = events
        self.reads = 0

    async def resolve(self, text: str) -> Resolved:
        """Its beginning."""
        return Resolved(Cursor(Position(1), 0), "")

    async def page(self, tenants: Tenants, cursor: Cursor, filter: Filter) -> Page:
        """All of it."""
        self.reads += 1
        await asyncio.sleep(0)
        head = Cursor(Position(len(self.events) + 1), len(self.events))
        return Page(Stretch(self.events, str(head)) if self.events else None, head, True)


async def live(feed: Feed, count: int, filter: Filter = EVERYTHING) -> list[Subscriber]:
    """Subscribers that stand at the head of the empty log, in an unbroken chain of windows."""
    feed.take(Window(1, 0, 0, 0, frozenset()))
    made = [await feed.subscribe((HARBOUR,), filter, "latest") for _ in range(count)]
    feed.take(Window(1, 0, 0, 0, frozenset()))
    for subscriber in made:
        assert (await subscriber.next(5)).kind is Kind.LIVE
    return made


def stretch_of(update: Update) -> Stretch:
    """Its events, which it must have."""
    assert update.stretch is not None
    return update.stretch


async def test_frames_and_blocks_are_made_once_for_all_who_have_the_same_filter() -> None:
    feed = Feed(cast(Log, Pages()), Settings())
    one, other = await live(feed, 2)
    (picky,) = await live(feed, 1, Filter.of(types=["run"]))
    feed.take(window(1, event(1), event(1, kind="message")))
    first, second, third = [stretch_of(await who.next(5)) for who in (one, other, picky)]
    assert first.frames(INLINE) is second.frames(INLINE)
    assert first.blocks(INLINE) is second.blocks(INLINE)
    assert len(json.loads(third.frames(INLINE)[0].messages[0])["events"]) == 1


async def test_slices_that_wait_are_joined_once_for_all_who_wait_for_the_same() -> None:
    feed = Feed(cast(Log, Pages()), Settings())
    one, other, quick = await live(feed, 3)
    feed.take(window(1, event(1)))
    assert [e.batch for e in (await quick.next(5)).events] == [1]
    feed.take(window(2, event(2, MEADOW)))
    feed.take(window(3, event(3)))
    feed.take(window(4, event(4)))
    joined = [stretch_of(await who.next(5)) for who in (one, other)]
    assert joined[0] is joined[1]
    assert [e.batch for e in joined[0].events] == [1, 3, 4]
    assert joined[0].cursor == str(Cursor(Position(5), 4))
    assert [e.batch for e in (await quick.next(5)).events] == [3, 4]


async def test_a_page_that_several_read_at_once_is_one_page_with_one_set_of_frames() -> None:
    log = Pages([event(1), event(2)])
    feed = Feed(cast(Log, log), Settings())
    readers = [await feed.subscribe((HARBOUR,), EVERYTHING, "earliest") for _ in range(3)]
    read = await asyncio.gather(*(reader.next(5) for reader in readers))
    assert log.reads == 1
    assert len({id(stretch_of(update).frames(INLINE)) for update in read}) == 1


def test_a_frame_knows_its_size_in_bytes() -> None:
    (frame,) = Stretch([event(1)], "end").frames(INLINE)
    assert frame.size == len("".join(frame.messages).encode()) > len("".join(frame.messages))


class SharedLayer:
    """A layer that other processes share passes bytes."""

    def __init__(self) -> None:
        self._inner = InMemoryChannelLayer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """As `channels_redis` would: by a serializer that knows nothing of windows."""
        await self._inner.group_send(group, json.loads(json.dumps(message)))


async def _nothing() -> None:
    pass


@pytest.mark.parametrize("layer", [InMemoryChannelLayer, SharedLayer])
async def test_a_window_goes_as_it_is_within_the_process_and_as_text_beyond_it(layer: Any) -> None:
    alias = f"layer-{uuid.uuid4()}"
    channel_layers.set(alias, layer())
    came: asyncio.Queue[Window] = asyncio.Queue()
    receiver = LayerReceiver(Settings(channel_layer=alias), came.put_nowait, _nothing)
    await receiver.join()
    receiving = asyncio.create_task(receiver.run())
    sent = window(1, event(1))
    try:
        await LayerSink(alias).send(sent)
        received = await asyncio.wait_for(came.get(), 5)
    finally:
        receiving.cancel()
    assert received == sent
    assert (received is sent) == (layer is InMemoryChannelLayer)


@pytest.fixture
def log_here(dsn: str) -> Iterator[None]:
    """The log of this process is the test's."""
    with django_on(dsn):
        yield


async def test_a_response_passes_its_bound_by_one_event_at_most_and_is_resumed_at_it(
    log_here: None, connect: Connect, settings: Any
) -> None:
    settings.AGENT_EVENTS = {
        **SUPERUSER,
        "SSE_RECYCLE_BYTES": 2_000,
        "HEARTBEAT_S": 0.2,
    }  # three events each
    connection = connect()
    made = [insert(connection, HARBOUR, payload='"' + "x" * 500 + '"') for _ in range(9)]
    connection.execute("SELECT agent_events_append()")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    seen: list[int] = []
    cursor = "earliest"
    bus = current_bus()
    try:
        while len(seen) < len(made):
            sent: list[bytes] = []

            async def send(message: dict[str, Any], sent: list[bytes] = sent) -> None:
                sent.append(message.get("body", b""))

            query = f"tenant={HARBOUR}&cursor={cursor}".encode()
            scope = {
                "type": "http",
                "method": "GET",
                "path": PATH,
                "query_string": query,
                "headers": [],
            }
            async with asyncio.timeout(15):
                await sse.stream(scope, receive, send)
            body = b"".join(sent).decode()
            blocks = [block.split("\n") for block in body.split("\n\n") if '\ndata: {"id' in block]
            got = [json.loads(lines[1].removeprefix("data: "))["id"] for lines in blocks]
            assert got, "something came"
            assert len(body) < 2_000 + 1_000, "one event more than the bound, and the end"
            seen += got
            cursor = blocks[-1][0].removeprefix("id: ")
    finally:
        await bus.stop()
    assert seen == made
