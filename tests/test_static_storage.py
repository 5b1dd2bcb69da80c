"""The live page from files that `collectstatic` has left, by each storage that projects use."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Page, Response, expect

from tests.support import Server, make_tenant, make_user, manage
from tests.support.database import ROOT
from tests.support.live_page import LATE_S, Site
from tests.support.site import blocks

DJANGOS = "django.contrib.staticfiles.storage"
PLAIN, MANIFEST = f"{DJANGOS}.StaticFilesStorage", f"{DJANGOS}.ManifestStaticFilesStorage"
RECOMMENDED = "recommended_storage.Storage"
HASHED = re.compile(r"\.[0-9a-f]{12}\.\w+$")

# What a browser resolves in a module: `from "…"`, `import "…"`, `import("…")`.
SPECIFIERS = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*)["'](\.{1,2}/[^"']+)["']""")

Collect = Callable[[str], dict[str, str]]


@pytest.fixture
def collect(dsn: str, tmp_path: Path) -> Collect:
    """`collect(storage)` runs `collectstatic`; the environment of processes that use its files."""
    (printed,) = (
        text for what, text in blocks("## Static files") if what == "file mysite/storage.py"
    )
    (tmp_path / "recommended_storage.py").write_text(printed)

    def run(storage: str) -> dict[str, str]:
        env = {
            "DJANGO_SETTINGS_MODULE": "tests.support.collected",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "TEST_STORAGE": storage,
            "TEST_STATIC_ROOT": str(tmp_path / "collected"),
        }
        manage("collectstatic", "--noinput", dsn=dsn, **env)
        return env

    return run


@pytest.mark.parametrize("storage", [PLAIN, MANIFEST, RECOMMENDED])
def test_the_page_is_live_from_the_collected_files(
    storage: str,
    collect: Collect,
    dsn: str,
    server: Callable[..., Server],
    page: Page,
) -> None:
    env = collect(storage)
    secret = secrets.token_urlsafe(50)
    running = server(
        env={
            **env,
            "DJANGO_DEBUG": "0",
            "DJANGO_SECRET_KEY": secret,
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
            "DJANGO_PLAIN_HTTP": "1",
        }
    )
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "mara", tenants=[tenant])
    said: list[str] = []
    served: list[str] = []

    def answered(response: Response) -> None:
        path = urlsplit(response.url).path
        if path.startswith("/static/"):
            served.append(path)
        if response.status >= 400:
            said.append(f"{response.status} {path}")

    page.on("response", answered)
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"exception: {error}"))
    with psycopg.connect(dsn, autocommit=True) as database:
        site = Site(running, page, database, tenant)
        site.sign_in("mara")
        site.insert("turn_complete")
        expect(page.locator("#events .row")).to_have_count(1, timeout=LATE_S * 1000)
    assert said == []
    modules = [path for path in served if path.endswith(".js")]
    assert len(modules) > 20
    if storage == RECOMMENDED:
        assert [path for path in served if not HASHED.search(path)] == []


def test_with_the_recommended_storage_every_module_imports_by_names_with_hashes(
    collect: Collect,
) -> None:
    folder = Path(collect(RECOMMENDED)["TEST_STATIC_ROOT"]) / "agent_events"
    hashed = [path for path in folder.rglob("*.js") if HASHED.search(path.name)]
    sources = list((ROOT / "static" / "agent_events").rglob("*.js"))
    assert len(hashed) == len(sources)
    for path in hashed:
        for specifier in SPECIFIERS.findall(without_comments(path.read_text())):
            assert HASHED.search(specifier), (path.name, specifier)
            assert (path.parent / specifier).exists(), (path.name, specifier)


def test_modules_name_each_others_types_in_a_form_that_the_storage_passes_over() -> None:
    """Django takes `import("./x.js")` in a comment for an import, and a tag that ends in `;` too.

    Types go both ways between modules, and names with hashes cannot: each depends on the other.
    """
    form = re.compile(
        r"""import\(["'](?P<call>[./][^"']*\.js)["']\)|@import\s[^"']*["'](?P<tag>[./][^"']*)["']\s*;"""
    )
    found = [
        f'{path.name}: {match[0]}: write `/** @import {{ X }} from "./x.js" */`, without `;`'
        for path in (ROOT / "static" / "agent_events").rglob("*.js")
        for match in form.finditer(path.read_text())
        if not match[0].startswith('import("./chart.js")')  # which imports nothing of its own
    ]
    assert found == []


def without_comments(text: str) -> str:
    """A module without what its comments say of types."""
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)
