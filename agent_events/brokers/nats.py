"""NATS JetStream as a broker: one stream; a subject for each tenant's slices, each shard's marks.

Promises: an outlet's parcels are with the broker once `send` returns, in the order given; an inlet
gives every parcel of the stream that it watches, in order, or raises BrokerAway. Leaves to others:
connecting again, and everything that the broker forgot.

The stream is in memory, on purpose: the log is the truth, and whoever finds less here reads there.
"""

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import Sequence

from nats.aio.msg import Msg

from agent_events.brokers.nats_connection import Connection, Refused
from agent_events.brokers.nats_consumer import Consumer
from agent_events.brokers.nats_stream import NOT_FOUND, make_stream, stream_info
from agent_events.brokers.parcels import Mark, Parcel, shard_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway

logger = logging.getLogger("agent_events")

HEADER_ROOM = 512
"""Bytes of a message that are left for its headers: they count as part of it."""
MESSAGE_BYTES = 1_048_576
"""Larger messages gain nothing, and cost readers their memory."""
IN_FLIGHT = 1_000
"""Messages that may wait for the broker's word: past 10,000 a stream refuses more."""
IN_FLIGHT_BYTES = 16_777_216
"""Bytes likewise: they wait in this process, or in the server's."""
YIELD_EVERY = 50
"""So many messages are sent before others of this process have their turn."""
YOUNG_S = 1.0
"""A consumer that ends within this time is not simply replaced."""
LOOK_S = 0.5
"""Where there is no stream, it is looked for so often."""
NO_MESSAGE = 10037


class Outlet:
    """The sending end, as `brokers.Outlet`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._sending = _Sending(0)
        self._sent = 0
        self._inbox = ""
        self.limit = MESSAGE_BYTES - HEADER_ROOM

    async def open(self, *, change: bool = True) -> None:
        """Connects; with `change` makes the stream, or makes it as the settings want it.

        Raises BrokerAway.
        """
        connection = self._connection
        await connection.open()
        self.limit = min(connection.max_payload, MESSAGE_BYTES) - HEADER_ROOM
        if self.limit < HEADER_ROOM:
            raise BrokerAway(
                f"NATS takes messages of {connection.max_payload} bytes at most: set its "
                f"max_payload to {2 * HEADER_ROOM} or more"
            )
        if change:
            await make_stream(connection, self._settings)
        self._inbox = connection.inbox()
        await connection.subscribe(f"{self._inbox}.*", self._acknowledged)

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def last(self, shard: int) -> Mark | None:
        """The newest mark of a shard; None where there is none. Raises BrokerAway."""
        settings = self._settings
        try:
            answer = await self._connection.ask(
                f"STREAM.MSG.GET.{settings.broker_name}",
                {"last_by_subj": f"{_subjects(settings)}{shard}.mark"},
            )
        except Refused as error:
            if error.code in (NO_MESSAGE, NOT_FOUND):
                return None
            raise BrokerAway(f"NATS refused: {error}") from None
        try:
            return Mark.parse(base64.b64decode(answer["message"].get("data", "")))
        except (TypeError, ValueError):
            logger.debug("NATS: the last message of shard %d is no mark.", shard)
            return None

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Sends them, and returns once the stream has them all. Raises BrokerAway."""
        self._sent += 1
        sending = self._sending = _Sending(self._sent)
        connection, start = self._connection, _subjects(self._settings)
        reply = f"{self._inbox}.{sending.number}"
        size = 0
        for count, (shard, tenant, key, body) in enumerate(parcels):
            await connection.publish(f"{start}{shard}.{tenant or 'mark'}", body, reply, key)
            sending.waiting += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            size += len(body)
            if size >= IN_FLIGHT_BYTES:
                await self._wait(sending, 0)
                size = 0
            elif sending.waiting >= IN_FLIGHT:
                await self._wait(sending, IN_FLIGHT // 2)
        await self._wait(sending, 0)

    async def _wait(self, sending: "_Sending", most: int) -> None:
        """Until no more than `most` messages wait. Raises BrokerAway."""
        timeout_s = self._connection.timeout_s
        sending.heard_at = time.monotonic()
        while sending.waiting > most and not sending.refused:
            if self._connection.lost:
                raise self._connection.away(self._connection.lost)
            left_s = sending.heard_at + timeout_s - time.monotonic()
            if left_s <= 0 or not await self._connection.heard(left_s):
                raise self._connection.away(
                    f"it has not said within {timeout_s:g} s that it has what was sent"
                )
        if sending.refused:
            raise BrokerAway(f"NATS refused what was sent: {sending.refused}")

    async def _acknowledged(self, message: Msg) -> None:
        sending = self._sending
        if message.subject != f"{self._inbox}.{sending.number}":
            return  # a late word on what was given up
        sending.waiting -= 1
        sending.heard_at = time.monotonic()
        if b'"seq"' not in message.data or b'"error"' in message.data:
            sending.refused = sending.refused or _refusal(message)
        self._connection.news.set()


class _Sending:
    """What became of one `send`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting = 0
        self.heard_at = 0.0
        self.refused = ""


class Inlet:
    """The receiving end, as `brokers.Inlet`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._form = re.compile(re.escape(_subjects(settings)) + r"(\d{1,9})\.(mark|[0-9a-f-]{36})")
        self._wanted = [f"{_subjects(settings)}>"]
        self._consumer: Consumer | None = None
        self._stream = ""  # when the stream was made that the place is in
        self._place: int | None = None  # the sequence of the last parcel given
        self._said_bad = False

    async def open(self) -> None:
        """Connects. Opened again, it goes on after the last parcel it gave. Raises BrokerAway."""
        self._consumer = None
        await self._connection.open()
        await stream_info(self._connection, self._settings)  # is JetStream there, and are we let?

    async def close(self) -> None:
        """Closes the connection."""
        self._consumer = None
        await self._connection.close()

    async def watch(self, shards: frozenset[int], tenants: frozenset[str] | None) -> None:
        """From now on these tenants' slices and these shards' marks come. Raises BrokerAway."""
        start, of = _subjects(self._settings), self._settings.broker_shards
        if tenants is None:
            everything = len(shards) == of
            self._wanted = [f"{start}>"] if everything else [f"{start}{n}.>" for n in shards]
        else:
            whose = [(shard_of(tenant, of), tenant) for tenant in sorted(tenants)]
            self._wanted = [f"{start}{n}.mark" for n in shards]
            self._wanted += [f"{start}{n}.{tenant}" for n, tenant in whose if n in shards]
        await self._begin()

    async def forget(self) -> None:
        """It goes on at the end. Raises BrokerAway."""
        self._place = None
        if self._consumer is not None:
            await self._begin()

    async def next(self, timeout_s: float) -> list[Parcel]:
        """The next parcels, in order; none in time: none. Raises BrokerAway."""
        until = time.monotonic() + timeout_s
        while True:
            consumer = self._consumer or await self._begin()
            if consumer is None:
                left_s = until - time.monotonic()
                await self._connection.heard(max(0.0, min(left_s, LOOK_S)))
                if left_s <= LOOK_S:
                    return []
                continue
            taken = await consumer.take()
            if taken:
                self._place = taken[-1][0]
                if parcels := [one for _, message in taken if (one := self._parcel(message))]:
                    return parcels
                continue
            await self._check(consumer)
            left_s = until - time.monotonic()
            if left_s <= 0:
                return []
            heard = await self._connection.heard(min(left_s, consumer.patience_s))
            if not heard and consumer.is_silent:
                raise self._connection.away(f"silent for {self._connection.timeout_s:g} s")

    async def _check(self, consumer: Consumer) -> None:
        """Sees to it that more will come. Raises BrokerAway where it will not."""
        if self._connection.lost:
            raise self._connection.away(self._connection.lost)
        if consumer.trouble:
            if consumer.age_s < YOUNG_S:
                raise BrokerAway(f"NATS: {consumer.trouble}")
            logger.debug("NATS: %s; going on with another.", consumer.trouble)
            await self._begin()

    async def _begin(self) -> Consumer | None:
        """A consumer from our place on. What waited with the one before is read again.

        None where there is no stream: whoever sends makes it.
        """
        before, self._consumer = self._consumer, None
        if before is not None:
            await before.stop()
        name = self._settings.broker_name
        found = await stream_info(self._connection, self._settings)
        if found is None:
            self._place = 0  # of the next stream nothing has come yet
            return None
        if self._place is not None:
            anew = found["created"] != self._stream or found["state"]["last_seq"] < self._place
            self._place = 0 if anew else self._place
        self._stream = found["created"]
        consumer = Consumer(self._connection, name)
        self._place = await consumer.start(self._wanted, self._place)
        self._consumer = consumer
        return consumer

    def _parcel(self, message: Msg) -> Parcel | None:
        found = self._form.fullmatch(message.subject)
        if found is None:
            if not self._said_bad:
                self._said_bad = True
                logger.error("NATS: a message in the stream is not ours; such are ignored.")
            return None
        shard, tenant = found.groups()
        key = (message.headers or {}).get("Nats-Msg-Id", "")
        return Parcel(int(shard), "" if tenant == "mark" else tenant, key, message.data)


def _refusal(message: Msg) -> str:
    """The server's words."""
    if not message.data:
        return "no stream takes it: it was deleted, or its servers have to agree first"
    try:
        return str(json.loads(message.data)["error"]["description"])
    except (KeyError, TypeError, ValueError):
        return "its answer is not understood"


def _subjects(settings: Settings) -> str:
    """What every subject begins with: messages for another number of shards are not ours."""
    return f"{settings.broker_name}.{settings.broker_shards}."
