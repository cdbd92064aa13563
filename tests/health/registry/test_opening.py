"""How Redis is reached: with real certificates, good and bad, and as users that it knows or does not."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from health.config import RedisSettings
from health.model import Node
from health.registry import Registry, RegistryError
from tests.health.registry.certificates import DAY, Authority, Files
from tests.health.registry.servers import MASTER, Server, watched


@dataclass
class World:
    ours: Authority
    client: Files
    directory: Path
    binary: str

    def server(self, cert: Files) -> Server:
        return Server(self.binary, self.directory, self.lines(cert), **self.how())

    def lines(self, cert: Files) -> list[str]:
        files = [f"tls-cert-file {cert.cert}", f"tls-key-file {cert.key}", f"tls-ca-cert-file {self.ours.file}"]
        return ["port 0", "tls-port PORT", "tls-auth-clients yes", "tls-replication yes", 'save ""', *files]

    def how(self) -> dict[str, Any]:
        """For the test itself, which looks at nothing but its own client certificate."""
        mine = {"ssl_certfile": str(self.client.cert), "ssl_keyfile": str(self.client.key)}
        return {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False, **mine}

    def settings(self, port: int, host: str = "127.0.0.1", **other: Any) -> RedisSettings:
        files = {"tls_ca_file": self.ours.file, "tls_cert_file": self.client.cert, "tls_key_file": self.client.key}
        return RedisSettings(**({"url": f"rediss://{host}:{port}/0"} | files | other))


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    ours = Authority(tmp_path, "ours")
    return World(ours, ours.issue("gateway", ["gateway.test"]), tmp_path, request.getfixturevalue("_redis_binary"))


async def refused(settings: RedisSettings, match: str) -> None:
    registry = Registry.open(settings)
    with pytest.raises(RegistryError, match=match):
        await registry.ping()
    await registry.close()


async def test_tls_both_ways(world: World, make_node: Callable[..., Node]) -> None:
    with world.server(world.ours.issue("redis", ["127.0.0.1", "localhost"])) as server:
        for host in ("127.0.0.1", "localhost"):
            registry = Registry.open(world.settings(server.port, host))
            await registry.put_node(make_node())
            assert len(await registry.nodes()) == 1
            await registry.close()
        await refused(RedisSettings(url=server.url), "reset|closed|lost")


@pytest.mark.parametrize(
    ("names", "valid", "match"),
    [
        (["127.0.0.1"], -DAY, "certificate has expired"),
        (["redis.test"], DAY, "not valid for '127.0.0.1'"),
    ],
)
async def test_a_servers_certificate_that_is_not_good(world: World, names: list[str], valid: Any, match: str) -> None:
    with world.server(world.ours.issue("redis", names, valid)) as server:
        await refused(world.settings(server.port), match)


async def test_a_server_of_another_authority(world: World) -> None:
    other = Authority(world.directory, "other")
    with world.server(other.issue("redis", ["127.0.0.1"])) as server:
        await refused(world.settings(server.port), "unable to get local issuer certificate|self.signed")
        await refused(world.settings(server.port, tls_ca_file=None), "unable to get local issuer certificate")


async def test_a_client_whose_certificate_is_not_good(world: World) -> None:
    with world.server(world.ours.issue("redis", ["127.0.0.1"])) as server:
        stranger = Authority(world.directory, "other").issue("stranger", ["gateway.test"])
        late = world.ours.issue("late", ["gateway.test"], -DAY)
        for shown in (stranger, late):
            settings = world.settings(server.port, tls_cert_file=shown.cert, tls_key_file=shown.key)
            await refused(settings, "alert|closed|reset")
        await refused(world.settings(server.port, tls_cert_file=None, tls_key_file=None), "alert|closed|reset")


def test_files_that_are_not_what_they_should_be(world: World) -> None:
    for wrong, match in [
        ({"tls_ca_file": "/nonexistent/ca.pem"}, "redis.tls_ca_file: /nonexistent/ca.pem: No such file"),
        ({"tls_ca_file": world.client.key}, "redis.tls_ca_file: .*: no certificate"),
        ({"tls_cert_file": "/nonexistent/c.pem"}, "redis.tls_cert_file and redis.tls_key_file: .*: No such file"),
        ({"tls_key_file": world.ours.issue("other", ["x"]).key}, "redis.tls_cert_file and .*: .* not of each other"),
    ]:
        with pytest.raises(ValueError, match=match):
            Registry.open(world.settings(1, **wrong))


async def test_tls_by_sentinels(world: World) -> None:
    cert = world.ours.issue("redis", ["127.0.0.1"])
    lines = [line for line in world.lines(cert) if not line.startswith("save")]
    with watched(world.binary, world.directory, lines, lines, **world.how()) as trio:
        good = world.settings(0, url="rediss:///0", sentinels=trio.addresses, master=MASTER)
        registry = Registry.open(good)
        assert await registry.acquire("scorer", "me", 60)
        assert trio.first.ask("EXISTS", "vx:1:lease:scorer") == 1
        await registry.close()
        wrong = Authority(world.directory, "other").file
        await refused(good.model_copy(update={"tls_ca_file": wrong}), "no sentinel knows")


async def test_sentinels_and_servers_that_ask_who_it_is(world: World) -> None:
    users = ["user default off", "user vx on >open-sesame ~* &* +@all", "user repl on >r ~* &* +@all"]
    users += ["masteruser repl", "masterauth r"]
    watch = ["user default off", "user asker on >knock ~* &* +@all", "sentinel sentinel-user asker"]
    watch += ["sentinel sentinel-pass knock", f"sentinel auth-user {MASTER} repl", f"sentinel auth-pass {MASTER} r"]
    with watched(world.binary, world.directory, users, watch, ("repl", "r"), ("asker", "knock")) as trio:
        good = RedisSettings(
            url="redis:///0",
            username="vx",
            password="open-sesame",
            sentinels=trio.addresses,
            master=MASTER,
            sentinel_username="asker",
            sentinel_password="knock",
        )
        registry = Registry.open(good)
        assert await registry.acquire("scorer", "me", 60)
        await registry.close()
        await refused(good.model_copy(update={"sentinel_password": None}), "no sentinel knows")
        wrong = RedisSettings(**(good.model_dump() | {"password": "sesame-street"}))
        await refused(wrong, "invalid username-password pair")
        assert "sesame" not in repr(wrong)
