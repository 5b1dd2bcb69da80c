"""A reader's consumer in NATS JetStream: some subjects of the stream, in order, from a place on.

It asks for so many messages at a time, which bounds what can wait in this process, and numbers tell
when one is missing. Whatever is wrong with it is its `trouble`: then another one is made, from the
last message that was taken. The server forgets the consumers of readers that went away.
"""

import json
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent_events.brokers.nats_connection import Connection, Refused
from agent_events.errors import BrokerAway

BATCH = 1_000
"""Messages that are asked for at a time; not while so many wait here."""
BATCH_BYTES = 4_194_304
"""Bytes likewise; more where the server takes messages of more than half of that."""
ASK_FOR_S = 30.0
"""So long the server waits for messages before it is asked again."""
FORGET_S = 30.0
"""A consumer that nobody asks for so long is forgotten by the server."""
HEARTBEAT_S = (0.1, 5.0)
"""A server with nothing to send says so this often, within these bounds."""
A_MOMENT_S = 0.1

ACKNOWLEDGE = "$JS.ACK."
HEARTBEAT = "100"
ENDED = ("404", "408")
FULL = ("Batch Completed", "Message Size Exceeds MaxBytes")


class Consumer:
    """One consumer, of one connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self.trouble = ""
        self._connection = connection
        self._stream = stream
        self._name = secrets.token_hex(8)
        self._inbox = connection.inbox()
        self._asked = 0
        self._subscription: Subscription | None = None
        self._waiting: deque[tuple[int, Msg]] = deque()
        self._waiting_bytes = 0
        self._number = 0  # of the last message, as this consumer counts
        self._wanted = 0  # messages that may still come of what was asked for
        self._heard_at = self._started_at = time.monotonic()
        least, most = HEARTBEAT_S
        heartbeat_s = min(max(connection.timeout_s / 4, least), most)
        self._request = json.dumps(
            {
                "batch": BATCH,
                "max_bytes": max(BATCH_BYTES, 2 * connection.max_payload),
                "expires": int(ASK_FOR_S * 1e9),
                "idle_heartbeat": int(heartbeat_s * 1e9),
            }
        ).encode()

    @property
    def age_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started_at

    @property
    def patience_s(self) -> float:
        """How long to wait for news before asking whether it is silent: a moment at least, in
        which this process, had it been stopped, hears what came meanwhile.
        """
        if not self._wanted:
            return self._connection.timeout_s
        return max(A_MOMENT_S, self._heard_at + self._connection.timeout_s - time.monotonic())

    @property
    def is_silent(self) -> bool:
        """Has the server not said for too long that it is there?"""
        silent_s = time.monotonic() - self._heard_at
        return self._wanted > 0 and silent_s > self._connection.timeout_s

    async def start(self, subjects: Sequence[str], after: int | None) -> int:
        """Asks for what is behind the message `after`; None: for what comes from now on.

        Returns the sequence of the message behind which it begins. Raises BrokerAway.
        """
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._take)
        config = {
            "name": self._name,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(FORGET_S * 1e9),
            "filter_subjects": list(subjects),
            "deliver_policy": "new",
        }
        if after is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        try:
            made = await self._connection.ask(
                f"CONSUMER.CREATE.{self._stream}.{self._name}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
        except Refused as error:
            raise BrokerAway(f"NATS refused a consumer of {self._stream}: {error}") from None
        await self._ask()
        return int(made["delivered"]["stream_seq"]) if after is None else after

    async def stop(self) -> None:
        """Has the server forget it, without waiting for that."""
        if self._subscription is not None:
            await self._connection.unsubscribe(self._subscription)
        if not self._connection.lost:
            await self._connection.publish(self._api("DELETE"), b"")

    async def take(self) -> list[tuple[int, Msg]]:
        """What came, with their sequences in the stream, and asks for more. Raises BrokerAway."""
        taken = list(islice(self._waiting, BATCH))
        size = sum([len(message.data) for _, message in taken])
        if not self._wanted and not self.trouble and not self._connection.lost:
            await self._ask(len(taken), size)  # first: cancelled here, nothing was taken yet
        for _ in taken:
            self._waiting.popleft()
        self._waiting_bytes -= size
        return taken

    def _api(self, what: str) -> str:
        return f"$JS.API.CONSUMER.{what}.{self._stream}.{self._name}"

    async def _ask(self, going: int = 0, going_bytes: int = 0) -> None:
        """For more, where there is room once so many messages have gone."""
        room = len(self._waiting) - going < BATCH
        if room and self._waiting_bytes - going_bytes < BATCH_BYTES:
            self._heard_at = time.monotonic()
            self._wanted = BATCH
            self._asked += 1
            await self._connection.publish(self._api("MSG.NEXT"), self._request, self._reply)

    @property
    def _reply(self) -> str:
        # Another one for each time, to tell what is said about the one before.
        return f"{self._inbox}.{self._asked}"

    async def _take(self, message: Msg) -> None:
        if self.trouble:
            return
        self._heard_at = time.monotonic()
        reply = message.reply
        if not reply.startswith(ACKNOWLEDGE):
            if message.subject == self._reply:
                await self._hear(message.headers or {})
            return
        # $JS.ACK. [domain, account,] stream, consumer, times, sequence, number, time, left
        words = reply.split(".")
        place = 5 if len(words) == 9 else 7
        number = int(words[place + 1])
        if number != self._number + 1:
            self._fail(f"message {self._number + 1} of a consumer did not come, but {number}")
            return
        self._number = number
        self._wanted -= 1
        self._waiting.append((int(words[place]), message))
        self._waiting_bytes += len(message.data)
        self._connection.news.set()
        if not self._wanted:
            await self._ask()

    async def _hear(self, said: Mapping[str, str]) -> None:
        """The server says something about what was asked."""
        status, why = said.get("Status", ""), said.get("Description", "")
        if status == HEARTBEAT:
            last = said.get("Nats-Last-Consumer")
            if last is not None and last != str(self._number):
                self._fail(f"message {last} of a consumer did not come, but {self._number}")
        elif status in ENDED or (why.startswith(FULL) and self._wanted < BATCH):
            self._wanted = 0
            await self._ask()
        else:
            self._fail(f"a consumer ended ({status} {why.strip()})")

    def _fail(self, why: str) -> None:
        self.trouble = why
        self._connection.news.set()
