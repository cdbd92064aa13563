"""Fixtures: real gateway processes in front of exits that live in network namespaces of their own."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from deploy import ports
from health.config import RedisSettings
from health.registry import Registry
from tests.conftest import RedisServer
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for


@pytest.fixture(scope="session")
def namespaces() -> None:
    usable = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip")
    if not usable:
        reason = "needs root, unshare and ip: the exits live in network namespaces of their own"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def exits(namespaces: None, tmp_path: Path) -> Iterator[Callable[[str], Exit]]:
    with contextlib.ExitStack() as stack:

        def make(node_id: str) -> Exit:
            made = Exit(node_id, tmp_path)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
async def registry(redis_server: object) -> AsyncIterator[Registry]:
    opened = Registry.open(RedisSettings(url=redis_server.url, timeout=5))  # type: ignore[attr-defined]
    await opened.begin_epoch()
    yield opened
    await opened.close()


@pytest.fixture
def gateways(redis_server: object, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    with contextlib.ExitStack() as stack:

        def make(**settings: object) -> Gateway:
            made = Gateway(redis_server.url, tmp_path, **settings)  # type: ignore[attr-defined]
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def shared_gateway(_redis_binary: str, namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for tests that leave it as it was, on 127.0.0.1 and ::1.

    Behind it: jp000001; jp000002, which has no datagram sockets; us000001, whose tunnel carries IPv6.
    """
    directory, redis, port = tmp_path_factory.mktemp("shared"), RedisServer(_redis_binary), ports.free()
    exits: list[Exit] = []
    with contextlib.ExitStack() as stack:
        stack.callback(redis.remove)
        redis.start()
        for node_id, command in (("jp000001", ""), ("jp000002", "dry"), ("us000001", "inet6")):
            exits.append(Exit(node_id, directory))
            stack.callback(exits[-1].close)
            exits[-1].tell(command)
        asyncio.run(_admit(redis.url, exits))
        listen, allow = [f"127.0.0.1:{port}", f"[::1]:{port}"], ["127.0.0.0/8", "::1/128"]
        gateway = Gateway(redis.url, directory, listen=listen, allow_targets=allow)
        stack.callback(gateway.close)
        gateway.port = port
        for exit_ in exits:
            proxy = f"http://u-node-{exit_.id}:x@127.0.0.1:{port}"
            wait_for(
                lambda e=exit_, p=proxy: curl("-x", p, "http://origin.test/").stdout == e.id + "\n",  # type: ignore[misc]
                what=f"{exit_.id} serving",
            )
        yield gateway


async def _admit(url: str, exits: list[Exit]) -> None:
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    await registry.begin_epoch()
    await serve(registry, *exits)
    await registry.close()
