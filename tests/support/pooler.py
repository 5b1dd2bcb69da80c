"""PgBouncer in front of a test's database."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.support.server import free_port
from tests.support.waiting import wait_until


@contextmanager
def pgbouncer(program: str, dsn: str, mode: str, folder: Path) -> Iterator[str]:
    """A running PgBouncer in `mode` (transaction, session): the connection string through it."""
    parts = conninfo_to_dict(dsn)
    port = free_port()
    users, config = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    config.write_text(
        f"""[databases]
{parts["dbname"]} = host={parts["host"]} port={parts["port"]} dbname={parts["dbname"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
default_pool_size = 20
max_client_conn = 200
"""
    )
    command = [program, "-q", str(config)]
    if os.geteuid() == 0:  # it refuses to run as root
        for path in (folder, *folder.parents[:2]):
            path.chmod(path.stat().st_mode | 0o011)
        for path in (users, config):
            path.chmod(0o644)
        command[1:1] = ["-u", "nobody"]
    through = (
        f"postgresql://{parts['user']}:{quote(str(parts['password']))}@127.0.0.1:{port}"
        f"/{parts['dbname']}"
    )

    def answers() -> bool:
        try:
            psycopg.connect(through, connect_timeout=2).close()
        except psycopg.Error:
            assert process.poll() is None, "PgBouncer ended by itself"
            return False
        return True

    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(answers, 10, "PgBouncer to answer")
        yield through
    finally:
        process.terminate()
        process.wait(10)
