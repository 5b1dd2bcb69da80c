"""The body of a request at an ASGI door: within so many bytes, and so much time."""

import asyncio
from collections.abc import Iterable

from agent_events.errors import TooLarge, TooSlow
from agent_events.responses import Receive


class ClientLeft(Exception):
    """The client has gone before its request was whole: nobody is there to be answered."""


async def body_of(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Receive,
    *,
    most_bytes: int,
    timeout_s: float,
    limit: str,
) -> bytes:
    """The body; no more than `most_bytes` of it are ever held, and one message of the server's.

    `limit` says in a refusal whose limit it is, and what to do. Raises TooLarge, TooSlow,
    ClientLeft.
    """
    too_large = TooLarge(f"The request has more than {most_bytes:,} bytes, {limit}")
    for name, value in headers:
        if name != b"content-length" or not value.isdigit():
            continue
        # (A longer number is larger than any limit, and Python reads none of any length.)
        if len(value) > 18 or int(value) > most_bytes:
            raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError as error:
        raise TooSlow(f"The body did not come within {timeout_s:g} s. Send it again.") from error
