"""Three NATS servers on loopback as one cluster, to be broken one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from project.nats_server import NatsServer
from project.processes import free_port
from tests.support.waiting import wait_until

SERVERS = 3
JETSTREAM = ""
"""In place of a stream's name: the servers' own group, whose leader places streams and readers."""
WELL_S = 30.0


class NatsCluster:
    """Three servers with JetStream; each keeps its ports and its files.

    It is a `deployment`'s broker: `url` names all three, and a block starts and ends them.
    """

    def __init__(self) -> None:
        self.servers = [NatsServer() for _ in range(SERVERS)]
        ports: set[int] = set()
        while len(ports) < 2 * SERVERS:
            ports.add(free_port(None))
        monitors, routes = list(ports)[:SERVERS], list(ports)[SERVERS:]
        self._monitors = [f"http://127.0.0.1:{port}" for port in monitors]
        # Without a proxy and without loading the authorities, which takes longer than a request.
        self._http = httpx.Client(timeout=1.0, verify=False, trust_env=False)
        for number, server in enumerate(self.servers):
            server.settings |= {
                "server_name": f"server-{number}",
                "http": f"127.0.0.1:{monitors[number]}",
                "cluster": {
                    "name": "tests",
                    "listen": f"127.0.0.1:{routes[number]}",
                    "routes": [f"nats://127.0.0.1:{port}" for port in routes],
                },
            }

    @property
    def url(self) -> str:
        """The addresses of all three, as BROKER_URL takes them."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> str:
        """Starts those that do not run; returns `url` once they are a cluster."""
        for server in self.servers:
            server.start()
        wait_until(self.is_well, WELL_S, "JetStream to have a leader and three servers")
        return self.url

    def stop(self) -> None:
        """Ends them all, frozen ones too."""
        for server in self.servers:
            server.stop()

    def __enter__(self) -> Self:
        """Starts it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()
        self._http.close()

    def is_ready(self) -> bool:
        """Does every server say so of itself, at `/healthz`?"""
        answers = (self._ask(number, "healthz") for number in range(SERVERS))
        return all(answer.get("status") == "ok" for answer in answers)

    def is_well(self, *streams: str) -> bool:
        """Likewise; and do the leaders of JetStream and of these streams say so of all three?"""
        return self.is_ready() and all(_is_whole(self._led(one)) for one in (JETSTREAM, *streams))

    def leader(self, stream: str) -> NatsServer | None:
        """The server that leads a stream, by its own word; None: no server that answers does."""
        name = self._led(stream).get("leader")
        return next((one for one in self.servers if one.settings["server_name"] == name), None)

    def wait_for_leader(self, stream: str) -> NatsServer:
        """The same, once there is one."""
        found = wait_until(lambda: self.leader(stream), WELL_S, f"a leader of {stream}")
        assert found is not None
        return found

    def _led(self, stream: str) -> dict[str, Any]:
        """What the leader of a stream says about its servers; nothing where there is no leader."""
        for number, server in enumerate(self.servers):
            said = self._ask(number, "jsz?streams=1")
            found = {
                one["name"]: one.get("cluster", {})
                for account in said.get("account_details", [])
                for one in account.get("stream_detail", [])
            }
            group: dict[str, Any] = {JETSTREAM: said.get("meta_cluster", {}), **found}.get(
                stream, {}
            )
            if group.get("leader") == server.settings["server_name"]:
                return group
        return {}

    def _ask(self, number: int, what: str) -> dict[str, Any]:
        """A server's answer to whoever looks after it; nothing from one that does not answer."""
        try:
            made: dict[str, Any] = self._http.get(f"{self._monitors[number]}/{what}").json()
        except (httpx.HTTPError, ValueError):
            return {}
        return made


def _is_whole(group: dict[str, Any]) -> bool:
    """Does the leader say that the two others have all that it has?"""
    others = group.get("replicas", [])
    return len(others) == SERVERS - 1 and all(
        one["current"] and not one.get("offline") and not one.get("lag") for one in others
    )
