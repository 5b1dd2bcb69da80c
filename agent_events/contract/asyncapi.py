"""The AsyncAPI 3.0 document, out of the messages."""

from typing import Any

from django.conf import settings as django_settings

from agent_events.conf import Settings
from agent_events.contract import messages, reading
from agent_events.contract.messages import Message
from agent_events.contract.schemas import (
    CURSOR,
    EVENT,
    VERSION,
    Schema,
    cursor,
    one_object,
    ref,
    stream_event,
)
from agent_events.credentials import BEARER_PROTOCOL, PROTOCOL, TOKEN_COOKIE

WEBSOCKET, SERVER_SENT = "websocket", "serverSentEvents"
UNNAMED = "message"
"""What a message without a name is called, as `EventSource` does."""


def document(name: str, settings: Settings) -> dict[str, Any]:
    """AsyncAPI 3.0 for the streams of a site below `name`, with the limits of these settings."""
    sent = [_frame(one) for one in messages.frames(settings)]
    taken = [_frame(one) for one in messages.client_frames(settings)]
    server_sent = [_unnamed(), *map(_named, messages.server_sent(settings))]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Agent events: streams",
            "version": VERSION,
            "description": "What streams send, as the server sees it: it sends events and notices, "
            "and takes a few frames of a WebSocket client. A `Cursor` resumes either stream with "
            "nothing lost and nothing twice.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "websockets": _server(name, "wss"),
            "http": _server(name, "https"),
        },
        "channels": {
            WEBSOCKET: {
                "address": "/ws/agents/stream",
                "title": "WebSocket",
                "description": "Each frame is a JSON object whose `type` names it. "
                f"A client's frame may have {settings.frame_bytes:,} bytes.",
                "servers": [{"$ref": "#/servers/websockets"}],
                "messages": _messages([*sent, *taken]),
                "bindings": {"ws": {"method": "GET", "query": _query()}},
                "x-close-codes": messages.close_codes(),
            },
            SERVER_SENT: {
                "address": "/api/agents/stream",
                "title": "Server-Sent Events",
                "description": "Each event is an unnamed message whose `id` is its cursor. All else"
                " is a named one, which `onmessage` does not see. The headers below are the fields "
                "`event` and `id` of a message, the payload is its `data`.",
                "servers": [{"$ref": "#/servers/http"}],
                "messages": _messages(server_sent),
            },
        },
        "operations": {
            "sendFrames": _operation("send", WEBSOCKET, "What the server sends", sent),
            "takeFrames": _operation("receive", WEBSOCKET, "What a client may send", taken),
            "sendServerSentEvents": _operation(
                "send", SERVER_SENT, "What the response holds", server_sent
            ),
        },
        "components": {
            "messages": dict([*sent, *taken, *server_sent]),
            "schemas": {"Cursor": cursor(), "StreamEvent": stream_event(settings)},
            "securitySchemes": _security_schemes(),
        },
    }


def _server(name: str, protocol: str) -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": protocol,
        **({"pathname": name} if name else {}),
        "variables": {"host": {"description": "Where the site is.", "default": "localhost"}},
        "security": [
            {"$ref": f"#/components/securitySchemes/{scheme}"} for scheme in _security_schemes()
        ],
    }


def _frame(message: Message) -> tuple[str, dict[str, Any]]:
    fields = {"type": {"const": message.name}, **message.fields}
    return f"frame.{message.name}", {
        "name": message.name,
        "title": message.name,
        "summary": message.summary,
        "payload": one_object(fields, [name for name in fields if name not in message.optional]),
        "examples": [{"payload": {"type": message.name, **message.example}}],
    }


def _named(message: Message) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Schema] = {"event": {"const": message.name}}
    shown = {"event": message.name}
    if message.has_id:
        fields["id"], shown["id"] = ref("Cursor"), CURSOR
    return f"event.{message.name}", {
        "name": message.name,
        "title": message.name,
        "summary": message.summary,
        "headers": one_object(fields),
        "payload": one_object(message.fields),
        "examples": [{"headers": shown, "payload": message.example}],
    }


def _unnamed() -> tuple[str, dict[str, Any]]:
    return f"event.{UNNAMED}", {
        "name": UNNAMED,
        "title": "(unnamed)",
        "summary": "An event. Its `id` is the cursor right after it.",
        "headers": one_object({"id": ref("Cursor")}),
        "payload": ref("StreamEvent"),
        "examples": [{"headers": {"id": CURSOR}, "payload": EVENT}],
    }


def _messages(named: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {key: {"$ref": f"#/components/messages/{key}"} for key, _ in named}


def _operation(
    action: str, channel: str, summary: str, named: list[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key, _ in named],
    }


def _query() -> Schema:
    return one_object(
        {one["name"]: one["schema"] for one in reading.stream_query()},
        required=[],
        description="As at the HTTP stream: it is documented there.",
    )


def _security_schemes() -> dict[str, Any]:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a token."},
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f"A client that cannot send headers offers `{PROTOCOL}` and "
            f"`{BEARER_PROTOCOL}<key or token>`; the server answers with the first.",
        },
        "session": {
            "type": "httpApiKey",
            "in": "cookie",
            "name": django_settings.SESSION_COOKIE_NAME,
            "description": "Of somebody who is signed in, from a page of this site.",
        },
        "tokenCookie": {"type": "httpApiKey", "in": "cookie", "name": TOKEN_COOKIE},
        "ticket": {
            "type": "httpApiKey",
            "in": "query",
            "name": "ticket",
            "description": "It works once.",
        },
    }
