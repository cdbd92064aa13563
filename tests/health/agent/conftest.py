"""Fixtures: code that runs in a network namespace of its own, and a real agent in one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.health.agent.harness import AgentProcess

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def namespaces() -> None:
    missing = [name for name in ("unshare", "ip", "nft") if not shutil.which(name)]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        reason = f"needs {', '.join(missing)}: works in network namespaces of its own"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def inside(namespaces: None) -> Callable[[str], str]:
    """Run one function of `inside.py` in an empty network namespace; what it printed."""

    def run(name: str) -> str:
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "tests.health.agent.inside", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def agent(namespaces: None, tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent whose tunnel's DNS is a stand-in in the same namespace."""
    process = AgentProcess(tmp_path)
    yield process
    process.close()
