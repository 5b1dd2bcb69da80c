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

OURS = re.compile(rb"agent_events[^|]*\|LOG:")
"""A statement of a session of the product, by its application name."""
SETTINGS = {"log_statement": "all", "log_line_prefix": "%a|"}
RELOAD_TIMEOUT_S = 10.0
RELOAD_S = 0.5
"""A session takes a new setting with its next statement."""


def statements_per_s(server: Cluster, seconds: float) -> float:
    """Counts for so long; logging costs, so measure nothing else meanwhile."""
    with psycopg.connect(server.server.dsn("postgres"), autocommit=True) as admin:
        try:
            for name, value in SETTINGS.items():
                admin.execute(SQL("ALTER SYSTEM SET {} = {}").format(SQL(name), Literal(value)))
            admin.execute("SELECT pg_reload_conf()")
            wait_until(lambda: _in_force(admin), RELOAD_TIMEOUT_S, "statements to be logged")
            time.sleep(RELOAD_S)
            with server.server.log_file.open("rb") as log:
                log.seek(0, 2)
                began = time.monotonic()
                time.sleep(seconds)
                lines = log.read().splitlines()
                took = time.monotonic() - began
        finally:
            for name in SETTINGS:
                admin.execute(SQL("ALTER SYSTEM RESET {}").format(SQL(name)))
            admin.execute("SELECT pg_reload_conf()")
    return sum(OURS.match(line) is not None for line in lines) / took


def _in_force(admin: psycopg.Connection[Any]) -> bool:
    row = admin.execute("SHOW log_statement").fetchone()
    return row is not None and row[0] == SETTINGS["log_statement"]
