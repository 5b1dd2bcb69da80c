"""The body of a request, within its bounds; what a refusal says about when to come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_events.bodies import ClientLeft, body_of
from agent_events.errors import AgentEventsError, TooLarge, TooSlow, TryAgain, UnknownTenant
from agent_events.responses import refusal

Message = dict[str, Any]


def sending(*parts: bytes, whole: bool = True) -> Callable[[], Awaitable[Message]]:
    """What a server's `receive` is where these parts come, and then nothing for ever."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if whole:
        messages[-1]["more_body"] = False

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return receive


async def read(
    receive: Callable[[], Awaitable[Message]], length: bytes = b"", timeout_s: float = 30
) -> bytes:
    headers = [(b"content-length", length)] if length else []
    return await body_of(
        headers, receive, most_bytes=5, timeout_s=timeout_s, limit="the most here."
    )


async def test_a_body_of_several_parts_is_joined_up_to_the_limit() -> None:
    assert await read(sending(b"ab", b"", b"cde"), b"5") == b"abcde"
    with pytest.raises(TooLarge, match="more than 5 bytes, the most here"):
        await read(sending(b"abc", b"def", whole=False))


@pytest.mark.parametrize("length", [b"6", b"9" * 5_000])
async def test_a_body_that_says_that_it_is_too_long_is_not_waited_for(length: bytes) -> None:
    with pytest.raises(TooLarge):
        await read(sending(b"", whole=False), length)


async def test_a_body_that_does_not_come_and_a_client_that_leaves_end_the_wait() -> None:
    with pytest.raises(TooSlow, match=r"did not come within 0\.05 s"):
        await read(sending(b"ab", whole=False), timeout_s=0.05)

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        await read(leave)


@pytest.mark.parametrize(
    ("error", "status", "header", "members"),
    [
        (TryAgain("x", 7.1), 503, "8", {}),
        (TooSlow("x"), 408, None, {}),
        (UnknownTenant("x", place=3), 404, None, {"place": 3}),
        (UnknownTenant("x"), 404, None, {}),
    ],
)
def test_a_refusal_says_when_to_come_back_and_where_the_fault_is(
    error: AgentEventsError, status: int, header: str | None, members: dict[str, int]
) -> None:
    refused = refusal(error)
    assert (refused.status, refused.headers.get("Retry-After")) == (status, header)
    said = json.loads(refused.body)
    assert {name: said[name] for name in said if name == "place"} == members
