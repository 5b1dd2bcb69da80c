"""What BROKER_URL may say, and how a server of another kind than it says is told of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_events.brokers import outlet_of
from agent_events.brokers.addresses import NO_ADDRESS, extra_of, servers_of
from agent_events.conf import Settings
from agent_events.errors import BrokerAway
from project.broker_server import BrokerServer
from project.nats_server import NatsServer
from project.redis_server import RedisServer

PASSWORD = "s3cret"


@pytest.mark.parametrize(
    ("url", "extra", "servers"),
    [
        ("nats://a", "nats", ["nats://a"]),
        ("nats://a:4222,b:4222", "nats", ["nats://a:4222", "nats://b:4222"]),
        ("TLS://me:pw@a, b:1", "nats", ["tls://me:pw@a", "tls://b:1"]),
        ("nats://[::1]:4222, nats://b", "nats", ["nats://[::1]:4222", "nats://b"]),
        (" REDIS://a/3", "redis", ["redis://a/3"]),
        ("unix:///run/redis.sock?db=1", "redis", ["unix:/run/redis.sock?db=1"]),
    ],
)
def test_an_address_names_its_servers_each_in_full(
    url: str, extra: str, servers: list[str]
) -> None:
    assert [one.geturl() for one in servers_of(url)] == servers
    assert extra_of(url) == extra


@pytest.mark.parametrize("url", ["redis://a/b", "redis://a,b", "kafka://a", "nats:/a", "a", ""])
def test_what_is_no_address_is_told_what_one_is(url: str) -> None:
    with pytest.raises(ValueError, match="expected nats://") as raised:
        servers_of(url)
    assert str(raised.value) == NO_ADDRESS


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def refusal(url: str) -> str:
    """What is said where nothing can be sent there."""
    outlet = outlet_of(Settings(broker_url=url, broker_timeout_s=1.0))
    try:
        with pytest.raises(BrokerAway) as raised:
            await outlet.open()
    finally:
        await outlet.close()
    return str(raised.value)


async def test_a_server_of_another_kind_is_told_of(nats: NatsServer, redis: RedisServer) -> None:
    def at(scheme: str, server: BrokerServer) -> str:
        return f"{scheme}://me:{PASSWORD}@127.0.0.1:{server.port}"

    told = {
        "no Redis server": await refusal(at("redis", nats)),
        "is it a NATS server?": await refusal(at("nats", redis)),
        "TLS where the address says rediss://": await refusal(at("rediss", redis)),
    }
    for words, said in told.items():
        assert words in said
        assert PASSWORD not in said
        assert len(said) < 300


async def test_a_redis_cluster_is_said_not_to_be_supported() -> None:
    with RedisServer(settings={"cluster-enabled": "yes"}) as server:
        outlet = outlet_of(Settings(broker_url=server.url, broker_timeout_s=1.0))
        try:
            with pytest.raises(BrokerAway, match="Redis Cluster, which is not supported"):
                await outlet.open()
                await outlet.last(0)
        finally:
            await outlet.close()
