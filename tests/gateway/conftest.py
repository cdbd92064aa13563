"""Fixtures: real gateway processes in front of exits that live in network namespaces of their own."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from health.config import RedisSettings
from health.registry import Registry
from tests.gateway.harness import Exit, Gateway


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
    made: list[Exit] = []

    def make(node_id: str) -> Exit:
        made.append(Exit(node_id, tmp_path))
        return made[-1]

    yield make
    for exit_ in made:
        exit_.close()


@pytest.fixture
async def registry(redis_server: object) -> AsyncIterator[Registry]:
    opened = Registry.open(RedisSettings(url=redis_server.url))  # type: ignore[attr-defined]
    await opened.begin_epoch()
    yield opened
    await opened.close()


@pytest.fixture
def gateways(redis_server: object, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(**settings: object) -> Gateway:
        made.append(Gateway(redis_server.url, tmp_path, **settings))  # type: ignore[attr-defined]
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()
