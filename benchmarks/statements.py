"""How many statements the product's processes send: the server logs each while they are counted.

What `pg_stat_database` counts are transactions: a session that LISTENs makes one of each
notification that it takes, and sends nothing.
"""

from __future__ import annotations

import re
import time
from typing import Any

import psycopg
from psycopg.sql import SQL, Literal

from benchmarks.cluster import Cluster, wait_until

STATEMENT = r"LOG:  (?:statement|execute [^:]*|fastpath[^:]*):"
OURS = r"agent_events[^|\n]*\|"
"""What a line of the product's sessions begins with, by their application names."""
SETTINGS = {"log_statement": "all", "log_line_prefix": "%a|"}
RELOAD_TIMEOUT_S = 10.0
RELOAD_S = 0.5
"""A session takes a new setting with its next statement."""


def statements_since(server: Cluster, size: int, whose: str = "") -> int:
    """How many were logged since `server.log_size()` said `size`.

    Args:
        whose: a pattern for what is before them in their lines.
    """
    return len(re.findall(whose + STATEMENT, server.log_since(size)))


def statements_per_s(server: Cluster, seconds: float) -> float:
    """Of all the product's sessions, for so long; logging costs: measure nothing else meanwhile."""
    with psycopg.connect(server.server.dsn("postgres"), autocommit=True) as admin:
        try:
            for name, value in SETTINGS.items():
                admin.execute(SQL("ALTER SYSTEM SET {} = {}").format(SQL(name), Literal(value)))
            admin.execute("SELECT pg_reload_conf()")
            wait_until(lambda: _in_force(admin), RELOAD_TIMEOUT_S, "statements to be logged")
            time.sleep(RELOAD_S)
            size, began = server.log_size(), time.monotonic()
            time.sleep(seconds)
            return statements_since(server, size, OURS) / (time.monotonic() - began)
        finally:
            for name in SETTINGS:
                admin.execute(SQL("ALTER SYSTEM RESET {}").format(SQL(name)))
            admin.execute("SELECT pg_reload_conf()")


def _in_force(admin: psycopg.Connection[Any]) -> bool:
    row = admin.execute("SHOW log_statement").fetchone()
    return row is not None and row[0] == SETTINGS["log_statement"]
