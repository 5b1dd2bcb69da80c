"""The OpenAPI document, held against what a server does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from django.urls import include, path, set_script_prefix
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent_events import routing, spec_door, urls
from agent_events.conf import Settings, get_settings
from agent_events.contract import asyncapi, openapi, page
from agent_events.contract.schemas import AGENT, TENANT
from tests.support import Server, make_tenant
from tests.support.keys import make_key
from tests.support.streams import insert
from tests.support.watch import bus_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from pytest_django.fixtures import SettingsWrapper

Start = Callable[..., Server]

DOCUMENT = openapi.document("", get_settings())
STREAM = "/api/agents/stream"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for address, methods in document["paths"].items():
        for method, operation in methods.items():
            yield address, method, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """`value` is of this schema of the document."""
    whole = {**schema, "components": document["components"]}
    validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    found = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]
    assert not found, (found, value)


def check_answer(answer: httpx.Response, path: str, method: str = "get") -> None:
    """The answer's status, type, headers and body are those that the document has."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, (answer.status_code, answer.text)
    documented = resolved(DOCUMENT, responses[str(answer.status_code)])
    missing = [name for name in documented.get("headers", {}) if name not in answer.headers]
    assert not [name for name in missing if name != "Link"], (missing, answer.headers)
    media = answer.headers.get("content-type", "").partition(";")[0]
    assert media in documented.get("content", {"": {}}), (media, answer.text)
    if media.endswith("json"):
        check(DOCUMENT, documented["content"][media]["schema"], answer.json())


def test_the_document_is_valid_openapi() -> None:
    for name in ("", "/sub"):
        OpenAPIV31SpecValidator(openapi.document(name, get_settings())).validate()


def test_every_reference_of_the_document_leads_somewhere_and_nothing_is_left_over() -> None:
    found = set(references(DOCUMENT))
    for reference in found:
        resolved(DOCUMENT, {"$ref": reference})
    kept = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in DOCUMENT["components"][kind]
    }
    assert kept == found


def test_every_example_is_of_its_schema() -> None:
    for address, method, operation in operations(DOCUMENT):
        bodies = [operation.get("requestBody", {})]
        for part in [*bodies, *operation["responses"].values()]:
            for media, content in resolved(DOCUMENT, part).get("content", {}).items():
                values = [one["value"] for one in content.get("examples", {}).values()]
                if "example" in content:
                    values.append(content["example"])
                assert (
                    values
                    or media.startswith("text/")
                    or address.endswith(".json")
                    or (media in ("application/openmetrics-text", "application/problem+json"))
                ), (address, method, media)
                for value in values:
                    check(DOCUMENT, content["schema"], value)
    for schema in DOCUMENT["components"]["schemas"].values():
        for value in schema.get("examples", ()):
            check(DOCUMENT, schema, value)


def test_every_address_of_the_api_is_documented_and_no_other() -> None:
    """A new route without its entry fails here."""
    served = {f"/{route.pattern}" for route in routing.http_urlpatterns}
    served |= {
        "/" + re.sub(r"<path:event_id>", "{id}", str(route.pattern))
        for route in urls.urlpatterns
        if str(route.pattern).startswith("api/")
    }
    assert served == set(DOCUMENT["paths"])


def test_the_document_tells_the_limits_in_force() -> None:
    changed = openapi.document("", Settings(post_events=7, token_minutes=3))
    assert changed["components"]["schemas"]["NewEvents"]["maxItems"] == 7
    minutes = changed["components"]["schemas"]["TokenRequest"]["properties"]["minutes"]
    assert minutes["anyOf"][0]["maximum"] == 3


urlpatterns = [path("agents/", include("agent_events.urls"))]
"""A site that has the pages below a prefix."""


@pytest.mark.parametrize("name", ["", "/sub"])
def test_the_history_is_documented_where_the_site_has_it(
    name: str, settings: SettingsWrapper
) -> None:
    settings.ROOT_URLCONF = __name__
    try:
        pages = spec_door.below(name)
    finally:
        set_script_prefix("/")
    paths = openapi.document(name, get_settings(), pages)["paths"]
    assert list(paths["/agents/api/agents/events"]) == ["get"]
    assert list(paths["/agents/api/agents/events/{id}"]) == ["get"]
    assert list(paths["/api/agents/events"]) == ["post"]


class Site:
    """A server with two tenants, and keys of the first."""

    def __init__(self, dsn: str, start: Start) -> None:
        self.dsn = dsn
        self.tenant, self.other = make_tenant(dsn, "mine"), make_tenant(dsn, "theirs")
        self.key = make_key(dsn, self.tenant)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for kind in ("first", "second"):
                insert(connection, self.tenant, kind=kind, payload='{"a": [1, null]}')
        # (What is generated would soon be more than a second's worth.)
        self.server = start(env=bus_settings(POST_RATE=1_000_000.0, STREAMS_PER_PRINCIPAL=1))

    def get(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        """GET with a key; no key: nobody."""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.get(f"{self.server.url}{path}", headers=headers, timeout=10)

    def post(self, body: str, media: str, **headers: str) -> httpx.Response:
        """POST of events with the key."""
        headers |= {"Authorization": f"Bearer {self.key}", "Content-Type": media}
        url = f"{self.server.url}/api/agents/events"
        return httpx.post(url, content=body, headers=headers, timeout=10)

    def stream(self, query: str = "", key: str | None = None) -> httpx.Response:
        """The stream's answer, without what a good one goes on to send."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{self.server.url}{STREAM}?{query}"
        with httpx.stream("GET", url, headers=headers, timeout=10) as answer:
            if answer.status_code != 200:
                answer.read()
            return answer


@pytest.fixture
def site(dsn: str, server: Start) -> Site:
    return Site(dsn, server)


CONFIG = """
# PostgreSQL's text has no U+0000: tests of publishing try it.
generation = { allow-x00 = false }

[checks.negative_data_rejection]
# (413: a list of too many events.)
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]

# (422: a key that came with another event before.)
[[operations]]
include-operation-id = "publish"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 422, 429]

# (422: 10.0 minutes, which JSON Schema takes for a whole number.)
[[operations]]
include-operation-id = "createToken"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 422, 429]
"""


def schemathesis(site: Site, folder: Path, *args: str) -> None:
    """Runs it on every address but the stream's, which does not end. Fails where it finds any."""
    file, config = folder / "openapi.json", folder / "schemathesis.toml"
    file.write_text(json.dumps(for_schemathesis(site)))
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", config, "--no-color"),
            *("run", file, "--url", site.server.url, "--exclude-path", STREAM, "--seed", "11"),
            *("--generation-database", "none", "--continue-on-failure", *args),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, "\n".join(line[:500] for line in said.splitlines())
    assert "Traceback" not in site.server.log()


def for_schemathesis(site: Site) -> dict[str, Any]:
    """The document as the server has it, but for what would lead nowhere.

    Tenants are those of the site: any others are all a 404. The attributes of a CloudEvent in
    binary mode are left out: they are headers, and it would send them with bodies of the other
    forms, where they mean nothing. So is the most that a list in a URL may hold: Daphne hangs up on
    a URL of 16 KiB, before anything of ours sees it. And what no schema can say: the grammar of
    `where`, and that there is an `at` or a `cursor`.
    """
    text = site.get("/api/agents/openapi.json").text
    document: dict[str, Any] = json.loads(text.replace(TENANT, site.tenant))
    own: dict[str, Any] = {"enum": [site.tenant, site.other]}
    events = document["paths"]["/api/agents/events"]
    for address in ("events", "export", "now"):
        reading = document["paths"][f"/api/agents/{address}"]["get"]
        reading["parameters"] = [
            one for one in reading["parameters"] if one["name"] not in ("at", "where")
        ]
        for parameter in reading["parameters"]:
            if parameter["name"] != "text":  # (of which few are allowed)
                parameter["schema"].pop("maxItems", None)
            if parameter["name"] == "tenant":
                parameter["schema"]["items"] = own
    for name, field in {
        "NewEvent": "tenantId",
        "CloudEvent": "tenantid",
        "TokenRequest": "tenant",
    }.items():
        document["components"]["schemas"][name]["properties"][field] = {
            "enum": [*own["enum"], None]
        }
    parameters = events["post"]["parameters"]
    events["post"]["parameters"] = [p for p in parameters if not p["name"].startswith("ce-")]
    return document


def test_schemathesis_finds_nothing_with_a_key(site: Site, tmp_path: Path) -> None:
    key = f"Authorization: Bearer {site.key}"
    schemathesis(site, tmp_path, "--max-examples", "10", "--header", key)


def test_schemathesis_finds_nothing_without_a_key(site: Site, tmp_path: Path) -> None:
    schemathesis(site, tmp_path, "--max-examples", "3")


def test_a_stream_answers_as_documented(site: Site) -> None:
    good = site.stream(key=site.key)
    check_answer(good, STREAM)
    assert good.status_code == 200
    deaf = make_key(site.dsn, site.tenant, subscribe=False)
    for status, query, key in (
        (400, "cursor=nonsense", site.key),
        (401, "", None),
        (401, "", f"{site.key[:-1]}!"),
        (403, "", deaf),
        (404, f"tenant={site.other}", site.key),
    ):
        answer = site.stream(query, key)
        assert answer.status_code == status, answer.text
        check_answer(answer, STREAM)
    with httpx.stream(
        "GET", f"{site.server.url}{STREAM}", headers={"Authorization": f"Bearer {site.key}"}
    ) as one:
        lines = one.iter_lines()
        next(lines)
        answer = site.stream(key=site.key)
    assert answer.status_code == 429, answer.text
    check_answer(answer, STREAM)
    # A browser's EventSource that comes back by itself ends its tries.
    answer = site.get(STREAM, Accept="text/event-stream", **{"Last-Event-ID": "earliest"})
    assert answer.status_code == 204
    check_answer(answer, STREAM)


def test_publishing_answers_as_documented_in_each_form(site: Site) -> None:
    operation = DOCUMENT["paths"]["/api/agents/events"]["post"]
    for media, content in operation["requestBody"]["content"].items():
        examples = [one["value"] for one in content.get("examples", {}).values()]
        for example in examples or [content["example"]]:
            body = json.dumps(example).replace(TENANT, site.tenant)
            answer = site.post(body, media)
            assert answer.status_code in (200, 201), answer.text
            check_answer(answer, "/api/agents/events", "post")
    event = {"specversion": "1.0", "id": "1", "source": "here", "type": "t", "agentid": AGENT}
    binary = {f"ce-{name}": value for name, value in event.items()}
    assert set(binary) <= {one["name"] for one in operation["parameters"]}
    answer = site.post("{}", "application/json", **binary)
    assert answer.status_code == 201, answer.text
    check_answer(answer, "/api/agents/events", "post")
    for status, body, media in (
        (400, "{", "application/json"),
        (413, "[" * 5_000_000, "application/json"),
        (415, "{}", "text/html"),
        (422, "{}", "application/json"),
        (422, "[]", "application/json"),
    ):
        answer = site.post(body, media)
        assert answer.status_code == status, answer.text
        check_answer(answer, "/api/agents/events", "post")


def test_history_and_events_answer_as_documented(site: Site) -> None:
    with httpx.stream(  # (a stream closes batches)
        "GET",
        f"{site.server.url}{STREAM}?cursor=earliest",
        headers={"Authorization": f"Bearer {site.key}"},
    ) as streaming:
        for line in streaming.iter_lines():
            if '"second"' in line:
                break
    page_of = site.get("/api/agents/events?limit=1", site.key)
    assert len(page_of.json()["events"]) == 1
    assert "Link" in page_of.headers
    check_answer(page_of, "/api/agents/events")
    for id, status in (("1", 200), ("999", 404), ("x", 404)):
        answer = site.get(f"/api/agents/events/{id}", site.key)
        assert answer.status_code == status
        check_answer(answer, "/api/agents/events/{id}")


def test_the_documents_are_for_everybody_and_may_be_kept_a_little(site: Site) -> None:
    for name, document in (("openapi", openapi), ("asyncapi", asyncapi)):
        answer = site.get(f"/api/agents/{name}.json")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "private, max-age=300"
        made = document.document("", get_settings())
        assert answer.json()["info"] == json.loads(json.dumps(made))["info"]
        assert httpx.post(str(answer.url)).status_code == 405


def test_no_request_can_say_that_the_site_is_elsewhere(site: Site) -> None:
    """(Daphne takes this header's word for it, whoever sends it.)"""
    plain = site.get("/api/agents/openapi.json").json()
    for elsewhere in ("//evil.example", "https://evil.example", "/a b", "/a/../.."):
        answer = site.get("/api/agents/openapi.json", **{"Daphne-Root-Path": elsewhere})
        assert answer.json() == plain
    below = site.get("/api/agents/openapi.json", **{"Daphne-Root-Path": "/below"}).json()
    assert below["servers"] != plain["servers"]


def test_the_page_shows_every_address_and_message_and_runs_nothing(site: Site) -> None:
    answer = site.get("/api/agents/docs")
    assert answer.status_code == 200
    assert "default-src 'none'; style-src 'self'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<style|style=|\son[a-z]+=|http://|https://", answer.text)
    for _, _, operation in operations(DOCUMENT):
        assert f'id="{operation["operationId"]}"' in answer.text
    for name in asyncapi.document("", get_settings())["components"]["messages"]:
        assert f'-{name}"' in answer.text
    ids = re.findall(r'\sid="([^"]+)"', answer.text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', answer.text)) <= set(ids)


def test_the_page_and_the_documents_are_below_the_sites_name(dsn: str, server: Start) -> None:
    named = server(args=("--root-path", "/sub"))
    document = httpx.get(f"{named.url}/sub/api/agents/openapi.json").json()
    assert document["servers"] == [{"url": "/sub"}]
    text = httpx.get(f"{named.url}/sub/api/agents/docs").text
    assert 'href="/sub/"' in text
    assert "/sub/api/agents/stream" in text


def test_words_between_backticks_are_code_and_nothing_else_is_markup() -> None:
    document = {**DOCUMENT, "info": {"description": "<b> is `<i>`"}}
    made = page.context(document, asyncapi.document("", get_settings()))
    assert made["http_note"] == "&lt;b&gt; is <code>&lt;i&gt;</code>"


def test_the_page_fits_and_breaks_no_rule_of_its_own(site: Site, browser: Browser) -> None:
    for width in (1440, 390):
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            shown = context.new_page()
            said: list[str] = []
            shown.on("console", lambda message, said=said: said.append(message.text))
            shown.goto(f"{site.server.url}/api/agents/docs")
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            shown.get_by_role("link", name="POST /api/agents/tickets").click()
            assert shown.url.endswith("#createTicket")
            # The top bar does not cover what the link leads to.
            assert shown.locator("#createTicket").bounding_box()["y"] >= 48  # type: ignore[index]
            assert said == []
            context.close()
