"""The stream in NATS JetStream: there, and as the settings want it."""

import logging
from typing import Any

from agent_events.brokers.nats_connection import Connection, Refused
from agent_events.conf import Settings
from agent_events.errors import BrokerAway

logger = logging.getLogger("agent_events")

DUPLICATES_NS = 120 * 10**9
"""A message that is sent again within this time is known by its key."""

NOT_FOUND = 10059
NAME_IN_USE = 10058
CANNOT_CHANGE = 10052
LIMITS = (10002, 10122)
"""Refusals of what is larger than an account may have."""


async def stream_info(connection: Connection, settings: Settings) -> dict[str, Any] | None:
    """What the server says about the stream; None where there is none. Raises BrokerAway."""
    try:
        return await connection.ask(f"STREAM.INFO.{settings.broker_name}")
    except Refused as error:
        if error.code == NOT_FOUND:
            return None
        raise _away(settings, error) from None


async def make_stream(connection: Connection, settings: Settings) -> None:
    """Makes the stream, or makes it as the settings want it. Raises BrokerAway.

    For whoever sends, not for each process that reads, of which some may still have the settings of
    yesterday, or those of a mistake: the server sets aside memory for every stream.
    """
    wanted = _wanted(settings)
    name = settings.broker_name
    try:
        found = await stream_info(connection, settings) or await _made(connection, name, wanted)
        differs = _difference(found["config"], wanted)
        if not differs:
            return
        if found["config"].get("subjects") != wanted["subjects"]:
            raise BrokerAway(
                f"NATS has a stream {name} already, of other subjects, which is not ours: choose "
                'another AGENT_EVENTS["BROKER_NAME"], or delete that stream'
            )
        await _change(connection, name, found["config"] | wanted, differs)
    except Refused as error:
        raise _away(settings, error) from None


def _away(settings: Settings, error: Refused) -> BrokerAway:
    room = ""
    if "insufficient" in str(error) or error.code in LIMITS:
        room = (
            f': it is to have room for AGENT_EVENTS["BROKER_BYTES"], {settings.broker_bytes:,} '
            "bytes. Set that lower, or the server's max_memory_store (or the account's limit) "
            "higher, or delete streams that nobody uses"
        )
    return BrokerAway(f"NATS refused the stream {settings.broker_name}: {error}{room}")


def _wanted(settings: Settings) -> dict[str, Any]:
    return {
        "name": settings.broker_name,
        "subjects": [f"{settings.broker_name}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "memory",  # the log is the truth: a disk would only make it slower
        "num_replicas": settings.broker_replicas,
        "max_bytes": settings.broker_bytes,
        "max_msgs": settings.broker_messages * settings.broker_shards,
        "duplicate_window": DUPLICATES_NS,
    }


def _difference(config: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return sorted(key for key in wanted if config.get(key) != wanted[key])


async def _made(connection: Connection, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await connection.ask(f"STREAM.CREATE.{name}", wanted)
    except Refused as error:
        if error.code != NAME_IN_USE:
            raise
    return await connection.ask(f"STREAM.INFO.{name}")  # another process was faster


async def _change(
    connection: Connection, name: str, config: dict[str, Any], differs: list[str]
) -> None:
    what = ", ".join(differs)
    try:
        await connection.ask(f"STREAM.UPDATE.{name}", config)
        logger.info("NATS: the stream %s was changed to the settings (%s).", name, what)
        return
    except Refused as error:
        if error.code != CANNOT_CHANGE:
            raise  # too many replicas, say: a new one would be refused just so
        logger.warning(
            "NATS: the stream %s cannot be changed to the settings (%s: %s); it is deleted and "
            "made anew. No event is lost: readers find them in the log.",
            name,
            what,
            error,
        )
    await connection.ask(f"STREAM.DELETE.{name}")
    await connection.ask(f"STREAM.CREATE.{name}", config)
