"""On a standby: the log can be read, exactly as far as it has come; nobody closes batches there."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import psycopg
import pytest

from project.embedded import EmbeddedPostgres
from tests.support.streams import insert

TENANT = str(uuid.UUID(int=1))
READ = "SELECT batch, id FROM agent_events_read(%s, 1, 0, 1000)"


def test_a_standby_reads_what_the_primary_sequenced_and_appends_nothing(
    cluster: Callable[..., EmbeddedPostgres],
) -> None:
    postgres = cluster()
    with psycopg.connect(postgres.dsn(), autocommit=True) as primary:
        for _ in range(3):
            insert(primary, TENANT)
            primary.execute("SELECT agent_events_append()")
        expected = primary.execute(READ, [TENANT]).fetchall()
        insert(primary, TENANT)  # committed, and in no batch yet
    postgres.stop()
    (postgres.pgdata / "standby.signal").touch()
    postgres.start()
    with psycopg.connect(postgres.dsn(), autocommit=True) as standby:
        assert standby.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert standby.execute(READ, [TENANT]).fetchall() == expected
        assert len(expected) == 3
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="this server is a standby"):
            standby.execute("SELECT agent_events_append()")
