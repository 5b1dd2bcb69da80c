"""A client that LISTENs, as any other could, and what it makes of what it hears."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def channel_of(tenant: str) -> str:
    """The channel that tells of a tenant's events."""
    return f"agent_event_{tenant}"


class Ear:
    """Listens to the doorbell, one tenant's channel, and a channel that marks the end."""

    def __init__(self, connect: Callable[[], Connection], tenant: str) -> None:
        """`connect`: opens a session in autocommit."""
        self.tenant = tenant
        self.connection = connect()
        self.other = connect()
        for channel in ("agent_events", channel_of(tenant), "enough"):
            self.connection.execute(f'LISTEN "{channel}"')
        # What is committed by now may have been told before this listened.
        self._before = self._stored()

    def heard(self) -> list[tuple[str, str]]:
        """(channel, body) of all that was committed before this call, in order.

        Not what a process says to itself, to learn whether it hears.
        """
        self.other.execute("NOTIFY enough")  # notifications come in the order of the commits
        notes = list[tuple[str, str]]()
        for note in self.connection.notifies(timeout=10):
            if note.channel == "enough":
                return notes
            if not note.payload.startswith("echo "):
                notes.append((note.channel, note.payload))
        raise AssertionError(f"the end never came; heard {notes}")

    def bodies(self) -> list[Any]:
        """What the tenant's channel said, parsed."""
        return [json.loads(body) for channel, body in self.heard() if channel != "agent_events"]

    def untold(self, bodies: list[Any]) -> set[int]:
        """The tenant's events, committed since this listens, that no body tells of.

        Each counted batch must hold as many of the tenant's as was said.
        """
        told = {body["id"] for body in bodies if "id" in body}
        for body in bodies:
            if body.get("batch") is not None:
                rows = self.other.execute(
                    "SELECT id FROM agent_events_read(%s, %s, 0, 100000) WHERE batch = %s",
                    [self.tenant, body["batch"], body["batch"]],
                ).fetchall()
                assert len(rows) == body["count"], body
                told |= {row[0] for row in rows}
        return self._stored() - self._before - told

    def _stored(self) -> set[int]:
        query = "SELECT id FROM agent_events WHERE tenant_id = %s"
        return {row[0] for row in self.other.execute(query, [self.tenant]).fetchall()}
