"""Writing events from Python and from the command line."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from agent_events import NewEvent, apublish, publish, publish_many
from agent_events.errors import InvalidEvent
from agent_events.models import AgentEvent, Membership, Tenant

TENANT, AGENT = uuid.uuid4(), uuid.uuid4()


@pytest.mark.django_db(transaction=True)
def test_publish_is_part_of_the_callers_transaction() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        publish(TENANT, AGENT, "message", {"text": "never"})
        raise RuntimeError
    kept = publish(TENANT, AGENT, "message", {"text": "å", "n": 1})
    assert list(AgentEvent.objects.values_list("id", "payload")) == [(kept, {"text": "å", "n": 1})]


@pytest.mark.django_db
def test_publish_many_is_one_statement_and_keeps_the_order() -> None:
    events = [NewEvent(TENANT, str(AGENT), "message", {"place": n}) for n in range(500)]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        ids = publish_many(events)
    assert len(queries) == 1
    assert ids == sorted(ids)
    stored = AgentEvent.objects.filter(id__in=ids).order_by("id").values_list("payload", flat=True)
    assert [payload["place"] for payload in stored] == list(range(500))


@pytest.mark.django_db
def test_nothing_to_publish_asks_the_database_nothing() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert publish_many([]) == []
    assert not queries.captured_queries


@pytest.mark.django_db(transaction=True)
async def test_apublish_writes_from_async_code() -> None:
    made = await apublish(TENANT, AGENT, "message", {})
    assert await AgentEvent.objects.filter(id=made).aexists()
    await sync_to_async(connections.close_all)()  # its thread's, which outlives the test


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant_id", "not-a-uuid"),
        ("tenant_id", None),
        ("agent_id", 7),
        ("event_type", ""),
        ("event_type", "x" * 201),
        ("event_type", "a\x00b"),
        ("event_type", "\ud800"),
        ("payload", math.nan),
        ("payload", {"deep": [math.inf]}),
        ("payload", "a\x00b"),
        ("payload", {"a\x00b": 1}),
        ("payload", "\ud800"),
        ("payload", object()),
    ],
)
def test_a_bad_event_is_refused_in_words_and_nothing_of_the_list_is_written(
    field: str, value: Any
) -> None:
    good = {"tenant_id": TENANT, "agent_id": AGENT, "event_type": "message", "payload": {}}
    with pytest.raises(InvalidEvent, match=r"^Event 1: "):
        publish_many([NewEvent(**good), NewEvent(**{**good, field: value})])
    assert not AgentEvent.objects.exists()


@pytest.mark.django_db
def test_a_backslash_before_u0000_is_only_text() -> None:
    publish(TENANT, AGENT, "message", {"path": "\\u0000", "more": "\\\\u0000"})
    assert AgentEvent.objects.get().payload == {"path": "\\u0000", "more": "\\\\u0000"}


@pytest.mark.django_db
def test_publish_event_writes_one_and_prints_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--tenant={TENANT}", f"--agent={AGENT}", "--type=turn_complete"]
    call_command("publish_event", *given, "--payload", json.dumps({"tokens": 142}))
    event = AgentEvent.objects.get()
    assert capsys.readouterr().out == f"{event.id}\n"
    assert (event.event_type, event.payload) == ("turn_complete", {"tokens": 142})
    with pytest.raises(CommandError, match="not JSON"):
        call_command("publish_event", *given, "--payload={")
    with pytest.raises(CommandError, match="UUID"):
        call_command("publish_event", "--tenant=x", f"--agent={AGENT}", "--type=a")


@pytest.mark.django_db
def test_create_tenant_may_be_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    get_user_model().objects.create_user("ann")
    for _ in range(2):
        call_command("create_tenant", "Harbour", f"--id={TENANT}", "--member=ann")
    assert capsys.readouterr().out == f"{TENANT}\n" * 2
    assert Tenant.objects.get().id == TENANT
    assert Membership.objects.count() == 1
    with pytest.raises(CommandError, match="no user 'bob'"):
        call_command("create_tenant", "Other", "--member=bob")
    assert Tenant.objects.count() == 1
    with pytest.raises(CommandError, match="exists with the id"):
        call_command("create_tenant", "Harbour", f"--id={uuid.uuid4()}")
    with pytest.raises(CommandError, match="The id is that of tenant 'Harbour'"):
        call_command("create_tenant", "Other", f"--id={TENANT}")


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\udcff"])
def test_a_tenants_name_that_cannot_be_is_refused_in_words(name: str) -> None:
    with pytest.raises(CommandError, match="1 to 200 characters"):
        call_command("create_tenant", name)
