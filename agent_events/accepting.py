"""What a request that publishes brings, as rows to be written. Pure.

Our own form is one object or a list of them: `tenantId` (may be left out by whoever has just one),
`agentId`, `type`, `payload`, `eventKey`. `cloud_events` knows the other forms.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated
from uuid import UUID

import msgspec

from agent_events import cloud_events
from agent_events.errors import (
    InvalidEvent,
    InvalidQuery,
    TenantNotNamed,
    UnknownTenant,
    UnsupportedMedia,
)
from agent_events.json_text import decoded, decoded_list, payload_text
from agent_events.posted import PostedEvent, Type
from agent_events.principals import Principal
from agent_events.writing import MOST_KEY_CHARS, EventRow

JSON = "application/json"
FORMS = (JSON, cloud_events.STRUCTURED, cloud_events.BATCH)

_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_KEY_CHARS, pattern=r"^[^\x00]*\Z")]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    agentId: UUID
    type: Type
    payload: msgspec.Raw
    tenantId: UUID | None = None
    eventKey: _Key | None = None


_ONE = msgspec.json.Decoder(_Event)
_LIST = msgspec.json.Decoder(list[_Event])


def accept(
    headers: Mapping[str, str], body: bytes, *, most_events: int, most_payload_bytes: int
) -> list[PostedEvent]:
    """The events of a request, one at least; `headers` by their names in lower case.

    Raises UnsupportedMedia, NotJson, InvalidEvent (which knows the place and the field), TooLarge.
    """
    content_type = headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    _refuse_encoded(headers, content_type)
    if media == cloud_events.STRUCTURED:
        return cloud_events.structured(body, most_payload_bytes)
    if media == cloud_events.BATCH:
        posted = cloud_events.batch(body, most_events, most_payload_bytes)
    elif cloud_events.is_binary(headers) and not media.startswith("application/cloudevents"):
        return cloud_events.binary(headers, body, most_payload_bytes)
    elif media == JSON:
        posted = _own(body, most_events, most_payload_bytes)
    else:
        raise UnsupportedMedia(
            f"The Content-Type is {media[:100]!r}, expected one of {', '.join(FORMS)}, or the "
            "headers of a CloudEvent in binary mode (ce-specversion and so on)."
        )
    if not posted:
        raise InvalidEvent("The list is empty. Send one event at least.")
    return posted


def _refuse_encoded(headers: Mapping[str, str], content_type: str) -> None:
    if (coding := headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise UnsupportedMedia(f"The Content-Encoding is {coding[:40]!r}. Send it as it is.")
    charset = re.search(r';\s*charset\s*=\s*"?([^";\s]*)', content_type, re.I)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia(f"The charset is {charset[1][:40]!r}, expected UTF-8.")


def _own(body: bytes, most_events: int, most_bytes: int) -> list[PostedEvent]:
    is_list = body.lstrip(b" \t\r\n").startswith(b"[")
    found = decoded_list(_LIST, body, most_events) if is_list else [decoded(_ONE, body)]
    return [
        PostedEvent(
            tenant_id=str(one.tenantId) if one.tenantId else None,
            agent_id=str(one.agentId),
            event_type=one.type,
            payload=payload_text(one.payload, place, "payload", most_bytes),
            key=one.eventKey,
        )
        for place, one in enumerate(found)
    ]


def event_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of a request by their names in lower case.

    Raises InvalidQuery where one that says what the event is is there twice.
    """
    found: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in found and (name == "content-type" or name.startswith("ce-")):
            raise InvalidQuery(f"The header {name[:60]} is there twice. Send it once.")
        found[name] = value.decode("latin-1")
    return found


def request_key(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The `Idempotency-Key` of a request, without the quotes that its draft standard gives it.

    (draft-ietf-httpapi-idempotency-key-header.) Raises InvalidQuery.
    """
    given = [value.decode("latin-1").strip() for name, value in headers if name == _KEY_HEADER]
    if not given:
        return None
    key = given[0]
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(given) > 1 or not re.fullmatch(rf"[!-~]{{1,{MOST_KEY_CHARS}}}", key):
        raise InvalidQuery(
            "The Idempotency-Key must be there once, with 1 to "
            f"{MOST_KEY_CHARS} printable ASCII characters and no space: a UUID, say."
        )
    return key


_KEY_HEADER = b"idempotency-key"


def rows_of(
    posted: Sequence[PostedEvent], principal: Principal, request_key: str | None
) -> list[EventRow]:
    """The rows to write: of this principal's tenants, with the keys that make a retry harmless.

    Raises UnknownTenant for another's, InvalidEvent where none is named or where a request with an
    Idempotency-Key names several.
    """
    tenants = [_tenant_of(one, place, principal) for place, one in enumerate(posted)]
    covered = [place for place, one in enumerate(posted) if one.key is None]
    keys = {place: one.key for place, one in enumerate(posted)}
    beyond = None
    if request_key is not None and covered:
        for place in covered:
            if tenants[place] != tenants[covered[0]]:
                raise InvalidEvent(
                    f"Event {place}: its tenant is another one than that of the first. An "
                    "Idempotency-Key covers events of one tenant: send a request for each.",
                    place=place,
                    field="tenantId",
                )
        # Of this principal alone: others number their requests likewise.
        own = hashlib.sha256(f"{principal.id}\n{request_key}".encode()).hexdigest()
        keys |= {place: f"request:{own}:{n}" for n, place in enumerate(covered)}
        beyond = f"request:{own}:{len(covered)}"
    return [
        EventRow(
            tenants[place],
            one.agent_id,
            one.event_type,
            one.payload,
            key=keys[place],
            of_request=beyond is not None and one.key is None,
            beyond=beyond if covered and place == covered[-1] else None,
            key_field=one.key_field,
        )
        for place, one in enumerate(posted)
    ]


def _tenant_of(one: PostedEvent, place: int, principal: Principal) -> str:
    try:
        if one.tenant_id is not None:
            return str(principal.tenant(one.tenant_id))
        return str(principal.only_tenant())
    except UnknownTenant:
        raise UnknownTenant(
            f"Event {place}: no such tenant, or it is not yours.", place=place
        ) from None
    except TenantNotNamed:
        yours = ", ".join(f"{tenant.id} ({tenant.name})" for tenant in principal.named[:20])
        raise InvalidEvent(
            f"Event {place}: it names no tenant, and you have not exactly one"
            f"{f': name one of {yours}' if yours else ''}.",
            place=place,
            field="tenantId",
        ) from None
