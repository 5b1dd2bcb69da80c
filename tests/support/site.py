"""Somebody else's project: made by `django-admin startproject`, with our wheel, by our docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.support.server import Server

DOCS = Path(__file__).parents[2] / "docs"
OURS = re.compile(r"^(?:agent_events|_editable|__editable__|project|tests)")


def make_environment(folder: Path) -> Path:
    """A virtual environment that has what ours has, but for this package; its `bin` folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    seen = folder / "seen"
    seen.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not OURS.match(path.name) and path.suffix != ".pth":
            (seen / path.name).symlink_to(path)
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "seen.pth").write_text(f"{seen}\n")
    programs = folder / "venv" / "bin"
    # The one program that the document calls by name.
    admin = programs / "django-admin"
    admin.write_text(
        f"#!{programs}/python\nfrom django.core.management import *\nexecute_from_command_line()\n"
    )
    admin.chmod(0o755)
    return programs


def blocks(heading: str, page: str = "install.md") -> Iterator[tuple[str, str]]:
    """What is to be done below a heading of a page of docs/: (what, text), in its order."""
    rank = heading.split(" ")[0]
    within = fenced = False
    found, what, lines = 0, "", list[str]()
    for line in (DOCS / page).read_text().splitlines(keepends=True):
        if line.startswith("```"):
            fenced = not fenced
            if not fenced and what:
                found += 1
                yield what, "".join(lines)
            if not fenced:
                what, lines = "", []
        elif fenced:
            lines.append(line)
        elif line.rstrip("\n") == heading:
            within = True
        elif within and re.match(rf"#{{1,{len(rank)}}} ", line):
            break
        elif within and (told := re.match(r"<!-- tested: ([^>]+) -->$", line)):
            what = told[1]
    assert found, f"docs/{page} has no {heading!r}, or nothing below it"


class Site:
    """A project in a folder, and how to follow the document in it."""

    def __init__(self, folder: Path, programs: Path, dsn: str, wheels: Path) -> None:
        """`wheels`: the folder that has the wheel. It is where the reader begins."""
        self.here = wheels
        self.home = folder
        self.programs = programs
        self.said = ""
        parts = conninfo_to_dict(dsn)
        self.replaced: dict[str, str] = {
            '"NAME": "mysite"': f'"NAME": "{parts["dbname"]}"',
            '"USER": "mysite"': f'"USER": "{parts["user"]}"',
            '"PASSWORD": "secret"': f'"PASSWORD": "{parts["password"]}"',
            '"HOST": "127.0.0.1"': f'"HOST": "{parts["host"]}"',
            '"PORT": "5432"': f'"PORT": "{parts["port"]}"',
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PYTHON"))}
        self.env = {
            **kept,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONWARNINGS": "error::DeprecationWarning:agent_events",
        }

    def follow(self, heading: str, page: str = "install.md") -> dict[str, list[str]]:
        """Does what stands below the heading; what it does not know how to do, it returns."""
        left: dict[str, list[str]] = {}
        for what, text in blocks(heading, page):
            action, _, target = what.partition(" mysite/")
            if action == "sh":
                self.shell(text)
            elif action == "file":
                self.write(f"mysite/{target}", text)
            elif action == "add to":
                self.add(f"mysite/{target}", text)
            else:
                left.setdefault(what, []).append(text)
        return left

    def shell(self, text: str, **env: str) -> str:
        """Runs lines as a reader types them, from the folder where the last ones ended."""
        done = subprocess.run(
            ["bash", "-ec", f"{text}\npwd > {self.home}/pwd"],
            cwd=self.here,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.here = Path((self.home / "pwd").read_text().strip())
        self.said = done.stderr
        return done.stdout

    def write(self, name: str, text: str) -> None:
        """A file of the project, with the test's own database in it."""
        for printed, real in self.replaced.items():
            text = text.replace(printed, real)
        (self.here / name).write_text(text)

    def add(self, name: str, text: str) -> None:
        """Lines at the end of a file of the project."""
        self.write(name, f"{(self.here / name).read_text()}\n{text}")

    def server(self, line: str, log: Path, env: Mapping[str, str] | None = None) -> Server:
        """The server that a line of the document runs, on a port of the test's own."""
        command = line.replace("8000", "{port}").split()
        assert "{port}" in line.replace("8000", "{port}"), line
        command[0] = str(self.programs / command[0])
        if command[1] == "manage.py":
            command.insert(3, "--noreload")  # which forks: the test must be able to end it
        settings = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
        return Server(
            "", log, env={**self.env, **settings, **(env or {})}, command=command, cwd=self.here
        )
