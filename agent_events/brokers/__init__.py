"""A broker between the worker and the web processes: NATS JetStream, or Redis Streams.

The table stays the truth and the ledger the order. A broker carries copies of what was just
committed to many processes, and keeps a bounded stretch of them. It may lose, repeat and reorder:
readers notice from the batch numbers (the one rule) and read the log.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from agent_events.brokers.addresses import extra_of
from agent_events.brokers.parcels import Mark, Parcel
from agent_events.conf import Settings


class Outlet(Protocol):
    """The sending end. From one task at a time."""

    limit: int
    """The longest body of a parcel that this server takes, in bytes; known once it is open."""

    async def open(self, *, change: bool = True) -> None:
        """Connects, and sees to it that the streams are there as the settings want them.

        Without `change` it makes none, and leaves one that is there as it is: for whoever only
        looks. Raises BrokerAway; where it was closed by a failure, open it again.
        """
        ...

    async def last(self, shard: int) -> Mark | None:
        """The newest mark in a shard's stream; None where there is none. Raises BrokerAway."""
        ...

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Adds them, a shard's in this order. Returns once the broker has them all.

        Raises BrokerAway where it is not known to have them: sent again, they have the same keys.
        """
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


class Inlet(Protocol):
    """The receiving end. From one task at a time."""

    async def open(self) -> None:
        """Connects. Raises BrokerAway. Opened again, it goes on after the last parcel it gave."""
        ...

    async def watch(self, shards: frozenset[int], tenants: frozenset[str] | None) -> None:
        """From now on these tenants' slices (None: everybody's) and these shards' marks come.

        It may give others, too. Without a place to go on from it begins at the end. Raises
        BrokerAway.
        """
        ...

    async def next(self, timeout_s: float) -> list[Parcel]:
        """The next parcels, a shard's in the order in which they were sent; none in time: none.

        Raises BrokerAway.
        """
        ...

    async def forget(self) -> None:
        """Forgets its place: it goes on at the end. Raises BrokerAway."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


def outlet_of(settings: Settings) -> Outlet:
    """The sending end of BROKER_URL.

    Raises ImproperlyConfigured where that is no address, or its library is missing.
    """
    made: Outlet = _library(settings).Outlet(settings)
    return made


def inlet_of(settings: Settings) -> Inlet:
    """The receiving end of BROKER_URL. Raises what `outlet_of` raises."""
    made: Inlet = _library(settings).Inlet(settings)
    return made


def _library(settings: Settings) -> Any:
    """The module of the broker that BROKER_URL names: `nats` or `redis` of this package."""
    try:
        extra = extra_of(settings.broker_url)
    except ValueError as error:
        raise ImproperlyConfigured(f'AGENT_EVENTS["BROKER_URL"]: {error}.') from None
    try:
        return import_module(f"agent_events.brokers.{extra}")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f'AGENT_EVENTS["BROKER_URL"] names a {extra} server, whose library is not installed '
            f"({error.name}): pip install 'agent-events[{extra}]'."
        ) from error
