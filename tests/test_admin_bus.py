"""The page of the bus in the admin: who sees it, what it says, and its charts in Chromium."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.test import Client
from playwright.sync_api import Page, Route, expect

from agent_events.admin import bus_figures, bus_history, bus_looks
from agent_events.deliveries import Answer
from agent_events.facts import (
    CommitWaits,
    Counters,
    Head,
    Interval,
    Listener,
    Session,
    Setup,
    Status,
    Waiter,
)
from agent_events.watching import Observation
from project.embedded import EmbeddedPostgres
from tests.support import Server, login, make_user, wait_until
from tests.support.clients import client_of, staff
from tests.support.django_log import django_on
from tests.support.load import Load
from tests.support.streams import insert

Connect = Callable[..., psycopg.Connection[Any]]

BUS = "/admin/agent_events/bus/"
FIGURES = f"{BUS}figures/"
LATE_MS = 30_000


@pytest.fixture
def django(django: None) -> Iterator[None]:
    """Django of this process on `dsn`, without the looks of other tests."""
    bus_looks.forget()
    yield
    bus_looks.forget()


def figures(client: Client, query: str = "") -> dict[str, Any]:
    """What the page is told now, its figures by their names."""
    bus_looks.forget()
    answer = client.get(FIGURES + query)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    told: dict[str, Any] = answer.json()
    return told | {"figures": {name: value for name, value, _ in told["figures"]}}


# Who


def test_who_may_view_the_ledger_sees_the_bus_and_nobody_else(root: Client) -> None:
    ledger, events = staff("ledger", "view_batch"), staff("events", "view_agentevent")
    nobody = client_of(get_user_model().objects.create_user("nobody"))
    for url in (BUS, FIGURES):
        found = [one.get(url).status_code for one in (root, ledger, events, nobody, Client())]
        assert found == [200, 200, 403, 302, 302]
        assert root.post(url).status_code == 405
    link = f'href="{BUS}"'
    linked = [link in one.get("/admin/").content.decode() for one in (root, ledger, events)]
    assert linked == [True, True, False]
    assert root.get(f"{BUS}0/change/").status_code == root.get(f"{BUS}add/").status_code == 404


def test_the_page_has_nothing_inline_and_is_not_stored(root: Client) -> None:
    answer = root.get(BUS)
    page = answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert "<style" not in page
    assert " style=" not in page
    assert '<script type="module" src="/static/agent_events/admin/bus.js">' in page


# What it says


def test_it_says_how_many_events_wait_and_what_is_wrong(root: Client, connect: Connect) -> None:
    database = connect()
    told = figures(root)
    assert told["figures"]["Mode"] == "ringing"
    assert told["figures"]["Behind"] == "0"
    assert told["problems"] == []
    assert told["advice"]
    assert told["tables"] == {"listeners": [], "waiters": [], "writers": []}
    insert(database, str(uuid.uuid4()))
    assert figures(root)["points"]["waiting"] == 1
    database.execute("SELECT agent_events_append()")
    database.execute("ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring")
    writer = connect(autocommit=False)
    insert(writer, str(uuid.uuid4()))
    told = figures(root)
    assert told["points"]["waiting"] == 0
    assert told["figures"]["Head"] == "1"
    (problem,) = told["problems"]
    assert (problem["code"], bool(problem["hint"])) == ("no_trigger", True)
    ((session, _),) = told["tables"]["writers"]
    assert f"pid {writer.info.backend_pid}," in session


def test_rates_are_of_two_looks(root: Client, connect: Connect) -> None:
    figures(root)
    database = connect()
    for _ in range(3):
        insert(database, str(uuid.uuid4()))
        database.execute("SELECT agent_events_append()")
    bus_looks.forget()
    before = bus_looks.latest_look()
    for _ in range(3):
        insert(database, str(uuid.uuid4()))
        database.execute("SELECT agent_events_append()")
    bus_looks._shared._looked_at -= bus_looks.FRESH_S  # as if it were longer ago
    after = bus_looks.latest_look()
    assert before.status.counters is not None
    assert after.status.counters is not None
    assert after.rates is not None
    passed_s = after.status.counters.at_s - before.status.counters.at_s
    assert after.rates.events * passed_s == pytest.approx(3)
    assert after.rates.batches * passed_s == pytest.approx(3)


def test_viewers_share_a_look(
    root: Client, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_looks, "FRESH_S", 600.0)  # the machine may be busy
    figures(root)
    insert(connect(), str(uuid.uuid4()))
    assert root.get(FIGURES).json()["points"]["waiting"] == 0
    assert figures(root)["points"]["waiting"] == 1


def test_what_a_database_that_is_away_means_is_said_without_its_secrets() -> None:
    with django_on(f"postgresql://some_user:s3cret@127.0.0.1:{9}/some_name"):
        bus_looks.forget()
        told = bus_figures.answer(bus_looks.latest_look(), lambda batches: {})
    bus_looks.forget()
    assert [one["code"] for one in told["problems"]] == ["unreachable"]
    assert told["at_ms"] is None
    assert told["figures"] == []
    assert "s3cret" not in str(told)


def test_who_waits_and_who_does_not_answer_is_in_the_tables() -> None:
    leader, mute = (Session(pid, "me", "agent_events bus", "10.0.0.1", None) for pid in (11, 12))
    said = Answer(11, 501, "web-1", 9_000, 7, 8_900, 1, True, False, 3)
    other = Waiter(Session(13, "you", "shop", None, 1.0), "shop", False, 4, 0.25)
    look = Observation(
        Status(
            setup=Setup(180004, False, (), False, (), "O", 1),
            head=Head(9, 90, datetime(2026, 1, 1, tzinfo=UTC), 0.5),
            counters=Counters(9.0, 1),
            sequencer=leader,
            listeners=(leader, mute),
        ),
        Interval(waits=CommitWaits(10, 6, 3, 0.25, (other,), 1, 1.0)),
        None,
        (Listener(leader, said, 2, 0.1), Listener(mute, None)),
    )
    told = bus_figures.answer(look, lambda batches: dict.fromkeys(batches, 8_880))
    one, two = told["tables"]["listeners"]
    assert one[0] == "pid 501 on web-1"
    assert one[2:] == ["7", "2 batches, silent for 100 ms", "3", "closes batches"]
    assert (two[0], two[2:]) == ("does not answer", ["-", "-", "-", "listens"])
    assert told["tables"]["waiters"] == [
        ["pid 13, you, shop, local", "shop", "250 ms", "somebody else's notifications"]
    ]
    assert told["points"]["waiters"] == 3
    assert told["points"]["delay"] == 20
    assert "others notify too" in told["advice"]


# The last ten minutes


def test_the_past_is_the_ledgers(django: None, connect: Connect) -> None:
    database = connect()
    (now,) = database.execute("SELECT clock_timestamp()").fetchone() or ()
    began = now - timedelta(seconds=420)
    rows: list[tuple[int, int, datetime]] = []
    at, total = began, 0
    for n in range(1, 400):
        at += timedelta(milliseconds=1 + (n * 7919) % 2_000)
        total += n % 5 + 1
        if at < now:
            rows.append((n, total, at))
    database.execute("UPDATE agent_event_batches SET closed_at = %s", [began])
    with database.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO agent_event_batches (n, seen, total, closed_at)"
            " SELECT %s, seen, %s, %s FROM agent_event_batches WHERE n = 0",
            rows,
        )
    found = bus_history.course()
    assert len(found) > 40
    assert found[-1].at_ms - found[0].at_ms == 10_000 * (len(found) - 1)
    for moment in found:
        asked = datetime.fromtimestamp(moment.at_ms / 1_000, UTC)
        upto = [(n, events) for n, events, closed in rows if closed <= asked]
        assert (moment.batch, moment.events) == (upto[-1] if upto else (0, 0))
    past = bus_figures.past(found)
    assert len(past["events"]) == len(past["batches"]) == len(found) - 1
    assert sum(rate * 10 for _, rate in past["events"]) == pytest.approx(
        found[-1].events - found[0].events
    )

    # What is pruned is not guessed at.
    oldest = found[20].batch
    database.execute("DELETE FROM agent_event_batches WHERE n < %s", [oldest])
    assert bus_history.course()[0].batch >= oldest


def test_the_past_is_found_by_the_primary_key_whatever_the_statistics_say(
    django: None, connect: Connect
) -> None:
    connect().execute(
        "INSERT INTO agent_event_batches (n, seen, total, closed_at)"
        " SELECT i, seen, i * 10, clock_timestamp() + (i - 50000) * interval '20 ms'"
        "   FROM agent_event_batches, generate_series(1, 50000) AS i WHERE n = 0"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        scans = "SELECT pg_stat_get_xact_numscans('agent_event_batches'::regclass)"
        cursor.execute(scans)
        before = cursor.fetchone()[0]
        assert len(bus_history.course()) == bus_history.POINTS + 1
        cursor.execute(scans)
        assert cursor.fetchone()[0] == before  # no scan of the table
        cursor.execute("SELECT pg_stat_get_xact_numscans('agent_event_batches_pkey'::regclass)")
        assert 100 < cursor.fetchone()[0] < 2_000


# In a browser


@pytest.fixture(scope="module")
def running(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """One server for all tests here, with a superuser, and the DSN of its database."""
    name = f"test_bus_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"'.encode())
        dsn = postgres.dsn(name)
        make_user(dsn, "root", superuser=True)
        server = Server(dsn, tmp_path_factory.mktemp("bus") / "server.log")
        try:
            yield server.start(), dsn
        finally:
            server.stop()
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def bus(running: tuple[Server, str], page: Page) -> Iterator[Page]:
    """The page, opened by the superuser, under a policy that lets nothing inline run."""
    server, _ = running
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if refused(message) else None)
    page.context.add_cookies(
        [
            {"name": name, "value": value, "url": server.url}
            for name, value in login(server, "root").items()
        ]
    )
    page.route(f"**{BUS}", under_a_policy)
    page.goto(server.url + BUS)
    expect(page.locator("#bus-figures div").first).to_be_visible(timeout=LATE_MS)
    yield page
    assert said == []


def refused(message: Any) -> bool:
    return message.type == "error" and "Content Security Policy" in message.text


def under_a_policy(route: Route) -> None:
    answer = route.fetch()
    policy = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:"}
    route.fulfill(response=answer, headers={**answer.headers, **policy})


def points(page: Page, series: str) -> list[tuple[float, float]]:
    """Where the points of a chart's line are, in the pixels of its picture."""
    lines: list[str] = page.eval_on_selector_all(
        f'[data-series="{series}"] .bus-line',
        "lines => lines.map(line => line.getAttribute('points'))",
    )
    pairs = [pair.split(",") for line in lines for pair in line.split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_the_charts_move_under_load_and_the_figures_are_those_of_the_bus(
    bus: Page, running: tuple[Server, str]
) -> None:
    server, dsn = running
    wait_until(lambda: server_is_ready(server), 30, "the process to listen")
    wait_until(lambda: points(bus, "events"), 30, "a point of before the load")
    tenant = str(uuid.uuid4())
    before = len(points(bus, "waiters"))
    with Load(dsn, tenant, writers=2).running() as load:
        load.wait_for_commits(20)
        moved = "[data-series=events] .bus-now"
        expect(bus.locator(moved)).not_to_have_text("0 events/s", timeout=LATE_MS)
        expect(bus.locator(moved)).to_contain_text("events/s")
        wait_until(lambda: len(points(bus, "waiters")) > before + 1, 30, "more points")
        line = points(bus, "events")
        assert line[-1][1] < max(y for _, y in line)  # it rose
        assert [x for x, _ in line] == sorted(x for x, _ in line)
        row = bus.locator("#bus-listeners tbody tr")
        expect(row).to_have_count(1)
        assert server.process is not None
        expect(row.first).to_contain_text(f"pid {server.process.pid} on ")
        expect(row.first).to_contain_text("closes batches")
        expect(bus.locator("[data-series=delay] .bus-now")).to_contain_text(" ms", timeout=LATE_MS)
    label = bus.locator("[data-series=events] svg").get_attribute("aria-label")
    assert label is not None
    assert label.startswith("Events, the last ten minutes, in events/s: now ")
    bus.locator("[data-series=events] summary").click()
    expect(bus.locator("[data-series=events] tbody tr").first).to_be_visible()

    # Loaded again, it has the past at once.
    wait_until(lambda: any(rate for _, rate in past(bus)), 30, "the ledger to tell of it")


def server_is_ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/readyz", timeout=10).json()["status"] == "ready"


def past(page: Page) -> list[tuple[float, float]]:
    told = page.evaluate(f"fetch('{FIGURES}?history=1').then(answer => answer.json())")
    return [(at, rate) for at, rate in told["history"]["events"]]


def test_while_the_tab_is_hidden_nothing_is_asked(bus: Page) -> None:
    show = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    # Counted in the page: of a question from before, the word may come to us later.
    count = """
        const ask = window.fetch;
        window.asked = 0;
        window.fetch = (...what) => (window.asked++, ask(...what));
    """
    bus.evaluate(f"hidden => {{ {count} ({show})(hidden); }}", True)
    bus.wait_for_timeout(2_500)  # longer than it is between two questions
    assert bus.evaluate("window.asked") == 0
    with bus.expect_request(f"**{FIGURES}?history=1", timeout=LATE_MS):
        bus.evaluate(show, False)
    with bus.expect_request(f"**{FIGURES}", timeout=LATE_MS):
        pass


def test_a_server_that_goes_away_is_said_and_forgotten_when_it_is_back(
    bus: Page, running: tuple[Server, str]
) -> None:
    server, _ = running
    server.stop()
    said = bus.locator("#bus-error")
    expect(said).to_contain_text("The site does not answer. The figures are of ", timeout=LATE_MS)
    server.start()
    expect(said).to_be_hidden(timeout=LATE_MS)


def test_it_fits_a_phone(bus: Page) -> None:
    bus.set_viewport_size({"width": 390, "height": 800})
    expect(bus.locator("[data-series=queue] svg")).to_be_visible()
    assert bus.evaluate("document.documentElement.scrollWidth") == 390
    cut = bus.evaluate(
        """[...document.querySelectorAll(".bus-plot text")].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < 0 || box.right > 390;
        }).length"""
    )
    assert cut == 0


def test_the_filters_of_the_events_leave_a_phones_first_screen_to_the_events(
    bus: Page, running: tuple[Server, str]
) -> None:
    server, dsn = running
    with psycopg.connect(dsn, autocommit=True) as database:
        for _ in range(3):
            database.execute(
                "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                " VALUES (gen_random_uuid(), gen_random_uuid(), 'on.a.phone', '{}')"
            )
    events = f"{server.url}/admin/agent_events/agentevent/"
    field, row = bus.get_by_label("Type:"), bus.locator("#result_list tbody tr").first
    bus.set_viewport_size({"width": 390, "height": 800})
    bus.goto(events)
    expect(field).not_to_be_visible()
    expect(row).to_be_in_viewport()
    expect(row.locator(".bus-type")).to_be_in_viewport()
    bus.get_by_text("Filters", exact=True).click()
    field.fill("on.a.*")
    bus.get_by_role("button", name="Show").click()
    expect(row).to_contain_text("on.a.phone")
    expect(field).to_be_visible()  # what filters is not hidden
    wait_until(
        lambda: bus.evaluate("document.documentElement.scrollWidth") == 390, what="a page that fits"
    )
    bus.set_viewport_size({"width": 1440, "height": 800})
    bus.goto(events)
    expect(field).to_be_visible()
    expect(bus.get_by_text("Filters", exact=True)).not_to_be_visible()
