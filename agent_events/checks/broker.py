"""Checks of the broker that BROKER_URL names. None of them connects, or repeats the address."""

from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, parse_qs

from django.core.checks import CheckMessage, Error, Warning

from agent_events.brokers.addresses import SCHEMES, SOCKET_FILE, extra_of, servers_of
from agent_events.brokers.certificates import fault_of
from agent_events.bus import layer_is_shared
from agent_events.checks.configuration import valid_settings
from agent_events.conf import Settings

WITH_TLS = ("tls", "rediss")

_EXAMPLE = (
    '"BROKER_URL": "nats://user:password@host:4222", or "redis://user:password@host:6379/0"; '
    "tls:// and rediss:// with TLS; several servers of one NATS cluster separated by commas. "
    "Within a password, %40 stands for @ and %2C for a comma."
)


def address(**kwargs: Any) -> Iterator[CheckMessage]:
    """E013: BROKER_URL is no address. E014: a library for it is not installed."""
    conf = _conf()
    if conf is None:
        return
    if not _addresses(conf.broker_url):
        yield Error(
            'AGENT_EVENTS["BROKER_URL"] is no address of a broker.',
            hint=_EXAMPLE,
            id="agent_events.E013",
        )
        return
    extra = extra_of(conf.broker_url)
    if find_spec(extra) is None:
        yield Error(
            f'AGENT_EVENTS["BROKER_URL"] names a {extra} server, whose library is not installed.',
            hint=f"pip install 'agent-events[{extra}]'",
            id="agent_events.E014",
        )
    elif extra == "nats" and conf.broker_credentials and find_spec("nkeys") is None:
        yield Error(
            'AGENT_EVENTS["BROKER_CREDENTIALS"] takes a library that is not installed (nkeys).',
            hint="pip install 'nats-py[nkeys]'",
            id="agent_events.E014",
        )


def files(**kwargs: Any) -> Iterator[CheckMessage]:
    """E015: a file that the settings name cannot be read. E016: no certificate and its key."""
    conf = _conf()
    if conf is None:
        return
    named = {
        "BROKER_CREDENTIALS": conf.broker_credentials,
        "BROKER_CA_FILE": conf.broker_ca_file,
        "BROKER_CERT_FILE": conf.broker_cert_file,
        "BROKER_KEY_FILE": conf.broker_key_file,
    }
    unread = {key: why for key, path in named.items() if path and (why := _unreadable(path))}
    for key, why in unread.items():
        yield Error(
            f'AGENT_EVENTS["{key}"] is "{named[key]}", which cannot be read: {why}.',
            hint="The path of a file that this process's user may read; an absolute one, since "
            "processes start in different folders.",
            id="agent_events.E015",
        )
    if not unread.keys() & {"BROKER_CERT_FILE", "BROKER_KEY_FILE"} and (why := fault_of(conf)):
        yield Error(
            f"{why}.",
            hint="Both, for a broker that asks for a certificate, or neither. One file may hold "
            "the two: name it twice. A key with a passphrase: write one without "
            "(openssl pkey -in key.pem -out plain.pem), readable by this process's user alone.",
            id="agent_events.E016",
        )


def unused(**kwargs: Any) -> Iterator[CheckMessage]:
    """W015: a setting that this address has no use for. W016: likewise, a shared channel layer."""
    conf = _conf()
    addresses = _addresses(conf.broker_url) if conf is not None else []
    if conf is None or not addresses:
        return
    if extra_of(conf.broker_url) != "nats":
        for key, given in (
            ("BROKER_CREDENTIALS", conf.broker_credentials),
            ("BROKER_REPLICAS", conf.broker_replicas > 1),
        ):
            if given:
                yield Warning(
                    f'AGENT_EVENTS["{key}"] is for NATS, and BROKER_URL names a Redis server: it '
                    "changes nothing.",
                    hint=f"Leave {key} out; Redis takes user and password from its address, and "
                    "knows itself where its copies are.",
                    id="agent_events.W015",
                )
    if not any(one.scheme in WITH_TLS for one in addresses):
        for key, given, does in (
            ("BROKER_CA_FILE", conf.broker_ca_file, "says whom to trust"),
            ("BROKER_CERT_FILE", conf.broker_cert_file, "says who we are"),
        ):
            if given:
                yield Warning(
                    f'AGENT_EVENTS["{key}"] {does}, and BROKER_URL names a connection without TLS.',
                    hint=f"tls:// (NATS) or rediss:// (Redis) in BROKER_URL, or leave {key} out.",
                    id="agent_events.W015",
                )
    try:
        shared = layer_is_shared(conf.channel_layer)
    except Exception:  # E005 says so
        return
    if shared:
        yield Warning(
            f'BROKER_URL is set, and CHANNEL_LAYERS["{conf.channel_layer}"] is shared by several '
            "processes: events go over the broker, and that layer is not used.",
            hint='Leave BROKER_URL out; or name a layer in memory by AGENT_EVENTS["CHANNEL_LAYER"].'
            " Silence this where the layer is there for other things.",
            id="agent_events.W016",
        )


def in_the_open(**kwargs: Any) -> Iterator[CheckMessage]:
    """W017: a password goes over a network without TLS."""
    conf = _conf()
    if conf is None:
        return
    for one in _addresses(conf.broker_url):
        if one.scheme not in (*WITH_TLS, SOCKET_FILE) and not _is_here(one) and _has_secret(one):
            yield Warning(
                f'AGENT_EVENTS["BROKER_URL"] sends a password to {one.hostname} without TLS: '
                "whoever is in between reads it, and the events.",
                hint="tls:// (NATS) or rediss:// (Redis) in BROKER_URL, and BROKER_CA_FILE where "
                "the certificate is of an authority of your own. Silence this on a network that "
                "encrypts by itself.",
                id="agent_events.W017",
            )
            return


def _conf() -> Settings | None:
    """The settings, where they are valid and name a broker."""
    conf = valid_settings()
    return conf if conf is not None and conf.broker_url else None


def _addresses(url: str) -> list[SplitResult]:
    """The servers that BROKER_URL names; none where it is no address."""
    try:
        return servers_of(url)
    except ValueError:
        return []


def _unreadable(path: str) -> str:
    """Why the file cannot be read, in words; empty where it can."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _is_here(one: SplitResult) -> bool:
    """Does the address stay on this machine?"""
    host = one.hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _has_secret(one: SplitResult) -> bool:
    """Is there a password in it, or (NATS) a token, which stands alone?"""
    token = SCHEMES[one.scheme] == "nats" and bool(one.username)
    return token or bool(one.password) or "password" in parse_qs(one.query)
