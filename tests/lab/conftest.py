"""The lab, once for all its tests: brought up if it is not, taken down if these tests brought it up."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from health.config import RedisSettings
from health.registry import Registry
from tests.lab.harness import Lab, wait_for

NODES = {"jp": 2, "us": 1, "gb": 1}


def _missing() -> str:
    if os.geteuid() != 0:
        return "root (it starts a private dockerd, counts packets and enters namespaces)"
    missing = [name for name in ("curl", "nsenter", "ip") if shutil.which(name) is None]
    if shutil.which("apt-get") is None and shutil.which("docker") is None:
        missing.append("a Docker Engine, or Debian to install one")
    return ", ".join(missing)


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Lab]:
    missing = _missing()
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"the lab needs {missing}")
        pytest.skip(f"the lab needs {missing}")
    lab = Lab()
    was_up = (Path.home() / ".local/state/vpnexit/lab/lab.json").exists()
    try:
        lab.command("up", timeout=900)
        lab.refresh()
        yield lab
    finally:
        if not was_up:
            lab.command("down")


@pytest.fixture
def lab(running_lab: Lab) -> Lab:
    """The lab with every pool serving; whatever the test before broke is given time to heal first."""
    wait_for(lambda: _wished(running_lab), 60, "control takes the wishes")
    wait_for(running_lab.settled, 120, "the lab is settled")
    return running_lab


def _wished(lab: Lab) -> bool:
    try:
        for country, nodes in NODES.items():
            lab.wish(country, nodes)
    except OSError:  # control is just being started again
        return False
    return True


@pytest.fixture
async def registry(lab: Lab) -> AsyncIterator[Registry]:
    socket = Path(lab.status["state_dir"]) / "redis" / "redis.sock"
    found = Registry.open(RedisSettings(url=f"unix://{socket}", timeout=5.0))
    yield found
    await found.close()


@pytest.fixture
async def events(registry: Registry) -> AsyncIterator[list[dict[str, Any]]]:
    """What is published, from now on."""
    heard: list[dict[str, Any]] = []
    ready = asyncio.Event()

    async def listen() -> None:
        async for event in registry.events(ready.set):
            heard.append(event)

    task = asyncio.create_task(listen())
    await ready.wait()
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)
            # Of the test alone: whichever comes first brings the lab up, which builds its images.
            item.add_marker(pytest.mark.timeout(300, func_only=True))
