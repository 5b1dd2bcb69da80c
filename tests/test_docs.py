"""The documentation is true: what it names exists, what exists is named, what it prints was run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import agent_events
from agent_events import consumers, wire
from agent_events.conf import Settings
from agent_events.facts import FAULTS
from agent_events.subscriber import Kind
from project.simulation import tenant_id, tenant_name
from tests.support import Server, login, make_tenant, make_user, manage, wait_until
from tests.support.database import ROOT
from tests.support.keys import make_key
from tests.support.watch import bus_settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LEDGER = ROOT / "docs" / "ledger.md"
SQL = ROOT / "docs" / "sql.md"
RETENTION = ROOT / "docs" / "retention.md"
PUBLISHING = ROOT / "docs" / "publishing.md"
SETTINGS = ROOT / "docs" / "settings.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
DOCS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "agent_events"
TENANT = "cd8dc8d3-f602-5f0e-a829-9a0a5dbe906c"  # the README's


def blocks_of(path: Path, kind: str) -> list[str]:
    """The code blocks that `<!-- tested: kind -->` stands above."""
    return re.findall(
        rf"^<!-- tested: {kind} -->\n```\w+\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE
    )


def statements(block: str) -> Iterator[str]:
    """The SQL statements of a block, without its comments."""
    bare = re.sub(r"--.*", "", block)
    return (statement.strip() for statement in bare.split(";") if statement.strip())


def section(path: Path, heading: str) -> str:
    """The text below a heading, up to the next one of its rank or above."""
    rank = heading.split(" ")[0]
    text = path.read_text()
    assert f"\n{heading}\n" in text, f"{path.name} has no heading {heading!r}"
    rest = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(rank)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def named_first(text: str) -> list[str]:
    """What stands in backticks in the first cell of each row of a table."""
    rows = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


# What exists is named


def test_every_setting_is_in_the_table_with_its_default_and_no_other() -> None:
    all_of_them, shown = (
        re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \| (.*) \|$", text, re.M)
        for text in (SETTINGS.read_text(), section(README, "## Settings"))
    )
    documented = {name: ast.literal_eval(default) for name, default, _ in all_of_them}
    assert documented == {field.name.upper(): field.default for field in fields(Settings)}
    assert len(shown) == 4
    assert set(shown) < set(all_of_them)


def test_every_command_is_in_the_table_and_no_other() -> None:
    exist = {
        path.stem
        for app in ("agent_events", "project")
        for path in (ROOT / app / "management" / "commands").glob("[a-z]*.py")
    }
    assert set(named_first(section(README, "## Commands"))) == exist


def test_every_public_name_is_shown() -> None:
    text = README.read_text()
    assert text.count("\n### Python\n") == 2  # sending, receiving
    python = "".join(re.findall(r"^### Python\n.*?^##", text, re.S | re.M))
    assert [name for name in agent_events.__all__ if f"{name}" not in python] == []


def test_every_module_has_its_place_and_imports_only_from_its_floor_and_those_above() -> None:
    floor_of: dict[str, int] = {}
    floor = 0
    for line in section(ARCHITECTURE, "## Modules").splitlines():
        if line.startswith("| **"):
            floor += 1
        elif found := named_first(line):
            floor_of |= dict.fromkeys(found, floor)
    exist = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__", "__pycache__"}
    assert exist == {name for name in floor_of if name in exist}, "a module without its place"

    upwards = [
        (str(path.relative_to(PACKAGE)), used)
        for path in PACKAGE.rglob("*.py")
        for line in re.findall(r"^ *from agent_events(.*) import (.*)$", path.read_text(), re.M)
        for used in [line[0].split(".")[1] if line[0] else line[1].split(",")[0].strip()]
        if (own := floor_of.get(path.relative_to(PACKAGE).parts[0].removesuffix(".py")))
        and floor_of.get(used, 0) > own
    ]
    assert upwards == []


def test_every_frame_and_every_close_code_is_in_the_tables() -> None:
    told = {kind.value for kind in Kind} - {"stopped"}  # which is of Server-Sent Events
    frames = told | {"hello", "part", "error", "ack", "filter", "auth"}
    assert set(re.findall(r"`(\w+)`", section(README, "### WebSocket"))) < frames
    websocket = section(ARCHITECTURE, "### WebSocket")
    assert set(named_first(websocket)) == frames
    numbers = [value for value in vars(consumers).values() if isinstance(value, int)]
    codes = {number for number in numbers if number >= 4_000}
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", websocket, re.M)} == codes
    assert f"{wire.PART_CHARS:,} characters" in ARCHITECTURE.read_text()


# What is named exists


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_fault_names_a_test_that_makes_it_happen() -> None:
    rows = re.findall(r"^\| (?!fault|---)(.+) \|$", RELIABILITY.read_text(), re.M)
    exist = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    named = [row.split(" | ")[-1] for row in rows]
    assert len(named) > 20
    assert [cell for cell in named if cell != "the same" and cell.strip("`") not in exist] == []


def test_no_setting_is_named_that_does_not_exist() -> None:
    known = {field.name.upper() for field in fields(Settings)}
    suffixes = ("_S", "_BYTES", "_ROWS", "_EVENTS", "_LIMIT", "_DSN", "_LAYER", "_SIZE")
    named = {
        name
        for path in DOCS
        for name in re.findall(r"`([A-Z][A-Z_]+)`", path.read_text())
        # (The project's own are environment variables, with the package's name before them.)
        if name.endswith(suffixes) and not name.startswith("AGENT_EVENTS_")
    }
    assert named - known == set()


def test_the_readmes_tenant_is_the_first_of_the_demo() -> None:
    assert str(tenant_id(tenant_name(0))) == TENANT


# What is printed was run


def test_the_readmes_sql_runs(connect: Callable[..., psycopg.Connection[Any]]) -> None:
    producer = connect()
    blocks = blocks_of(README, "sql")
    assert len(blocks) > 3
    try:
        for block in blocks:
            for statement in statements(block):
                producer.execute(statement.encode())
        events = producer.execute(
            "SELECT event_type, payload FROM agent_events_read(%s, 1, 0, 500)", [TENANT]
        ).fetchall()
        assert events == [("turn_complete", {"tokens": 142, "latency": 820})]

        producer.execute("SET ROLE my_agents")
        insert = next(statements(blocks[0]))
        assert producer.execute(f"{insert} RETURNING id".encode()).fetchone() is not None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            producer.execute("SELECT payload FROM agent_events")
    finally:
        producer.execute("RESET ROLE")
        producer.execute("DROP OWNED BY my_agents")
        producer.execute("DROP ROLE my_agents")


def test_what_is_to_be_done_at_3_am_gets_us_out_of_the_way(
    connect: Callable[..., psycopg.Connection[Any]],
) -> None:
    owner, listener = connect(), connect()
    owner.execute("CREATE TABLE calls (id bigint PRIMARY KEY, tenant_id uuid, agent_id uuid)")
    (attach,), (cures,) = blocks_of(README, "attach"), blocks_of(README, "cures")
    owner.execute(attach.encode())
    owner.execute("ALTER TABLE calls RENAME COLUMN agent_id TO agent")
    write = "INSERT INTO calls SELECT 1, %s, gen_random_uuid()"
    with pytest.raises(psycopg.Error) as failed:
        owner.execute(write, [TENANT])
    assert "agent_events_on_calls" in str(failed.value)
    listener.execute("LISTEN agent_events")
    for statement in statements(cures):
        owner.execute(statement.encode())
    owner.execute(write, [TENANT])
    owner.execute(blocks_of(README, "sql")[0].encode())
    assert list(listener.notifies(timeout=0.2)) == []
    assert owner.execute("SELECT rows FROM agent_events_append()").fetchone() == (1,)


def test_the_sql_page_runs_with_the_rights_that_it_names(
    connect: Callable[..., psycopg.Connection[Any]],
) -> None:
    owner, reader = connect(), connect()
    grants, more_grants, *blocks = blocks_of(SQL, "sql")
    insert = next(statements(blocks_of(README, "sql")[0]))
    owner.execute(insert.encode())
    owner.execute("SELECT agent_events_append()")
    owner.execute(grants.encode())
    try:
        reader.execute("SET ROLE my_reader")
        appending = [block for block in blocks if "agent_events_append" in block]
        for block in [block for block in blocks if block not in appending]:
            assert reader.execute(block.encode()).fetchall(), block
        owner.execute(insert.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(appending[0].encode())
        owner.execute(more_grants.encode())
        assert reader.execute(appending[0].encode()).fetchall() == [(2, 1)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(insert.encode())
    finally:
        owner.execute("DROP OWNED BY my_reader")
        owner.execute("DROP ROLE my_reader")


def test_the_sql_page_gives_each_function_as_it_is(
    connect: Callable[..., psycopg.Connection[Any]],
) -> None:
    connection = connect()
    printed = re.findall(r"^### `(agent_events_\w+)\((.*)\)`$", SQL.read_text(), re.M)
    assert len(printed) == 5
    for name, arguments in printed:
        row = connection.execute(
            "SELECT pg_get_function_arguments(oid) FROM pg_proc WHERE proname = %s", [name]
        ).fetchone()
        assert row is not None, name
        own = [text for text in row[0].split(", ") if not text.startswith("OUT ")]
        assert re.sub(r"::(text\[\]|jsonpath)", "", ", ".join(own)) == arguments
    named = set(re.findall(r"`(agent_events_\w+)", SQL.read_text()))
    found = connection.execute("SELECT proname FROM pg_proc").fetchall()
    assert named - {name for (name,) in found} == set()


def test_what_the_retention_page_says_to_run_runs(
    dsn: str, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    connection = connect()
    for statement in statements(blocks_of(RETENTION, "sql")[0]):
        assert connection.execute(statement.encode()).fetchone()
    (prune,), (mend,) = blocks_of(RETENTION, "retention"), blocks_of(RETENTION, "mend")
    for line in (prune + mend).splitlines():
        python, program, *arguments = line.split()
        assert (python, program) == (".venv/bin/python", "manage.py")
        manage(*arguments, dsn=dsn)
    assert set(FAULTS) <= set(named_first(section(RETENTION, "## After a restore")))


def test_the_ledgers_example_comes_out_as_printed(
    connect: Callable[..., psycopg.Connection[Any]],
) -> None:
    terminals = {name: connect() for name in "ABCD"}
    (prepare,) = blocks_of(LEDGER, "prepare")
    (steps,) = blocks_of(LEDGER, "steps")
    for name in "ABC":
        terminals[name].execute(prepare.encode())
    real: dict[int, int] = {}  # the printed number of a transaction -> ours
    for line in steps.splitlines():
        name, step, told = re.fullmatch(r"([A-D])  (.+;)(?: +-- (.+))?", line).groups()  # type: ignore[union-attr]
        cursor = terminals[name].execute(step.encode())
        if not told:
            continue
        row = cursor.fetchone()
        numbers = [int(number) for number in re.findall(r"\b\d+\b", told)]
        if told.startswith("id"):
            assert row is not None
            assert row[0] == numbers[0], line
            assert real.setdefault(numbers[1], int(row[2])) == int(row[2]), line
        else:
            assert row == (tuple(numbers) or None), line
    assert list(real.values()) == sorted(real.values())

    # Other transactions of the server may have numbers in between: what each snapshot sees counts.
    reader = terminals["D"]
    text = section(LEDGER, "## Three transactions, seen from close by")
    ledger = re.findall(r"^ +(\d) \| (\S+) +\| +(\d) ", text, re.M)
    sees = (
        "SELECT n, total, ARRAY(SELECT x::bigint FROM unnest(%s::text[]) WITH ORDINALITY AS t(x, o)"
        " WHERE pg_visible_in_snapshot(x::xid8, {}) ORDER BY o)"
    )
    for n, seen, total in ledger:
        as_printed = reader.execute(
            f"{sees.format('seen')} FROM (SELECT %s::bigint, %s::bigint, %s::pg_snapshot)"
            " AS printed(n, total, seen)",
            [list(map(str, real)), n, total, seen],
        ).fetchone()
        as_it_is = reader.execute(
            f"{sees.format('seen')} FROM agent_event_batches WHERE n = %s",
            [list(map(str, real.values())), n],
        ).fetchone()
        assert as_printed is not None
        assert as_it_is is not None
        assert as_it_is[:2] == as_printed[:2]
        assert as_it_is[2] == [real[number] for number in as_printed[2]]
    assert len(ledger) == 5
    printed = re.findall(r"^ +(\d) \|  (\d) \| (\w\d)$", text, re.M)
    assert [(int(batch), int(id_), kind) for batch, id_, kind in printed] == reader.execute(
        "SELECT batch, id, event_type"
        "  FROM agent_events_read('00000000-0000-0000-0000-0000000000aa', 1, 0, 100)"
    ).fetchall()
    assert len(printed) == 5


@pytest.mark.parametrize("path", [LEDGER, README], ids=lambda path: path.name)
def test_every_message_that_is_explained_is_one_that_is_given(path: Path) -> None:
    heading = "## Refusals" if path == LEDGER else "## At 3 a.m."
    code = "".join(
        file.read_text()
        for file in sorted(PACKAGE.rglob("*"))
        if file.suffix in (".py", ".sql") and file.is_file()
    )
    code = re.sub(r'"\s+f?"', "", code)  # strings that continue on the next line
    messages = named_first(section(path, heading))
    assert len(messages) > 4
    unknown = []
    for message in messages:
        words = re.split(r"\bX\b|\bY\b|\b0\b|repeatable read|\(\.\.\.\)", message)
        if any(word.strip() not in code for word in words):
            unknown.append(message)
    assert unknown == []


def test_the_curl_lines_sign_in_and_watch(
    dsn: str,
    server: Callable[..., Server],
    connect: Callable[..., psycopg.Connection[Any]],
    tmp_path: Path,
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (apt-get install curl)")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section(README, "### curl"), re.S | re.M)
    make_tenant(dsn, "Harbour Support", id=tenant_id(tenant_name(0)))
    make_user(dsn, "demo", tenants=[TENANT])
    running = server()
    script = block.replace("http://127.0.0.1:8000", running.url)
    with subprocess.Popen(
        ["sh", "-ec", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that curl ends with the shell
    ) as watching:
        assert watching.stdout is not None
        try:
            for line in watching.stdout:
                if line.startswith("event: live"):
                    connect().execute(blocks_of(README, "sql")[0].encode())
                if '"type":"turn_complete"' in line:
                    break
            else:
                pytest.fail("the stream ended without the event")
        finally:
            os.killpg(watching.pid, signal.SIGTERM)


@pytest.mark.parametrize("path", [README, PUBLISHING], ids=lambda path: path.name)
def test_the_curl_that_publishes_stores_an_event_once(
    path: Path,
    dsn: str,
    server: Callable[..., Server],
    connect: Callable[..., psycopg.Connection[Any]],
) -> None:
    tenant = make_tenant(dsn, "Harbour Support")
    given = path.read_text().replace("$(uuidgen)", "7")
    given = given.replace("http://127.0.0.1:8000", server().url)
    lines = re.findall(r"^ *curl \S+/api/agents/events .*\n(?:.*\\\n)*.*\}'$", given, re.M)
    key, stored = make_key(dsn, tenant), []
    for line in lines:
        script = ["sh", "-c", f"KEY={key}\n{line}"]
        first, again = (
            json.loads(subprocess.run(script, capture_output=True, check=True).stdout)
            for _ in range(2)
        )
        assert (first["duplicates"], again["duplicates"]) == ([], [0])
        stored.append((*first["ids"], tenant, "message", {"text": "hello"}))
    rows = connect().execute(
        "SELECT id, tenant_id::text, event_type, payload FROM agent_events ORDER BY id"
    )
    assert rows.fetchall() == stored
    assert len(stored) == {README: 1, PUBLISHING: 2}[path]


def test_the_python_that_publishes_a_cloud_event_stores_it_once(
    dsn: str, server: Callable[..., Server], connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    tenant = make_tenant(dsn, "Harbour Support")
    (block,) = blocks_of(PUBLISHING, "python")
    block = block.replace("http://127.0.0.1:8000", server().url)
    environment = {**os.environ, "KEY": make_key(dsn, tenant)}
    printed = [
        subprocess.run(
            [sys.executable, "-c", block], env=environment, capture_output=True, check=True
        ).stdout.decode()
        for _ in range(2)
    ]
    rows = connect().execute("SELECT id, payload FROM agent_events").fetchall()
    ((id_, payload),) = rows
    assert (printed, payload) == ([f"[{id_}]\n"] * 2, {"text": "hello"})


def test_the_websocket_client_shows_events_and_resumes(
    dsn: str,
    server: Callable[..., Server],
    connect: Callable[..., psycopg.Connection[Any]],
    page: Page,
) -> None:
    (client,) = blocks_of(README, "js")
    make_tenant(dsn, "Harbour Support", id=tenant_id(tenant_name(0)))
    make_user(dsn, "demo", tenants=[TENANT])
    running, producer = server(env=bus_settings(INLINE_PAYLOAD_BYTES=2_000_000)), connect()
    page.context.add_cookies(
        [
            {"name": name, "value": value, "url": running.url}
            for name, value in login(running, "demo").items()
        ]
    )
    page.goto(f"{running.url}/accounts/login/?next=/admin/")
    page.evaluate(
        f"""tenant => {{ {client}
            window.seen = [];
            window.greeted = () => cursor !== "latest";
            watch(tenant, (events) => window.seen.push(...events.map((e) => e.payload)));
        }}""",
        TENANT,
    )
    # (Playwright's own way to wait evaluates text, which the page forbids.)
    wait_until(lambda: page.evaluate("window.greeted()"), 30)
    insert = "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
    values = "VALUES (%s, gen_random_uuid(), 'message', %s)"
    for text in ('"one"', f'"{"å" * 400_000}"', '"three"'):  # the second goes in parts
        producer.execute(f"{insert} {values}", [TENANT, text])
    wait_until(lambda: page.evaluate("window.seen.length === 3"), 30)
    running.stop()
    producer.execute(f"{insert} {values}", [TENANT, '"four"'])
    running.start()
    wait_until(lambda: page.evaluate("window.seen.length === 4"), 30)
    assert page.evaluate("window.seen.map((text) => text.length)") == [3, 400_000, 5, 4]
