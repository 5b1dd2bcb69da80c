"""What each agent is at, at a glance: one bounded look at the log.

The newest events of the tenants, counted by agent and minute, and of each agent the last event of
every kind that its state needs; and, however old they are, the newest questions to people. What
state that makes of an agent is the page's business (`static/agent_events/agents/state.js`).

Deliberately no table of states: the log is the truth, and a state that is kept beside it has to be
kept right. The look costs the same at any size of the log.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import connections, transaction

from agent_events.conf import get_settings
from agent_events.filters import Filter
from agent_events.log import HEAD_SQL, MS_SQL, head_of
from agent_events.models import HUMAN_TYPES, RUN_ENDS
from agent_events.position import Cursor, Position
from agent_events.window import Tenants
from agent_events.wire import Event, Inline

MOST_EVENTS = 5_000
"""The newest events that a look reads."""
MOST_AGENTS = 500
"""Agents of an answer; those that were heard of last."""
MOST_OPEN = 10
"""Runs, turns and tools that one agent has open, in an answer."""
MOST_HUMAN = 200
"""Questions to people, and their answers, in an answer; the newest."""
MOST_HUMAN_LOOKS = 2_000
"""So many of them are looked at for those that whoever asks may see."""
MOST_TENANTS = 1_000
"""Of all tenants, so many are asked for questions to people."""
MINUTES = 30
"""Minutes that are counted."""
PAYLOAD_BYTES = 4_096
"""A payload that PostgreSQL stores in more bytes is left out: the answer is a glance."""

# As in the conditions of the two indexes, which are found by them.
_IS_HUMAN = f"event_type IN {HUMAN_TYPES}"
_IS_RUN_END = f"event_type IN {RUN_ENDS}"
# `place` 1 is the newest. What is larger than a few KB is not unpacked to look for its run.
_LOOK = f"""
    WITH p AS MATERIALIZED (
        SELECT *, pg_column_size(payload) > {PAYLOAD_BYTES} AS is_large,
               row_number() OVER () AS place
          FROM agent_events_page_back(
               %s::uuid[], %s, 0, %s, agents => %s::text[], types => %s::text[])
         WHERE tenant_id IS NOT NULL
    ),
    kinds AS (
        SELECT batch, closed_at, id, tenant_id, agent_id, event_type, payload, created_at,
               is_large, place,
               event_type ~ '(^|[._])(error|failed|failure)$' AS is_error,
               CASE WHEN event_type = 'turn_complete' THEN 'turn'
                    WHEN event_type ~ '^(run|turn|tool)[.]' THEN split_part(event_type, '.', 1)
                    WHEN event_type IN ('handoff', 'message') THEN event_type END AS kind,
               CASE WHEN NOT is_large THEN payload->>'run_id' END AS run,
               CASE WHEN NOT is_large THEN payload->>'tool_call_id' END AS call
          FROM p
    ),
    ranked AS MATERIALIZED (
        SELECT *,
               min(place) OVER agent AS last_place,
               row_number() OVER (
                   PARTITION BY tenant_id, agent_id, kind ORDER BY place) AS of_kind,
               row_number() OVER (
                   PARTITION BY tenant_id, agent_id, is_error ORDER BY place) AS of_errors,
               row_number() OVER (PARTITION BY tenant_id, agent_id, kind, run,
                                  CASE WHEN kind = 'tool' THEN call END ORDER BY place) AS of_span,
               min(place) FILTER (WHERE {_IS_RUN_END}) OVER (
                   PARTITION BY tenant_id, agent_id, run) AS run_end
          FROM kinds WINDOW agent AS (PARTITION BY tenant_id, agent_id)
    ),
    agents AS MATERIALIZED (
        SELECT tenant_id, agent_id, last_place FROM ranked WHERE place = last_place
         ORDER BY last_place LIMIT {MOST_AGENTS}
    ),
    open AS (
        SELECT id, row_number() OVER (PARTITION BY tenant_id, agent_id ORDER BY place) AS rank
          FROM ranked
         WHERE event_type IN ('run.started', 'turn.started', 'tool.started') AND of_span = 1
           AND (run_end IS NULL OR place < run_end)
    ),
    minutes AS (
        SELECT tenant_id, agent_id,
               json_agg(json_build_array(minute, events, errors) ORDER BY minute) AS list
          FROM (SELECT tenant_id, agent_id,
                       floor(extract(epoch FROM created_at) / 60)::bigint AS minute,
                       count(*) AS events, count(*) FILTER (WHERE is_error) AS errors
                  FROM ranked
                 WHERE created_at > now() - interval '{MINUTES} min'
                   AND created_at < now() + interval '1 day'
                 GROUP BY 1, 2, 3) AS counted
         GROUP BY 1, 2
    )
    SELECT NULL AS batch, (SELECT {MS_SQL.format("min(closed_at)")} FROM p) AS closed_at_ms,
           (SELECT count(*) FROM p) AS id, NULL AS json, NULL AS is_large,
           a.tenant_id::text, a.agent_id::text, coalesce(m.list::text, '[]') AS minutes,
           a.last_place AS place
      FROM agents AS a LEFT JOIN minutes AS m USING (tenant_id, agent_id)
    UNION ALL
    SELECT r.batch, {MS_SQL.format("r.closed_at")}, r.id,
           agent_events_json(r.id, r.tenant_id, r.agent_id, r.event_type,
                             CASE WHEN r.is_large THEN 'null' ELSE r.payload END,
                             r.created_at),
           r.is_large, r.tenant_id::text, r.agent_id::text, NULL, r.place
      FROM ranked AS r JOIN agents AS a USING (tenant_id, agent_id)
     WHERE r.place = r.last_place OR r.is_error AND r.of_errors = 1
        OR r.kind IS NOT NULL AND r.of_kind = 1
        OR r.id IN (SELECT id FROM open WHERE rank <= {MOST_OPEN})
     ORDER BY batch NULLS FIRST, id
"""

# Some of these hold questions: those that have an entry in the index, found by hopping from one
# tenant to the next in it.
_TENANTS = f"""
    WITH RECURSIVE hop (tenant_id, n) AS (
        (SELECT tenant_id, 1 FROM agent_events WHERE {_IS_HUMAN} ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.tenant_id FROM agent_events AS e
                 WHERE {_IS_HUMAN} AND e.tenant_id > hop.tenant_id
                 ORDER BY e.tenant_id LIMIT 1), n + 1
          FROM hop WHERE tenant_id IS NOT NULL AND n < {MOST_TENANTS}
    )
    SELECT array_agg(tenant_id) FROM hop WHERE tenant_id IS NOT NULL
"""
# By (tx, id): whoever answers a question saw it, and so began later. What no batch has yet is not
# in the log, nor what was pruned. A question whose run has ended is nobody's any more.
_HUMAN = f"""
    SELECT 0, 0, one.id,
           agent_events_json(one.id, one.tenant_id, one.agent_id, one.event_type,
                             CASE WHEN one.is_large THEN 'null' ELSE one.payload END,
                             one.created_at),
           one.is_large
      FROM (
        SELECT e.*, pg_column_size(e.payload) > {PAYLOAD_BYTES} AS is_large
          FROM (SELECT seen FROM agent_event_batches ORDER BY n DESC LIMIT 1) AS head
         CROSS JOIN (SELECT (SELECT seen FROM agent_event_batches WHERE n = oldest - 1)
                       FROM agent_event_bus) AS pruned
         CROSS JOIN unnest(%s::uuid[]) AS t(id)
         CROSS JOIN LATERAL (
            SELECT i.* FROM agent_events AS i WHERE i.tenant_id = t.id AND i.{_IS_HUMAN}
             ORDER BY i.tx DESC, i.id DESC LIMIT %s
         ) AS e
         WHERE pg_visible_in_snapshot(e.tx, head.seen)
           AND (pruned.seen IS NULL OR NOT pg_visible_in_snapshot(e.tx, pruned.seen))
           AND (%s::text[] IS NULL OR e.agent_id::text LIKE ANY (agent_events_patterns(%s::text[])))
           AND (%s::text[] IS NULL OR e.event_type LIKE ANY (agent_events_patterns(%s::text[])))
         ORDER BY e.tx DESC, e.id DESC LIMIT {MOST_HUMAN}
      ) AS one
     WHERE one.event_type = 'human.answered' OR one.is_large OR NOT EXISTS (
            SELECT FROM agent_events AS f
             WHERE f.tenant_id = one.tenant_id
               AND f.{_IS_RUN_END}
               AND left(f.payload->>'run_id', 200) = left(one.payload->>'run_id', 200))
     ORDER BY one.tx, one.id
"""


class Glance(NamedTuple):
    """One agent: `minutes` is JSON, a list of [minute since 1970, events, errors]."""

    tenant_id: str
    agent_id: str
    minutes: str
    events: list[Event]


class AgentsNow(NamedTuple):
    """What was seen.

    `cursor` is right behind the newest event; `looked_at` counts the events that were read, and
    none was closed before `since_ms` (ms since 1970; 0: the whole log of these tenants was read).
    `human` holds the questions to people and the answers, oldest first.
    """

    cursor: str
    looked_at: int
    since_ms: int
    agents: list[Glance]
    human: list[Event]

    def json(self) -> str:
        """The members of the answer but for the clock's, `"cursor":...}`: no brace before them."""
        agents = ",".join(
            f'{{"agentId":"{one.agent_id}","tenantId":"{one.tenant_id}","minutes":{one.minutes},'
            f'"events":[{_joined(one.events)}]}}'
            for one in self.agents
        )
        return (
            f'"cursor":"{self.cursor}","lookedAt":{self.looked_at},"since":{self.since_ms},'
            f'"agents":[{agents}],"human":[{_joined(self.human)}]}}'
        )


def look(tenants: Tenants, only: Filter, inline: Inline) -> AgentsNow:
    """Looks at the tenants' events (None: all tenants'), as far as `only` lets them be seen.

    On Django's connection: it blocks. Large payloads have their address in their place, as `inline`
    says. Raises WrongDatabase, django.db.Error.
    """
    alias = get_settings().database
    wanted = None if tenants is None else list(tenants)
    agents, types = list(only.agents) or None, list(only.types) or None
    with transaction.atomic(alias), connections[alias].cursor() as cursor:

        def rows(query: str, params: Sequence[Any] = ()) -> list[Any]:
            cursor.execute(query, params)
            return list(cursor.fetchall())

        # One moment for all that follows.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        head = head_of(rows(HEAD_SQL))
        found = rows(_LOOK, [wanted, head.n + 1, MOST_EVENTS, agents, types])
        if wanted is None:
            ((wanted,),) = rows(_TENANTS)
        most = MOST_HUMAN_LOOKS if agents or types else MOST_HUMAN
        human = rows(_HUMAN, [wanted or [], most, agents, agents, types, types])
    here = Cursor(Position(head.n + 1), head.closed_at_ms)
    return _seen(str(here), found, _events(human, inline), inline)


def _seen(cursor: str, rows: Sequence[Any], human: list[Event], inline: Inline) -> AgentsNow:
    """From the rows of _LOOK: those of agents come first."""
    agents: dict[tuple[str, str], Glance] = {}
    looked_at = since_ms = 0
    for batch, closed_at_ms, count_or_id, _json, _large, tenant_id, agent_id, minutes, _ in rows:
        key = (tenant_id, agent_id)
        if batch is None:
            agents[key] = Glance(tenant_id, agent_id, minutes, [])
            looked_at, since_ms = count_or_id, closed_at_ms
    for row in rows:
        if row[0] is not None:
            agents[row[5], row[6]].events.extend(_events([row[:5]], inline))
    whole = looked_at < MOST_EVENTS
    return AgentsNow(cursor, looked_at, 0 if whole else since_ms, list(agents.values()), human)


def _events(rows: Sequence[Any], inline: Inline) -> list[Event]:
    made = []
    for *fields, is_large in rows:
        event = Event._make(fields)
        if is_large and inline.address:
            made.append(inline.without(event))
        else:
            made += inline.of([event], len(event.json))
    return made


def _joined(events: Sequence[Event]) -> str:
    return ",".join(event.json for event in events)
