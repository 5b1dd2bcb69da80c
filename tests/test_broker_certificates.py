"""A broker that lets in whoever shows a certificate, and nobody else (mutual TLS)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.test import override_settings

from agent_events.brokers import inlet_of, outlet_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from project.broker_server import BrokerServerError
from project.nats_server import NatsServer
from project.processes import free_port
from project.redis_server import RedisServer
from tests.support.broker import SHARD_0, marks, take_up_to
from tests.test_checks import found, only

PEM = serialization.Encoding.PEM
PASSPHRASE = b"s3cret"


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, Any]:
        """To show it."""
        return {"broker_cert_file": str(self.certificate), "broker_key_file": str(self.key)}


class Authority:
    """Makes certificates of 127.0.0.1, for servers and for clients."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._made = self._certify(name, self._key, is_authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._made.public_bytes(PEM))

    def pair(self, name: str, passphrase: bytes = b"") -> Pair:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = Pair(*(self._folder / f"{self._name}-{name}.{kind}" for kind in ("pem", "key")))
        made.certificate.write_bytes(self._certify(name, key).public_bytes(PEM))
        sealed: Any = serialization.NoEncryption()
        if passphrase:
            sealed = serialization.BestAvailableEncryption(passphrase)
        made.key.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, sealed))
        return made

    def _certify(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False
    ) -> x509.Certificate:
        now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - hour)
            .not_valid_after(now + hour)
            .add_extension(here, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


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
                port = await stack.enter_async_context(tls_in_front_of(plain.port, ours, server))
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


@asynccontextmanager
async def tls_in_front_of(port: int, ours: Authority, server: Pair) -> AsyncIterator[int]:
    """Lets in whoever shows a certificate, and passes what is said to a port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        for one in (passing(reader, far_writer), passing(far_reader, writer)):
            tasks.add(asyncio.create_task(one))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
