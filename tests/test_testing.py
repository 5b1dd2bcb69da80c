"""The helpers for other projects' tests, used as such a project would: `agent_events.testing`."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase, TransactionTestCase, override_settings

from agent_events import NewEvent, apublish, publish, publish_many, subscribe_sync
from agent_events.models import AgentEvent, Batch
from agent_events.testing import PublishedEvent, capture_events, sequence
from tests.support.site import blocks

TENANT, AGENT = uuid.uuid4(), uuid.uuid4()
INSERT = (
    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload) VALUES (%s, %s, %s, %s)"
)


def types(events: Any) -> list[str]:
    return [event.type for event in events]


class WithoutCommits(TestCase):
    """Django's `TestCase`: one transaction around all tests, a savepoint around each."""

    @classmethod
    def setUpTestData(cls) -> None:
        publish(TENANT, AGENT, "of.the.class", {})

    def test_what_publish_wrote_is_there_as_it_was_given(self) -> None:
        publish(TENANT, AGENT, "before", {})
        with capture_events() as events:
            id = publish(str(TENANT), str(AGENT), "turn.finished", {"n": 0.1, "text": "å"})
        publish(TENANT, AGENT, "after", {})
        (event,) = events
        assert event == PublishedEvent(
            id, TENANT, AGENT, "turn.finished", {"n": 0.1, "text": "å"}, event.created_at
        )
        assert event.created_at.tzinfo is not None

    def test_every_way_of_writing_is_seen_in_its_order(self) -> None:
        with capture_events() as events:
            publish_many([NewEvent(TENANT, AGENT, f"many.{n}", n) for n in range(3)])
            with connection.cursor() as cursor:
                cursor.execute(INSERT, [TENANT, AGENT, "plain.sql", "[1]"])
            AgentEvent.objects.create(
                tenant_id=TENANT, agent_id=AGENT, event_type="model", payload="text"
            )
        assert types(events) == ["many.0", "many.1", "many.2", "plain.sql", "model"]
        assert [event.payload for event in events[3:]] == [[1], "text"]

    async def test_apublish_is_seen(self) -> None:
        async with capture_events() as events:
            await apublish(TENANT, AGENT, "async", {})
        assert types(events) == ["async"]

    def test_what_is_rolled_back_to_a_savepoint_is_gone(self) -> None:
        with capture_events() as events:
            publish(TENANT, AGENT, "kept", {})
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                publish(TENANT, AGENT, "never", {})
                assert types(events) == ["kept", "never"]
                raise ZeroDivisionError
        assert types(events) == ["kept"]

    def test_blocks_nest_and_each_has_its_own(self) -> None:
        with capture_events() as outer:
            publish(TENANT, AGENT, "a", {})
            with capture_events() as inner:
                publish(TENANT, AGENT, "b", {})
            publish(TENANT, AGENT, "c", {})
        assert types(inner) == ["b"]
        assert types(outer) == ["a", "b", "c"]

    def test_nothing_published_is_an_empty_list(self) -> None:
        with capture_events() as events:
            pass
        assert not events
        assert list(events) == []

    def test_an_event_with_a_smaller_id_is_no_older_one(self) -> None:
        publish(TENANT, AGENT, "before", {})
        with capture_events() as events, connection.cursor() as cursor:
            cursor.execute(
                INSERT.replace("(tenant", "(id, tenant").replace("VALUES (", "VALUES (-1, "),
                [TENANT, AGENT, "copied", "{}"],
            )
        assert types(events) == ["copied"]

    def test_the_blocks_own_error_is_what_is_raised(self) -> None:
        with (
            pytest.raises(ZeroDivisionError),
            transaction.atomic(),
            capture_events(),
        ):
            with connection.cursor() as cursor, pytest.raises(Exception, match="does not exist"):
                cursor.execute("SELECT no_such_column")
            raise ZeroDivisionError  # and not that the broken transaction cannot be read

    def test_batches_are_refused_in_words(self) -> None:
        with pytest.raises(TransactionManagementError, match="TransactionTestCase"):
            sequence()


class WithCommits(TransactionTestCase):
    """Django's `TransactionTestCase`: it commits, and empties every table of its models after."""

    def test_committed_events_get_their_place_and_are_read(self) -> None:
        self.read_three()

    def test_and_again_after_the_tables_were_emptied(self) -> None:
        self.read_three()

    def read_three(self) -> None:
        assert not AgentEvent.objects.exists()
        with capture_events() as events:
            for n in range(3):
                publish(TENANT, AGENT, f"turn.{n}", n)
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                publish(TENANT, AGENT, "never", {})
                raise ZeroDivisionError
            another = connections.create_connection("default")
            with another.cursor() as cursor:  # such as a server in a thread of its own has
                cursor.execute(INSERT, [TENANT, AGENT, "another", "{}"])
            another.close()
        wanted = ["turn.0", "turn.1", "turn.2", "another"]
        assert types(events) == wanted
        assert sequence() == 4
        assert sequence() == 0
        assert Batch.objects.exists()
        with subscribe_sync(TENANT, cursor="earliest") as log:
            assert [next(log).type for _ in wanted] == wanted

    @override_settings(AGENT_EVENTS={"BATCH_LIMIT": 2})
    def test_more_events_than_a_batch_holds(self) -> None:
        before = Batch.objects.count()
        for n in range(5):
            publish(TENANT, AGENT, f"turn.{n}", n)
        assert sequence() == 5
        assert Batch.objects.count() == before + 3

    def test_what_is_in_an_open_transaction_elsewhere_waits(self) -> None:
        another = connections.create_connection("default")
        with transaction.atomic():
            publish(TENANT, AGENT, "here", {})
        try:
            another.set_autocommit(False)
            with another.cursor() as cursor:
                cursor.execute(INSERT, [TENANT, AGENT, "open", "{}"])
            with capture_events() as events:
                assert sequence() == 1
                another.commit()
                assert sequence() == 1
            assert types(events) == ["open"]
        finally:
            another.close()


@pytest.mark.django_db
def test_it_works_with_the_fixtures_of_pytest_django() -> None:
    with capture_events() as events:
        publish(TENANT, AGENT, "message", {"text": "hello"})
    assert [(event.type, event.payload) for event in events] == [("message", {"text": "hello"})]


# The document's examples, for pytest to collect like the classes above.


def pay(order: object) -> None:
    """What they test."""
    publish(TENANT, AGENT, "turn.finished", {"usage": {"output": 142}})
    publish(TENANT, AGENT, "message", {})


_names: dict[str, Any] = {"__name__": __name__, "pay": pay, "order": None, "tenant_id": TENANT}
for _, _example in blocks("# Testing code that publishes", "testing.md"):
    exec(_example, _names)
Checkout, History = _names["Checkout"], _names["History"]
