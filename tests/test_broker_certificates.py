"""A broker that lets in whoever shows a certificate, and nobody else (mutual TLS)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from agent_events.brokers import inlet_of, outlet_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from project.broker_server import BrokerServerError
from project.nats_server import NatsServer
from project.processes import free_port
from project.redis_server import RedisServer
from tests.support.broker import SHARD_0, marks, take_up_to
from tests.support.certificates import Authority, Pair, tls_in_front_of
from tests.test_checks import found, only

PASSPHRASE = b"s3cret"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """The authority that the broker believes."""
    return Authority(tmp_path, "ours")


@pytest.fixture(params=["nats", "redis"])
async def settings(ours: Authority, request: pytest.FixtureRequest) -> AsyncIterator[Settings]:
    """Those for a broker that demands a certificate; without one of our own."""
    async with AsyncExitStack() as stack:
        server = ours.pair("server")
        if request.param == "nats":
            url = stack.enter_context(demanding_nats(ours, server)).url
        else:
            try:
                url = stack.enter_context(demanding_redis(ours, server)).url
            except BrokerServerError as error:
                if "Bad directive" not in str(error):
                    raise
                # That of the wheel has no TLS of its own.
                plain = stack.enter_context(RedisServer())
                port = await stack.enter_async_context(tls_in_front_of(plain.port, server, ours))
                url = f"rediss://127.0.0.1:{port}/0"
        yield replace(
            Settings(), broker_url=url, broker_ca_file=str(ours.file), broker_timeout_s=2.0
        )


def demanding_nats(
    ours: Authority, server: Pair, how: str = "verify", **settings: object
) -> NatsServer:
    tls = {"cert_file": str(server.certificate), "key_file": str(server.key)}
    demanded = {"tls": {**tls, "ca_file": str(ours.file), how: True}, **settings}
    return NatsServer(tls_cert=server.certificate, tls_key=server.key, settings=demanded)


class _TlsRedis(RedisServer):
    """With a second port, for TLS alone. (The first one says when it is up.)"""

    tls_port = 0

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0"


def demanding_redis(ours: Authority, server: Pair) -> RedisServer:
    made = _TlsRedis()
    made.tls_port = free_port(None)
    made.settings |= {
        "tls-port": str(made.tls_port),
        "tls-cert-file": str(server.certificate),
        "tls-key-file": str(server.key),
        "tls-ca-cert-file": str(ours.file),
        "tls-auth-clients": "yes",
    }
    return made


async def passes(settings: Settings) -> None:
    """Parcels go to the broker and come back."""
    outlet, inlet = outlet_of(settings), inlet_of(settings)
    try:
        await outlet.open()
        await inlet.open()
        await inlet.watch(SHARD_0, None)
        sent = marks(1, 3, outlet)
        await outlet.send(sent)
        assert await take_up_to(inlet, sent[-1]) == sent
    finally:
        await outlet.close()
        await inlet.close()


async def refused(settings: Settings) -> str:
    """What is said where it does not open."""
    for end in (outlet_of(settings), inlet_of(settings)):
        with pytest.raises(BrokerAway) as caught:
            await end.open()
        await end.close()
    return str(caught.value)


async def test_whoever_shows_a_certificate_is_let_in_and_nobody_else(
    settings: Settings, ours: Authority, tmp_path: Path
) -> None:
    await passes(replace(settings, **ours.pair("worker").settings))
    await refused(settings)
    await refused(replace(settings, **Authority(tmp_path, "others").pair("worker").settings))


async def test_a_broker_whose_certificate_names_another_host_is_not_believed(
    settings: Settings, ours: Authority
) -> None:
    elsewhere = settings.broker_url.replace("127.0.0.1", "localhost")
    pair = ours.pair("worker").settings
    assert "certificate" in await refused(replace(settings, broker_url=elsewhere, **pair))


async def test_one_file_may_hold_both(settings: Settings, ours: Authority, tmp_path: Path) -> None:
    pair, both = ours.pair("worker"), tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    await passes(replace(settings, **Pair(both, both).settings))


async def test_a_new_certificate_is_shown_without_a_restart(
    settings: Settings, ours: Authority, tmp_path: Path
) -> None:
    pair = Authority(tmp_path, "others").pair("worker")
    ends = [end_of(replace(settings, **pair.settings)) for end_of in (outlet_of, inlet_of)]
    for end in ends:
        with pytest.raises(BrokerAway):
            await end.open()
    for new, old in zip(ours.pair("worker"), pair, strict=True):
        new.replace(old)
    for end in ends:
        await end.open()
        await end.close()


async def test_a_certificate_may_be_the_user_of_nats(ours: Authority) -> None:
    users = {"users": [{"user": "CN=worker"}]}
    with demanding_nats(ours, ours.pair("server"), "verify_and_map", authorization=users) as server:
        settings = replace(Settings(), broker_url=server.url, broker_ca_file=str(ours.file))
        await passes(replace(settings, **ours.pair("worker").settings))
        await refused(replace(settings, **ours.pair("somebody").settings))


async def test_what_is_no_certificate_and_its_key_is_told_by_name(
    settings: Settings, ours: Authority, tmp_path: Path
) -> None:
    one, sealed = ours.pair("one"), ours.pair("sealed", PASSPHRASE)
    for pair in (Pair(one.certificate, ours.pair("other").key), sealed, Pair(one.key, one.key)):
        said = await refused(replace(settings, **pair.settings))
        assert "BROKER_CERT_FILE" in said
        assert "BROKER_KEY_FILE" in said
    said = await refused(replace(settings, broker_key_file=str(one.key)))
    assert 'AGENT_EVENTS["BROKER_KEY_FILE"] is set without' in said
    said = await refused(replace(settings, **Pair(one.certificate, tmp_path / "none").settings))
    assert "No such file" in said


# System checks


@pytest.mark.parametrize("url", ["tls://127.0.0.1", "rediss://127.0.0.1"])
def test_what_is_no_certificate_and_its_key_is_seen(
    url: str, ours: Authority, tmp_path: Path
) -> None:
    def given(**files: object) -> Any:
        return override_settings(
            AGENT_EVENTS={"BROKER_URL": url, **{key: str(path) for key, path in files.items()}}
        )

    one, sealed = ours.pair("one"), ours.pair("sealed", PASSPHRASE)
    with given(BROKER_CERT_FILE=one.certificate, BROKER_KEY_FILE=one.key):
        assert found(deploy=True) == {}
    with given(BROKER_CERT_FILE=one.certificate):
        only("E016", '"BROKER_CERT_FILE"] is set without', "BROKER_KEY_FILE")
    with given(BROKER_KEY_FILE=one.key):
        only("E016", '"BROKER_KEY_FILE"] is set without', "BROKER_CERT_FILE")
    with given(BROKER_CERT_FILE=one.certificate, BROKER_KEY_FILE=ours.pair("other").key):
        only("E016", "BROKER_CERT_FILE", "BROKER_KEY_FILE", "no certificate and its key")
    with given(BROKER_CERT_FILE=sealed.certificate, BROKER_KEY_FILE=sealed.key):
        only("E016", "passphrase")
    with given(BROKER_CERT_FILE=one.certificate, BROKER_KEY_FILE=tmp_path / "none"):
        only("E015", "BROKER_KEY_FILE", "No such file")


@pytest.mark.parametrize("url", ["nats://127.0.0.1", "redis://127.0.0.1", "unix:///run/redis.sock"])
def test_a_certificate_for_a_connection_without_tls_is_seen(url: str, ours: Authority) -> None:
    pair = {key.upper(): path for key, path in ours.pair("one").settings.items()}
    with override_settings(AGENT_EVENTS={"BROKER_URL": url, **pair}):
        only("W015", "BROKER_CERT_FILE", "without TLS")
    with override_settings(AGENT_EVENTS=pair):
        assert found() == {}  # without a broker nobody reads it
