"""A new PostgreSQL cluster: initdb, run once for a data directory."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from project.postgres_home import (
    MAJOR_VERSION,
    EmbeddedPostgresError,
    account_for,
    find_programs,
)

USER = "agent_events"


def create_cluster(pgdata: Path, password_file: Path, *, sync: bool = True) -> None:
    """Make `pgdata` a cluster whose superuser is `USER`, unless it is one already.

    initdb works in a folder that gets its name only when it is complete: an initdb that was killed
    is simply run again.

    Args:
        password_file: where the generated password goes, readable by us alone.
        sync: whether initdb forces its files to the disk.

    Raises:
        EmbeddedPostgresError: initdb failed, or the cluster is another major version's.
    """
    if pgdata.exists():
        _require_our_version(pgdata)
        return
    account = account_for(pgdata)
    programs = find_programs(pgdata.parent, account)
    unfinished = pgdata.with_name("data.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    password = secrets.token_urlsafe(24)
    handed_over = pgdata.with_name("initial-password")  # one that the account may read
    for path in (password_file, handed_over):
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{password}\n")
    account.take(handed_over)
    done = subprocess.run(
        [
            str(programs / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={USER}",
            "--auth=scram-sha-256",
            f"--pwfile={handed_over}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *([] if sync else ["--no-sync"]),
        ],
        cwd=pgdata.parent,  # ours may be closed to the account
        capture_output=True,
        text=True,
        check=False,
        **account.popen_options(),
    )
    handed_over.unlink()
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"initdb failed in {pgdata.parent}: {done.stderr.strip()}")
    unfinished.rename(pgdata)


def _require_our_version(pgdata: Path) -> None:
    found = (pgdata / "PG_VERSION").read_text().strip()
    if found != MAJOR_VERSION:
        raise EmbeddedPostgresError(
            f"{pgdata} was written by PostgreSQL {found}, this is {MAJOR_VERSION}: "
            "say DATA_DIR=<another folder>, or delete it and lose its events."
        )
