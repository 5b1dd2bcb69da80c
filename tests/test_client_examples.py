"""The hooks of examples/ in React, and what docs/client.md prints: all run in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import MakeWorld
from tests.support import wait_until
from tests.support.database import ROOT
from tests.support.javascript import tools
from tests.support.stream_client import LATE_S, World
from tests.test_docs import blocks_of

# React comes as CommonJS. Of each file: what it requires, and what is imported of it by name.
MODULES = {
    "react": ("react/cjs/react.development.js", [], "StrictMode createElement useEffect useState"),
    "scheduler": ("scheduler/cjs/scheduler.development.js", [], ""),
    "react-dom": ("react-dom/cjs/react-dom.development.js", ["react"], ""),
    "react-dom/client": (
        "react-dom/cjs/react-dom-client.development.js",
        ["react", "scheduler", "react-dom"],
        "createRoot",
    ),
}
PAGE = """<!doctype html><title>Hooks</title><ol></ol><output></output>
<script type="importmap">{"imports": %s}</script>"""
SHOW = """async ([file, name, options]) => {
    const { StrictMode, createElement } = await import("react");
    const { createRoot } = await import("react-dom/client");
    const hook = (await import(`/harness/${file}`))[name];
    function Feed() {
        const found = hook(options);
        const events = found.events ?? found;
        document.querySelector("output").textContent = found.state?.name ?? "";
        return events.map((event) => createElement("li", { key: event.id }, event.id));
    }
    window.root = createRoot(document.querySelector("ol"));
    root.render(createElement(StrictMode, null, createElement(Feed)));
}"""


def module_of(modules: Path, name: str) -> str:
    """An ES module that is this one of CommonJS."""
    path, requires, names = MODULES[name]
    imports = "".join(f"import m{n} from '{one}';\n" for n, one in enumerate(requires))
    found = ", ".join(f"'{one}': m{n}" for n, one in enumerate(requires))
    return (
        f"{imports}const module = {{ exports: {{}} }};\n"
        "((module, exports, process, require) => {\n"
        f"{(modules / path).read_text()}\n"
        f"}})(module, module.exports, {{ env: {{}} }}, (name) => ({{ {found} }})[name]);\n"
        "export default module.exports;\n"
        f"export const {{ {', '.join(names.split())} }} = module.exports;\n"
    )


@pytest.fixture
def react(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    """A signed-in page of the site that has React and the examples."""
    modules = tools(request, "react", "react-dom")
    world = make_world()
    served = {f"{n}.js": module_of(modules, name) for n, name in enumerate(MODULES)}
    imports = {name: f"/harness/{n}.js" for n, name in enumerate(MODULES)}
    served |= {path.name: path.read_text() for path in (ROOT / "examples").glob("use*.js")}
    served[""] = PAGE % json.dumps(imports)

    def answer(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        kind = "text/javascript" if name else "text/html"
        route.fulfill(body=served[name], content_type=kind)

    world.page.route("**/harness/*", answer)
    world.page.goto(f"{world.server.url}/harness/")
    return world


def shown(page: Page) -> list[int]:
    """The ids of the list's items, from top to bottom."""
    return [int(text) for text in page.locator("li").all_inner_texts()]


def test_the_react_hook_shows_each_event_once_over_a_restart_and_leaves_nothing_open(
    react: World,
) -> None:
    page = react.page
    page.evaluate(SHOW, ["useAgentEvents.js", "useAgentEvents", {"types": ["message"]}])
    state = page.locator("output")
    expect(state).to_have_text("live", timeout=LATE_S * 1000)
    made = react.insert(3)
    react.insert(kind="other")
    wait_until(lambda: shown(page) == made[::-1], LATE_S, "three events, newest first")
    react.server.kill()
    expect(state).to_have_text("reconnecting", timeout=LATE_S * 1000)
    react.server.start()
    made += react.insert(3)
    wait_until(lambda: shown(page) == made[::-1], LATE_S, "six events, newest first")
    made += react.insert(110)
    wait_until(lambda: shown(page) == made[::-1][:100], LATE_S, "the newest hundred")
    page.evaluate("root.unmount()")
    expect(page.locator("li")).to_have_count(0)


def test_the_event_source_hook_shows_the_newest_hundred_newest_first(react: World) -> None:
    page = react.page
    asked: list[str] = []
    page.on("response", lambda response: asked.append(response.url))
    page.evaluate(SHOW, ["useEventSource.js", "useEventSource", "/api/agents/stream"])
    # (Effects run twice in strict mode: the second source stays.)
    wait_until(lambda: (shown(page), sum("stream" in url for url in asked))[1], LATE_S, "a stream")
    first = react.insert()
    wait_until(lambda: (shown(page) or react.insert()) and shown(page), LATE_S, "the first event")
    made = react.insert(110)
    wait_until(lambda: shown(page) == made[::-1][:100], LATE_S, "the newest hundred")
    assert first[0] not in shown(page)


def test_what_the_document_prints_runs_as_it_stands(react: World) -> None:
    page = react.page
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    blocks = blocks_of(ROOT / "docs" / "client.md", "js")
    assert len(blocks) == 2
    page.evaluate(
        """(blocks) => {
            for (const block of blocks) {
                const script = document.createElement("script");
                script.type = "module";
                script.textContent = block;
                document.body.append(script);
            }
        }""",
        blocks,
    )
    wait_until(lambda: (shown(page), any(line.startswith("live") for line in said))[1], LATE_S)
    (made,) = react.insert(kind="tool.called", payload='{"tool": "search"}')
    wait_until(lambda: (shown(page), f"{made} tool.called" in said)[1], LATE_S, "the loop's line")
    wait_until(
        lambda: (shown(page), any("tool.called {tool: search}" in line for line in said))[1],
        LATE_S,
        "the listener's line",
    )
    assert page.evaluate("localStorage.cursor")
