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


async def stream_info(
    connection: Connection, settings: Settings, *, update: bool
) -> dict[str, Any]:
    """What the server says about the stream. It is made where it is not there.

    With `update` it is also changed to what the settings want: by whoever sends, not by each
    process that reads, of which some may still have the settings of yesterday.

    Raises BrokerAway.
    """
    wanted = _wanted(settings)
    name = settings.broker_name
    try:
        found = await _found_or_made(connection, name, wanted)
        differs = _difference(found["config"], wanted)
        if not differs or not update:
            return found
        if found["config"].get("subjects") != wanted["subjects"]:
            raise BrokerAway(
                f"NATS has a stream {name} already, of other subjects, which is not ours: choose "
                'another AGENT_EVENTS["BROKER_NAME"], or delete that stream'
            )
        return await _changed(connection, name, found["config"] | wanted, differs)
    except Refused as error:
        raise BrokerAway(f"NATS refused the stream {name}: {error}") from None


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


async def _found_or_made(
    connection: Connection, name: str, wanted: dict[str, Any]
) -> dict[str, Any]:
    try:
        return await connection.ask(f"STREAM.INFO.{name}")
    except Refused as error:
        if error.code != NOT_FOUND:
            raise
    try:
        return await connection.ask(f"STREAM.CREATE.{name}", wanted)
    except Refused as error:
        if error.code != NAME_IN_USE:
            raise
    return await connection.ask(f"STREAM.INFO.{name}")  # another process was faster


async def _changed(
    connection: Connection, name: str, config: dict[str, Any], differs: list[str]
) -> dict[str, Any]:
    what = ", ".join(differs)
    try:
        changed = await connection.ask(f"STREAM.UPDATE.{name}", config)
        logger.info("NATS: the stream %s was changed to the settings (%s).", name, what)
        return changed
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
    return await connection.ask(f"STREAM.CREATE.{name}", config)
