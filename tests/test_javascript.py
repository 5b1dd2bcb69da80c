"""The JavaScript: types, lint, and unit tests of what needs no browser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import find_program
from tests.support.database import ROOT
from tests.support.javascript import tools


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a tool in the repository; it must be content."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_types_agree_in_all_that_is_served_and_with_the_declarations_of_the_client(
    request: pytest.FixtureRequest,
) -> None:
    modules = tools(request, "typescript")
    run("node", modules / "typescript" / "bin" / "tsc", "--project", "tsconfig.json")


def test_lint_finds_nothing(request: pytest.FixtureRequest) -> None:
    modules = tools(request, "eslint", "@eslint/js")
    # (`require` finds packages by this, and `eslint.config.cjs` uses it for that reason.)
    found = {"NODE_PATH": str(modules)}
    run("node", modules / "eslint" / "bin" / "eslint.js", "--max-warnings=0", ".", env=found)


def test_what_needs_no_browser_does_what_it_says() -> None:
    find_program("node")
    files = sorted((ROOT / "tests" / "javascript").glob("*.test.mjs"))
    assert files
    run("node", "--test", *files)


def test_versions_of_tools_are_exact_and_no_registry_is_named() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    assert package["private"] is True
    for version in package["devDependencies"].values():
        assert version.replace(".", "").isdigit()
    assert not (ROOT / "package-lock.json").exists()
