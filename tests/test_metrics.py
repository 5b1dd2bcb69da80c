"""`/metrics`: what Prometheus is told is well-formed, true, and there whatever hangs."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from agent_events import metrics, metrics_door, subscribe
from agent_events.conf import get_settings
from agent_events.database import BUS_APPLICATION
from agent_events.facts import Status
from agent_events.tasks import SharedLook
from agent_events.watching import Observation
from agent_events.window import Window
from project.embedded import EmbeddedPostgres
from tests.support import Server, free_port, login, make_tenant, make_user, wait_until
from tests.support.database import ROOT
from tests.support.django_log import django_on
from tests.support.keys import make_key
from tests.support.streams import event_stream, insert, websocket

Connect = Callable[..., psycopg.Connection[Any]]
Values = dict[str, float]

TOKEN = "a-token-of-the-tests"
# Prometheus knows an address, and no name.
SCRAPE = {"Host": "10.1.2.3:8080", "Authorization": f"Bearer {TOKEN}"}
LABELS = {"door", "code", "part", "le"}
PAGE = (ROOT / "docs" / "metrics.md").read_text()
WITHOUT_LIMIT_S = 4.5  # so long it would take at least: connections are waited for for 5 s


def scrape(server: Server, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/metrics", headers={**SCRAPE, **headers}, timeout=10)


def values(server: Server) -> Values:
    """All samples of ours, as `name` or `name{label,label}`, without the common beginning."""
    got = scrape(server)
    assert got.status_code == 200
    return {
        sample.name.removeprefix("agent_events_")
        + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
        for family in ours(got.text)
        for sample in family.samples
    }


def ours(text: str) -> list[Metric]:
    found = [one for one in families(text) if one.name.startswith("agent_events_")]
    return [one for one in found if not one.name.endswith("_created")]


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """The servers of this module know TOKEN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENT_EVENTS_METRICS_TOKEN", TOKEN)
        yield


@pytest.fixture
def tenant(dsn: str) -> str:
    made = make_tenant(dsn, "Harbour Support")
    make_user(dsn, "ann", tenants=[made])
    return made


@pytest.fixture(scope="module")
def idle(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server on a database of its own, which nobody asks for anything else."""
    name = f"test_metrics_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"'.encode())
        running = Server(postgres.dsn(name), tmp_path_factory.mktemp("metrics") / "server.log")
        try:
            yield running.start()
        finally:
            running.stop()
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


# What it says


def test_what_is_scraped_is_well_formed_and_named_by_the_conventions(idle: Server) -> None:
    got = scrape(idle)
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert got.headers["cache-control"] == "no-store"
    found = ours(got.text)
    assert len(found) > 25
    for family in found:
        assert family.documentation.endswith((".", "?")), family.name
        assert {label for one in family.samples for label in one.labels} <= LABELS, family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        elif family.type == "histogram":
            assert family.name.endswith("_seconds")
            bounds = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
            assert (bounds[0], bounds[-2:]) == ("0.001", ["10.0", "+Inf"])
        else:
            assert family.type == "gauge"
            assert not family.name.endswith("_total")
    names = {family.name for family in families(got.text)}
    assert {"process_resident_memory_bytes", "python_info"} <= names


def test_openmetrics_is_spoken_to_whoever_asks_for_it(idle: Server) -> None:
    got = scrape(idle, Accept="application/openmetrics-text; version=1.0.0")
    assert got.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert got.text.endswith("# EOF\n")
    by_name = {family.name: family for family in open_families(got.text)}
    assert by_name["agent_events_append_duration_seconds"].unit == "seconds"


def test_every_metric_has_its_line_in_the_docs_and_no_other(idle: Server) -> None:
    told = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in ours(scrape(idle).text)
    }
    rows = re.findall(r"^\| `(agent_events_\w+)(?:\{[\w,]+\})?` \| (\w+) \|", PAGE, re.M)
    assert {name for name, _ in rows} == told
    used = set(re.findall(r"\bagent_events_\w+", PAGE.partition("## Questions")[2]))
    suffixed = {
        f"{name}{end}" for name, kind in rows if kind == "histogram" for end in ("_bucket",)
    }
    assert used <= told | suffixed


def test_nothing_in_it_names_a_tenant_a_user_a_host_or_a_secret(
    dsn: str, tenant: str, server: Callable[..., Server], connect: Connect
) -> None:
    running, producer = server(), connect()
    agent = str(uuid.uuid4())
    with event_stream(running, login(running, "ann")) as stream:
        assert any(name == "live" for name, _ in stream.messages())
        insert(producer, tenant, agent=agent, kind="secret_kind")
        assert len(stream.events(1)) == 1
        producer.execute("ALTER TABLE agent_events DISABLE TRIGGER agent_events_ring")
        text = wait_until(
            lambda: got if "no_trigger" in (got := scrape(running).text) else "",
            what="the problem to be told",
        )
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    names = (tenant, agent, "Harbour", "ann", "secret_kind", "127.0.0.1", socket.gethostname())
    secrets = (parts["password"], parts["dbname"])
    assert [word for word in (*names, *secrets) if f'"{word}"' in text or f"{word}:" in text] == []
    assert tenant not in text
    assert str(parts["password"]) not in text


# It counts


async def test_counters_move_by_exactly_what_was_inserted_and_delivered(
    dsn: str, tenant: str, server: Callable[..., Server], connect: Connect
) -> None:
    running, producer = server(), connect()
    cookies = login(running, "ann")
    begun = values(running)
    async with websocket(running, cookies) as client:
        await client.until("live")
        before = values(running)
        assert before["subscribers{websocket}"] == 1
        assert before["streams_opened_total{websocket}"] == 1
        for _ in range(5):
            insert(producer, tenant)
        assert len(await client.events(5)) == 5
        insert(producer, str(uuid.uuid4()))  # nobody here watches that
        producer.execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " SELECT %s, gen_random_uuid(), 'x', '{}' FROM generate_series(1, 20)",
            [tenant],
        )
        # (However slow the server is, these are two windows at least.)
        assert len(await client.events(20)) == 20
        after = values(running)
        producer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            [BUS_APPLICATION],
        )
        again = wait_until(
            lambda: got if (got := values(running))["source_connections_total"] == 2 else None,
            what="another connection",
        )
        assert again["source_failures_total"] >= 1
        assert after["source_failures_total"] == 0
    moved = {name: after[name] - before[name] for name in after if name in before}
    assert moved["events_delivered_total{websocket}"] == 25
    assert moved["window_events_total"] == 25
    assert moved["events_closed_total"] == 26
    assert moved["events_delivered_total{sse}"] == 0
    assert moved["doorbells_total"] >= 2
    assert 2 <= moved["windows_total"] <= moved["batches_closed_total"] <= 7
    assert moved["batches_told_total"] <= moved["batches_closed_total"]  # nobody else listens
    assert moved["append_duration_seconds_count"] >= moved["batches_closed_total"]
    assert moved["handover_delay_seconds_count"] == moved["windows_total"]
    assert 1 <= moved["event_delay_seconds_count"] <= moved["windows_total"]
    assert after["event_delay_seconds_sum"] < 10
    row = producer.execute("SELECT batch FROM agent_events_head()").fetchone()
    assert row is not None
    assert after["last_batch"] == row[0]
    assert math.isnan(begun["last_batch"])
    assert (begun["source_connected"], begun["leads"]) == (0, 0)
    assert (after["source_connected"], after["source_hears"], after["leads"]) == (1, 1, 1)
    assert after["source_connections_total"] == 1
    wait_until(lambda: values(running)["subscribers{websocket}"] == 0, what="it to leave")


def test_a_stream_that_catches_up_is_counted_with_its_reads(
    tenant: str, server: Callable[..., Server], connect: Connect
) -> None:
    running, producer = server(), connect()
    for _ in range(3):
        insert(producer, tenant)
    with event_stream(running, login(running, "ann"), "cursor=earliest") as stream:
        assert len(stream.events(3)) == 3
        found = values(running)
        assert found["events_delivered_total{sse}"] == 3
        assert found["subscribers{sse}"] == found["streams_opened_total{sse}"] == 1
        assert found["log_reads_total"] >= 1


@pytest.fixture
def log_here(dsn: str) -> Iterator[None]:
    """The log of this process is the test's, and its subscribers' queues are short."""
    with django_on(dsn), override_settings(AGENT_EVENTS={"QUEUE_EVENTS": 5}):
        yield


async def test_a_subscription_in_python_is_a_door_and_a_full_queue_is_counted(
    log_here: None, connect: Connect
) -> None:
    def moved() -> dict[str, float]:
        names = ("events_delivered_total", "streams_opened_total", "subscribers")
        found = {
            name: metrics.OURS.get_sample_value(f"agent_events_{name}", {"door": "python"})
            for name in names
        }
        found["overflows"] = metrics.OURS.get_sample_value("agent_events_queue_overflows_total")
        return {name: (value or 0) - before.get(name, 0) for name, value in found.items()}

    before: dict[str, float] = {}
    before = moved()
    tenant = str(uuid.uuid4())
    async with subscribe(tenant) as events:
        insert(connect(), tenant)
        assert (await anext(events)).tenant_id == tenant
        told = {"events_delivered_total": 1, "streams_opened_total": 1, "subscribers": 1}
        assert moved() == told | {"overflows": 0}
        connect().execute(
            "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
            " SELECT %s, gen_random_uuid(), 'x', '{}' FROM generate_series(1, 10)",
            [tenant],
        )
        async with asyncio.timeout(10):
            while not moved()["overflows"]:
                await asyncio.sleep(0.01)
            for _ in range(10):
                await anext(events)
        assert moved() == told | {"events_delivered_total": 11, "overflows": 1}
    assert moved()["subscribers"] == 0


def test_the_database_is_told_of_and_a_scrape_starts_nothing(
    tenant: str, server: Callable[..., Server], connect: Connect
) -> None:
    running, producer = server(), connect()
    for _ in range(3):
        insert(producer, tenant)
    waiting = wait_until(
        lambda: got if (got := values(running))["waiting_events"] == 3 else None,
        what="the events that wait",
    )
    assert waiting["database_up"] == 1
    assert (waiting["sequencers"], waiting["listeners"]) == (0, 0)
    producer.execute("SELECT agent_events_append()")
    closed = wait_until(
        lambda: got if (got := values(running))["ledger_events_total"] == 3 else None,
        what="the batch to be told",
    )
    assert closed["ledger_batches_total"] == 1
    assert closed["waiting_events"] == 0
    assert closed["commits_total"] > 0
    assert closed["log_bytes"] > 0
    assert (closed["source_connected"], closed["listeners"]) == (0, 0)


# Whatever hangs, and whoever asks


def test_it_is_answered_while_the_database_is_away_or_hangs(
    tmp_path: Path, server: Callable[..., Server]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1], free_port()):
            running = server(
                env={"DATABASE_URL": f"postgresql://some_user:s3cret@127.0.0.1:{port}/some_name"}
            )
            began = time.monotonic()
            found = values(running)
            assert time.monotonic() - began < WITHOUT_LIMIT_S
            assert found["database_up"] == 0
            assert found["events_closed_total"] == 0
            assert "ledger_batches_total" not in found
            assert "s3cret" not in scrape(running).text + running.log()
            running.stop()


def test_get_and_head_and_nothing_else(idle: Server) -> None:
    head = httpx.head(f"{idle.url}/metrics", headers=SCRAPE)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 1_000
    posted = httpx.post(f"{idle.url}/metrics", headers=SCRAPE)
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


def test_with_a_token_nobody_else_is_told_anything(
    tmp_path: Path, server: Callable[..., Server]
) -> None:
    (tmp_path / "with_token.py").write_text(
        "from project.settings import *\nAGENT_EVENTS = {'METRICS_TOKEN': 'öpen-sesame'}\n"
    )
    running = server(
        env={"DJANGO_SETTINGS_MODULE": "with_token", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    right = "öpen-sesame".encode()
    for given in (
        b"",
        b"Bearer",
        b"Bearer wrong",
        b"Basic " + right,
        right,
        b"Bearer " + right[:-1],
    ):
        refused = httpx.get(f"{running.url}/metrics", headers={b"Authorization": given})
        assert refused.status_code == 401, given
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "agent_events_" not in refused.text
        assert "sesame" not in refused.text
    given = b"Bearer " + right
    assert httpx.get(f"{running.url}/metrics", headers={b"Authorization": given}).status_code == 200
    assert "sesame" not in running.log()


def test_without_a_token_superusers_alone_may_see_it(
    dsn: str, tenant: str, server: Callable[..., Server]
) -> None:
    running = server(env={"AGENT_EVENTS_METRICS_TOKEN": ""})
    make_user(dsn, "root", superuser=True)
    url = f"{running.url}/metrics"
    for given in ("", "Bearer", "Basic", f"Bearer {TOKEN}"):
        refused = httpx.get(url, headers={"Authorization": given})
        assert (refused.status_code, refused.headers["retry-after"]) == (401, "5"), given
        assert "METRICS_TOKEN" in refused.json()["detail"]
    ann = httpx.get(url, cookies=login(running, "ann"))
    assert ann.status_code == 403
    assert "'operate'" in ann.json()["detail"]
    key = httpx.get(url, headers={"Authorization": f"Bearer {make_key(dsn, tenant)}"})
    assert key.status_code == 403
    root = httpx.get(url, cookies=login(running, "root"))
    assert root.status_code == 200
    assert "agent_events_database_up 1.0" in root.text


def test_who_asks_is_not_waited_for_longer_than_a_second(server: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        running = server(env={"DATABASE_URL": f"postgresql://u:s3cret@127.0.0.1:{port}/name"})
        cookies = {"sessionid": "abcdefghijklmnopqrstuvwxyz012345"}
        began = time.monotonic()
        refused = httpx.get(f"{running.url}/metrics", cookies=cookies)
        assert time.monotonic() - began < WITHOUT_LIMIT_S
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "s3cret" not in refused.text
        # Nobody is nobody, whatever the database would say.
        assert httpx.get(f"{running.url}/metrics").status_code == 401


@pytest.mark.parametrize("token", [None, ["s3cret"], 5])
def test_a_token_that_is_none_is_refused_without_being_repeated(token: Any) -> None:
    with (
        override_settings(AGENT_EVENTS={"METRICS_TOKEN": token}),
        pytest.raises(ImproperlyConfigured, match="METRICS_TOKEN") as refused,
    ):
        get_settings()
    assert str(token) not in str(refused.value).replace(type(token).__name__, "")


async def test_scrapes_that_come_together_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look() -> Observation:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.02)
        return Observation(Status())

    monkeypatch.setattr(metrics_door, "_look", look)
    looker = SharedLook("", metrics_door._try, fresh_s=60, limit_s=5)
    await asyncio.gather(*(looker.answer() for _ in range(5)))
    await looker.answer()
    assert looks == 1
    looker.fresh_s = 0.0
    await looker.answer()
    assert looks == 2


async def test_a_look_that_fails_is_no_answer_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def look() -> Observation:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(metrics_door, "_look", look)
    with caplog.at_level(logging.ERROR, "agent_events"):
        found = await SharedLook("", metrics_door._try, fresh_s=60, limit_s=5).answer()
    assert found is not None
    assert found.status.setup is None
    assert "unforeseen" in caplog.text


# Clocks


@pytest.mark.parametrize("ahead_ms", [60_000, -2_000])
def test_a_delay_is_never_less_than_nothing(ahead_ms: int) -> None:
    sample = "agent_events_handover_delay_seconds_sum"
    before = metrics.OURS.get_sample_value(sample)
    assert before is not None
    now_ms = int(time.time() * 1_000)
    metrics.handed_over(Window(1, 1, now_ms, now_ms + ahead_ms, None))
    after = metrics.OURS.get_sample_value(sample)
    assert after is not None
    assert after - before == pytest.approx(max(0, -ahead_ms) / 1_000, abs=0.5)


def test_a_window_that_says_only_how_far_the_log_is_is_counted_as_none() -> None:
    before = metrics.OURS.get_sample_value("agent_events_windows_total")
    metrics.handed_over(Window(8, 7, 0, 0, frozenset()))
    assert metrics.OURS.get_sample_value("agent_events_windows_total") == before
    assert metrics.OURS.get_sample_value("agent_events_last_batch") == 7
