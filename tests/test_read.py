"""Reading: every page, forwards and backwards, equals what brute force says it must be."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier

from agent_events.filters import Filter
from project.embedded import EmbeddedPostgres
from tests.support.oracle import Oracle, Position, Row

Connection = psycopg.Connection[Any]

TENANTS = [str(uuid.UUID(int=n << 96)) for n in range(1, 9)]
SPARSE = TENANTS[7]  # a handful of events, one of them in the middle of a huge transaction
NOBODY = str(uuid.UUID(int=99))
AGENTS = [str(uuid.UUID(int=(0xA0 + n // 3) << 120 | n)) for n in range(9)]
TYPES = ["tool.started", "tool.finished", "run.started", "run.finished", "turn_complete", "100%"]
INSERT = """
    INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)
    SELECT (%s::uuid[])[1 + g %% %s], (%s::uuid[])[1 + g %% 9], (%s::text[])[1 + g %% 6],
           to_jsonb(g)
      FROM generate_series(%s::int, %s::int) AS g
"""


def insert(connection: Connection, rng: random.Random, rows: int, tenants: list[str]) -> None:
    first = rng.randrange(1000)
    values = [tenants, len(tenants), AGENTS, TYPES, first, first + rows - 1]
    connection.execute(INSERT, values)


class History(NamedTuple):
    """A database whose log is full of overlapping transactions, and what it must read like."""

    dsn: str
    oracle: Oracle
    numbers: dict[int, int]  # the payloads, by id


def interleave(dsn: str, rng: random.Random, steps: int) -> None:
    """Transactions on several connections that begin, write, undo and end in a seeded order."""
    writers = [psycopg.connect(dsn) for _ in range(8)]
    sequencer = psycopg.connect(dsn, autocommit=True)
    for writer in writers:
        writer.execute("SET SESSION agent_events.quiet = on")
        writer.commit()
    for _ in range(steps):
        writer = rng.choice(writers[: rng.choice([2, 8])])
        action = rng.random()
        if action < 0.40:
            insert(writer, rng, rng.choice([1, 1, 1, 2, 5, 30]), rng.sample(TENANTS[:7], 3))
        elif action < 0.45:
            with writer.transaction(force_rollback=True):
                insert(writer, rng, 3, TENANTS[:7])
        elif action < 0.75:
            writer.commit()
        elif action < 0.80:
            writer.rollback()
        else:
            limit = rng.choice([1, 2, 7, 40, 10_000])
            sequencer.execute("SELECT agent_events_append(%s)", [limit])
    for connection in [*writers, sequencer]:
        connection.close()


def build(dsn: str) -> None:
    rng = random.Random(7)
    with (
        psycopg.connect(dsn) as late,
        psycopg.connect(dsn) as writer,
        psycopg.connect(dsn, autocommit=True) as sequencer,
    ):
        insert(late, rng, 12_000, TENANTS[:3])
        insert(late, rng, 1, [SPARSE])
        insert(late, rng, 10_500, TENANTS[:3])
        interleave(dsn, rng, 600)
        insert(writer, rng, 1, [SPARSE])
        late.commit()  # a huge transaction that comes late
        interleave(dsn, rng, 600)
        insert(writer, rng, 21_000, TENANTS[2:5])
        writer.commit()
        interleave(dsn, rng, 300)
        while sequencer.execute("SELECT agent_events_append(10000)").fetchone():
            pass
        # A batch of more than 20,000 events in several transactions, each larger than one page.
        for tenants in ([TENANTS[0], SPARSE], TENANTS[:3], TENANTS[4:6]):
            insert(writer, rng, 9_000, tenants)
            writer.commit()
        sequencer.execute(
            "INSERT INTO agent_event_batches SELECT n + 1, pg_current_snapshot(), total + 27000,"
            " closed_at + interval '1 s' FROM agent_event_batches ORDER BY n DESC LIMIT 1"
        )
        interleave(dsn, rng, 300)
        while sequencer.execute("SELECT agent_events_append(10000)").fetchone():
            pass


@pytest.fixture(scope="module")
def history(postgres: EmbeddedPostgres, template_database: str) -> Iterator[History]:
    name = Identifier(f"history_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(name, Identifier(template_database))
        )
        dsn = postgres.dsn(name.as_string().strip('"'))
        build(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            numbers = connection.execute("SELECT id, payload::int FROM agent_events").fetchall()
            yield History(dsn, Oracle.load(connection), dict(numbers))
        admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def reader(history: History) -> Iterator[Connection]:
    with psycopg.connect(history.dsn, autocommit=True) as connection:
        yield connection


class Question(NamedTuple):
    """The arguments of agent_events_page, but the position."""

    tenants: list[str] | None
    agents: list[str] | None
    types: list[str] | None
    max_rows: int
    budget: int | None

    @property
    def filtered(self) -> bool:
        return self.agents is not None or self.types is not None

    @classmethod
    def any(cls, rng: random.Random) -> Question:
        return cls(
            rng.choice([None, [rng.choice(TENANTS)], [SPARSE], rng.sample(TENANTS, 3), [NOBODY]]),
            rng.choice([None, None, [rng.choice(AGENTS)], ["a1*", AGENTS[0]], ["nobody"]]),
            rng.choice(
                [None, None, ["tool.*"], ["100*", "*none"], ["run.started", "turn*"], ["*"]]
            ),
            rng.choice([1, 2, 3, 10, 100, 1_000, 7_000]),
            rng.choice([None, None, 1, 500]),
        )


def any_position(rng: random.Random, oracle: Oracle) -> Position:
    """A batch's start, an event's place, or somewhere that no event is; the ends too."""
    kind = rng.random()
    if kind < 0.5:
        (n, id_), _ = rng.choice(oracle.order)
        return (n, id_ if rng.random() < 0.7 else 0)
    if kind < 0.9:
        return (rng.randint(1, oracle.head), rng.choice([0, rng.randrange(100_000)]))
    return rng.choice([(1, 0), (oracle.head, 0), (oracle.head, 10**9), (oracle.head + 1, 0)])


def ask(
    connection: Connection, function: str, question: Question, position: Position
) -> tuple[list[Position], Position, Any]:
    tenants, agents, types, max_rows, budget = question
    *rows, end = connection.execute(
        f"SELECT batch, id, tenant_id, closed_at FROM {function}(%s::uuid[], %s, %s, %s,"
        " %s::text[], %s::text[], %s)",
        [tenants, *position, max_rows, agents, types, budget],
    ).fetchall()
    assert end[2] is None
    return [(n, id_) for n, id_, _, _ in rows], (end[0], end[1]), end[3]


def test_the_history_has_what_makes_reading_hard(history: History) -> None:
    oracle = history.oracle
    assert oracle.unplaced == []
    assert oracle.head > 200
    assert sum(len(ids) > 20_000 for ids in oracle.batch_ids().values()) == 3
    by_id = sorted(oracle.order, key=lambda entry: entry[1].id)
    assert by_id != oracle.order


@pytest.mark.parametrize("seed", range(3))
def test_any_page_equals_brute_force(history: History, reader: Connection, seed: int) -> None:
    rng, oracle = random.Random(seed), history.oracle
    for _ in range(12):
        question = Question.any(rng)
        wanted = list(oracle.wanted(question.tenants, question.agents, question.types))
        for _ in range(8):
            position = any_position(rng, oracle)
            rows, end, closed_at = ask(reader, "agent_events_page", question, position)
            where = f"{question} from {position} to {end}"
            assert rows == [p for p in wanted if position < p <= end], where
            assert len(rows) <= question.max_rows, where
            assert end > position or position > (oracle.head, 0), where
            if not question.filtered and len(rows) < question.max_rows:
                assert end == max(position, (oracle.head + 1, 0)), where
            assert closed_at == oracle.closed_at(end[0] - (end[1] == 0)), where


@pytest.mark.parametrize("seed", range(3))
def test_any_page_of_history_equals_brute_force(
    history: History, reader: Connection, seed: int
) -> None:
    rng, oracle = random.Random(100 + seed), history.oracle
    for _ in range(12):
        question = Question.any(rng)
        wanted = list(oracle.wanted(question.tenants, question.agents, question.types))
        for _ in range(8):
            position = any_position(rng, oracle)
            rows, end, closed_at = ask(reader, "agent_events_page_back", question, position)
            where = f"{question} from {position} to {end}"
            assert rows == [p for p in reversed(wanted) if end <= p < position], where
            assert len(rows) <= question.max_rows, where
            assert end < position or position == (1, 0), where
            if not question.filtered and len(rows) < question.max_rows:
                assert end == (1, 0), where
            assert closed_at == oracle.closed_at(end[0] - (end[1] == 0)), where


@pytest.mark.parametrize("tenant", [None, TENANTS[0], TENANTS[3], SPARSE, NOBODY])
@pytest.mark.parametrize("max_rows", [317, 5_000])
def test_reading_until_a_short_page_finds_everything_once_in_order(
    history: History, reader: Connection, tenant: str | None, max_rows: int
) -> None:
    wanted = list(history.oracle.wanted(tenant and [tenant]))
    found: list[Position] = []
    position, size = (1, 0), max_rows
    while size == max_rows:
        page = reader.execute(
            "SELECT batch, id FROM agent_events_read(%s, %s, %s, %s)",
            [tenant, *position, max_rows],
        ).fetchall()
        size = len(page)
        found += page
        position = page[-1] if page else position
    assert found == wanted

    back: list[Position] = []
    position, size = (history.oracle.head + 1, 0), max_rows
    while size == max_rows:
        page = reader.execute(
            "SELECT batch, id FROM agent_events_read_back(%s, %s, %s, %s)",
            [tenant, *position, max_rows],
        ).fetchall()
        size = len(page)
        back += page
        position = page[-1] if page else position
    assert back == wanted[::-1]


@pytest.mark.parametrize("tenant", [None, TENANTS[0], SPARSE])
def test_a_filtered_read_ends_where_its_position_is_the_head(
    history: History, reader: Connection, tenant: str | None
) -> None:
    wanted = list(history.oracle.wanted(tenant and [tenant], ["a1*"], ["run.*", "100%"]))
    found: list[Position] = []
    position = (1, 0)
    while position != (history.oracle.head + 1, 0):
        *page, end = reader.execute(
            "SELECT batch, id FROM agent_events_read(%s, %s, %s, 50, %s, %s)",
            [tenant, *position, ["a1*"], ["run.*", "100%"]],
        ).fetchall()
        assert end > position
        found += page
        position = end
    assert found == wanted


def test_a_filter_stops_after_its_budget_with_a_position(
    history: History, reader: Connection
) -> None:
    question = Question(None, ["nobody"], None, 10, 1_000)
    rows, end, _ = ask(reader, "agent_events_page", question, (1, 0))
    assert rows == []
    assert end < (history.oracle.head, 0)


# What is asked for besides, and the same of a row and of its payload, which is a number.
LOOKS: list[tuple[dict[str, Any], Callable[[Row, int], bool]]] = [
    ({"not_types": ["tool.*", "100%"]}, lambda row, n: row.type[:5] not in ("tool.", "100%")),
    (
        {"not_agents": ["a1*"], "types": ["run.*"]},
        lambda row, n: row.agent[:2] != "a1" and row.type[:4] == "run.",
    ),
    ({"texts": ["17"]}, lambda row, n: "17" in str(n)),
    ({"texts": ["TOOL.f", "9"]}, lambda row, n: row.type == "tool.finished" and "9" in str(n)),
    ({"texts": ["nowhere"]}, lambda row, n: False),
    ({"conditions": "$[0] > 11900"}, lambda row, n: n > 11900),
    (
        {"conditions": "exists ($[0]) && ($[0] == 7)", "agents": ["a*"]},
        lambda row, n: n == 7 and row.agent[0] == "a",
    ),
    ({"conditions": "($.a == 1)"}, lambda row, n: False),
    (
        {"conditions": "($[0] < 900)", "texts": ["8"], "not_types": ["turn*"]},
        lambda row, n: n < 900 and "8" in str(n) and row.type[:4] != "turn",
    ),
]


@pytest.mark.parametrize(("asked", "is_wanted"), LOOKS)
@pytest.mark.parametrize("tenants", [None, [TENANTS[0]], [SPARSE, TENANTS[2], TENANTS[4]]])
def test_pages_of_what_is_looked_for_in_payloads_equal_brute_force(
    history: History,
    reader: Connection,
    tenants: list[str] | None,
    asked: dict[str, Any],
    is_wanted: Callable[[Row, int], bool],
) -> None:
    rng, oracle = random.Random(str(asked)), history.oracle
    wanted = [
        position
        for position, row in oracle.order
        if (tenants is None or row.tenant in tenants) and is_wanted(row, history.numbers[row.id])
    ]
    for _ in range(4):
        position, most = any_position(rng, oracle), rng.choice([1, 7, 100])
        budget = rng.choice([None, 1, 300])
        for function in ("agent_events_page", "agent_events_page_back"):
            named = "".join(f", {name} => %s" for name in asked)
            *rows, (n, id_, _) = reader.execute(
                f"SELECT batch, id, tenant_id FROM {function}"
                f"(%s::uuid[], %s, %s, %s, budget => %s{named})",
                [tenants, *position, most, budget, *asked.values()],
            ).fetchall()
            found, end = [(row[0], row[1]) for row in rows], (n, id_)
            where = f"{function} from {position} to {end}"
            if function == "agent_events_page":
                assert found == [p for p in wanted if position < p <= end], where
                assert end > position or position > (oracle.head, 0), where
            else:
                assert found == [p for p in reversed(wanted) if end <= p < position], where
                assert end < position or position == (1, 0), where
            assert len(found) <= most, where


def test_reading_on_with_a_text_finds_everything_once_both_ways(
    history: History, reader: Connection
) -> None:
    wanted = [
        position for position, row in history.oracle.order if "123" in str(history.numbers[row.id])
    ]
    for function, start, last in (
        ("agent_events_read", (1, 0), (history.oracle.head + 1, 0)),
        ("agent_events_read_back", (history.oracle.head + 1, 0), (1, 0)),
    ):
        found: list[Position] = []
        position = start
        while position != last:
            *page, position = reader.execute(
                f"SELECT batch, id FROM {function}(NULL, %s, %s, 50, texts => '{{123}}')",
                position,
            ).fetchall()
            found += page
        assert (found if start == (1, 0) else found[::-1]) == wanted


def test_a_page_that_looks_into_large_payloads_looks_at_fewer_of_them(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for rows in (1, 5):  # batches of one, which are looked at together; then one of several
            for _ in range(6 // rows):
                connection.execute(
                    "INSERT INTO agent_events (tenant_id, agent_id, event_type, payload)"
                    " SELECT %s, %s, 'x', to_jsonb(array_to_string(ARRAY("
                    "     SELECT md5(random()::text) FROM generate_series(1, 6400)), ' '))"
                    "   FROM generate_series(1, %s)",
                    [TENANTS[0], AGENTS[0], rows],
                )
                connection.execute("SELECT agent_events_append()")
        order = [position for position, _ in Oracle.load(connection).order]
        for function, sign in (("agent_events_page", 1), ("agent_events_page_back", -1)):
            ends, position = [], ((1, 0), (99, 0))[sign < 0]
            for _ in range(len(order)):
                ((*position, _),) = connection.execute(
                    f"SELECT batch, id, tenant_id FROM {function}"
                    "(NULL, %s, %s, 10, texts => '{no}', budget => 20)",
                    position,
                ).fetchall()
                ends.append(tuple(position))
            assert ends == order[::sign]


@pytest.mark.parametrize("tenants", [None, [TENANTS[0]], [SPARSE, TENANTS[2]]])
def test_a_window_is_all_of_its_batches(
    history: History, reader: Connection, tenants: list[str] | None
) -> None:
    rng, oracle = random.Random(5), history.oracle
    wanted = list(oracle.wanted(tenants))
    for width in [1, 1, 1, 2, 10, 50, 1_000]:
        first = rng.randint(1, oracle.head)
        last = min(first + width - 1, oracle.head)
        rows = reader.execute(
            "SELECT batch, id FROM agent_events_window(%s::uuid[], %s, %s) ORDER BY batch, id",
            [tenants, first, last],
        ).fetchall()
        assert rows == [p for p in wanted if first <= p[0] <= last]


def test_an_event_reads_as_it_was_written(history: History, reader: Connection) -> None:
    (n, id_), row = history.oracle.order[1_000]
    read = reader.execute(
        "SELECT * FROM agent_events_read(%s, %s, %s, 1)", [row.tenant, n, id_ - 1]
    ).fetchone()
    stored = reader.execute(
        "SELECT id, tenant_id, agent_id, event_type, payload, created_at FROM agent_events"
        " WHERE id = %s",
        [id_],
    ).fetchone()
    assert read is not None
    assert stored is not None
    assert read == (n, history.oracle.closed_at(n), *stored)


def test_the_head_is_the_last_batch(history: History, reader: Connection) -> None:
    head = reader.execute("SELECT batch, closed_at, total FROM agent_events_head()").fetchone()
    last = history.oracle.batches[-1]
    assert head == (last.n, last.closed_at, last.total)
    assert last.total == len(history.oracle.rows)


def test_sql_and_python_agree_on_what_a_filter_lets_pass(reader: Connection) -> None:
    patterns = [
        "*",
        "**",
        "a",
        "a*",
        "A*",
        "tool.*",
        "to%",
        "t_ol.x",
        "100%*",
        "\\*",
        "é*",
        "é",
    ]
    values = ["", "a", "ab", "A", "*", "*b", "tool.x", "tool.", "t_ol.x", "100%", "\\", "élan", "é"]
    for pattern in patterns:
        got = reader.execute(
            "SELECT v FROM unnest(%s::text[]) WITH ORDINALITY AS u(v, i)"
            " WHERE agent_events_matches(gen_random_uuid(), v, NULL,"
            " agent_events_patterns(%s)) ORDER BY i",
            [values, [pattern]],
        ).fetchall()
        python = Filter(types=(pattern,))
        assert [v for (v,) in got] == [v for v in values if python.names("", v)], pattern


def test_a_batch_that_was_pruned_is_an_error_and_not_silence(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(3):
            insert(connection, random.Random(1), 2, TENANTS[:2])
            connection.execute("SELECT agent_events_append()")
        connection.execute("DELETE FROM agent_event_batches WHERE n < 2")
        for tenants in (None, [TENANTS[0]]):
            question = Question(tenants, None, None, 10, None)
            with pytest.raises(errors.NoDataFound, match="does not hold batches 0 to"):
                ask(connection, "agent_events_page", question, (1, 0))
            assert len(ask(connection, "agent_events_page", question, (3, 0))[0]) in (1, 2)


@pytest.mark.parametrize("function", ["agent_events_page", "agent_events_page_back"])
@pytest.mark.parametrize("max_rows", [0, -5, None])
def test_a_page_of_no_rows_is_refused(
    reader: Connection, function: str, max_rows: int | None
) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="expected 1 or more"):
        reader.execute(f"SELECT * FROM {function}(NULL, 1, 0, %s)", [max_rows])
