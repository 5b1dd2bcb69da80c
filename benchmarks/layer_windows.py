"""What a window costs on the in-memory layer: one message, or one for each tenant in it.

Run: python -m benchmarks.layer_windows. Prints CPU (which noise hardly moves), sending and
receiving together, medians of interleaved repeats.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Iterable

from channels.layers import InMemoryChannelLayer
from django.conf import settings

from agent_events.window import Window
from agent_events.wire import Event

WINDOWS, REPEATS = 100, 5


def _event(tenant: str, number: int) -> Event:
    agent = str(uuid.uuid4())
    text = '{"text": "Looked up the order; it left the warehouse this morning."}'
    body = (
        f'{{"id":{number},"tenantId":"{tenant}","agentId":"{agent}","type":"message",'
        f'"payload":{text},"createdAt":"2026-01-01T00:00:00.000000Z"}}'
    )
    return Event(1, 1, number, body)


async def cpu_ms(messages: Iterable[tuple[str, Window]], groups: list[str]) -> float:
    """CPU milliseconds to pass the messages through a layer to one channel in all groups."""
    layer = InMemoryChannelLayer()
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    began = time.process_time()
    for group, window in messages:
        await layer.group_send(group, {"type": "window", "window": window.to_text()})
        Window.from_text((await layer.receive(channel))["window"])
    return (time.process_time() - began) * 1_000


async def compare(count: int) -> None:
    """Prints one row of the table."""
    tenants = [str(uuid.uuid4()) for _ in range(count)]
    events = tuple(_event(tenant, number) for number, tenant in enumerate(tenants))
    together = [("all", Window(1, 1, 1, 1, frozenset(tenants), events))]
    apart = [
        (event.tenant_id, Window(1, 1, 1, 1, frozenset([event.tenant_id]), (event,)))
        for event in events
    ]
    apart.append(("all", Window(2, 1, 1, 1, frozenset())))  # the tick that ends a window
    groups = ["all", *tenants]
    pairs = [
        (
            await cpu_ms(together * WINDOWS, ["all"]) / WINDOWS,
            await cpu_ms(apart * WINDOWS, groups) / WINDOWS,
        )
        for _ in range(REPEATS)
    ]
    one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{count:>4} tenants  {one:8.3f} ms  {many:8.3f} ms  {many / one:6.1f} x")


if __name__ == "__main__":
    settings.configure()
    print("CPU a window   one message   one a tenant   ratio")
    for tenant_count in (1, 10, 50, 200):
        asyncio.run(compare(tenant_count))
