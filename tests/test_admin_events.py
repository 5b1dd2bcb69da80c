"""The admin answers questions about events: what is in a payload, what stands around one; and gives
them away as files."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from agent_events import exporting, history
from agent_events.admin import looks, related
from agent_events.models import Membership, Tenant
from tests.support.clients import staff
from tests.test_admin import (
    AGENT,
    EVENTS,
    ONE,
    OTHER_AGENT,
    TWO,
    close,
    get,
    ids,
    link,
    put,
    text,
)

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]


@pytest.fixture
def database(connect: Connect) -> Connection:
    return connect()


def run(n: int | str, **more: Any) -> str:
    """A payload of a run."""
    return json.dumps({"run_id": n, **more})


# What is in a payload


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ({"where": "tokens > 1000"}, [2, 1]),
        ({"where": "payload.usage.total >= 70\ntokens > 1000"}, [2]),
        ({"where": ["tokens > 1000", "error.type = TimeoutError"]}, [1]),
        ({"where": "error"}, [1]),
        ({"text": "TIMEOUT"}, [1]),
        ({"text": "timeout\nwords"}, []),
        ({"text": '"quoted"'}, [3]),
        ({"where": "tokens > 1000", "type": "a"}, [1]),
        ({"where": "tokens > 5000"}, []),
    ],
)
def test_events_are_found_by_what_is_in_their_payload(
    root: Client, database: Connection, query: dict[str, Any], want: list[int]
) -> None:
    payloads = [
        {"tokens": 1500, "error": {"type": "TimeoutError"}},
        {"tokens": 2000, "usage": {"total": 70}, "words": "many"},
        {"tokens": 10, "said": 'a "quoted" word'},
    ]
    made = [
        put(database, kind=kind, payload=json.dumps(payload))[0]
        for kind, payload in zip("abc", payloads, strict=True)
    ]
    wanted = [made[n - 1] for n in want]
    assert ids(get(root, **query)) == wanted  # while they wait for their batch
    close(database)
    assert ids(get(root, **query)) == wanted
    put(database)
    close(database)
    assert ids(get(root, **query)) == wanted


@pytest.mark.parametrize("field", ["where", "text", "agent", "type"])
def test_an_error_of_a_filter_is_said_beside_its_field(
    root: Client, database: Connection, field: str
) -> None:
    put(database)
    close(database)
    wrong = {"where": "tokens >", "text": "x" * 2_001, "agent": "a\0", "type": "y" * 300}[field]
    page = get(root, **{field: wrong})
    (place,) = re.findall(r'<p class="errors">.*?</p>', page, re.DOTALL)
    assert f'id="id_{field}"' in place
    assert len(text(place)) > 20
    assert ids(page) == []


def test_a_search_in_payloads_ends_after_some_thousands_and_says_so(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_LOOKS", 1)
    (needle,) = put(database, payload=run("needle"))
    close(database)
    for _ in range(12):
        put(database, payload=run("hay"), n=1000)
        close(database)
    url: str | None = f"{EVENTS}?where=run_id+%3D+needle"
    found: list[int] = []
    steps = 0
    while url:
        page = get(root, url)
        found += ids(page)
        steps += 1
        url = link(page, "Look further back")
        assert url is None or "where=run_id" in url
    assert (found, steps > 2) == ([needle], True)


# What stands around one


def tables(page: str) -> dict[str, list[int]]:
    """The events of each table on an event's page, from top to bottom."""
    parts = re.findall(r'<h2 id="bus-related-\d">(.*?)</h2>(.*?)</section>', page, re.DOTALL)
    return {text(title): ids(part) for title, part in parts}


def test_an_event_shows_what_its_agent_did_before_and_after_it_in_the_logs_order(
    root: Client, database: Connection
) -> None:
    made = []
    for n in range(40):
        made += put(database, agent=AGENT, kind=f"k{n}")
        put(database, agent=OTHER_AGENT)
        put(database, TWO, agent=AGENT)
        if n % 3 == 1:
            close(database)
    close(database)
    page = get(root, f"{EVENTS}{made[20]}/change/")
    assert tables(page) == {"This agent around it": made[10:31][::-1]}
    here = re.search(r'<tr class="bus-here" aria-current="true">.*?</tr>', page, re.DOTALL)
    assert here is not None
    assert "k20" in here[0]
    assert "The nearest 10 after it" in text(page)
    more = link(page, "More")
    assert more is not None
    assert ids(get(root, more))[-1] == made[31]
    first = get(root, f"{EVENTS}{made[2]}/change/")
    assert tables(first) == {"This agent around it": made[:13][::-1]}
    assert "All 2 before it that the log has" in text(first)
    assert "None after it" in text(get(root, f"{EVENTS}{made[-1]}/change/"))


@pytest.mark.parametrize("run_id", ["run-17", 'a "quoted" one', "17", 17, 12345678901234567890, ""])
def test_an_event_shows_its_run_whichever_agents_took_part(
    root: Client, database: Connection, run_id: int | str
) -> None:
    (first,) = put(database, payload=run(run_id))
    put(database, payload=run("another"))
    put(database, TWO, payload=run(run_id))
    (second,) = put(database, agent=OTHER_AGENT, payload=run(run_id, more=1))
    put(database, payload=run(17 if run_id == "17" else "17"))  # a number is no text
    put(database, payload='{"deep": {"run_id": 17}}')
    close(database)
    page = get(root, f"{EVENTS}{second}/change/")
    found = {title: ids for title, ids in tables(page).items() if "run" in title}
    assert found == ({f"The run {run_id} around it": [second, first]} if run_id != "" else {})


@pytest.mark.parametrize("payload", ["17", '"run_id"', "[]", "null", '{"run_id": null}',
                                     '{"run_id": {"a": 1}}', '{"run_id": [1]}'])  # fmt: skip
def test_what_is_no_run_is_none(root: Client, database: Connection, payload: str) -> None:
    (event,) = put(database, payload=payload)
    close(database)
    assert list(tables(get(root, f"{EVENTS}{event}/change/"))) == ["This agent around it"]


def test_a_look_around_is_bounded_and_says_how_far_it_came(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(related, "LOOKS", 1)
    (first,) = put(database, payload=run("r"))
    close(database)
    for _ in range(70):
        put(database, n=100)
        close(database)
    (event,) = put(database, payload=run("r"))
    close(database)
    page = get(root, f"{EVENTS}{event}/change/")
    assert tables(page)["The run r around it"] == [event]
    assert re.search(r"0 among the \d[\d,]+ events of the log right before it", text(page))
    url = link(page, "Look further")
    found: list[int] = []
    while url and not found:
        further = get(root, url)
        found += ids(further)
        url = link(further, "Look further back")
    assert found == [first]


def test_an_event_leads_to_the_live_page_of_whoever_may_open_it(
    root: Client, database: Connection
) -> None:
    Tenant.objects.create(id=ONE, name="Harbour")
    (event,) = put(database)
    close(database)
    live = f"/?tenant={ONE}&amp;event={event}"
    member, other = staff("member", "view_agentevent"), staff("other", "view_agentevent")
    user = get_user_model().objects.get(username="member")
    Membership.objects.create(user=user, tenant_id=ONE)
    for client, there in ((root, True), (member, True), (other, False)):
        for url in (EVENTS, f"{EVENTS}{event}/change/"):
            assert (live in get(client, url)) == there


def test_a_payload_is_one_line_of_its_row(root: Client, database: Connection) -> None:
    put(database, payload=json.dumps({"text": "word " * 200}))
    close(database)
    (cell,) = re.findall(r'<td class="bus-payload"><code>(.*?)</code>', get(root))
    assert len(cell) < 400
    assert cell.endswith("…")


# As files


def export(client: Client, url: str = EVENTS, **posted: Any) -> str:
    answer: Any = client.post(url, posted)
    assert answer.status_code == 200, answer.content
    assert answer["Content-Disposition"].startswith('attachment; filename="agent-events-')
    return b"".join(answer.streaming_content).decode()


def numbers(lines: str) -> list[int]:
    return [json.loads(line)["id"] for line in lines.splitlines()]


def test_selected_events_are_exported_in_the_logs_order(
    root: Client, database: Connection, connect: Connect
) -> None:
    late = connect(autocommit=False)
    (one,) = put(late, TWO)
    (two,) = put(database)
    (three,) = put(database)
    close(database)
    late.commit()
    close(database)
    picked: dict[str, Any] = {"_selected_action": [two, one], "select_across": "0"}
    lines = export(root, action="export_jsonl", **picked)
    assert numbers(lines) == [one, two]
    for line in lines.splitlines():
        found = history.one(json.loads(line)["id"], None)
        assert found is not None
        assert line == found.json
    rows = list(
        csv.DictReader(io.StringIO(export(root, action="export_csv", **picked), newline=""))
    )
    assert [int(row["id"]) for row in rows] == [one, two]
    assert three not in numbers(lines)


def test_selected_events_are_read_one_after_another_however_large_they_are(
    root: Client, database: Connection
) -> None:
    large = json.dumps("x" * 700_000)
    made = [put(database, payload=large)[0] for _ in range(5)]
    close(database)
    answer: Any = root.post(EVENTS, {"action": "export_jsonl", "_selected_action": made})
    pieces = list(answer.streaming_content)
    assert [piece.count(b"\n") for piece in pieces] == [2, 2, 1]
    assert numbers(b"".join(pieces).decode()) == made[::-1]


def test_all_that_matches_the_list_is_exported_past_its_page(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "PAGE_EVENTS", 5)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 4)
    Tenant.objects.create(id=ONE, name="Harbour")
    wanted = []
    for n in range(30):
        wanted += put(database, kind="wanted", payload=json.dumps({"n": n}))
        put(database, TWO, kind="wanted")
        put(database, kind="other")
        close(database)
    every = {"action": "export_jsonl", "select_across": "1"}
    query = f"{EVENTS}?tenant=Harbour&type=wanted&where=n+%3E%3D+3"
    assert numbers(export(root, query, **every)) == wanted[3:][::-1]
    older = link(get(root, query), "Older")
    assert older is not None
    assert "All from here back" in text(get(root, older))
    assert numbers(export(root, older, **every)) == wanted[3:25][::-1]
    batch = f"{EVENTS}?batch=7"
    assert numbers(export(root, batch, **every)) == ids(get(root, batch))
    assert len(numbers(export(root, **every))) == 90


def test_an_export_of_all_that_is_cut_short_leads_on(
    root: Client, database: Connection, settings: Any
) -> None:
    settings.AGENT_EVENTS = {**settings.AGENT_EVENTS, "EXPORT_BYTES": 100_000}
    made = put(database, kind="a", n=3_000)
    put(database, kind="b", n=10)
    close(database)
    every = {"action": "export_jsonl", "select_across": "1"}
    url, found = f"{EVENTS}?type=a", list[int]()
    for _ in range(10):
        lines = export(root, url, **every).splitlines()
        told = json.loads(lines[-1]).get("incomplete")
        found += numbers("\n".join(lines[:-1] if told else lines))
        if told is None:
            break
        url = told["next"]
    assert found == made[::-1]


def test_the_actions_are_for_whoever_may_view_events(root: Client, database: Connection) -> None:
    (event,) = put(database)
    close(database)
    viewer, other = staff("viewer", "view_agentevent"), staff("other", "view_batch")
    every = {"action": "export_jsonl", "select_across": "1"}
    assert numbers(export(viewer, **every)) == [event]
    assert 'name="action" value="export_csv"' in get(viewer)
    assert other.post(EVENTS, every).status_code == 403
    assert Client().post(EVENTS, every).status_code == 302
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.get(username="root"))
    assert strict.post(EVENTS, every).status_code == 403


@pytest.mark.parametrize(
    "posted",
    [
        {"action": "export_csv", "select_across": "0"},
        {"action": "export_csv", "select_across": "0", "_selected_action": "x"},
        {"action": "nothing", "select_across": "1"},
        {},
    ],
)
def test_an_action_on_nothing_leads_back_to_the_list(
    root: Client, database: Connection, posted: dict[str, str]
) -> None:
    put(database)
    close(database)
    answer = root.post(f"{EVENTS}?type=x", posted)
    assert (answer.status_code, answer["Location"]) == (302, f"{EVENTS}?type=x")


def test_whoever_may_view_no_longer_gets_no_more(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 2)
    monkeypatch.setattr(exporting, "ASK_AGAIN_SHARE", 0.0)
    put(database, n=10)
    close(database)
    viewer = staff("viewer", "view_agentevent")
    answer: Any = viewer.post(EVENTS, {"action": "export_jsonl", "select_across": "1"})
    pieces = iter(answer.streaming_content)
    body = next(pieces)
    get_user_model().objects.get(username="viewer").user_permissions.clear()
    body += b"".join(pieces)
    lines = body.decode().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["incomplete"]["reason"] == "refused"


def test_what_has_no_place_in_the_log_is_not_exported_and_that_is_said(
    root: Client, database: Connection
) -> None:
    (event,) = put(database)
    page = get(root)
    assert 'name="_selected_action"' not in page
    lines = export(
        root, action="export_jsonl", select_across="0", _selected_action=[event]
    ).splitlines()
    assert json.loads(lines[-1])["incomplete"]["reason"] == "waits"
    assert len(lines) == 1


def test_an_unknown_tenant_is_exported_as_nothing(root: Client, database: Connection) -> None:
    put(database)
    close(database)
    url = f"{EVENTS}?tenant={uuid.uuid4()}"
    assert export(root, url, action="export_jsonl", select_across="1") == ""
