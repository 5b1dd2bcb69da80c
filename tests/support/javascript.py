"""The JavaScript tools, in the versions that package.json names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import find_program, node_modules
from tests.support.database import ROOT


def tools(request: pytest.FixtureRequest, *names: str) -> Path:
    """A `node_modules` with these of package.json's packages, and node to run them.

    Skips the test, or fails it if all is required, where they cannot be had.
    """
    find_program("node")
    versions = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    packages = [f"{name}@{versions[name]}" for name in names]
    return node_modules(request, f"javascript-{names[0].strip('@').replace('/', '-')}", *packages)
