"""How the broker does: a bounded look at its newest marks. Whatever fails is a fact.

What it has is compared with the ledger by `status`, which looks there afterwards.
"""

import asyncio
from contextlib import suppress

from channels.exceptions import InvalidChannelLayerError
from django.core.exceptions import ImproperlyConfigured

from agent_events import brokers
from agent_events.brokers.addresses import extra_of, host_of, without_secrets
from agent_events.brokers.parcels import Mark, shard_of
from agent_events.bus import layer_is_shared
from agent_events.conf import Settings
from agent_events.errors import in_a_line
from agent_events.facts import Broker, Shard
from agent_events.leases import publisher_keys

CLOSE_S = 0.5
"""So long more may closing the connection take, after a look that took too long."""


def leases_wanted(settings: Settings) -> tuple[str, ...]:
    """The `publisher_keys` that workers hold; none where each process listens by itself."""
    if settings.broker_url:
        return publisher_keys(settings)
    with suppress(ImproperlyConfigured, InvalidChannelLayerError, ImportError):
        if layer_is_shared(settings.channel_layer):
            return publisher_keys(settings)
    return ()


async def look(
    settings: Settings, tenant: str | None = None, *, within_s: float | None = None
) -> Broker | None:
    """The broker of BROKER_URL; None where there is none. Never raises.

    Of all shards, or of that which `tenant` is in. It has BROKER_TIMEOUT_S to answer, or `within_s`
    seconds where that is less.
    """
    if not settings.broker_url:
        return None
    timeout_s = min(settings.broker_timeout_s, within_s or settings.broker_timeout_s)
    marks: dict[int, Mark | None] = {}
    kind = trouble = ""
    try:
        kind = extra_of(settings.broker_url)
        async with asyncio.timeout(timeout_s):
            marks = await _marks(settings, tenant)
    except TimeoutError:
        trouble = f"no answer within {timeout_s:g} s"
    except Exception as error:  # each library has errors of its own
        trouble = without_secrets(in_a_line(error), settings.broker_url).rstrip(".")
    shards = [
        Shard(number, mark.last, mark.closed_at_ms, log=mark.log)
        if mark
        else Shard(number, None, None)
        for number, mark in marks.items()
    ]
    host = host_of(settings.broker_url) or "an address that cannot be read"
    return Broker(kind, host, trouble, tuple(shards))


async def _marks(settings: Settings, tenant: str | None) -> dict[int, Mark | None]:
    """The newest mark of each shard, or of the tenant's."""
    shards = settings.broker_shards
    wanted = range(shards) if tenant is None else [shard_of(tenant, shards)]
    outlet = brokers.outlet_of(settings)
    try:
        await outlet.open(change=False)
        return {shard: await outlet.last(shard) for shard in wanted}
    finally:
        with suppress(Exception):  # the look has ended, well or not
            async with asyncio.timeout(CLOSE_S):
                await outlet.close()
