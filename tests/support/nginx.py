"""nginx with the very configuration that docs/deploy.md prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.server import free_port
from tests.support.waiting import wait_until


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for nobody in particular, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agents.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "nginx.crt", folder / "nginx.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return paths


@contextmanager
def nginx(program: str, snippet: str, replaced: dict[str, str], folder: Path) -> Iterator[int]:
    """A running nginx; the port where it speaks TLS.

    `replaced`: what else must be another here, such as the ports of the processes behind it. Each
    must be in the snippet.
    """
    port = free_port()
    certificate, key = self_signed(folder)
    replaced = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/ssl/mysite.crt": str(certificate),
        "/etc/ssl/mysite.key": str(key),
        **replaced,
    }
    for printed, real in replaced.items():
        assert printed in snippet, f"the snippet has no {printed!r}"
        snippet = snippet.replace(printed, real)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        # As another user its worker could not reach the folder.
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off;\npid {folder}/nginx.pid;\nworker_processes 1;\n"
        f"error_log {folder}/nginx.log;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{\naccess_log off;\n{temporary}\n"
        "types { text/css css; text/javascript js; image/svg+xml svg; }\n"
        f"{snippet}\n}}\n"
    )
    log = folder / "nginx.log"
    process = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(config), "-e", str(log)], stdin=subprocess.DEVNULL
    )

    def ready() -> bool:
        assert process.poll() is None, f"nginx ended by itself:\n{log.read_text()}"
        return (folder / "nginx.pid").exists() and (folder / "nginx.pid").stat().st_size > 0

    try:
        wait_until(ready, 10, "nginx to start")
        yield port
    finally:
        process.terminate()
        process.wait(10)
