"""Events as rows of a table in the admin."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from agent_events.access import admit_request
from agent_events.admin import looks
from agent_events.errors import AgentEventsError
from agent_events.models import Tenant
from agent_events.principals import Principal, Right
from agent_events.wire import Event

PAYLOAD_CHARS = 240
"""What a table shows of a payload; how much of that is seen is the page's width."""


class Row(NamedTuple):
    """An event of a table; `batch` is None where it waits for one, `live` may be empty."""

    id: int
    batch: int | None
    closed_at: str
    created_at: str
    type: str
    tenant_id: str
    tenant_name: str
    agent_id: str
    payload: str
    live: str
    here: bool = False


class LivePage:
    """Where the live page shows an event, for whoever asks; nowhere, where it is not theirs."""

    def __init__(self, request: HttpRequest) -> None:
        """Who it is is asked once."""
        self._principal: Principal | None = None
        with suppress(AgentEventsError, NoReverseMatch):
            self._url = reverse("agent_events:feed")
            self._principal = admit_request(request, Right.SUBSCRIBE)

    def of(self, tenant_id: str, event_id: int | None = None) -> str:
        """The address of the page at an event of a tenant, or of the tenant's; '' for none."""
        if self._principal is None or not self._principal.may_see(UUID(tenant_id)):
            return ""
        query = {"tenant": tenant_id, "event": event_id}
        return f"{self._url}?{urlencode({k: v for k, v in query.items() if v is not None})}"


def rows_of(events: Iterable[Event], live: LivePage, here: int | None = None) -> list[Row]:
    """A row for each. `here`: the id of the event whose page it is."""
    found = [
        Row(
            event.id,
            event.batch or None,
            short(looks.closed_at(event)) if event.batch else "",
            created(event.created_at),
            event.type,
            event.tenant_id,
            "",
            event.agent_id,
            event.payload_text[: PAYLOAD_CHARS + 1],
            # (What has no place in the log has none on the page.)
            live.of(event.tenant_id, event.id) if event.batch else "",
            event.id == here,
        )
        for event in events
    ]
    names = names_of({UUID(row.tenant_id) for row in found})
    return [row._replace(tenant_name=names.get(UUID(row.tenant_id), "")) for row in found]


def names_of(ids: Iterable[UUID]) -> dict[UUID, str]:
    """The names of those tenants that have one."""
    return dict(Tenant.objects.filter(pk__in=list(ids)).values_list("id", "name"))


def created(text: str) -> str:
    """RFC 3339 as a time of this site; as it is where Python has no such time."""
    try:
        return short(datetime.fromisoformat(text))
    except ValueError:
        return text or "infinite"


def short(time: datetime) -> str:
    """To the millisecond, in the zone of the site."""
    return timezone.localtime(time).isoformat(" ", "milliseconds")[:23]
