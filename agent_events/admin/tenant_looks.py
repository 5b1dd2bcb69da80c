"""What the log has of a tenant lately: bounded looks by its index, however large the log is."""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import connections

from agent_events import history
from agent_events.conf import get_settings
from agent_events.log import CREATED_SQL

MOST_COUNTED = 10_000
"""More events than that are not counted."""

# Here and below: a range of one tenant, in the order of (tenant_id, tx, id). By "equals" the
# planner may go by (tx, id) past the others' events, millions where a tenant was silent lately.
# The last one, for each of them.
_NEWEST = f"""
    SELECT t.id, e.id, {CREATED_SQL}
      FROM unnest(%s::uuid[]) AS t (id)
     CROSS JOIN LATERAL (
        SELECT i.id, i.created_at FROM agent_events AS i
         WHERE i.tenant_id >= t.id AND i.tenant_id <= t.id
         ORDER BY i.tenant_id DESC, i.tx DESC, i.id DESC LIMIT 1) AS e
"""
# By the same index alone: what was written since a batch was closed, and what is in none yet.
_SINCE = """
    SELECT count(*) FROM (
        SELECT FROM agent_events WHERE tenant_id >= %s AND tenant_id <= %s AND tx >= (
            SELECT pg_snapshot_xmax(seen) FROM agent_event_batches WHERE n = %s)
         ORDER BY tenant_id, tx LIMIT %s) AS found
"""


class Newest(NamedTuple):
    """A tenant's last event; `created_at` is RFC 3339, '' for a time that Python has not."""

    id: int
    created_at: str


def newest(tenants: Iterable[UUID]) -> dict[UUID, Newest]:
    """The last event of each of these that has one. Raises django.db.Error."""
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(_NEWEST, [list(tenants)])
        return {tenant: Newest(id_, created) for tenant, id_, created in cursor.fetchall()}


def how_many(tenant: UUID, lately: timedelta) -> int:
    """Events of the last so long, about: MOST_COUNTED + 1 for any more.

    Raises WrongDatabase, django.db.Error.
    """
    since = history.since(int((time.time() - lately.total_seconds()) * 1_000))
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(_SINCE, [tenant, tenant, since.position.batch - 1, MOST_COUNTED + 1])
        return int(cursor.fetchone()[0])
