"""docs/deploy.md: its configuration of nginx and systemd, as printed, at work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from agent_events.conf import Settings
from tests.conftest import Connect, find_program
from tests.support import Server, cookie_header, free_port, login, make_tenant, make_user, manage
from tests.support.nginx import nginx
from tests.support.site import DOCS, blocks
from tests.support.streams import EventStream, insert

DEPLOY = DOCS / "deploy.md"
UNITS = {
    what.removeprefix("unit "): text
    for what, text in blocks("## Processes", "deploy.md")
    if what.startswith("unit ")
}
((_, NGINX),) = blocks("## nginx", "deploy.md")

LATE_S = Settings().heartbeat_s
"""Buffered, an event would come with the second heartbeat at the earliest, or never."""


def as_the_unit_runs_it() -> list[str]:
    """The command of the web unit, for this repository's own project."""
    (line,) = re.findall(r"^ExecStart=(.*)$", UNITS["mysite-web@.service"], re.M)
    words = shlex.split(line.replace("%i", "{port}").replace("mysite.asgi", "project.asgi"))
    return [sys.executable, *words[1:]]


@contextmanager
def watching(port: int, cookies: dict[str, str], last_id: str = "") -> Iterator[EventStream]:
    """`EventSource`, through the proxy."""
    headers = {"Cookie": cookie_header(cookies), "Last-Event-ID": last_id}
    url = f"https://127.0.0.1:{port}/api/agents/stream"
    with httpx.stream("GET", url, headers=headers, timeout=20, verify=False) as response:
        response.raise_for_status()
        yield EventStream(response.iter_lines(), last_id)


def socket(port: int, cookies: dict[str, str], cursor: str = "latest") -> ClientConnection:
    """A WebSocket, through the proxy."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return connect(
        f"wss://127.0.0.1:{port}/ws/agents/stream?cursor={cursor}",
        ssl=trusting,
        additional_headers={"Cookie": cookie_header(cookies)},
        origin=f"https://127.0.0.1:{port}",  # type: ignore[arg-type]
    )


def frame(client: ClientConnection, kind: str) -> Any:
    """The next frame of this kind."""
    while True:
        made = json.loads(client.recv(20))
        if made["type"] == kind:
            return made


def test_streams_pass_nginx_at_once_and_go_on_when_a_process_behind_it_is_killed(
    dsn: str, connect: Connect, server: Callable[..., Server], tmp_path: Path
) -> None:
    program = find_program("nginx")
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "ann", tenants=[tenant])
    producer, ports = connect(), (free_port(), free_port())
    env = {"DATA_DIR": str(tmp_path)}
    manage("collectstatic", "--noinput", "--verbosity=0", dsn=dsn, **env)
    replaced = {
        "127.0.0.1:8001": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
        "/srv/mysite/collected/": f"{tmp_path}/static/",
    }
    first = server(command=as_the_unit_runs_it(), port=ports[0], env=env)
    cookies = login(first, "ann")
    with nginx(program, NGINX, replaced, tmp_path) as port:
        script = httpx.get(f"https://127.0.0.1:{port}/static/agent_events/main.js", verify=False)
        assert script.status_code == 200
        assert "immutable" in script.headers["cache-control"]
        hidden = httpx.get(f"https://127.0.0.1:{port}/metrics", verify=False)
        assert hidden.status_code == 404

        with watching(port, cookies) as stream, socket(port, cookies) as client:
            assert next(stream.messages())[0] == "hello"
            cursor = frame(client, "hello")["cursor"]
            for _ in range(3):
                before = time.monotonic()
                made = insert(producer, tenant)
                assert [event["id"] for event in stream.events(1)] == [made]
                shown = frame(client, "events")
                assert [event["id"] for event in shown["events"]] == [made]
                assert time.monotonic() - before < LATE_S
                cursor = shown["cursor"]

            second = server(command=as_the_unit_runs_it(), port=ports[1], env=env)
            first.kill()
            with pytest.raises((httpx.TransportError, StopIteration)):
                while True:
                    next(stream.messages())
            with pytest.raises(ConnectionClosed):
                while True:
                    client.recv(20)

        missed = [insert(producer, tenant) for _ in range(2)]
        with watching(port, cookies, stream.last_id) as stream:
            assert [event["id"] for event in stream.events(2)] == missed
            with socket(port, cookies, cursor) as client:
                found: list[int] = []
                while len(found) < 2:
                    found += [event["id"] for event in frame(client, "events")["events"]]
                assert found == missed

                # A stop with streams open, as systemd and a new version make it.
                assert second.stop() != -signal.SIGKILL, "it ends by itself"
        # With nobody there: EventSource would end for good on anything but a 200.
        away = httpx.get(f"https://127.0.0.1:{port}/api/agents/stream", verify=False)
        assert away.status_code == 200
        assert away.headers["content-type"].startswith("text/event-stream")
        assert away.text == "retry: 2000\n\n"
        page = httpx.get(f"https://127.0.0.1:{port}/", verify=False)
        assert page.status_code == 502


def test_the_units_are_as_systemd_wants_them(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not here")
    assert len(UNITS) == 4
    for name, text in UNITS.items():
        text = text.replace("/srv/mysite/venv/bin/python", sys.executable)
        (tmp_path / name).write_text(text.replace("/srv/mysite", str(tmp_path)))
    done = subprocess.run(
        [program, "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "mysite" in line]
    assert said == []


def test_the_numbers_are_those_of_the_settings() -> None:
    text, settings = DEPLOY.read_text(), Settings()
    assert f"`READ_POOL_SIZE` ({settings.read_pool_size})" in text
    assert f"`HEARTBEAT_S` ({settings.heartbeat_s:g} s)" in text
    (limit,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert int(limit) > 2 * settings.heartbeat_s
    sums = re.findall(r"(\d+) \S \(([\d +]+)\) \+ (\d+) = (\d+)", text)
    assert len(sums) == 1
    for times, each, more, total in sums:
        one = [int(number) for number in each.split("+")]
        assert one[1] == settings.read_pool_size
        assert int(times) * sum(one) + int(more) == int(total)
