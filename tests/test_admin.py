"""The log and the ledger in the admin: who sees them, in which order, and by bounded looks."""

from __future__ import annotations

import html
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import clear_script_prefix, set_script_prefix
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from agent_events import history
from agent_events.admin import ledger_looks, looks
from agent_events.filters import Filter
from agent_events.models import Membership, Tenant
from project.embedded import EmbeddedPostgres
from tests.support.clients import client_of, staff

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]

EVENTS = "/admin/agent_events/agentevent/"
LEDGER = "/admin/agent_events/batch/"
ONE, TWO = str(uuid.UUID(int=1 << 96)), str(uuid.UUID(int=2 << 96))
AGENT, OTHER_AGENT = str(uuid.UUID(int=0xA << 124)), str(uuid.UUID(int=0xB << 124))
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT %s, %s, %s, %s FROM generate_series(1, %s) RETURNING id
"""


@pytest.fixture
def database(connect: Connect) -> Connection:
    return connect()


def put(
    database: Connection,
    tenant: str = ONE,
    kind: str = "x",
    *,
    agent: str = AGENT,
    payload: str = "{}",
    n: int = 1,
) -> list[int]:
    """Events of one statement; no batch has them yet."""
    rows = database.execute(INSERT, [tenant, agent, kind, payload, n]).fetchall()
    return [id_ for (id_,) in rows]


def close(database: Connection) -> int:
    """Closes a batch; returns its number."""
    row = database.execute("SELECT n FROM agent_events_append()").fetchone()
    assert row is not None
    return int(row[0])


def get(client: Client, url: str = EVENTS, **query: Any) -> str:
    answer = client.get(url, query)
    assert answer.status_code == 200, answer.content
    return str(answer.content.decode())


def ids(page: str) -> list[int]:
    """The events, or batches, of a list, from top to bottom."""
    return [int(id_) for id_ in re.findall(r'<th scope="row"[^>]*><a href="[^"]*/(\d+)/', page)]


def link(page: str, words: str) -> str | None:
    """Where the first link of these words leads."""
    found = re.search(rf'href="([^"]*)">[^<]*{re.escape(words)}', page)
    return html.unescape(found[1]) if found else None


def table(page: str) -> list[list[str]]:
    """The words of each row of a list."""
    body = page.partition('id="result_list"')[2].partition("</table>")[0]
    return [text(row).split() for row in body.split("<tr")[2:]]


def text(page: str) -> str:
    """What a person reads."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def pages(client: Client, url: str, words: str) -> Iterator[str]:
    """The page, and those that its links of these words lead to."""
    next_url: str | None = url
    while next_url:
        page = get(client, next_url)
        yield page
        next_url = link(page, words)


# Who


def test_superusers_and_staff_with_the_view_permission_see_it_and_nobody_else(
    root: Client, database: Connection
) -> None:
    (event,) = put(database)
    batch = close(database)
    both = staff("both", "view_agentevent", "view_batch")
    neither = staff("neither", "view_tenant")
    nobody = client_of(get_user_model().objects.create_user("nobody"))
    for url in (EVENTS, f"{EVENTS}{event}/change/", LEDGER, f"{LEDGER}{batch}/change/"):
        assert [client.get(url).status_code for client in (root, both, neither)] == [200, 200, 403]
        assert [client.get(url).status_code for client in (nobody, Client())] == [302, 302]


def test_each_of_the_two_is_linked_only_for_who_may_see_it(
    django: None, database: Connection
) -> None:
    (event,) = put(database)
    batch = close(database)
    events, ledger = staff("events", "view_agentevent"), staff("ledger", "view_batch")
    for url in (EVENTS, f"{EVENTS}{event}/change/"):
        assert LEDGER not in get(events, url)
    for url in (LEDGER, f"{LEDGER}{batch}/change/"):
        assert EVENTS not in get(ledger, url)


def test_nothing_can_be_added_changed_or_deleted(root: Client, database: Connection) -> None:
    (event,) = put(database, kind="before")
    batch = close(database)
    for base, pk in ((EVENTS, event), (LEDGER, batch)):
        deleted = root.post(base, {"action": "delete_selected", "_selected_action": [pk]})
        assert deleted.status_code == (302 if base == EVENTS else 405)
        assert root.get(f"{base}add/").status_code == 403
        change = root.post(f"{base}{pk}/change/", {"event_type": "after", "total": "7"})
        assert change.status_code == 403
        assert root.post(f"{base}{pk}/delete/", {"post": "yes"}).status_code == 403
        assert 'name="_save"' not in get(root, f"{base}{pk}/change/")
    rows = database.execute("SELECT event_type, total FROM agent_events, agent_event_batches")
    assert sorted(rows.fetchall()) == [("before", 0), ("before", 1)]


def test_djangos_flush_leaves_the_ledger_alone(django: None, database: Connection) -> None:
    put(database)
    close(database)
    call_command("flush", interactive=False, verbosity=0)
    rows = database.execute("SELECT n FROM agent_event_batches ORDER BY n").fetchall()
    assert rows == [(0,), (1,)]


# The events


def test_events_stand_in_the_ledgers_order_with_their_batch(
    root: Client, database: Connection, connect: Connect
) -> None:
    late = connect(autocommit=False)
    (one,) = put(late)
    (two,) = put(database)
    assert close(database) == 1
    late.commit()
    assert close(database) == 2
    page = get(root)
    assert ids(page) == [one, two]  # the lower id came later
    assert re.findall(rf'href="{LEDGER}(\d+)/change/', page) == ["2", "1"]


def test_an_event_without_a_batch_is_shown_on_top_and_said_to_wait(
    root: Client, database: Connection
) -> None:
    (first,) = put(database)
    close(database)
    assert "waits" not in text(get(root))
    (second,) = put(database)
    (other,) = put(database, TWO)
    page = get(root)
    assert ids(page) == [other, second, first]
    assert page.count("<em>waits</em></td>") == 2
    assert ids(get(root, tenant=ONE)) == [second, first]
    assert ids(get(root, type="y")) == []
    detail = get(root, f"{EVENTS}{second}/change/")
    assert "None yet" in text(detail)
    close(database)
    assert "waits" not in text(get(root))


def test_paging_by_cursor_shows_every_event_once_both_ways(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "PAGE_EVENTS", 7)
    for n in range(1, 12):
        put(database, ONE if n % 3 else TWO, n=n)
        close(database)
    for query, want in (("", "true"), (f"?tenant={ONE}", f"tenant_id = '{ONE}'")):
        rows = database.execute(
            f"SELECT id FROM agent_events_read(NULL, 1, 0, 1000) WHERE {want} ORDER BY batch, id"
        )
        order = [id_ for (id_,) in rows.fetchall()][::-1]
        down = list(pages(root, EVENTS + query, "Older"))
        assert [i for page in down for i in ids(page)] == order
        assert all(len(ids(page)) == 7 for page in down[:-1])
        up = link(down[-1], "Newer")
        assert up is not None
        climbed = list(pages(root, up, "Newer"))
        assert [i for page in climbed[::-1] for i in ids(page)] == order[: -len(ids(down[-1]))]
        assert link(down[-1], "Newest") == EVENTS + query
        assert link(down[0], "Newer") is None


def test_filters_by_tenant_agent_and_type(root: Client, database: Connection) -> None:
    Tenant.objects.create(id=TWO, name="Harbour")
    (a,) = put(database, ONE, "tool.started")
    (b,) = put(database, TWO, "error", agent=OTHER_AGENT)
    (c,) = put(database, TWO, "tool.failed")
    close(database)
    for query, want in (
        ({"tenant": ONE}, [a]),
        ({"tenant": TWO}, [c, b]),
        ({"tenant": "Harbour"}, [c, b]),
        ({"tenant": str(uuid.uuid4())}, []),
        ({"agent": "b0*"}, [b]),
        ({"agent": AGENT}, [c, a]),
        ({"type": "tool.*"}, [c, a]),
        ({"type": "error, tool.failed", "tenant": TWO, "agent": AGENT}, [c]),
        ({"type": "absent"}, []),
    ):
        page = get(root, **query)
        assert ids(page) == want, query
        assert ("No event of the log matches" in page) == (not want)


def test_time_is_when_the_batch_was_closed_and_a_batch_is_a_filter_too(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "PAGE_EVENTS", 3)
    made = []
    for n in range(1, 21):
        made += [put(database, n=2)]
        assert close(database) == n
    # A day for each batch; created_at says nothing of it.
    database.execute(
        "UPDATE agent_event_batches SET closed_at = '2026-03-01T12:00Z'::timestamptz"
        " + n * interval '1 day'"
    )

    def found(**query: str) -> list[int]:
        url = f"{EVENTS}?{'&'.join(f'{name}={value}' for name, value in query.items())}"
        return [i for page in pages(root, url, "Older") for i in ids(page)]

    def want(*batches: int) -> list[int]:
        return [i for n in batches for i in made[n - 1][::-1]]

    # Batch n was closed on March 1 + n at noon.
    assert found(since="2026-03-16T12:00:01") == want(20, 19, 18, 17, 16)
    assert found(since="2026-03-16T12:00:00", until="2026-03-19T12:00:00") == want(17, 16, 15)
    assert found(until="2026-03-04T00:00") == want(2, 1)
    assert found(since="2030-01-01T00:00") == found(until="2000-01-01T00:00") == []
    assert found(since="2000-01-01T00:00") == found() == want(*range(20, 0, -1))
    assert found(batch="7") == want(7)
    assert found(batch="7000") == []
    for query in ({"batch": 7}, {"since": "2026-03-20T12:00:01"}):
        assert link(get(root, **query), "Older") is None  # it stops where the span ends
    assert found(batch="7", since="2026-03-08T00:00") == want(7)
    assert found(batch="7", until="2026-03-08T00:00") == []
    assert found(since="2026-03-08T00:00", until="2026-03-10T00:00", type="x") == want(8, 7)


def test_a_search_by_agent_or_type_ends_after_some_thousands_and_says_so(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_LOOKS", 1)
    (needle,) = put(database, kind="needle")
    close(database)
    for _ in range(12):
        put(database, kind="hay", n=1000)
        close(database)
    steps = list(pages(root, f"{EVENTS}?type=needle", "Look further back"))
    assert [ids(page) for page in steps] == [[]] * (len(steps) - 1) + [[needle]]
    assert len(steps) > 2
    said = [re.search(r"Looked through (the newest )?([\d,]+) events", text(p)) for p in steps]
    assert said[-1] is None
    first, second = said[:2]
    assert first is not None
    assert second is not None
    assert first[1]
    assert 3_000 < int(first[2].replace(",", "")) < 9_000
    assert not second[1]
    assert "Looked through" not in get(root)
    assert "Looked through" not in get(root, tenant=TWO)


def test_an_address_of_another_history_or_of_what_is_pruned_says_so(
    root: Client, database: Connection
) -> None:
    put(database)
    close(database)
    put(database)
    close(database)
    cursor = str(history.start_of(2))
    database.execute("SELECT agent_events_prune(now() + interval '1 hour')")
    (third,) = put(database)
    close(database)
    assert "is pruned" in text(get(root, after=str(history.start_of(1))))
    page = get(root, after=f"{cursor[:12]}f{cursor[13:]}".replace(cursor[:12], "0" * 11 + "9", 1))
    assert "no cursor" in text(page)
    page = get(root, before=f"{'0' * 11}9-{'0' * 16}-1a2b3c")
    assert "another history" in text(page)
    assert ids(get(root)) == [third]


def test_what_is_mistyped_is_said_and_not_looked_for(root: Client, database: Connection) -> None:
    put(database)
    close(database)
    for query, says in (
        ({"tenant": "nobody's"}, "No tenant has this name"),
        ({"since": "yesterday"}, "Enter a valid date/time"),
        ({"batch": "x"}, "Enter a whole number"),
        ({"batch": 2**70}, "less than or equal to"),
        ({"id": 4711}, "There is no event 4711"),
        ({"type": "x" * 300}, "200 characters"),
        ({"tenant": "a\x00"}, "Null characters are not allowed"),
        ({"before": "zzz"}, "no cursor"),
    ):
        page = get(root, **query)
        assert says in text(page), query
        assert ids(page) == []
    for query in ({"before": "x"}, {"batch": "x"}, {"until": "x"}):
        assert ids(get(root, LEDGER, **query)) == []


def test_an_event_is_found_by_its_id(root: Client, database: Connection) -> None:
    (event,) = put(database)
    answer = root.get(EVENTS, {"id": event})
    assert (answer.status_code, answer["Location"]) == (302, f"{EVENTS}{event}/change/")


def test_an_emptied_ledger_is_said_in_place_of_the_list(root: Client, database: Connection) -> None:
    put(database)
    database.execute("DELETE FROM agent_event_batches")
    said = text(get(root))
    assert "the ledger (agent_event_batches) is empty. manage.py mend_events" in said
    assert "CONTEXT" not in said
    assert "no row there" in text(get(root, LEDGER))


# One event


def test_an_event_tells_its_batch_its_cursor_and_its_payload_as_it_was_written(
    root: Client, database: Connection
) -> None:
    put(database)
    close(database)
    before = put(database, agent=OTHER_AGENT)
    (event,) = put(database, kind="<b>bold", payload='{"text":"<script>","n":12345678901234567890}')
    (after,) = put(database)
    batch = close(database)
    page = get(root, f"{EVENTS}{event}/change/")
    assert re.search(rf"Batch: {batch} \(20\d\d-", text(page))
    assert "12345678901234567890" in page
    assert "<script>&quot;" not in page
    assert "<b>bold" not in page
    cursor = re.search(r"<code>([0-9a-f-]+)</code>", page)
    assert cursor is not None
    rest = history.read(None, Filter(), cursor[1], newest_first=False, limit=9)
    assert [e.id for e in rest.events] == [after]

    around, tenant, agent = (
        link(page, words) for words in ("Around it", "This tenant around it", "This agent")
    )
    assert around
    assert tenant
    assert agent
    assert ids(get(root, around)) == [after, event, *before, 1]
    assert ids(get(root, tenant)) == [after, event, *before, 1]
    assert ids(get(root, agent)) == [after, event, 1]
    batch_link = link(page, "Its batch")
    assert batch_link == f"{LEDGER}{batch}/change/"
    its_events = link(get(root, batch_link), "Its events")
    assert its_events
    assert ids(get(root, its_events)) == [after, event, *before]


def test_any_time_that_a_producer_wrote_can_be_shown(root: Client, database: Connection) -> None:
    for time in ("infinity", "-infinity", "20000-01-01", "0044-03-15 BC"):
        (event,) = put(database)
        database.execute("UPDATE agent_events SET created_at = %s WHERE id = %s", [time, event])
        assert event in ids(get(root))
        assert time.split("-01")[0].split(" ")[0] in get(root, f"{EVENTS}{event}/change/")
    close(database)
    assert len(ids(get(root))) == 4


def test_an_event_that_was_pruned_from_the_order_says_so(
    root: Client, database: Connection
) -> None:
    events = put(database, n=3)
    close(database)
    put(database)
    close(database)
    # A large batch goes from readers at once, and from the table in steps.
    database.execute("SELECT agent_events_prune(now() + interval '1 hour', 1)")
    left = database.execute("SELECT id FROM agent_events WHERE id = ANY (%s)", [events]).fetchall()
    page = get(root, f"{EVENTS}{left[0][0]}/change/")
    assert "its batch was pruned" in text(page)
    assert "Around it" not in page


def test_an_event_that_does_not_exist_leads_back_to_the_index(root: Client) -> None:
    for wanted in ("4711", str(2**70), "x"):
        assert root.get(f"{EVENTS}{wanted}/change/").status_code == 302


# The ledger


def test_the_ledger_shows_batches_their_events_and_the_transactions_open_then(
    root: Client, database: Connection, connect: Connect
) -> None:
    held = [connect(autocommit=False) for _ in range(2)]
    for one in held:
        put(one)
    put(database, n=5)
    close(database)
    held[0].commit()
    close(database)
    held[1].rollback()
    page = get(root, LEDGER)
    # (A rest of the tag,) n, date, time, events, open, total, and the rest.
    assert [(row[1], *row[4:7]) for row in table(page)] == [
        ("2", "1", "1", "6"),
        ("1", "5", "2", "5"),
        ("0", "0", "0", "0"),
    ]
    assert ids(get(root, f"{EVENTS}?batch=1")) == [7, 6, 5, 4, 3]
    assert link(page, "its events") == f"{EVENTS}?batch=2"
    detail = text(get(root, f"{LEDGER}1/change/"))
    assert "Events: 5" in detail
    assert "Transactions open then: 2" in detail


def test_the_ledger_is_paged_by_number_and_found_by_number_and_time(
    root: Client, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_looks, "PAGE_BATCHES", 4)
    for _ in range(10):
        put(database)
        close(database)
    down = list(pages(root, LEDGER, "Older"))
    assert [n for page in down for n in ids(page)] == list(range(10, -1, -1))
    up = link(down[-1], "Newer")
    assert up is not None
    climbed = list(pages(root, up, "Newer"))
    assert [n for page in climbed[::-1] for n in ids(page)] == list(range(10, 2, -1))
    assert link(down[0], "Newer") is None
    assert ids(get(root, LEDGER, batch=5)) == [5, 4, 3, 2]
    database.execute(
        "UPDATE agent_event_batches SET closed_at = '2026-03-01T12:00Z'::timestamptz"
        " + n * interval '1 day'"
    )
    assert ids(get(root, LEDGER, until="2026-03-08T12:00")) == [6, 5, 4, 3]


def test_what_was_pruned_is_said_in_the_ledger_and_a_gap_is_no_number(
    root: Client, database: Connection
) -> None:
    for _ in range(4):
        put(database, n=2)
        close(database)
    database.execute(
        "UPDATE agent_event_batches SET closed_at = closed_at - interval '3 hours'"
        " + n * interval '1 s' WHERE n < 4"
    )
    database.execute("SELECT agent_events_prune(now() - interval '1 hour')")
    page = get(root, LEDGER)
    rows = {int(row[1]): row for row in table(page)}
    assert sorted(rows) == [3, 4]
    assert rows[3][4:5] + rows[3][-1:] == ["-", "pruned"]
    assert rows[4][4] == "2"
    assert "its events" in text(page)
    assert link(get(root, f"{LEDGER}3/change/"), "Its events") is None
    assert "Not known" in get(root, f"{LEDGER}3/change/")


# What every page keeps to


def every_page(database: Connection) -> list[str]:
    put(database, n=120)
    batch = close(database)
    (event,) = put(database)
    close(database)
    put(database)
    return [
        EVENTS,
        f"{EVENTS}?tenant={ONE}&type=x&agent={AGENT[:4]}*",
        f"{EVENTS}?since=2020-01-01T00:00&until=2100-01-01T00:00",
        f"{EVENTS}?batch={batch}",
        f"{EVENTS}?around={history.start_of(2)}",
        f"{EVENTS}{event}/change/",
        LEDGER,
        f"{LEDGER}?until=2100-01-01T00:00",
        f"{LEDGER}{batch}/change/",
    ]


def test_no_page_counts_skips_or_looks_for_what_is_distinct(
    root: Client, database: Connection
) -> None:
    for url in every_page(database):
        with CaptureQueriesContext(connection) as queries:
            get(root, url)
        asked = [q["sql"] for q in queries if "agent_event" in q["sql"]]
        assert asked, url
        for sql in asked:
            assert not re.search(r"\bcount\(|\bDISTINCT\b|\bOFFSET\b", sql, re.I), sql


def test_no_page_has_anything_inline_and_none_is_stored(root: Client, database: Connection) -> None:
    put(database, kind="<script>alert(1)</script>", payload='"<img src=x onerror=alert(1)>"')
    for url in every_page(database):
        page = get(root, url)
        assert re.findall(r"<style|\sstyle=|\son\w+=\"", page) == [], url
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), url
        assert "<img src=x" not in page
        assert "no-store" in root.get(url)["Cache-Control"]


def test_every_link_keeps_the_prefix_of_the_site(root: Client, database: Connection) -> None:
    for url in every_page(database):
        set_script_prefix("/behind/here/")
        try:
            page = get(root, url)
        finally:
            clear_script_prefix()
        paths = set(re.findall(r'(?:href|action)="(/[^"]*agent_events[^"]*)"', page))
        assert any(LEDGER in path for path in paths)
        astray = [p for p in paths if not p.startswith(("/behind/here/", "/static/"))]
        assert astray == [], url


def test_the_log_is_shown_from_its_own_database(
    root: Client,
    database: Connection,
    settings: Any,
    postgres: EmbeddedPostgres,
    template_database: str,
) -> None:
    (here,) = put(database, kind="in.default")
    close(database)
    name = f"bus_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(
                Identifier(name), Identifier(template_database)
            )
        )
        parts = conninfo_to_dict(postgres.dsn(name))
        connections.settings["bus"] = {  # type: ignore[attr-defined]
            **connections["default"].settings_dict,
            "NAME": parts["dbname"],
        }
        settings.AGENT_EVENTS = {"DATABASE": "bus"}
        try:
            with psycopg.connect(postgres.dsn(name), autocommit=True) as bus:
                put(bus, n=4)
                batch = close(bus)
                (there,) = put(bus, kind="in.bus")
                close(bus)
            assert here != there
            for url in (EVENTS, f"{EVENTS}?type=in.*", f"{EVENTS}{there}/change/"):
                page = get(root, url)
                assert "in.bus" in page
                assert "in.default" not in page
            assert "Events: 4" in text(get(root, f"{LEDGER}{batch}/change/"))
            assert ids(get(root, LEDGER)) == [2, 1, 0]
            # Tenants are where the users are.
            Tenant.objects.create(id=ONE, name="Harbour")
            assert "Harbour" in get(root)
            assert ids(get(root, tenant="Harbour")) == [5, 4, 3, 2, 1]
            assert "Harbour" in get(root, f"{EVENTS}{there}/change/")
        finally:
            connections["bus"].close()
            del connections["bus"]
            del connections.settings["bus"]  # type: ignore[attr-defined]
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def test_tenants_and_their_members_are_kept_here(root: Client) -> None:
    user = get_user_model().objects.create_user("mara")
    answer = root.post(
        "/admin/agent_events/tenant/add/",
        {
            "name": "Harbour Support",
            "membership_set-TOTAL_FORMS": "1",
            "membership_set-INITIAL_FORMS": "0",
            "membership_set-0-user": str(user.pk),
        },
    )
    assert answer.status_code == 302, answer.content.decode()
    assert Membership.objects.get().tenant.name == "Harbour Support"
