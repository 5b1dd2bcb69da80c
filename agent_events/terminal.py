"""An event as a line on a terminal. Pure."""

import json
import zlib

from agent_events.wire import Event

_COLOURS = (36, 32, 33, 35, 34, 91, 92, 93, 94, 95, 96)
_PAYLOAD_WIDTH = 160


def line(event: Event, *, colour: bool) -> str:
    """One line: time, tenant, agent, type, the payload's beginning. An agent keeps its colour."""
    agent = event.agent_id[:8]
    kind = event.type
    if colour:
        code = _COLOURS[zlib.crc32(event.agent_id.encode()) % len(_COLOURS)]
        agent = f"\x1b[{code}m{agent}\x1b[0m"
    payload = event.payload_text
    if len(payload) > _PAYLOAD_WIDTH:
        payload = payload[: _PAYLOAD_WIDTH - 1] + "…"
    clock = event.created_at[11:23] or "-"
    return f"{clock}  {event.tenant_id[:8]}  {agent}  {_safe(kind):<16}  {_safe(payload)}"


def _safe(text: str) -> str:
    """Agents' words are not the terminal's commands: escape sequences are shown, not obeyed."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
