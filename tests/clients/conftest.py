"""One world for all client tests, and the rule for programs that are missing: a failure in CI, else a skip."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.clients.world import World
from tests.conftest import RedisServer
from tests.gateway.conftest import namespaces  # noqa: F401 - a fixture


def _missing(programs: tuple[str, ...]) -> None:
    lacking = [program for program in programs if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if not lacking:
        return
    reason = f"{', '.join(lacking)} missing: `make test` as root on Debian installs what the tests need"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """Says which programs a test runs."""
    return lambda *programs: _missing(programs)


@pytest.fixture(scope="session")
def world(
    namespaces: None,  # noqa: F811 - the fixture imported above
    needs: Callable[..., None],
    _redis_binary: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    needs("curl", "git", "haproxy", "nsenter", "sshd", "ssh-keygen")
    redis = RedisServer(_redis_binary)
    try:
        redis.start()
        made = World(tmp_path_factory.mktemp("world"), redis.url)
        yield made
        made.close()
    finally:
        redis.remove()
