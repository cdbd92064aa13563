"""What a benchmark needs of the machine."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def able() -> None:
    programs = ("unshare", "nsenter", "setpriv", "ip", "haproxy", "strace")
    missing = [program for program in programs if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")]
    go = shutil.which("go", path=os.environ["PATH"] + ":/usr/local/go/bin")
    if os.geteuid() == 0 and go and not missing:
        return
    reason = f"needs root, a Go toolchain and {', '.join(programs)}; missing: {missing or 'root or Go'}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
