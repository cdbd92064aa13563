"""`make up` from a fresh copy of the tree, as a user without rights: installs by itself, then serves."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
# What a machine may need to reach its package index.
ACCESS = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "http_proxy", "https_proxy", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture
def fresh() -> Iterator[Path]:
    """A copy of the tree without anything that was installed or made, owned by the user who will run it."""
    with tempfile.TemporaryDirectory(prefix="vx-fresh-") as name:
        directory = Path(name)
        skipped = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
        shutil.copytree(ROOT, directory / "tree", ignore=skipped)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", str(NOBODY), directory], check=True)
        yield directory


@pytest.mark.timeout(300)
def test_fresh_copy_without_root(fresh: Path, page: str, fetch: Any, new_up: Any) -> None:
    access = {name: value for name, value in os.environ.items() if name.startswith(ACCESS) and "CACHE" not in name}
    up = new_up(fresh, command=["make", "up"], cwd=fresh / "tree")
    user = NOBODY if os.geteuid() == 0 else None
    try:
        began = time.monotonic()
        up.start(user=user, **access)
        try:
            up.wait_ready(within=150)
        except AssertionError:
            if "could not install" in up.output and os.environ.get("CI") != "true":
                pytest.skip("no package index within reach")
            raise
        assert time.monotonic() - began < 60 * 2
        assert fetch("--proxy", up.proxy, page) == "the page\n"
        assert fetch("--socks5-hostname", up.socks, page) == "the page\n"
        assert up.end(signal.SIGTERM) != 0  # make's own: it was told to end
        up.start(user=user, **access)
        up.wait_ready()
        assert "installing" not in up.output
        assert up.end(signal.SIGKILL) == -signal.SIGKILL
    finally:
        up.kill()
