"""What the environment says: the one place that reads it, and its defaults."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8000
BROKERS = ("nats", "redis")
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})


def data_dir() -> Path:
    """`DATA_DIR`: where this clone keeps what it makes itself; `.data` in the clone if unset."""
    return Path(os.environ.get("DATA_DIR") or BASE_DIR / ".data").expanduser().absolute()


def port() -> int:
    """`PORT`: where `make run` serves, 8000 if unset.

    Raises:
        ValueError: it is not a port.
    """
    text = os.environ.get("PORT") or str(DEFAULT_PORT)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError(f"PORT must be a number from 1 to 65535, not {text!r}.")
    return int(text)


def database_url() -> str | None:
    """`DATABASE_URL`: a PostgreSQL server of one's own, None for the embedded one."""
    return os.environ.get("DATABASE_URL") or None


def broker() -> str | None:
    """`BROKER`: one of `BROKERS`, which `make run` starts beside the rest; None for none.

    Raises:
        ValueError: it is another word, or `AGENT_EVENTS_BROKER_URL` names a broker already.
    """
    name = os.environ.get("BROKER") or None
    if name is not None and name not in BROKERS:
        raise ValueError(f"BROKER must be {' or '.join(BROKERS)}, not {name!r}.")
    if name is not None and broker_url():
        raise ValueError(
            f"BROKER={name} starts a broker, and AGENT_EVENTS_BROKER_URL names another one: "
            "leave one of them out."
        )
    return name


def broker_url() -> str:
    """`AGENT_EVENTS_BROKER_URL`: a broker of one's own; empty for none."""
    return os.environ.get("AGENT_EVENTS_BROKER_URL", "")


def debug() -> bool:
    """`DJANGO_DEBUG`: on by default with the embedded server, which is for trying things out."""
    return database_url() is None if "DJANGO_DEBUG" not in os.environ else _is_on("DJANGO_DEBUG")


def behind_tls_proxy() -> bool:
    """`DJANGO_TLS_PROXY`: a proxy ends TLS, and sets X-Forwarded-Proto, whatever a client sent."""
    return _is_on("DJANGO_TLS_PROXY")


def plain_http() -> bool:
    """`DJANGO_PLAIN_HTTP`: no TLS anywhere, on purpose: on a network of one's own."""
    return _is_on("DJANGO_PLAIN_HTTP")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in TRUE_WORDS
