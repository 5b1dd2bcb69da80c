"""Keys: whatever comes twice is stored once, however and whenever it comes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from agent_events import NewEvent, publish, publish_many
from agent_events.errors import InvalidEvent, KeyReused
from agent_events.models import AgentEvent
from tests.support import Server, make_tenant
from tests.test_posts import client_of, event, key_of, post, rows

AGENT = uuid.uuid4()


@pytest.fixture
def tenant() -> uuid.UUID:
    return uuid.uuid4()


@pytest.mark.django_db(transaction=True)
def test_a_known_key_answers_the_old_id_and_writes_nothing(tenant: uuid.UUID) -> None:
    first = publish(tenant, AGENT, "a", {"n": 1.5}, key="k")
    with transaction.atomic():
        assert publish(tenant, AGENT, "a", {"n": 1.50}, key="k") == first
    assert publish(uuid.uuid4(), AGENT, "a", {"n": 1.5}, key="k") != first  # another tenant's
    assert AgentEvent.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_new_and_known_events_of_a_list_keep_their_places_and_a_key_twice_is_one_event(
    tenant: uuid.UUID,
) -> None:
    old = publish(tenant, AGENT, "a", 1, key="old")
    events = [("z", 3), (None, 0), ("old", 1), ("b", 2), ("z", 3)]
    ids = publish_many([NewEvent(tenant, AGENT, "a", n, key) for key, n in events])
    assert ids[2] == old
    assert ids[0] == ids[4]
    assert ids[0] < ids[1] < ids[3]  # in the order given, not that of the keys
    assert AgentEvent.objects.count() == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("other", [("b", 1), ("a", 2)])
def test_a_key_that_comes_with_another_event_is_refused_and_nothing_is_written(
    tenant: uuid.UUID,
    other: tuple[str, int],
) -> None:
    publish(tenant, AGENT, "a", 1, key="k")
    with pytest.raises(KeyReused, match="Event 1: ") as refused:
        publish_many([NewEvent(tenant, AGENT, "a", 0), NewEvent(tenant, AGENT, *other, "k")])
    assert (refused.value.place, refused.value.field) == (1, "eventKey")
    assert AgentEvent.objects.count() == 1
    AgentEvent.objects.all().delete()  # a pruned event is taken for the same
    publish(tenant, AGENT, *other, key="k")
    assert not AgentEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_djangos_flush_leaves_no_key_of_an_event_that_is_gone(tenant: uuid.UUID) -> None:
    first = publish(tenant, AGENT, "a", 1, key="k")
    call_command("flush", interactive=False, verbosity=0)
    assert publish(tenant, AGENT, "a", 1, key="k") != first
    assert AgentEvent.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00", "\ud800", 7])
def test_what_can_be_no_key_is_refused_in_words(tenant: uuid.UUID, key: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"^Event 0: the key must be"):
        publish(tenant, AGENT, "a", 1, key=key)


def test_two_that_come_at_once_with_one_key_are_one_event_in_two_processes(
    server: Callable[..., Server], dsn: str, connect: Callable[..., Any]
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    key = key_of(dsn, tenant)
    with client_of(server(), key) as one, client_of(server(), key) as two:
        with ThreadPoolExecutor(2) as pool:
            for turn in range(30):
                # In both orders: whoever takes the keys as they come would wait for ever.
                body = [event(eventKey=f"{turn} {n}", payload=n) for n in range(5)]
                answers = [
                    pool.submit(post, one, body),
                    pool.submit(post, two, list(reversed(body))),
                ]
                first, second = (answer.result() for answer in answers)
                assert first.json()["ids"] == list(reversed(second.json()["ids"]))
                assert sorted([first.status_code, second.status_code]) == [200, 201]
        assert len(rows(connect())) == 150
        assert _a_request_repeated(one)


def _a_request_repeated(client: Any) -> bool:
    body = [event(payload=n) for n in range(3)]
    named = {"Idempotency_Key": str(uuid.uuid4())}
    first = post(client, body, **named)
    again = post(client, body, **named)
    assert (first.status_code, again.status_code) == (201, 200), again.text
    assert again.json() == {**first.json(), "duplicates": [0, 1, 2]}
    for other in (body[:2], [*body, event()], [*body[:2], event(payload=9)]):
        answer = post(client, other, **named)
        assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
    return True
