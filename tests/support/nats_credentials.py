"""A NATS operator, its accounts and a user of one, and the user's credentials file (`.creds`).

What NATS's own program `nsc` makes, as far as a server on loopback needs it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3
LIMITS = ("subs", "conn", "leaf", "imports", "exports", "data", "payload")
JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer", "max_ack_pending")


class Authority(NamedTuple):
    """Settings of a server that takes this operator's users alone, and a user's credentials."""

    settings: dict[str, object]
    credentials: str


class _Key:
    """A key pair in NATS's form (nkey)."""

    def __init__(self, kind: int) -> None:
        self._pair = Ed25519PrivateKey.generate()
        self.public = _base32(bytes([kind]) + self._pair.public_key().public_bytes_raw())
        prefix = bytes([SEED | kind >> 5, (kind & 31) << 3])
        self.seed = _base32(prefix + self._pair.private_bytes_raw())

    def sign(self, kind: str, subject: str, claims: dict[str, object]) -> str:
        body = {
            "iat": int(time.time()),
            "iss": self.public,
            "name": kind,
            "sub": subject,
            "nats": {"type": kind, "version": 2, **claims},
        }
        body["jti"] = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(body).encode())}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def make_authority() -> Authority:
    """A new one: all of its users may do everything."""
    operator, system, account, user = _Key(OPERATOR), _Key(ACCOUNT), _Key(ACCOUNT), _Key(USER)
    limits: dict[str, object] = {"wildcards": True, **dict.fromkeys(LIMITS, -1)}
    with_streams = limits | dict.fromkeys(JETSTREAM, -1)
    accounts = {
        system.public: operator.sign("account", system.public, {"limits": limits}),
        account.public: operator.sign("account", account.public, {"limits": with_streams}),
    }
    token = account.sign(
        "user", user.public, {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
    )
    return Authority(
        {
            "operator": operator.sign(
                "operator", operator.public, {"system_account": system.public}
            ),
            "system_account": system.public,
            "resolver": "MEMORY",
            "resolver_preload": accounts,
        },
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n",
    )


def _base64(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _base32(text: bytes) -> str:
    """With the checksum behind it: CRC-16/XMODEM, the lower byte first."""
    crc = 0
    for byte in text:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(text + crc.to_bytes(2, "little")).decode().rstrip("=")
